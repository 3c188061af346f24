"""Leases of a subscription's partitions: kept while a handler is at work, lost without effect."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from tests.fixtures.fix_events import NewEvents
from tests.fixtures.patience import PATIENCE_S

from neolayer.engines.endpoints import Endpoints
from neolayer.events import (
    Events,
    NewEvent,
    RecordedEvent,
    Subscription,
    leases,
    open_event_store,
)
from neolayer.tenancy import Scope, Transaction

OWNED_UNTIL = (
    "SELECT owned_until, clock_timestamp() FROM public.subscription_partitions"
    " WHERE tenant_id = %s AND subscription = %s"
)
LEASE = timedelta(seconds=0.75)
TAKE = (
    "UPDATE public.subscription_partitions SET owner = 'thief', fence = fence + 1,"
    " owned_until = clock_timestamp() WHERE tenant_id = %s AND subscription = %s RETURNING 1"
)


@pytest.fixture(scope="module")
def layer_databases(module_databases: Endpoints) -> Endpoints:
    return module_databases


async def fill(events: Events, count: int) -> None:
    batch = [NewEvent("Deposited", {"amount": amount}) for amount in range(1, count + 1)]
    await events.append(uuid4(), batch, category="account")


async def until_done(events: Events) -> None:
    """Until every subscription has nothing behind it."""
    async with asyncio.timeout(PATIENCE_S):
        while any(one.lag_events for one in await events.subscriptions.list()):
            await asyncio.sleep(0.02)


async def lease_of(subscription: Subscription) -> tuple[datetime, datetime]:
    asked = (subscription.scope.tenant, subscription.name)
    row = await subscription.scope.one(OWNED_UNTIL, asked)
    assert row is not None
    return row[0], row[1]


async def test_C_a_handler_longer_than_the_lease_gets_on(new_events: NewEvents) -> None:
    """Each event takes twice as long as the lease, and another consumer waits for what is free:
    the lease is renewed beside the handler, so every event is handled and none parked."""
    events, stop, done = new_events(), asyncio.Event(), list[int]()
    subscription = await events.subscribe("long", partitions=1, lease=LEASE)
    await fill(events, 3)

    async def handle(tx: Transaction, event: RecordedEvent) -> None:
        first_end, now = await lease_of(subscription)
        while now <= first_end + LEASE:  # long enough for the other one to see it
            await asyncio.sleep(0.02)
            now = (await lease_of(subscription))[1]
        done.append(event.version)

    running = [asyncio.create_task(subscription.run(handle, until=stop)) for _ in range(2)]
    await until_done(events)
    stop.set()
    await asyncio.wait_for(asyncio.gather(*running), PATIENCE_S)
    assert await subscription.parked() == []
    assert sorted(set(done)) == [1, 2, 3]


async def test_C_a_renewal_that_is_given_up_by_itself_is_not_the_last(
    new_events: NewEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client cancels what the first one waits for; the handler takes thrice the lease."""
    events, stop, renewals = new_events(), asyncio.Event(), 0
    subscription = await events.subscribe("given up", partitions=1, lease=LEASE)
    await fill(events, 1)
    whole = Scope.fetch

    async def given_up_at_first(self: Scope, query: Any, params: Any = None) -> Any:
        nonlocal renewals
        if query is leases.sql.renew:
            renewals += 1
            if renewals == 1:
                raise asyncio.CancelledError
        return await whole(self, query, params)

    monkeypatch.setattr(Scope, "fetch", given_up_at_first)

    async def handle(tx: Transaction, event: RecordedEvent) -> None:
        first_end, now = await lease_of(subscription)
        while now <= first_end + 2 * LEASE:
            await asyncio.sleep(0.02)
            now = (await lease_of(subscription))[1]

    running = asyncio.create_task(subscription.run(handle, until=stop))
    await until_done(events)
    stop.set()
    await asyncio.wait_for(running, PATIENCE_S)
    assert await subscription.parked() == [] and renewals > 2


async def test_C_leases_are_renewed_while_handlers_hold_every_connection(
    new_events: NewEvents, module_databases: Endpoints
) -> None:
    """As many slow handlers as the process has connections: each lease is renewed all the same."""
    watching, tries, both = new_events(), list[str](), asyncio.Event()
    await fill(watching, 1)

    async def work(events: Events, name: str, stop: asyncio.Event) -> None:
        subscription = await events.subscribe(name, partitions=1, lease=LEASE)
        watched = await watching.subscribe(name, partitions=1)

        async def handle(tx: Transaction, event: RecordedEvent) -> None:
            tries.append(name)
            if len(tries) == 2:
                both.set()
            await both.wait()
            first_end, _ = await lease_of(watched)
            while (await lease_of(watched))[0] < first_end + LEASE:
                await asyncio.sleep(0.02)

        await subscription.run(handle, until=stop)

    async with open_event_store(module_databases, size=2, application_name="tests") as store:
        assert watching.scope.tenant is not None
        events = store.events(watching.scope.tenant, by=watching.scope.by)
        stop, names = asyncio.Event(), ("one", "two")
        running = [asyncio.create_task(work(events, name, stop)) for name in names]
        async with asyncio.timeout(PATIENCE_S):
            await both.wait()
        await until_done(watching)
        stop.set()
        await asyncio.wait_for(asyncio.gather(*running), PATIENCE_S)
    assert sorted(tries) == ["one", "two"]


async def test_C_an_event_whose_handler_always_loses_the_lease_is_parked(
    new_events: NewEvents,
) -> None:
    """A handler that holds the whole process up cannot be renewed beside: its event is tried three
    times, then parked with that cause; its neighbours flow."""
    events, stop, tries = new_events(), asyncio.Event(), list[int]()
    subscription = await events.subscribe("stuck", partitions=1)
    await fill(events, 1)
    await fill(events, 2)

    async def handle(tx: Transaction, event: RecordedEvent) -> None:
        tries.append(event.version)
        if event.version == 2:  # as if it had been away for longer than the lease
            await events.scope.fetch(TAKE, (events.scope.tenant, "stuck"))

    running = asyncio.create_task(subscription.run(handle, until=stop))
    await until_done(events)
    stop.set()
    await asyncio.wait_for(running, PATIENCE_S)
    (parked,) = await subscription.parked()
    assert (parked.version, parked.attempts) == (2, 3)
    assert "the consumer lost its lease" in (parked.cause or "")
    assert tries.count(2) == 3
