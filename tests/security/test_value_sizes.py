"""E17: nothing that a tenant may store by SQL, large or odd, stops those who read it for others."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.errors import InvalidInput
from neolayer.events import NewEvent
from neolayer.events.bodies import MOST_DATA_BYTES, MOST_METADATA_BYTES
from neolayer.events.model import StreamAppend
from neolayer.events.projections import Mode, Occurrence, Projection
from neolayer.events.projections.inline import FOLDING
from neolayer.events.projections.parking import parked
from neolayer.events.units import make_unit
from neolayer.schema.context_secret import sign_context
from neolayer.schema.lines import Line
from neolayer.schema.runner import migrate_down, migrate_up
from neolayer.tenancy import Principal, open_core
from tests.fixtures.bank import Deposited
from tests.fixtures.fix_access import HERE, Company
from tests.fixtures.fix_projections import Bank
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.shared_data import REPOSITORY
from tests.security.attacks import catalogue, seeds
from tests.security.attacks.catalogue import Session, Table
from tests.security.test_tenant_attacks import _read_secret

PAGE = (REPOSITORY / "docs" / "how-to" / "tenants.md").read_text(encoding="utf-8")
DATABASES = (Database.CORE, Database.EVENT_STORE)

# Columns without a size of their own type that the application may write.
_UNBOUNDED = """
SELECT n.nspname || '.' || c.relname, a.attname, format_type(a.atttypid, NULL)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname = ANY(%s)
    AND t.typlen = -1 AND t.typcategory <> 'I' AND a.atttypmod = -1 AND a.attgenerated = ''
    AND (
        has_column_privilege('neolayer_app', c.oid, a.attnum, 'INSERT')
        OR has_column_privilege('neolayer_app', c.oid, a.attnum, 'UPDATE')
        -- What the function that appends writes for it.
        OR has_column_privilege('neolayer_appender', c.oid, a.attnum, 'INSERT')
    )
