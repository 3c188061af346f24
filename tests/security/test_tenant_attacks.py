"""E1 and E4: every way of SQL from one tenant to another, and every guard taken away in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.connections import connect
from neolayer.events.projections.domain import load_domain
from neolayer.events.projections.rebuild import ensure
from neolayer.schema.context_secret import read_context_secret, sign_context
from tests.security.attacks import attempts, catalogue, mutants, seeds
from tests.security.attacks.attempts import Attempt, Tally
from tests.security.attacks.catalogue import Session, Table

A, B = uuid4(), uuid4()
BRIEFLY = timedelta(minutes=10)


@dataclass(slots=True)
class Field:
    """One database with a row of A and of B in every tenant table."""

    endpoints: Endpoints
    database: Database
    admin: Session
    secret: bytes
    tables: list[Table]
    rows: dict[str, dict[UUID, dict[str, Any]]]

    def context(
        self, tenant: UUID, *, secret: bytes | None = None, lifetime: timedelta = BRIEFLY
    ) -> str:
        return sign_context(
            secret or self.secret,
            tenant=tenant,
            principal="operator:attacker",  # whom no rule within the tenant holds back
            expires_at=datetime.now(UTC) + lifetime,
        )

    def session(self, role: Role = Role.APP) -> Session:
        return psycopg.connect(self.endpoints.cluster(self.database).dsn(role, self.database))

    def victim(self, table: Table) -> UUID:
        """A, or who has a row in the partition."""
        if not table.is_partition:
            return A
        found = self.admin.execute(
            f"SELECT tenant_id FROM {table.name} WHERE tenant_id <> %s", (B,)
        ).fetchone()
        assert found is not None
        return found[0]

    def theirs(self, table: Table) -> dict[str, Any]:
        return seeds.row(table, self.victim(table))

    def own(self, table: Table) -> dict[str, Any]:
        return seeds.row(table, B)


async def _read_secret(endpoints: Endpoints, database: Database) -> bytes:
    dsn = endpoints.cluster(database).dsn(Role.MIGRATOR, database)
    async with await connect(dsn, application_name="tests") as owner:
        secret = await read_context_secret(owner)
    assert secret is not None
    return secret


@pytest.fixture(scope="module", params=[Database.CORE, Database.EVENT_STORE])
def field(module_databases: Endpoints, request: pytest.FixtureRequest) -> Iterator[Field]:
    database: Database = request.param
    dsn = module_databases.cluster(database).dsn(Role.ADMIN, database)
    if database is Database.EVENT_STORE:  # tables that a program declares are tables like others
        asyncio.run(ensure(module_databases, load_domain(["tests.fixtures.bank"])))
    with psycopg.connect(dsn, autocommit=True) as admin:
        tables = catalogue.tenant_tables(admin)
        if database is Database.CORE:
            seeds.plant_public(admin)
        rows = seeds.plant(admin, tables, [A, B])
        neighbours = [table for table in tables if table.is_partitioned]
        seeds.plant(admin, neighbours, [uuid4() for _ in range(32)])  # each partition has one
        secret = asyncio.run(_read_secret(module_databases, database))
        yield Field(module_databases, database, admin, secret, tables, rows)


def attacks_on(field: Field, table: Table) -> Iterator[Attempt]:
    """Everything B tries on A's row of one table."""
    victim, theirs = field.victim(table), field.theirs(table)
    yield from attempts.reads(table, victim, theirs)
    yield from attempts.writes(table, victim, B, theirs)
    yield from attempts.truncates(table)
    yield from attempts.references(table, B, field.own(table), theirs)


def attack(field: Field, tables: list[Table]) -> Tally:
    """B with its own context; then nobody, forgers, and the owner without a context."""
    tally = Tally()
    with field.session() as session:
        enter(session, field.context(B))
        for table in tables:
            attempts.run(session, attacks_on(field, table), tally)
    for value in forged(field):
        with field.session() as session:
            enter(session, value)
            for table in tables:
                reads = attempts.reads(table, field.victim(table), field.theirs(table))
                attempts.run(session, reads, tally)
    with field.session(Role.MIGRATOR) as session:
        session.execute("SET ROLE neolayer_owner")
        for table in tables:
            victim, theirs = field.victim(table), field.theirs(table)
            attempts.run(session, attempts.reads(table, victim, theirs), tally)
            attempts.run(session, attempts.writes(table, victim, B, theirs), tally)
    for table in tables:
        tally.cases += 1
        tally.leaks += told_by_uniques(field, table)
    return tally


