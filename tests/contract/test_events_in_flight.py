"""No reader passes an event in flight: a transaction that appended earlier and is still open holds
back what was committed after it, for every way to read. What is not held back comes soon."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from tests.fixtures.fix_events import NewEvents
from tests.fixtures.patience import PATIENCE_S

from neolayer.engines.endpoints import Endpoints
from neolayer.events import (
    Events,
    NewEvent,
    RecordedEvent,
    StreamAppend,
    Subscription,
    open_event_store,
    subscriptions,
)
from neolayer.tenancy import Transaction

REQUEST = UUID(int=7)
Read = Callable[[Events], Awaitable[list[RecordedEvent]]]
WAYS: dict[str, Read] = {
    "all": lambda events: events.read_all(),
    "types": lambda events: events.read_all(types=["Deposited", "Other"]),
    "categories": lambda events: events.read_all(categories=["account", "other"]),
    "a correlation": lambda events: events.read_all(correlation_id=REQUEST),
}


@pytest.fixture(scope="module")
def layer_databases(module_databases: Endpoints) -> Endpoints:
    return module_databases


def deposit(amount: int) -> NewEvent:
    return NewEvent("Deposited", {"amount": amount}, correlation_id=REQUEST)


@asynccontextmanager
async def appended_and_open(events: Events, stream: UUID) -> AsyncIterator[None]:
    """A transaction that has appended, and ends with the block."""
    async with events.scope.transaction() as tx:
        await events.append_in(tx, [StreamAppend(stream, [deposit(1)], "account")])
        yield


def amounts(found: list[RecordedEvent]) -> list[int]:
    return [event.data["amount"] for event in found]


@pytest.mark.parametrize("way", list(WAYS))
async def test_C_a_reader_does_not_pass_an_event_in_flight(new_events: NewEvents, way: str) -> None:
    """Another stream's event, committed later, is not read before the earlier one is."""
    events = new_events()
    async with appended_and_open(events, uuid4()):
        await events.append(uuid4(), [deposit(2)], category="account")
        assert amounts(await WAYS[way](events)) == []
    assert amounts(await WAYS[way](events)) == [1, 2]


@pytest.mark.parametrize("types", [None, ["Deposited"]])
async def test_C_a_subscription_does_not_pass_an_event_in_flight(
    new_events: NewEvents, types: list[str] | None
) -> None:
    """Nothing is handled while the earlier transaction is open, and both in order after it."""
    events, seen = new_events(), list[int]()

    async def handle(_: Transaction, event: RecordedEvent) -> None:
        seen.append(event.data["amount"])

    subscription = await events.subscribe("in flight", partitions=1, types=types)
    async with appended_and_open(events, uuid4()):
        await events.append(uuid4(), [deposit(2)], category="account")
        assert await subscription.catch_up(handle) == 0
    assert await subscription.catch_up(handle) == 2
    assert seen == [1, 2]


async def test_live_events_of_others_come_after_one_pause_of_a_poll(
    new_events: NewEvents, module_databases: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The latency is bounded by `poll`, by no clock of ours: whoever finds nothing pauses for that
    long and looks again, so an event of another process is there after the first pause that began
    behind it."""
    poll, stop = timedelta(milliseconds=70), asyncio.Event()
    events, seen, pauses = new_events(), asyncio.Event(), list[float]()
    pausing, go_on = asyncio.Event(), asyncio.Semaphore(0)

    async def pause(length: timedelta, *_: asyncio.Event | None) -> None:
        pauses.append(length.total_seconds())
        pausing.set()
        await go_on.acquire()

    async def handle(_: Transaction, event: RecordedEvent) -> None:
        seen.set()

    monkeypatch.setattr(subscriptions, "wait", pause)
    subscription = await events.subscribe("far", partitions=1, poll=poll)
    async with asyncio.timeout(PATIENCE_S), waiting_for(subscription, handle, stop, go_on):
        await pausing.wait()
        async with open_event_store(module_databases, size=1, application_name="tests") as other:
            assert events.scope.tenant is not None
            theirs = other.events(events.scope.tenant, by=events.scope.by)
            await theirs.append(uuid4(), [deposit(1)], category="account")
        before = len(pauses)
        pausing.clear()
        go_on.release()
        await pausing.wait()
        assert seen.is_set() and len(pauses) == before + 1
    assert set(pauses) == {poll.total_seconds()}
    assert (await events.subscribe("usual")).poll == timedelta(milliseconds=50)


@asynccontextmanager
async def waiting_for(
    subscription: Subscription,
    handle: Callable[[Transaction, RecordedEvent], Awaitable[None]],
    stop: asyncio.Event,
    go_on: asyncio.Semaphore,
) -> AsyncIterator[None]:
    """The subscription runs in this block."""
    running = asyncio.create_task(subscription.run(handle, until=stop))
    try:
        yield
    finally:
        stop.set()
        go_on.release()
        with contextlib.suppress(asyncio.CancelledError):
            await running
