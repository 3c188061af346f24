"""The face all engines share, on each engine: open, ping, version, status, close, and refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo
from tests.fixtures.fix_databases import postgres_only
from tests.fixtures.fix_mongodb import forget_sockets

from neolayer.engines.clickhouse.dsn import parse_dsn
from neolayer.engines.clickhouse.engine import ClickHouseEngine
from neolayer.engines.embedded.ports import free_port
from neolayer.engines.endpoints import (
    ClickHouseEndpoint,
    MongoEndpoint,
    ObjectsEndpoint,
    PostgresEndpoint,
    RedisEndpoint,
)
from neolayer.engines.engine import Engine, Level
from neolayer.engines.fallback import FallbackEngine
from neolayer.engines.mongodb.dsn import parse_dsn as read_mongodb
from neolayer.engines.mongodb.engine import MongoEngine
from neolayer.engines.objects.engine import ObjectsEngine
from neolayer.engines.postgres.engine import PostgresEngine
from neolayer.engines.redis.engine import RedisEngine
from neolayer.errors import EngineTooOld, EngineUnavailable, NotSupported
from neolayer.freshness import Store, position_of, stores_at

SECRET = "s3cret-of-the-user"


@pytest.fixture(params=["postgres", "redis", "objects"])
def engine(request: pytest.FixtureRequest, traversable_tmp: Path) -> Engine:
    match request.param:
        case "postgres":
            return PostgresEngine(request.getfixturevalue("postgres_server"))
        case "redis":
            return RedisEngine(request.getfixturevalue("redis_server"))
        case _:
            folder = traversable_tmp / "objects"
            return ObjectsEngine(ObjectsEndpoint(Level.EMBEDDED, f"file://{folder}", folder))


async def test_opens_answers_and_closes_twice(engine: Engine) -> None:
    """An engine opens, answers, tells its version and health, and closes more than once."""
    await engine.open()
    await engine.open()
    await engine.ping()
    assert any(letter.isdigit() for letter in await engine.version())
    status = await engine.status()
    assert (status.healthy, status.detail, status.level) == (True, None, Level.EMBEDDED)
    await engine.close()
    await engine.close()


def refusing(postgres: PostgresEndpoint, redis: RedisEndpoint) -> list[tuple[Engine, str]]:
    """Engines that cannot be opened, and the words that say why."""
    port = free_port()
    nobody = f"127.0.0.1:{port}"
    wrong = make_conninfo(postgres.admin_dsn, password=SECRET)
    away = make_conninfo(postgres.admin_dsn, port=port, password=SECRET)
    replace = dataclasses.replace
    real = Level.REAL
    clickhouse = ClickHouseEndpoint(real, "127.0.0.1", port, "default", SECRET)
    return [
        (PostgresEngine(replace(postgres, admin_dsn=wrong)), "refuses the password"),
        (PostgresEngine(replace(postgres, admin_dsn=away)), "refuses the connection"),
        (PostgresEngine(replace(postgres, admin_dsn=f"x//{SECRET} y")), "DSN cannot be read"),
        (
            RedisEngine(RedisEndpoint(real, f"redis://:{SECRET}@{redis.address}/0", redis.address)),
            "refuses the password",
        ),
        (
            RedisEngine(RedisEndpoint(real, f"redis://{redis.address}/0", redis.address)),
            "refuses the password",
        ),
        (
            RedisEngine(RedisEndpoint(real, f"redis://:{SECRET}@{nobody}/0", nobody)),
            "refuses the connection",
        ),
        (
            MongoEngine(MongoEndpoint(real, f"mongodb://u:{SECRET}@:@{nobody}/x", "x", nobody)),
            "DSN cannot be read",
        ),
        (
            RedisEngine(RedisEndpoint(real, f"http://:{SECRET}@{nobody}", nobody)),
            "DSN cannot be read",
        ),
        (ClickHouseEngine(clickhouse), "refuses the connection"),
        (ObjectsEngine(ObjectsEndpoint(real, "ftp://bucket")), "URL cannot be read"),
        (
            ObjectsEngine(ObjectsEndpoint(real, "file:///proc/no", Path("/proc/no"))),
            "cannot be used",
        ),
    ]


async def test_refusals_are_one_sentence_without_secrets(
    postgres_server: PostgresEndpoint, redis_server: RedisEndpoint
) -> None:
    """A wrong DSN, password or address is told in one line; `status` tells the same."""
    for engine, words in refusing(postgres_server, redis_server):
        with pytest.raises(EngineUnavailable, match=words) as caught:
            await engine.open()
            await engine.ping()
        status = await engine.status()
        assert not status.healthy
        assert status.detail == caught.value.message
        assert "\n" not in caught.value.message
        for said in (str(caught.value), str(caught.value.hint), repr(status), repr(engine)):
            assert SECRET not in said
        await engine.close()


async def test_versions_out_of_range_are_refused(
    postgres_server: PostgresEndpoint, redis_server: RedisEndpoint
) -> None:
    """A server that is too old, or newer than what was tried, is named with what is supported."""
    for engine, words in (
        (PostgresEngine(postgres_server, supported=range(18, 20)), "17; versions 18 to 19 are"),
        (PostgresEngine(postgres_server, supported=range(13, 17)), "17; versions 13 to 16 are"),
        (RedisEngine(redis_server, oldest=(99, 0)), "99.0 or newer is supported"),
    ):
        with pytest.raises(EngineTooOld, match=words):
            await engine.open()
        assert "supported" in str((await engine.status()).detail)


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("http://ann:p%40ss@db:8124/shop", ("db", 8124, "ann", "p@ss", "shop", False)),
        ("https://db", ("db", 8443, "default", "", "neolayer", True)),
    ],
)
def test_clickhouse_dsn(dsn: str, expected: tuple[object, ...]) -> None:
    """A ClickHouse DSN gives host, port, user, password and database, each with a default."""
    found = parse_dsn(dsn)
    assert (
        found.host, found.port, found.username, found.password, found.database, found.secure,
    ) == expected  # fmt: skip


@pytest.mark.parametrize(
    "dsn", [f"ftp://u:{SECRET}@h/x", f"http://u:{SECRET}@h:port/x", "http:///x"]
)
def test_clickhouse_dsn_that_cannot_be_read(dsn: str) -> None:
    """A wrong ClickHouse DSN is refused without repeating it."""
    with pytest.raises(EngineUnavailable, match="DSN cannot be read") as caught:
        parse_dsn(dsn)
    assert SECRET not in str(caught.value) + str(caught.value.hint)


def test_a_mongodb_dsn_names_hosts_and_never_the_password() -> None:
    """Database and hosts are read from the DSN; `neolayer` where none is named."""
    cluster = read_mongodb(f"mongodb://ann:{SECRET}@a:27017,b:27018/layer?replicaSet=rs0")
    assert (cluster.database, cluster.address) == ("layer", "mongodb://a:27017,b:27018/layer")
    assert SECRET not in repr(cluster)
    assert read_mongodb("mongodb+srv://cluster.example").database == "neolayer"
    for dsn in (f"http://u:{SECRET}@h/x", f"mongodb://u:{SECRET}@/x", f"mongodb://[{SECRET}"):
        with pytest.raises(EngineUnavailable, match="DSN cannot be read") as refused:
            read_mongodb(dsn)
        assert SECRET not in str(refused.value)


async def test_what_no_server_does_is_said() -> None:
    """Without MongoDB its line says that another engine stands in, and how."""
    engine = FallbackEngine("mongodb", "PostgreSQL", "documents stay in PostgreSQL")
    await engine.open()
    await engine.ping()
    found = await engine.status()
    assert (found.level, found.healthy) == (Level.FALLBACK, True)
    assert (found.version, found.address) == ("on PostgreSQL", "documents stay in PostgreSQL")
    await engine.close()


async def test_a_mongodb_that_is_away_is_one_sentence_without_secrets() -> None:
    """The address and what is wrong, and never the password."""
    url = f"mongodb://u:{SECRET}@127.0.0.1:{free_port()}/x?serverSelectionTimeoutMS=300"
    engine = MongoEngine(read_mongodb(url))
    with pytest.raises(EngineUnavailable, match="refuses the connection") as refused:
        await engine.open()
    found = await engine.status()
    assert (found.healthy, found.detail) == (False, refused.value.message)
    assert SECRET not in str(found)
    await engine.close()
    del refused
    await forget_sockets()


async def test_a_store_that_is_not_there_is_not_waited_for(
    postgres_server: PostgresEndpoint,
) -> None:
    """Without MongoDB it is none of the stores, and whoever asks for it by name is told."""
    at = postgres_only(postgres_server)
    assert stores_at(at) == (Store.CLICKHOUSE, Store.REDIS)
    with pytest.raises(NotSupported, match="not configured"):
        await position_of(Store.MONGODB, at)
    there = dataclasses.replace(at, mongodb=read_mongodb("mongodb://127.0.0.1:1/x"))
    assert Store.MONGODB in stores_at(there)
