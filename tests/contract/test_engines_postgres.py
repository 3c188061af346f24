"""PostgreSQL's room: connections, named queries and bulk COPY, against the embedded server."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from unittest.mock import AsyncMock

import pytest
from psycopg import pq
from psycopg.conninfo import make_conninfo

from neolayer.engines.embedded.ports import free_port
from neolayer.engines.endpoints import PostgresEndpoint, Role
from neolayer.engines.postgres import connections
from neolayer.engines.postgres.copy import copy_rows
from neolayer.engines.postgres.engine import PostgresEngine
from neolayer.engines.postgres.queries import Queries
from neolayer.errors import EngineUnavailable, NotSupported
from neolayer.insight.time_series import time_series


async def test_copies_rows_with_their_types(postgres_server: PostgresEndpoint) -> None:
    """Binary COPY stores every row exactly, also a 256-bit number and a small int as bigint."""
    dsn = postgres_server.dsn(Role.ADMIN, "postgres")
    rows = [(number, "x" * 100, Decimal(2**256 - 1)) for number in range(2_000)]
    async with await connections.connect(dsn, application_name="test") as connection:
        await connection.execute("CREATE TEMP TABLE t (a bigint, b text, c numeric(78,0))")
        async with connection.cursor() as cursor:
            statement = "COPY t (a, b, c) FROM STDIN (FORMAT BINARY)"
            assert await copy_rows(cursor, statement, ["int8", "text", "numeric"], rows) == 2_000
            assert await copy_rows(cursor, statement, ["int8", "text", "numeric"], []) == 0
        counted = await connection.execute("SELECT count(*), sum(c) / count(*), max(a) FROM t")
        assert await counted.fetchone() == (2_000, Decimal(2**256 - 1), 1_999)


async def test_a_block_that_is_cancelled_at_its_end_closes_its_connection(
    postgres_server: PostgresEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the last statement was to keep or to undo."""
    dsn = postgres_server.dsn(Role.ADMIN, "postgres")
    cancelled = AsyncMock(side_effect=asyncio.CancelledError)
    for verb in ("commit", "rollback"):
        connection = await connections.connect(dsn, application_name="test")
        monkeypatch.setattr(connection, verb, cancelled)
        with pytest.raises(asyncio.CancelledError):
            async with connection:
                if verb == "rollback":
                    raise ValueError
        assert connection.closed


async def test_pool_lends_named_connections(postgres_server: PostgresEndpoint) -> None:
    """A pool's connections show our name in pg_stat_activity."""
    dsn = postgres_server.dsn(Role.ADMIN, "postgres")
    async with (
        connections.open_pool(dsn, size=2, application_name="test pool") as pool,
        pool.connection() as connection,
    ):
        shown = await connection.execute("SHOW application_name")
        assert await shown.fetchone() == ("neolayer test pool",)


async def test_what_the_server_offers(
    postgres_server: PostgresEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TimescaleDB is looked for where the time series are, and its absence is told in one line."""
    engine = PostgresEngine(postgres_server)
    try:
        assert await engine.extension("plpgsql") == "1.0"
        assert await time_series([engine]) == (
            "native PostgreSQL tables; TimescaleDB is not available"
        )
        monkeypatch.setattr(engine, "_value", AsyncMock(return_value="2.23.0"))
        assert await time_series([engine]) == (
            "native PostgreSQL tables; TimescaleDB 2.23.0 is available but not used"
        )
    finally:
        await engine.close()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"password": "s3cret-wrong"}, "refuses the password"),
        ({"dbname": "nowhere"}, "does not know the database or role"),
        ({"port": "FREE"}, "refuses the connection"),
        ({"host": "no-such-host.invalid"}, "host name that is not known"),
    ],
)
async def test_one_sentence_when_the_door_is_shut(
    postgres_server: PostgresEndpoint, change: dict[str, str], sentence: str
) -> None:
    """A failed connection is told in one line that names the address and no secret."""
    if change.get("port") == "FREE":
        change = {"port": str(free_port())}
    dsn = make_conninfo(postgres_server.admin_dsn, **change)
    with pytest.raises(EngineUnavailable) as caught:
        await connections.connect(dsn, application_name="test")
    assert sentence in caught.value.message
    assert "\n" not in caught.value.message
    assert "s3cret" not in str(caught.value)


async def test_unreadable_dsn_keeps_its_secret() -> None:
    """A DSN that libpq cannot read is refused without repeating any part of it."""
    with pytest.raises(EngineUnavailable, match="the DSN cannot be read") as caught:
        await connections.connect("postgres//u:s3cret@h x", application_name="test")
    assert "s3cret" not in repr(caught.value)
    assert caught.value.__cause__ is None


async def test_pure_python_psycopg_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without psycopg's C part the layer does not start."""
    monkeypatch.setattr(pq, "__impl__", "python")
    with pytest.raises(NotSupported, match="C part"):
        await connections.connect("host=127.0.0.1", application_name="test")


def test_queries_are_read_by_name() -> None:
    """A query is its statement alone, in file order, without purpose and semicolon."""
    text = "-- one --\n-- First.\nSELECT 1;\n\n-- two --\n-- Second,\n-- longer.\nSELECT\n  2;\n"
    queries = Queries(text, origin="test")
    assert dict(queries) == {"one": "SELECT 1", "two": "SELECT\n  2"}
    assert queries.one == "SELECT 1"
    with pytest.raises(AttributeError, match="no query 'three'"):
        _ = queries.three


@pytest.mark.parametrize(
    "text",
    ["-- a --\nSELECT 1;", "-- a --\n-- Nothing.\n", "-- a --\n-- A.\nx;\n-- a --\n-- B.\ny;"],
)
def test_queries_without_purpose_statement_or_own_name_are_refused(text: str) -> None:
    """Every query says what it is for, does something, and has a name of its own."""
    with pytest.raises(ValueError, match="query 'a'"):
        Queries(text, origin="test")
