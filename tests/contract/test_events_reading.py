"""Reading all: by position, type, category and correlation, each through its own index."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from tests.fixtures.fix_events import NewEvents

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import InvalidInput
from neolayer.events import BEGINNING, Events, NewEvent, Place
from neolayer.tenancy import Principal
from neolayer.tenancy.context import read_signer

SQL = load_queries("neolayer.events.store")
NEXT = load_queries("neolayer.events.store", "subscriptions.sql")
AFTER = {"transaction": "5", "index": 1, "limit": 100, "markers": 9}
READS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "a stream": (
        SQL.stream_forwards,
        {"stream": uuid4(), "from_version": 3, "up_to": 9, "limit": 100},
        "events_unique",
    ),
    "a stream backwards": (
        SQL.stream_backwards,
        {"stream": uuid4(), "from_version": 9, "limit": 100},
        "events_unique",
    ),
    "all": (SQL.all, AFTER, "idx_events_tenant"),
    "types": (SQL.by_type, AFTER | {"types": ["Opened"]}, "idx_events_type"),
    "categories": (SQL.by_category, AFTER | {"categories": ["order"]}, "idx_events_category"),
    "a correlation": (
        SQL.by_correlation,
        AFTER | {"correlation": uuid4()},
        "idx_events_correlation",
    ),
    "a partition": (
        NEXT.next_events,
        AFTER | {"partitions": 4, "partition": 1, "types": None, "limit": 10},
        "idx_events_tenant",
    ),
}
FILL = """
    INSERT INTO public.events (tenant_id, aggregate_id, aggregate_type, event_type, event_version,
        event_data, correlation_id)
    SELECT t, gen_random_uuid(), (ARRAY['account', 'order'])[1 + mod(n, 2)],
        (ARRAY['Opened', 'Renamed', 'Closed', 'Moved'])[1 + mod(n, 4)], 1, '{}', gen_random_uuid()
    FROM unnest(%s::uuid[]) t, generate_series(1, 400) n
"""


@pytest.fixture(scope="module")
def application(module_databases: Endpoints) -> Iterator[psycopg.Connection]:
    """The application in the name of one of fifty tenants, of 400 events each."""
    tenants = [uuid4() for _ in range(50)]
    cluster = module_databases.event_store
    with psycopg.connect(cluster.dsn(Role.ADMIN, Database.EVENT_STORE), autocommit=True) as admin:
        admin.execute("SET session_replication_role = replica")
        admin.execute(FILL, (tenants,))
        admin.execute("VACUUM ANALYZE public.events")
    signer = asyncio.run(read_signer(module_databases))
    context = signer.sign(tenants[0], Principal.operator("tests"))
    dsn = cluster.dsn(Role.APP, Database.EVENT_STORE)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT set_config('neolayer.context', %s, false)", (context,))
        yield connection


@pytest.mark.parametrize("read", READS)
def test_every_read_has_its_index(application: psycopg.Connection, read: str) -> None:
    """The range is in the index's condition, not in a filter behind it; no sort over all."""
    query, params, index = READS[read]
    literals = {name: sql.Literal(value).as_string(application) for name, value in params.items()}
    bound = re.sub(r"%\((\w+)\)s", lambda m: literals[m[1]], query).replace("%%", "%")
    rows = application.execute("EXPLAIN " + bound).fetchall()  # type: ignore[arg-type]
    plan = "\n".join(row[0] for row in rows)
    assert index in plan and "Seq Scan on events" not in plan, plan
    condition = next(line for line in plan.splitlines() if "Index Cond" in line)
    narrowing = ("event_version", "transaction_id", "correlation_id")
    assert any(column in condition for column in narrowing), plan


def deposit(type_: str = "Deposited", correlation: UUID | None = None) -> NewEvent:
    return NewEvent(type_, {}, correlation_id=correlation)


async def test_by_type_category_and_correlation(new_events: NewEvents) -> None:
    """Each gives its own, in reading order, from a place on, so many at most."""
    events, request = new_events(), uuid4()
    account, order = uuid4(), uuid4()
    await events.append(account, [deposit(), deposit("Closed")], category="account")
    await events.append(order, [deposit("Placed", request)], category="order")
    await events.append(account, [deposit("Deposited", request)])

    async def types(**kinds: Any) -> list[str]:
        return [event.type for event in await events.read_all(**kinds)]

    everything = ["Deposited", "Closed", "Placed", "Deposited"]
    assert await types() == everything
    assert await types(types=["Deposited"]) == ["Deposited"] * 2
    assert await types(types=["Placed", "Closed", "Closed"]) == ["Closed", "Placed"]
    assert await types(types=["Deposited", "Placed"], limit=2) == ["Deposited", "Placed"]
    assert await types(categories=["account"]) == ["Deposited", "Closed", "Deposited"]
    assert await types(categories=["order", "account"], limit=3) == everything[:3]
    assert await types(correlation_id=request) == ["Placed", "Deposited"]
    assert await types(types=[]) == []
    second = (await events.read_all())[1].place
    assert await types(after=second) == everything[2:]
    assert await types(types=["Deposited"], after=second) == ["Deposited"]
    with pytest.raises(InvalidInput, match="one of the three"):
        await events.read_all(types=["Placed"], categories=["order"])


async def test_pages_neither_repeat_nor_miss(new_events: NewEvents) -> None:
    """Whatever the size of a page, of a stream and of all."""
    events, stream = new_events(), uuid4()
    for _ in range(4):
        await events.append(stream, [deposit() for _ in range(3)], category="account")
    for page in (1, 2, 5, 12, 50):
        found = [event.version async for event in events.read_stream(stream, page=page)]
        assert found == list(range(1, 13))
        back = [event.version async for event in events.read_backwards(stream, page=page)]
        assert back == found[::-1]
        assert await _paged(events, page) == found
    middle = [e.version async for e in events.read_stream(stream, from_version=4, up_to=6)]
    assert middle == [4, 5, 6]
    assert [e.version async for e in events.read_backwards(stream, from_version=2)] == [2, 1]
    assert [e async for e in events.read_stream(uuid4())] == []


async def _paged(events: Events, page: int) -> list[int]:
    found: list[int] = []
    place: Place = BEGINNING
    while rows := await events.read_all(after=place, limit=page):
        found += [row.version for row in rows]
        place = rows[-1].place
    return found


async def test_what_is_read_never_changes(new_events: NewEvents) -> None:
    """Though its values are made of their bytes when they are asked for: each time the same ones,
    equal to what was written, and none can be set."""
    events, stream = new_events(by=Principal.user(uuid4())), uuid4()
    given = NewEvent("Opened", {"n": 1}, metadata={"m": "é"}, correlation_id=uuid4(), key_id="k")
    (written,) = (await events.append(stream, [given], category="account")).events
    (read,) = await events.read_all()
    for name in ("event_id", "data", "metadata", "recorded_at", "user_id", "correlation_id"):
        assert getattr(read, name) is getattr(read, name)
        with pytest.raises(AttributeError):
            setattr(read, name, None)
    assert repr(read) == repr(written)
    assert {read, written} == {written} and read != object()
    assert read.recorded_at.utcoffset() == timedelta(0)
