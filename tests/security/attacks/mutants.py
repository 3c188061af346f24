"""Each guard taken away in turn and put back: without it, some attack must get through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import LiteralString

from psycopg import sql

from tests.security.attacks.catalogue import ForeignKey, Policy, Session, Table


@dataclass(frozen=True, slots=True)
class Mutant:
    """A database without one guard. `table` is where the attacks go; None: everywhere."""

    guard: str
    what: str
    table: str | None
    break_it: sql.Composed
    mend_it: sql.Composed


def _named(table: Table) -> sql.Identifier:
    return sql.Identifier(*table.name.split("."))


def of_table(table: Table) -> Iterator[Mutant]:
    """The guards of one table."""
    name = _named(table)
    for policy in table.policies:
        yield from _of_policy(table, policy)
    if table.policies:
        force = sql.SQL("ALTER TABLE {} {} ROW LEVEL SECURITY")
        yield Mutant(
            "force",
            table.name,
            table.name,
            force.format(name, sql.SQL("NO FORCE")),
            force.format(name, sql.SQL("FORCE")),
        )
        yield Mutant(
            "policy",
            f"{table.name}: row security",
            table.name,
            force.format(name, sql.SQL("DISABLE")),
            force.format(name, sql.SQL("ENABLE")),
        )
    yield Mutant(
        "grant",
        f"{table.name}: TRUNCATE",
        table.name,
        sql.SQL("GRANT TRUNCATE ON {} TO neolayer_app").format(name),
        sql.SQL("REVOKE TRUNCATE ON {} FROM neolayer_app").format(name),
    )
    for key in table.foreign_keys:
        if _leads_with_tenant(key):
            yield _of_foreign_key(table, key)
    for index, columns in enumerate((table.primary_key, *table.uniques)):
        yield from _of_unique(table, columns, index)


def _of_policy(table: Table, policy: Policy) -> Iterator[Mutant]:
    alter = sql.SQL("ALTER POLICY {} ON {} {}")
    using = sql.SQL("USING ({})").format(sql.SQL(policy.using or "true"))  # type: ignore[arg-type]
    check = sql.SQL("WITH CHECK ({})").format(sql.SQL(policy.check or "true"))  # type: ignore[arg-type]
    parts = (
        ("USING", policy.using, sql.SQL("USING (true)"), using),
        ("WITH CHECK", policy.check, sql.SQL("WITH CHECK (true)"), check),
    )
    for part, given, open_door, shut_door in parts:
        if given is not None:
            who = (sql.Identifier(policy.name), _named(table))
            yield Mutant(
                "predicate",
                f"{table.name}: {policy.name} {part}",
                table.name,
                sql.SQL("; ").join((alter.format(*who, open_door), _second(table, "DISABLE"))),
                sql.SQL("; ").join((alter.format(*who, shut_door), _second(table, "ENABLE"))),
            )


def _second(table: Table, verb: LiteralString) -> sql.Composed:
    """Triggers that judge a row's tenant or its writer again stand behind some policies, and would
    hide that one is gone; test_member_attacks.py and test_read_model_attacks.py take them away
    alone."""
    return sql.SQL(
        "DO $$ DECLARE judge name; BEGIN FOR judge IN SELECT tgname FROM pg_trigger"
        " WHERE tgrelid = {}::regclass"
        " AND tgname IN ('keep_to_context', 'ask_permission', 'admit_fold') LOOP"
        " EXECUTE format('ALTER TABLE %s {} TRIGGER %I', {}::regclass, judge); END LOOP; END $$"
    ).format(sql.Literal(table.name), sql.SQL(verb), sql.Literal(table.name))


def _leads_with_tenant(key: ForeignKey) -> bool:
    return len(key.columns) > 1 and bool(
        {"tenant_id", "scope_id", "role_scope_id"} & set(key.columns)
    )


def _of_foreign_key(table: Table, key: ForeignKey) -> Mutant:
    """The reference without its tenant would be none that PostgreSQL can check: so, none."""
    name, who = sql.Identifier(key.name), _named(table)
    return Mutant(
        "composite key",
        f"{table.name}: {key.name}",
        table.name,
        sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(who, name),
        sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {} NOT VALID").format(
            who,
            name,
            sql.SQL(key.definition.removesuffix(" NOT VALID")),  # type: ignore[arg-type]
        ),
    )


def _of_unique(table: Table, columns: tuple[str, ...], index: int) -> Iterator[Mutant]:
    """Uniqueness over all tenants would tell one what another has."""
    rest = [column for column in columns if column not in (table.tenant, "scope_id")]
    if len(rest) == len(columns) or not rest or table.is_partition or table.is_partitioned:
        return
    name = sql.Identifier(f"mutant_{index}")
    schema = sql.Identifier(table.name.split(".")[0])
    yield Mutant(
        "composite key",
        f"{table.name}: unique without tenant ({', '.join(rest)})",
        table.name,
        sql.SQL("CREATE UNIQUE INDEX {} ON {} ({})").format(
            name, _named(table), sql.SQL(", ").join(map(sql.Identifier, rest))
        ),
        sql.SQL("DROP INDEX {}.{}").format(schema, name),
    )


# What is taken out of the functions that everything else trusts: (function, words, without them).
_TRUSTED = (
    (
        "core.verified_context()",
        "array_length(parts, 1) IS DISTINCT FROM 4 OR NOT EXISTS",
        "false AND NOT EXISTS",
        "signature",
    ),
    (
        "core.verified_context()",
        "IF parts[3]::bigint <= extract(epoch FROM clock_timestamp())",
        "IF false",
        "expiry",
    ),
)


def of_context(admin: Session) -> Iterator[Mutant]:
    """The checks of the signed context."""
    for signature, words, without, what in _TRUSTED:
        row = admin.execute("SELECT pg_get_functiondef(%s::regprocedure)", (signature,)).fetchone()
        assert row is not None
        source: str = row[0]
        assert words in source, f"{signature} has changed: the mutant of its {what} finds nothing"
        yield Mutant(
            "context check",
            f"{signature}: {what}",
            None,
            sql.SQL("{}").format(sql.SQL(source.replace(words, without))),  # type: ignore[arg-type]
            sql.SQL("{}").format(sql.SQL(source)),  # type: ignore[arg-type]
        )
