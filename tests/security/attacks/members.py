"""What a member of a tenant tries on others' access by SQL, and the guards that must refuse it.

The other attacks come from another tenant, whom row security holds back. Here the attacker is
within the tenant, where the triggers named `admit_...` decide. Attacks and mutants are read from
the catalogue: every column of every guarded table, each event of each trigger taken away in turn,
and each question that the triggers' functions ask.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from psycopg import sql
from psycopg.types.json import Jsonb

from tests.security.attacks import seeds
from tests.security.attacks.attempts import Act, Attempt
from tests.security.attacks.catalogue import Column, Session, Table
from tests.security.attacks.midst import Midst
from tests.security.attacks.midst import attempts_on as midst_attempts
from tests.security.attacks.mutants import Mutant

EVENTS = ("INSERT", "UPDATE", "DELETE")

# Columns that no row depends on.
_UNTRIED = {"auth.roles.updated_at": "a trigger writes it, whatever is said"}
# What whoever has the permission for it may make: it gives nobody anything yet.
_MADE = ("auth.users", "auth.roles", "auth.service_principals")
# References, checks and keys are asked after the guards: who meets one was let past.
_LET_PAST = ("23503", "23505", "23514", "23001")
# What a column is set to where its type alone does not tell.
_CHANGED: dict[str, Any] = {
    "auth.users.status": "suspended",
    "auth.users.mfa_enabled": False,
    "auth.service_principals.status": "disabled",
    "auth.one_time_tokens.purpose": "email_verification",
    "auth.users.email": "taken@example.com",
    "auth.one_time_tokens.email": "taken@example.com",
}


@dataclass(frozen=True, slots=True)
class Guard:
    """A trigger that admits changes of a table."""

    table: str
    trigger: str
    events: tuple[str, ...]
    definition: str


@dataclass(frozen=True, slots=True)
class Stage:
    """A tenant in which somebody holds what the attackers do not.

    `weak` may do all that changes access, but lacks one thing that the victim holds; `idle` holds
    all that the victim holds, but may not change access. `bare` is a person of whom there is
    nothing but their row: whose deletion no other guard would notice. In the tenant `rival` both
    attackers may do everything, and of the tenant `stranger` they know nothing. `own` are the
    attackers' own rows.
    """

    tenant: UUID
    weak: UUID
    idle: UUID
    bare: UUID
    rows: dict[str, dict[str, Any]]
    rival: UUID
    strange_rows: dict[str, dict[str, Any]]
    own: dict[UUID, dict[str, dict[str, Any]]]


_GUARDS = """
SELECT t.tgrelid::regclass::text, t.tgname::text, t.tgtype, pg_get_triggerdef(t.oid)
FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = 'auth' AND p.proname LIKE 'admit%' AND NOT t.tgisinternal
ORDER BY 1, 2
"""
_BITS = {"INSERT": 4, "DELETE": 8, "UPDATE": 16}


def guards(admin: Session) -> list[Guard]:
    """Every trigger that admits changes of access."""
    return [
        Guard(table, trigger, tuple(e for e in EVENTS if kind & _BITS[e]), definition)
        for table, trigger, kind, definition in admin.execute(_GUARDS).fetchall()
    ]


def plant(admin: Session, tables: list[Table]) -> Stage:
    """A tenant with a row of the victim in each table, and two attackers."""
    tenant, weak, idle, bare = uuid4(), uuid4(), uuid4(), uuid4()
    rival, stranger = uuid4(), uuid4()
    planted = seeds.plant(admin, tables, [tenant, stranger])
    rows = {name: both[tenant] for name, both in planted.items()}
    by_name = {table.name: table for table in tables}
    users, roles = by_name["auth.users"], by_name["auth.roles"]
    changer = uuid4()
    with admin.transaction():
        admin.execute("SET LOCAL session_replication_role = replica")
        admin.execute(
            "UPDATE auth.users SET mfa_secret = 'x', mfa_key_id = 'k', mfa_enabled = true"
            " WHERE tenant_id = %s",
            (tenant,),
        )
        admin.execute("UPDATE auth.api_keys SET revoked_at = NULL WHERE tenant_id = %s", (tenant,))
        for person in (weak, idle, bare):
            values = seeds.row(users, tenant, own=person) | {"id": person, "status": "active"}
            seeds.insert(admin, users, values)
        seeds.insert(
            admin, roles, seeds.row(roles, tenant, own=changer) | {"id": changer, "name": "changer"}
        )
        admin.execute(
            "INSERT INTO auth.role_permissions (tenant_id, role_id, permission_id)"
            " SELECT %s, %s, id FROM auth.permissions WHERE name IN ('users:*', 'sessions:*',"
            " 'roles:*', 'services:*')",
            (tenant, changer),
        )
        held = ((weak, changer), (idle, rows["auth.roles"]["id"]))
        for person, role in held:
            admin.execute(
                "INSERT INTO auth.user_roles (tenant_id, user_id, role_id, role_scope_id)"
                " VALUES (%s, %s, %s, %s)",
                (tenant, person, role, tenant),
            )
        _plant_rival(admin, by_name, rival, (weak, idle))
        own = {person: _plant_own(admin, by_name, tenant, person) for person in (weak, idle)}
        for person, role in held:
            own[person]["auth.user_roles"] = {"tenant_id": tenant, "user_id": person}
            own[person]["auth.user_roles"] |= {"role_id": role, "role_scope_id": tenant}
    strange_rows = {name: both[stranger] for name, both in planted.items()}
    return Stage(tenant, weak, idle, bare, rows, rival, strange_rows, own)


def _plant_rival(
    admin: Session, tables: dict[str, Table], rival: UUID, people: tuple[UUID, ...]
) -> None:
    tenants, users = tables["core.tenants"], tables["auth.users"]
    seeds.insert(admin, tenants, seeds.row(tenants, rival))
    for person in people:
        values = seeds.row(users, rival, own=person) | {"id": person, "status": "active"}
        seeds.insert(admin, users, values)
        admin.execute(
            "INSERT INTO auth.user_roles (tenant_id, user_id, role_id, role_scope_id)"
            " SELECT %s, %s, id, scope_id FROM auth.roles WHERE tenant_id IS NULL"
            " AND name = 'owner'",
            (rival, person),
        )


def _plant_own(
    admin: Session, tables: dict[str, Table], tenant: UUID, person: UUID
) -> dict[str, dict[str, Any]]:
    own = {name: proof(tables[name], tenant, person) for name in _PROOFS}
    for name, values in own.items():
        seeds.insert(admin, tables[name], values)
    own["auth.users"] = {"tenant_id": tenant, "id": person}
    return own


# What proves who somebody is: everybody may make and change their own.
_PROOFS = ("auth.sessions", "auth.known_devices", "auth.one_time_tokens", "auth.recovery_codes")


def proof(table: Table, tenant: UUID, person: UUID) -> dict[str, Any]:
    """A row of somebody's own."""
    return seeds.row(table, tenant, own=uuid4()) | {"user_id": person}