ORDER BY 1, 2
"""
# What the value is not the writer's to choose of.
SETTLED = {
    ("auth.api_keys", "permissions"): "a trigger writes what the service holds, whatever is said",
}
NUMBERS = f"[{','.join(['1e131000'] * 150)}]"  # 1.5 KB, and 20 MB as text
LONG = "repeat('x', {})"  # made by the server
LARGE = ("core.tenant_data", "enclave.sealed_data", "public.snapshots")


def larger(kind: str, table: str = "") -> list[sql.Composable]:
    """Values that are too large: by their bytes, by their number, by what they are spelled as."""
    long = LONG.format(17_000_000 if table in LARGE else 5_000_000)
    match kind:
        case "jsonb":
            made = [
                f"jsonb_build_object('a', {long})",
                f"jsonb_build_object('a', '{NUMBERS}'::jsonb)",
            ]
        case "bytea":
            made = [f"convert_to({long}, 'UTF8')"]
        case _ if kind.endswith("[]"):
            made = [f"ARRAY[{long}]", "array_fill('UpToDate'::text, ARRAY[200000])"]
        case _:
            made = [long]
    return [sql.SQL(value) for value in made]  # type: ignore[arg-type]


@pytest.fixture(params=DATABASES)
def opened(request: pytest.FixtureRequest, module_databases: Endpoints) -> Iterator[Session]:
    database: Database = request.param
    dsn = module_databases.cluster(database).dsn(Role.ADMIN, database)
    with psycopg.connect(dsn) as admin:
        yield admin
        admin.rollback()


def test_E17_every_value_that_a_tenant_writes_has_a_bound(opened: Session) -> None:
    """Each column of free size that the application may write refuses what is too large."""
    tables = {table.name: table for table in catalogue.tenant_tables(opened)}
    free = opened.execute(_UNBOUNDED, (list(catalogue.SCHEMAS),)).fetchall()
    assert len(free) >= 4
    unbounded = list[str]()
    for name, column, kind in free:
        if (name, column) in SETTLED or name not in tables or name == "audit.entries":
            continue
        for value in larger(kind, name):
            if not _is_refused(opened, tables[name], column, value):
                unbounded.append(f"{name}.{column}: {str(value)[:60]}")
    assert unbounded == []


def _is_refused(admin: Session, table: Table, column: str, value: Any) -> bool:
    row = seeds.row(table, uuid4()) | {column: value}
    given = [v if isinstance(v, sql.Composable) else sql.Placeholder() for v in row.values()]
    statement = sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({})").format(
        sql.Identifier(*table.name.split(".")),
        sql.SQL(", ").join(map(sql.Identifier, row)),
        sql.SQL(", ").join(given),
    )
    params = [v for v in row.values() if not isinstance(v, sql.Composable)]
    try:
        with admin.transaction(force_rollback=True):
            admin.execute("SET LOCAL session_replication_role = replica")
            admin.execute(statement, params)
    except psycopg.errors.CheckViolation:
        return True
    return False


@pytest.mark.parametrize("column", ["changes", "user_agent", "error_message"])
def test_E17_an_audit_entry_by_sql_has_a_size(module_databases: Endpoints, column: str) -> None:
    """A member adds an entry of their own, but none that the sealer would carry for a minute."""
    secret = asyncio.run(_read_secret(module_databases, Database.CORE))
    tenant, principal = uuid4(), "service:robot"
    context = sign_context(
        secret,
        tenant=tenant,
        principal=principal,
        expires_at=datetime.now(UTC) + timedelta(minutes=1),
    )
    statement = sql.SQL(
        "INSERT INTO audit.entries (tenant_id, principal, action, resource, success, {})"
        " VALUES (%s, %s, 'READ', 'x', true, {})"
    )
    dsn = module_databases.cluster(Database.CORE).dsn(Role.APP, Database.CORE)
    kind, usual = ("jsonb", Jsonb({"a": 1})) if column == "changes" else ("text", "usual")
    for value, fits in [(usual, True), *((large, False) for large in larger(kind))]:
        with psycopg.connect(dsn) as member:
            member.execute("SELECT set_config('neolayer.context', %s, true)", (context,))
            given = value if isinstance(value, sql.Composable) else sql.Literal(value)
            ready = statement.format(sql.Identifier(column), given)
            if fits:
                member.execute(ready, (tenant, principal))
            else:
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    member.execute(ready, (tenant, principal))
            member.rollback()


def test_E17_the_verbs_refuse_earlier_and_name_field_and_limit() -> None:
    """What is too large never gets to the database; the error says which and how much."""
    for event, said in (
        (NewEvent("Noted", {"a": "x" * MOST_DATA_BYTES}), f"data has .* at most {MOST_DATA_BYTES}"),
        (
            NewEvent("Noted", {}, metadata={"a": "x" * MOST_METADATA_BYTES}),
            f"metadata has .* at most {MOST_METADATA_BYTES}",
        ),
    ):
        with pytest.raises(InvalidInput, match=said):
            make_unit([StreamAppend(uuid4(), [event])], None, None)


async def test_E17_what_only_the_database_finds_too_large_is_named(
    module_databases: Endpoints,
) -> None:
    """A number that grows when it is spelled: the database's refusal names table and column."""
    async with open_core(module_databases, application_name="tests") as core:
        scope = core.scope(uuid4(), by=Principal.operator("tests"))
        with pytest.raises(InvalidInput, match=r"event_data of core\.outbox is too large"):
            await scope.fetch(
                "INSERT INTO core.outbox (tenant_id, subject, key, event_type, event_data)"
                " VALUES (%s, 'a', 'k', 't', %s::text::jsonb) RETURNING event_id",
                (scope.tenant, f'{{"a": {NUMBERS}}}'),
            )


class Note(msgspec.Struct, frozen=True):
    account_id: UUID
    text: str | None = None
    data: dict[str, str] = {}


def as_long_as_said(row: Note | None, seen: Occurrence) -> Note:
    assert isinstance(seen.event, Deposited)
    return Note(seen.stream_id, "x" * seen.event.amount)


def notes(name: str, mode: Mode) -> Projection[Note]:
    return Projection(name, Note, ("account_id",), (Deposited,), as_long_as_said, mode=mode)


NOTES, LATE_NOTES = notes("notes", Mode.INLINE), notes("late_notes", Mode.ASYNC)