def enter(session: Session, context: str) -> None:
    """A transaction that goes on to the end of the session, in a context."""
    session.execute("SELECT set_config('neolayer.context', %s, true)", (context,))


def forged(field: Field) -> list[str]:
    """Contexts of A that nobody signed, or that are over."""
    return [
        "",
        field.context(A, secret=b"guessed" * 4),
        field.context(A, lifetime=-BRIEFLY),
    ]


# Keys over all tenants: a public name that stands in addresses, and ids too random to be tried.
PUBLIC_NAMES = {("core.tenants", ("identifier",)), ("audit.entries", ("id",))}


def told_by_uniques(field: Field, table: Table) -> list[str]:
    """Keys that refuse B what A has: they would tell that A has it."""
    if table.is_partition:
        return []
    told: list[str] = []
    theirs = field.theirs(table) | numbers(field, table)
    for columns in (*table.uniques, table.primary_key, *unseen_uniques(field, table)):
        rest = [c for c in columns if c != table.tenant and c in theirs and c != "scope_id"]
        if not rest or (table.name, tuple(rest)) in PUBLIC_NAMES or table.name == "core.tenants":
            continue
        copied = [*rest]
        for column in rest:
            copied += seeds.TOGETHER.get(f"{table.name}.{column}", ())
        fresh = seeds.row(table, B, own=uuid4()) | {column: theirs[column] for column in copied}
        try:
            with field.admin.transaction():
                field.admin.execute("SET LOCAL session_replication_role = replica")
                field.admin.execute(  # B's own row would be in the way of its own key
                    f"DELETE FROM {table.name} WHERE {table.tenant} = %s", (B,)
                )
                seeds.insert(field.admin, table, fresh)
                raise _Undo
        except _Undo:
            continue
        except psycopg.errors.UniqueViolation:
            told.append(f"unique {table.name} ({', '.join(rest)})")
    return told


def numbers(field: Field, table: Table) -> dict[str, Any]:
    """What the server numbered A's row with."""
    if not table.numbered:
        return {}
    found = field.admin.execute(
        f"SELECT {', '.join(table.numbered)} FROM {table.name} WHERE {table.tenant} = %s",
        (field.victim(table),),
    ).fetchone()
    assert found is not None
    return dict(zip(table.numbered, found, strict=True))


class _Undo(Exception):
    pass


def unseen_uniques(field: Field, table: Table) -> list[tuple[str, ...]]:
    """Unique keys made since the catalogue was read."""
    known = {table.primary_key, *table.uniques}
    now = {found.name: found for found in catalogue.tenant_tables(field.admin)}[table.name]
    return [key for key in (now.primary_key, *now.uniques) if key not in known]


def fingerprint(field: Field) -> dict[str, str]:
    """A hash of A's rows, table by table."""
    return {
        table.name: str(
            field.admin.execute(
                f"SELECT md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), ''))"
                f" FROM {table.name} t WHERE {table.tenant} = %s",
                (A,),
            ).fetchone()
        )
        for table in field.tables
    }


def test_E1_every_tenant_table_has_a_row_to_attack(field: Field) -> None:
    """A table without a row of A would pass every attack."""
    if field.database is Database.EVENT_STORE:
        assert {"read_models.balances", "read_models.inline_balances"} <= set(field.rows)
    for table in field.tables:
        if not table.is_partition:
            found = field.admin.execute(
                f"SELECT count(*) FROM {table.name} WHERE {table.tenant} = %s", (A,)
            ).fetchone()
            assert found == (1,), table.name