def attacks_in_midst(
    table: Table, stage: Stage, attacker: UUID, midst: Midst, *, columns: int | None
) -> Iterator[Attempt]:
    """What no member may do to the victim's row, with another context put into the statement; the
    first so many columns of it changed, or all."""
    row = stage.rows[table.name]
    tried = _tried(table)[:columns]
    changes = {column.name: _changed(table, column, row, attacker) for column in tried}
    fresh = None
    if attacker != stage.weak or table.name not in _MADE:
        fresh = _another(table, stage)
    yield from midst_attempts(
        table,
        midst,
        row,
        changes=changes,
        fresh=fresh,
        own=stage.own[attacker].get(table.name),
        mine=proof(table, stage.tenant, attacker) if table.name in _PROOFS else None,
        tells=_LET_PAST,
    )


def attacks_on_strangers(
    table: Table, stage: Stage, attacker: UUID, midst: Midst
) -> Iterator[Attempt]:
    """The same on the row of a tenant in which the attacker is nobody."""
    row = stage.strange_rows[table.name]
    column = next(c for c in table.columns if c.name in row and not c.generated)
    fresh = seeds.row(table, row[table.tenant], own=uuid4())
    yield from midst_attempts(
        table, midst, row, changes={column.name: row[column.name]}, fresh=fresh
    )


def attacks_on(table: Table, stage: Stage, attacker: UUID) -> Iterator[Attempt]:
    """Every column changed, the row deleted, and another row like it made."""
    row = stage.rows[table.name]
    keys = [key for key in table.primary_key if key != "scope_id"]
    where = sql.SQL(" AND ").join(sql.SQL("{} = %s").format(sql.Identifier(k)) for k in keys)
    values = [row[key] for key in keys]
    name = sql.Identifier(*table.name.split("."))

    def act(statement: sql.Composed, params: list[Any]) -> Act:
        return lambda session: session.execute(statement, params).rowcount

    for column in _tried(table):
        full = f"{table.name}.{column.name}"
        changed = _changed(table, column, row, attacker)
        statement = sql.SQL("UPDATE {} SET {} = %s WHERE {}").format(
            name, sql.Identifier(column.name), where
        )
        yield Attempt("update", full, act(statement, [changed, *values]), tells=_LET_PAST)
    statement = sql.SQL("DELETE FROM {} WHERE {}").format(name, where)
    yield Attempt("delete", table.name, act(statement, values), tells=_LET_PAST)
    if attacker == stage.idle and table.name == "auth.users":
        gone = [stage.tenant if key == table.tenant else stage.bare for key in keys]
        yield Attempt("delete bare", table.name, act(statement, gone), tells=_LET_PAST)
    if attacker != stage.weak or table.name not in _MADE:
        yield Attempt("insert", table.name, _insert(table, stage), tells=_LET_PAST)