async def test_E17_a_row_of_a_read_model_has_a_size(the_bank: Bank) -> None:
    """By the layer itself, by an append whose projection makes it, or behind it: none is too large
    to be carried. The append is refused and says of what; behind it, the stream stands still."""
    bank = await the_bank.with_domain(NOTES, LATE_NOTES)
    acme = bank.again(await bank.tenant())
    folding = acme.events.scope.acting_as(FOLDING)
    write = "INSERT INTO read_models.notes VALUES (%s, gen_random_uuid(), {}, {}) RETURNING 1"
    half = LONG.format(5_000_000)
    for text, data in (
        (LONG.format(17_000_000), "'{}'"),
        ("''", f"jsonb_build_object('a', '{NUMBERS}'::jsonb)"),
        (half, f"jsonb_build_object('a', {half})"),
    ):
        with pytest.raises(InvalidInput, match=r"row of read_models\.notes is too large"):
            await folding.fetch(write.format(text, data), (folding.tenant,))
    account = uuid4()
    with pytest.raises(InvalidInput, match=r"row of read_models\.notes is too large"):
        await acme.events.append(account, [Deposited(9_000_000)])
    assert await acme.events.state(account) is None
    await acme.events.append(account, [Deposited(5_000_000)])
    only_late = await the_bank.with_domain(LATE_NOTES)
    await only_late.again(acme).events.append(account, [Deposited(9_000_000)])
    async with asyncio.timeout(PATIENCE_S):
        while not (found := await parked(bank.endpoints, "late_notes")):
            await only_late.project()  # what runs elsewhere in the server may hold it back
    (one,) = found
    assert one.stream_id == account and "late_notes_row_size_check" in one.cause


async def test_E17_a_read_model_from_before_has_a_size_after_the_upgrade(the_bank: Bank) -> None:
    """Its rows stay, whatever they are; what is written from then on is bounded."""
    bank = await the_bank.with_domain(NOTES)
    folding = bank.again(await bank.tenant()).events.scope.acting_as(FOLDING)
    lines = (Line.CORE, Line.EVENT_STORE)
    await migrate_down(bank.endpoints, to="0080", lines=lines)
    write = "INSERT INTO read_models.notes VALUES (%s, gen_random_uuid(), {}, '{{}}') RETURNING 1"
    large = write.format(LONG.format(17_000_000))
    await folding.fetch(large, (folding.tenant,))
    await migrate_up(bank.endpoints, lines=lines)
    with pytest.raises(InvalidInput, match="too large"):
        await folding.fetch(large, (folding.tenant,))
    taken_away = "DELETE FROM read_models.notes RETURNING length(text)"
    assert await folding.fetch(taken_away) == [(17_000_000,)]


_BOUNDS = """
SELECT n.nspname || '.' || c.relname, k.conname, pg_get_constraintdef(k.oid)
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE k.conname LIKE '%\\_size\\_check' AND pg_get_constraintdef(k.oid) LIKE '%<=%'
    AND NOT c.relispartition ORDER BY 2
"""


def test_E17_the_sizes_of_the_page_are_those_in_force(opened: Session) -> None:
    """Each bound of the database stands in the how-to, or below the 64 KiB that it says."""
    found = opened.execute(_BOUNDS).fetchall()
    assert len(found) >= 4
    for table, name, definition in found:
        most = int(re.findall(r"<= (\d+)", definition)[-1])
        column = name.removeprefix(f"{table.split('.')[1]}_").removesuffix("_size_check")
        size = f"{most >> 20} MiB" if most >= 1 << 20 else f"{most >> 10} KiB"
        said = re.search(rf"^\|.*`{column}`.*\| {size} \|$", PAGE, re.MULTILINE)
        assert said or most <= 65536, name


INSTANTS = ("infinity", "-infinity", "200000-01-01", "4000-01-01 BC", "now")


@pytest.mark.parametrize("instant", INSTANTS)
async def test_E17_no_instant_that_a_member_writes_hides_the_others(
    company: Company, instant: str
) -> None:
    """What Python has no value for, written by a member into what is theirs by SQL: whoever lists
    the tenant's people and sessions sees all of them still."""
    ann, bob = await company.user("ann"), await company.user("bob")
    for user in (ann, bob):
        await company.sessions.start(user, ip_address=HERE)
    as_ann = company.scope.acting_as(Principal.user(ann))
    for column in ("last_login_at", "locked_until", "created_at"):
        changed = sql.SQL("UPDATE auth.users SET {} = %s WHERE id = %s RETURNING id").format(
            sql.Identifier(column)
        )
        await as_ann.fetch(changed, (instant, ann))
    for column in ("last_seen_at", "created_at", "expires_at"):
        changed = sql.SQL("UPDATE auth.sessions SET {} = %s WHERE user_id = %s RETURNING id")
        await as_ann.fetch(changed.format(sql.Identifier(column)), (instant, ann))
    read = await company.scope.fetch(
        "SELECT username, created_at, last_login_at FROM auth.users ORDER BY username"
    )
    assert [row[0] for row in read] == ["ann", "bob"]
    assert all(isinstance(row[1], datetime) for row in read)
    listed = {each.user_id for each in await company.sessions.list()}
    assert bob in listed
