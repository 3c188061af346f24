"""What one borrower of a connection leaves to the next: nothing, whatever happened to it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import LiteralString
from uuid import uuid4

import psycopg
import pytest
from psycopg.abc import Params
from psycopg.types.json import Jsonb
from tests.fixtures.fix_tenancy import NewTenant
from tests.fixtures.patience import PATIENCE_S

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.parameters import RawTexts, Texts
from neolayer.engines.postgres.round_trip import RoundTripConnection
from neolayer.errors import EngineUnavailable, InvalidInput
from neolayer.tenancy import CoreDatabase, Principal, Scope, lending, open_core

ADD = "INSERT INTO core.tenant_data (tenant_id, data_id, data) VALUES (%s, %s, '{}')"
STATE = "SELECT core.session_state(), core.current_tenant(), core.has_temporary_objects()"
CURSORS = "SELECT count(*) FROM pg_cursors WHERE is_holdable"
SIZE = 4


@pytest.fixture(scope="module")
def layer_databases(module_databases: Endpoints) -> Endpoints:
    return module_databases


@pytest.fixture
async def lonely(core: CoreDatabase, layer_databases: Endpoints) -> AsyncIterator[CoreDatabase]:
    """A core database with one connection, so that the next borrower is sure to get it."""
    async with open_core(layer_databases, size=1, application_name="tests") as database:
        yield database


def as_admin_of(databases: Endpoints) -> psycopg.Connection:
    return psycopg.connect(databases.postgres.dsn(Role.ADMIN, Database.CORE), autocommit=True)


@pytest.fixture
def as_admin(layer_databases: Endpoints) -> psycopg.Connection:
    return as_admin_of(layer_databases)


@pytest.mark.parametrize("leaving", (False, True))
async def test_what_is_refused_at_the_end_of_a_transaction_is_told(
    layer_databases: Endpoints, leaving: bool
) -> None:
    """Without COMMIT a deferred constraint speaks when the Sync ends the transaction, behind the
    answers of all statements: it is their error, and nothing of them stays."""
    dsn = layer_databases.postgres.dsn(Role.ADMIN, Database.CORE)
    connection = await RoundTripConnection.connect(dsn, autocommit=True, prepare_threshold=None)
    async with connection:
        await connection.execute(
            "CREATE TEMPORARY TABLE once (n integer UNIQUE DEFERRABLE INITIALLY DEFERRED)"
        )
        twice = ("INSERT INTO once VALUES (1), (1)", None)
        with pytest.raises(psycopg.errors.UniqueViolation):
            await connection.round_trip([twice], after=[("SELECT 1", None)], leaving=leaving)
        assert connection.is_undone
        (count, one) = await connection.round_trip(
            [("SELECT count(*) FROM once", None)], after=[("SELECT 1", None)], leaving=leaving
        )
        assert (count.first, one.first) == ((0,), (1,))


async def test_a_session_is_not_reset_where_what_comes_after_fails(
    layer_databases: Endpoints,
) -> None:
    """It is one transaction with the reset, which is taken back."""
    dsn = layer_databases.postgres.dsn(Role.ADMIN, Database.CORE)
    connection = await RoundTripConnection.connect(dsn, autocommit=True, prepare_threshold=None)
    setting = ("SET lock_timeout = 7", None)
    async with connection:
        with pytest.raises(psycopg.errors.DivisionByZero):
            await connection.round_trip([setting], after=[("SELECT 1 / 0", None)], leaving=True)
        assert not connection.is_reset and not connection.is_undone
        assert connection.failed_at == 1
        (left,) = await connection.round_trip([("SHOW lock_timeout", None)], leaving=True)
        assert left.first == ("7ms",) and connection.is_reset
        (left,) = await connection.round_trip([("SHOW lock_timeout", None)])
        assert left.first == ("0",) and not connection.is_reset


async def state_of(scope: Scope) -> tuple[object, ...]:
    """What a borrower finds: its session, its tenant, and what lies about."""
    found = await scope.one(STATE)
    cursors = await scope.one(CURSORS)
    assert found is not None and cursors is not None
    # With its own context set, a session's state says so: that much differs within a transaction.
    return (*found, *cursors)


LEFTOVERS = [
    "SET neolayer.context = '{context}'",
    "SELECT set_config('neolayer.context', '{context}', false)",
    "SET search_path = blockchain, public",
    "SET ROLE tests_other",
    "SET TIME ZONE 'Asia/Tokyo'",
    "SET DateStyle = 'German'",
    "SET statement_timeout = 1",
    "SET lock_timeout = 1",
    "SET transaction_timeout = 0",
    "SET row_security = off",
    "SET default_transaction_read_only = on",
    "SET default_transaction_isolation = 'serializable'",
    "SET synchronous_commit = off",
    "SET bytea_output = 'escape'",
    "CREATE TEMPORARY TABLE users AS SELECT * FROM core.tenant_data",
    "CREATE TYPE pg_temp.uuid AS (stolen text)",
    "CREATE FUNCTION pg_temp.set_config(text, text, boolean) RETURNS text"
    " LANGUAGE sql RETURN 'stolen'",
    "DECLARE rows_of_others CURSOR WITH HOLD FOR SELECT * FROM core.tenant_data",
]


@pytest.fixture
def other_role(as_admin: psycopg.Connection) -> AsyncIterator[None]:
    """A role that the application may assume by a mistake of whoever runs the server."""
    as_admin.execute("DROP ROLE IF EXISTS tests_other")
    as_admin.execute("CREATE ROLE tests_other")
    as_admin.execute("GRANT tests_other TO neolayer_app")
    as_admin.execute("GRANT USAGE ON SCHEMA core TO tests_other")
    try:
        yield
    finally:
        as_admin.execute("REVOKE USAGE ON SCHEMA core FROM tests_other")
        as_admin.execute("DROP ROLE tests_other")
        as_admin.close()


async def test_a_migration_leaves_processes_that_run_their_connections(
    lonely: CoreDatabase, new_tenant: NewTenant, as_admin: psycopg.Connection
) -> None:
    """One that tells more or less of what a session is like: whoever is connected goes on, and a
    leftover is noticed as before."""
    tenant = (await new_tenant()).tenant
    scope = lonely.scope(tenant, by=Principal.user(uuid4()))
    assert await scope.one("SELECT 1") == (1,)
    (before,) = as_admin.execute(
        "SELECT pg_get_functiondef('core.session_state()'::regprocedure)"
    ).fetchone() or ("",)
    assert "current_setting('lock_timeout'" in before
    try:
        as_admin.execute(before.replace("current_setting('lock_timeout'", "current_setting('port'"))
        assert await scope.one("SELECT 1") == (1,)
        await scope.fetch("SET statement_timeout = 12345")
        assert await scope.one("SHOW statement_timeout") == ("0",)
    finally:
        as_admin.execute(before)
        as_admin.close()
    assert await scope.one("SELECT 1") == (1,)


@pytest.mark.usefixtures("other_role")
@pytest.mark.parametrize("way", ["one statement", "a transaction", "a failed transaction"])
async def test_E13_a_borrower_finds_a_clean_session(
    lonely: CoreDatabase, new_tenant: NewTenant, way: str
) -> None:
    """Settings, role, context, objects in pg_temp and cursors of one end with it: 18 leftovers."""
    bad, good = await new_tenant(), await new_tenant()
    assert bad.tenant is not None and good.tenant is not None
    borrower = lonely.scope(good.tenant, by=Principal.user(uuid4()))
    clean = await state_of(borrower)
    assert clean[1:] == (good.tenant, False, 0)
    careless = lonely.scope(bad.tenant, by=Principal.user(uuid4()))
    await careless.fetch(f"{ADD} RETURNING 1", (bad.tenant, uuid4()))
    context = lonely.signer.sign(bad.tenant, careless.by)
    for leftover in LEFTOVERS:
        statement = leftover.format(context=context)
        if way == "one statement":
            await careless.fetch(statement)  # type: ignore[arg-type]
        elif way == "a transaction":
            async with careless.transaction() as tx:
                await tx.execute(statement)  # type: ignore[arg-type]
        else:
            with pytest.raises(psycopg.errors.UndefinedTable):
                async with careless.transaction() as tx:
                    await tx.execute(statement)  # type: ignore[arg-type]
                    await tx.execute("COMMIT")
                    await tx.execute("SELECT * FROM core.nowhere")
        assert await state_of(borrower) == clean, leftover
        async with borrower.transaction() as tx:
            assert await tx.one(STATE) == clean[:3], leftover


async def test_E4_it_is_the_assertion_that_keeps_the_session_clean(
    lonely: CoreDatabase, new_tenant: NewTenant, as_admin: psycopg.Connection
) -> None:
    """With a core.enter() that only sets the context, the test above would see the leftovers."""
    scope = await new_tenant()
    assert scope.tenant is not None
    borrower = lonely.scope(scope.tenant, by=scope.by)
    source = as_admin.execute("SELECT pg_get_functiondef('core.enter'::regproc)").fetchone()
    assert source is not None
    try:
        as_admin.execute(
            "CREATE OR REPLACE FUNCTION core.enter(context text, state text) RETURNS text"
            " LANGUAGE sql RETURN set_config('neolayer.context', context, true)"
        )
        clean = await state_of(borrower)
        await borrower.fetch("CREATE TEMPORARY TABLE users AS SELECT * FROM core.tenant_data")
        assert await state_of(borrower) != clean
    finally:
        as_admin.execute(source[0])
        as_admin.close()


async def test_E13_a_cancel_storm_costs_no_connection_and_mixes_no_tenants(
    layer_databases: Endpoints, new_tenant: NewTenant, as_admin: psycopg.Connection
) -> None:
    """400 calls of three kinds, six of seven cancelled after a random number of the loop's steps.

    Who is not cancelled reads its own tenant; afterwards all connections of the pool are there,
    clean, and the server holds no transaction open.
    """
    chance = random.Random(13)
    tenants = [await new_tenant() for _ in range(5)]
    async with open_core(layer_databases, size=SIZE, application_name="storm") as core:
        finished = await asyncio.gather(
            *(
                _struck(core, tenants[n % 5], chance.randrange(0, 40) if n % 7 else None, n)
                for n in range(400)
            )
        )
        assert sum(finished) < 400, "none was cancelled"
        gathered = asyncio.Barrier(SIZE)
        states = await asyncio.gather(*(_held(core, tenants[n % 5], gathered) for n in range(SIZE)))
        assert len({state for state, _, _ in states}) == 1
        assert [tenant for _, tenant, _ in states] == [tenants[n % 5].tenant for n in range(SIZE)]
        assert core.open_connections == SIZE
        open_transactions = as_admin.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'neolayer storm'"
            " AND state LIKE 'idle in transaction%'"
        ).fetchone()
        assert open_transactions == (0,)
    as_admin.close()


async def _struck(core: CoreDatabase, of: Scope, steps: int | None, kind: int) -> bool:
    """Whether the work came to its end before it was cancelled, if ever."""
    work = asyncio.create_task(_work(core, of, kind % 3))
    if steps is None:
        await work
        return True
    for _ in range(steps):
        await asyncio.sleep(0)
    work.cancel()
    try:
        await work
    except asyncio.CancelledError:
        return False
    return True


async def _work(core: CoreDatabase, of: Scope, kind: int) -> None:
    assert of.tenant is not None
    scope = core.scope(of.tenant, by=Principal.user(uuid4()))
    if kind == 0:
        assert await scope.one("SELECT core.current_tenant()") == (of.tenant,)
        return
    async with scope.transaction() as tx:
        assert await tx.one("SELECT core.current_tenant()") == (of.tenant,)
        await tx.execute(ADD, (of.tenant, uuid4()))
        if kind == 2:
            rows = [(of.tenant, uuid4(), Jsonb({})) for _ in range(20)]
            columns, types = ("tenant_id", "data_id", "data"), ("uuid", "uuid", "jsonb")
            assert await tx.copy_in("core.tenant_data", columns, types, rows) == 20
        tx.defer(ADD, (of.tenant, uuid4()))


async def _held(core: CoreDatabase, of: Scope, all_hold_one: asyncio.Barrier) -> tuple[object, ...]:
    """The state of one connection, while every other is held too."""
    assert of.tenant is not None
    async with core.scope(of.tenant, by=of.by).transaction() as tx:
        found = await tx.one(STATE)
        await asyncio.wait_for(all_hold_one.wait(), PATIENCE_S)
        assert found is not None
        return found


async def test_E13_what_runs_out_of_time_stops_on_the_server_too(
    lonely: CoreDatabase, new_tenant: NewTenant, as_admin: psycopg.Connection
) -> None:
    """The statement of a caller that gave up is cancelled, not left to hold its locks."""
    tenant = (await new_tenant()).tenant
    assert tenant is not None
    scope = lonely.scope(tenant, by=Principal.user(uuid4()))
    row = await scope.one("SELECT pg_backend_pid()")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), scope.transaction() as tx:
            await tx.execute("SELECT pg_sleep(600)")
    running = (
        "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND query LIKE '%%pg_sleep%%'"
        " AND state = 'active'"
    )
    async with asyncio.timeout(PATIENCE_S):
        while as_admin.execute(running, row).fetchone() != (0,):  # the server needs a moment
            await asyncio.sleep(0.01)
    assert await scope.one("SELECT core.current_tenant()") == (tenant,)
    as_admin.close()


async def test_a_block_that_went_on_after_an_error_is_told(new_tenant: NewTenant) -> None:
    """The server answers such a COMMIT with ROLLBACK and no error: nothing would be stored."""
    scope = await new_tenant()
    with pytest.raises(psycopg.errors.InFailedSqlTransaction, match="nothing is stored"):
        async with scope.transaction() as tx:
            await tx.execute(ADD, (tx.tenant, uuid4()))
            with pytest.raises(psycopg.errors.UndefinedTable):
                await tx.execute("SELECT * FROM core.nowhere")
    assert await scope.one("SELECT count(*) FROM core.tenant_data") == (0,)


async def test_statements_of_every_kind_make_the_round_trip(new_tenant: NewTenant) -> None:
    """Values named twice, empty, large beyond any buffer, percent signs; again and again."""
    scope = await new_tenant()
    for _ in range(5):  # plain first, prepared later
        assert await scope.one(
            "SELECT %(a)s::int + %(a)s::int, '%%', %(b)s", {"a": 2, "b": "%s"}
        ) == (
            4,
            "%",
            "%s",
        )
        assert await scope.one("SELECT '%', 'ä'") == ("%", "ä")
        assert await scope.one("SELECT %s::text, %s::bytea", (None, b"\0\xff")) == (None, b"\0\xff")
        large = "x" * 20_000_000
        assert await scope.one("SELECT %s::text", (large,)) == (large,)
        async with scope.transaction() as tx:
            cursor = await tx.execute("SELECT n FROM generate_series(1, 3) AS n")
            assert (cursor.rowcount, await cursor.fetchone()) == (3, (1,))
            assert [row async for row in cursor] == [(2,), (3,)]
            assert await cursor.fetchone() is None
    for number in range(400):  # more than are kept prepared
        for _ in range(3):
            assert await scope.one(f"SELECT {number}") == (number,)  # type: ignore[arg-type]


async def test_a_statement_that_fails_fails_each_time(new_tenant: NewTenant) -> None:
    """Also when it is the preparing that the server refuses; and its neighbours still work."""
    scope = await new_tenant()
    for _ in range(6):
        with pytest.raises(psycopg.errors.UndefinedTable):
            await scope.one("SELECT * FROM core.nowhere")
        with pytest.raises(psycopg.errors.DivisionByZero):
            await scope.one("SELECT 1 / %s::int", (0,))
        assert await scope.one("SELECT 1 / %s::int", (1,)) == (1,)


async def test_calls_of_one_transaction_may_overlap(new_tenant: NewTenant) -> None:
    """They take turns on its connection, and each gets its own answer."""
    scope = await new_tenant()
    async with scope.transaction() as tx:
        assert await tx.one("SELECT 0") == (0,)
        found = await asyncio.gather(*(tx.one("SELECT %s::int", (n,)) for n in range(20)))
    assert found == [(n,) for n in range(20)]


async def test_a_lost_connection_is_an_error_and_then_another(
    lonely: CoreDatabase, new_tenant: NewTenant, as_admin: psycopg.Connection
) -> None:
    """Ended by the server in mid-statement: no endless wait, and the next call works."""
    tenant = (await new_tenant()).tenant
    assert tenant is not None
    scope = lonely.scope(tenant, by=Principal.system("tests"))
    with pytest.raises(psycopg.OperationalError):
        async with scope.transaction() as tx:
            row = await tx.one("SELECT pg_backend_pid()")
            as_admin.execute("SELECT pg_terminate_backend(%s)", row)
            await tx.one("SELECT pg_sleep(60)")
    assert await scope.one("SELECT core.current_tenant()") == (tenant,)
    as_admin.close()


NOT_TEXTS = ["a\0b", "\0", "\ud800"]


@pytest.mark.parametrize("text", NOT_TEXTS, ids=ascii)
async def test_D_a_text_that_cannot_be_stored_is_an_error_of_that_call_only(
    lonely: CoreDatabase, new_tenant: NewTenant, text: str
) -> None:
    """By its parameter's name, wherever it stands: nothing was sent, so the connection is the same
    afterwards, and a transaction that goes on is as it was."""
    scope = lonely.scope((await new_tenant()).tenant, by=Principal.user(uuid4()))
    with pytest.raises(psycopg.errors.UndefinedTable):  # an error before it, at the first place
        await scope.one("SELECT FROM core.nowhere")
    server = await scope.one("SELECT pg_backend_pid()")
    calls: list[tuple[LiteralString, Params, str]] = [
        ("SELECT %(free)s, %(name)s::text", {"free": "", "name": text}, "name"),
        ("SELECT %s, %s::text", ("", text), "parameter 2"),
        ("SELECT %(names)s::text[]", {"names": ["", text]}, "names"),
        ("SELECT %(name)s::text", Texts(name=text), "name"),
        ("SELECT %(name)s::text", RawTexts(name=text), "name"),
    ]
    for query, params, name in calls:
        said = f"^{name}(: the character NUL| holds half a character)"
        with pytest.raises(InvalidInput, match=said):
            await scope.one(query, params)
        with pytest.raises(InvalidInput, match=said):
            async with scope.transaction() as tx:
                await tx.execute(ADD, (tx.tenant, uuid4()))
                await tx.one(query, params)
        with pytest.raises(InvalidInput, match=said):
            async with scope.transaction() as tx:
                await tx.execute(ADD, (tx.tenant, uuid4()))
                tx.defer(query, params)
        async with scope.transaction() as tx:
            with pytest.raises(InvalidInput):
                await tx.one(query, params)
            assert await tx.one("SELECT core.current_tenant()") == (tx.tenant,)
        assert await scope.one("SELECT pg_backend_pid()") == server
    assert await scope.one("SELECT count(*) FROM core.tenant_data") == (0,)


async def test_what_cannot_be_adapted_costs_no_connection(
    lonely: CoreDatabase, new_tenant: NewTenant
) -> None:
    """Whatever psycopg says of a value before anything is sent."""
    scope = lonely.scope((await new_tenant()).tenant, by=Principal.user(uuid4()))
    server = await scope.one("SELECT pg_backend_pid()")
    for value in (object(), [1, "a"], Jsonb({"n": object()})):
        with pytest.raises((psycopg.Error, TypeError)):
            await scope.one("SELECT %(value)s", {"value": value})
        with pytest.raises((psycopg.Error, TypeError)):
            async with scope.transaction() as tx:
                await tx.one("SELECT %(value)s", {"value": value})
        assert await scope.one("SELECT pg_backend_pid()") == server


async def test_a_session_that_is_ended_before_its_first_answer_is_one_named_error(
    layer_databases: Endpoints, core: CoreDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is stopped just then says so to who opens, as one that is not there."""
    learn = lending.CoreConnection.learn

    async def learn_of_the_end(connection: lending.CoreConnection) -> None:
        with as_admin_of(layer_databases) as admin:
            admin.execute("SELECT pg_terminate_backend(%s, 5000)", (connection.info.backend_pid,))
        await learn(connection)

    monkeypatch.setattr(lending.CoreConnection, "learn", learn_of_the_end)
    with pytest.raises(EngineUnavailable, match=r"127\.0\.0\.1:\d+ cannot be reached: terminating"):
        async with open_core(layer_databases, size=1, application_name="tests"):
            pass