def _tried(table: Table) -> list[Column]:
    return [
        column
        for column in table.columns
        if not column.generated
        and f"{table.name}.{column.name}" not in _UNTRIED
        and column.name != table.tenant
    ]


def _changed(table: Table, column: Column, row: dict[str, Any], attacker: UUID) -> Any:
    full = f"{table.name}.{column.name}"
    if full in _CHANGED:
        return _CHANGED[full]
    if column.name == "user_id":
        return attacker
    match column.type:
        case "uuid":
            return uuid4()
        case "boolean":
            return not row.get(column.name, False)
        case "timestamp with time zone":
            return seeds.SOON + timedelta(days=1)
        case "interval":
            return "1 second"
        case "smallint" | "integer" | "bigint" | "numeric":
            return 7
        case "inet":
            return "192.0.2.2"
        case "bytea":
            return b"\1" * 32
        case "text[]":
            return []
        case "jsonb":
            return Jsonb({"users": 1})
        case _ if "hash" in column.name:
            return seeds.digest(uuid4(), column.name)
        case _:
            return "other"


def _insert(table: Table, stage: Stage) -> Act:
    values = _another(table, stage)
    return lambda session: seeds.insert(session, table, values)


def _another(table: Table, stage: Stage) -> dict[str, Any]:
    """Another row for the victim; where there can be one only, the same one after it was taken."""
    row = stage.rows[table.name]
    fresh = seeds.row(table, stage.tenant, own=uuid4())
    kept = {
        key: row[key] for key in ("user_id", "service_id", "session_id", "role_id") if key in row
    }
    values = fresh | {key: value for key, value in kept.items() if key in fresh}
    if set(table.primary_key) <= set(kept) | {"tenant_id", "scope_id", "permission_id"}:
        return row
    return values


_FUNCTIONS = """
SELECT p.oid::regprocedure::text, pg_get_functiondef(p.oid)
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = 'auth' AND p.prokind = 'f' ORDER BY 1
"""
_ASKS = re.compile(
    r"PERFORM auth\.(?:require_(?:over|one_of|all_in|all_of|all_of_service)|refuse_escalation)\("
    r"[^;]*;"
)


def of_functions(admin: Session) -> Iterator[Mutant]:
    """Each question that the guards ask, left out."""
    for signature, source in admin.execute(_FUNCTIONS).fetchall():
        for number, asks in enumerate(_ASKS.finditer(source), start=1):
            without = f"{source[: asks.start()]}NULL;{source[asks.end() :]}"
            yield Mutant(
                "admission",
                f"{signature}: question {number}",
                None,
                sql.SQL("{}").format(sql.SQL(without)),  # type: ignore[arg-type]
                sql.SQL("{}").format(sql.SQL(source)),  # type: ignore[arg-type]
            )


def of_guards(found: list[Guard]) -> Iterator[Mutant]:
    """Each event of each guard taken away."""
    for guard in found:
        drop = sql.SQL("DROP TRIGGER {} ON {}").format(
            sql.Identifier(guard.trigger), sql.Identifier(*guard.table.split("."))
        )
        for event in guard.events:
            rest = [e for e in guard.events if e != event]
            before = " OR ".join(_in_order(guard.events))
            without = guard.definition.replace(f"BEFORE {before} ON", "BEFORE {} ON", 1)
            assert without != guard.definition, guard.definition
            again = sql.SQL(guard.definition)  # type: ignore[arg-type]
            weaker = [sql.SQL(without.format(" OR ".join(_in_order(rest))))] if rest else []  # type: ignore[arg-type]
            yield Mutant(
                "admission",
                f"{guard.table}: {guard.trigger} on {event}",
                guard.table,
                sql.SQL("; ").join([drop, *weaker]),
                sql.SQL("; ").join([*([drop] if rest else []), again]),
            )


def _in_order(events: tuple[str, ...] | list[str]) -> list[str]:
    """As pg_get_triggerdef writes them."""
    return [event for event in ("INSERT", "DELETE", "UPDATE") if event in events]