def test_E1_no_statement_reaches_another_tenant(field: Field) -> None:
    """Every verb on every table: nothing seen, nothing changed, nothing told by an error."""
    before = fingerprint(field)
    tally = attack(field, field.tables)
    assert tally.leaks == []
    assert tally.faults == [], "\n".join(tally.faults)
    assert tally.cases >= len(field.tables) * 16
    assert fingerprint(field) == before


def test_E1_no_function_or_view_reaches_another_tenant(field: Field) -> None:
    """Called with A's ids, and looked at, under B's context and under none."""
    rows = {name: both[A] for name, both in field.rows.items()}
    given_away = set().union(*(attempts.marks(A, row) for row in rows.values()))
    tally = Tally()
    for context in (field.context(B), ""):
        with field.session() as session:
            enter(session, context)
            for function in catalogue.functions(field.admin):
                attempts.run(session, attempts.calls(function, A, rows), tally)
            for view in catalogue.views(field.admin):
                attempts.run(session, attempts.looks(view, given_away), tally)
    assert tally.leaks == []
    assert tally.faults == [], "\n".join(tally.faults)
    assert tally.cases >= 2 * (
        len(catalogue.functions(field.admin)) + len(catalogue.views(field.admin))
    )


# Guards behind which another stands, so that no attack can tell that they are gone.
SHADOWED = {
    "audit.entries: TRUNCATE": "a trigger refuses TRUNCATE, whoever may",
    "audit.heads: TRUNCATE": "a trigger refuses TRUNCATE, whoever may",
    **{
        f"core.tenant_data_p{n}: TRUNCATE": "a trigger refuses TRUNCATE, whoever may"
        for n in range(4)
    },
    "enclave.attestation_policies: TRUNCATE": "a trigger refuses TRUNCATE, whoever may",
    "enclave.verifications: TRUNCATE": "a trigger refuses TRUNCATE, whoever may",
    "enclave.computations: computations_attestation_fkey": "the state machine refuses it first",
    "public.events: TRUNCATE": "a trigger refuses TRUNCATE, whoever may",
    "public.archived_streams: archived_streams_stream_fkey": "only a function writes there",
}


def test_E4_a_key_that_the_server_numbers_is_tried_too(field: Field) -> None:
    """OVERRIDING SYSTEM VALUE gives B's row the number of A's: without the tenant in the key, the
    refusal would tell that A has it."""
    for table in field.tables:
        for mutant in mutants.of_table(table):
            if "unique without tenant" in mutant.what and any(
                number in mutant.what for number in table.numbered
            ):
                assert told_by_uniques(field, table) == []
                field.admin.execute(mutant.break_it)
                try:
                    assert told_by_uniques(field, table) != [], mutant.what
                finally:
                    field.admin.execute(mutant.mend_it)
    if field.database is Database.CORE:
        assert {"core.webhook_deliveries"} <= {t.name for t in field.tables if t.numbered}


@pytest.mark.security
@pytest.mark.timeout(1200)
def test_E4_every_guard_is_needed(field: Field, pytestconfig: pytest.Config) -> None:
    """With any one guard taken away, some attack gets through."""
    by_name = {table.name: table for table in field.tables}
    cases, killed, shadowed, survivors = 0, 0, 0, list[str]()
    found = [m for table in field.tables for m in mutants.of_table(table)]
    found += list(mutants.of_context(field.admin))
    for mutant in found:
        tables = [by_name[mutant.table]] if mutant.table else field.tables[:3]
        field.admin.execute(mutant.break_it)
        try:
            tally = attack(field, tables)
        finally:
            field.admin.execute(mutant.mend_it)
        cases += tally.cases
        if tally.leaks:
            killed += 1
        elif mutant.what in SHADOWED:
            shadowed += 1
        else:
            survivors.append(f"{mutant.guard}: {mutant.what} {tally.faults[:1]}")
    healthy = attack(field, field.tables)
    figures = {
        "cases": cases + healthy.cases,
        "leaks": len(healthy.leaks),
        "mutants": len(found) - shadowed,
        "kills": killed,
    }
    assert pytestconfig.cache is not None
    pytestconfig.cache.set(f"security/{field.database}", figures)
    assert healthy.leaks == []
    assert survivors == [], "\n".join(survivors)
