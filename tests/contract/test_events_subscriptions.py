"""Subscriptions: each event once in effect, streams in order, poison parked, the dead replaced."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID, uuid4

import psycopg
import pytest
from tests.fixtures.fix_events import NewEvents

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.errors import Conflict
from neolayer.events import Events, NewEvent, Poison, RecordedEvent, Subscription
from neolayer.tenancy import Transaction

NOTE = "INSERT INTO public.handled VALUES (%s, %s, %s, %s)"


@pytest.fixture(autouse=True, scope="module")
def _effects(module_databases: Endpoints) -> None:
    """A table for what handlers write, in the same database. No key: what comes twice shows."""
    dsn = module_databases.event_store.dsn(Role.ADMIN, Database.EVENT_STORE)
    with psycopg.connect(dsn) as admin:
        admin.execute(
            "CREATE TABLE public.handled"
            " (n serial, stream uuid, version int, by_whom text, tenant uuid)"
        )
        admin.execute("GRANT ALL ON public.handled, public.handled_n_seq TO neolayer_app")


def noting(by: str = "one", *, refuses: set[int] | None = None):
    """A handler that notes what it was given, and refuses some amounts as long as they are told."""

    async def handle(tx: Transaction, event: RecordedEvent) -> None:
        await tx.execute(
            "INSERT INTO public.handled (stream, version, by_whom, tenant) VALUES (%s, %s, %s, %s)",
            (event.stream_id, event.version, by, event.tenant_id),
        )
        if refuses and event.data["amount"] in refuses:
            raise ValueError(f"refused {event.data['amount']}")

    return handle


async def handled(events: Events) -> list[tuple[UUID, int, str]]:
    rows = await events.scope.fetch(
        "SELECT stream, version, by_whom FROM public.handled WHERE tenant = %s ORDER BY n",
        (events.scope.tenant,),
    )
    return [(row[0], row[1], row[2]) for row in rows]


async def fill(events: Events, streams: list[UUID], each: int = 3) -> None:
    for amount in range(1, each + 1):
        await asyncio.gather(
            *(
                events.append(s, [NewEvent("Deposited", {"amount": amount})], category="account")
                for s in streams
            )
        )


def in_order(found: list[tuple[UUID, int, str]]) -> dict[UUID, list[int]]:
    per_stream: dict[UUID, list[int]] = {}
    for stream, version, _ in found:
        per_stream.setdefault(stream, []).append(version)
    return per_stream


async def until_handled(events: Events, count: int) -> None:
    async with asyncio.timeout(20):
        while len(await handled(events)) < count:
            await asyncio.sleep(0.01)


async def test_everything_once_and_streams_in_order(new_events: NewEvents) -> None:
    """What was there, then what came; a second look finds nothing to do."""
    events, streams = new_events(), [uuid4() for _ in range(7)]
    await fill(events, streams)
    subscription = await events.subscribe("letters", partitions=4)
    assert await subscription.catch_up(noting()) == 21
    await events.append(streams[0], [NewEvent("Deposited", {"amount": 9})])
    assert await subscription.catch_up(noting()) == 1
    assert await subscription.catch_up(noting()) == 0
    expected = {stream: [1, 2, 3] for stream in streams} | {streams[0]: [1, 2, 3, 4]}
    assert in_order(await handled(events)) == expected


async def test_live_events_come_at_once(new_events: NewEvents) -> None:
    """Appended by the same process: no poll is waited for (it is a minute here)."""
    events, stop, stream = new_events(), asyncio.Event(), uuid4()
    subscription = await events.subscribe("live", partitions=2, poll=timedelta(minutes=1))
    running = asyncio.create_task(subscription.run(noting(), until=stop))
    for amount in range(5):
        await events.append(stream, [NewEvent("Deposited", {"amount": amount})], category="account")
        await until_handled(events, amount + 1)
    stop.set()
    await asyncio.wait_for(running, 10)
    assert in_order(await handled(events)) == {stream: [1, 2, 3, 4, 5]}


async def test_consumers_share_partitions(new_events: NewEvents) -> None:
    """Two at once have two partitions each, do all of it between them, and lose no order."""
    events, stop = new_events(), asyncio.Event()
    streams = [uuid4() for _ in range(16)]
    lease = timedelta(seconds=0.6)
    subscription = await events.subscribe("shared", partitions=4, lease=lease)
    running = [
        asyncio.create_task(subscription.run(noting(name), until=stop, consumer=name))
        for name in ("one", "two")
    ]
    owners: list[str] = []
    async with asyncio.timeout(20):
        while owners != ["one", "one", "two", "two"]:
            await asyncio.sleep(0.02)
            owners = sorted(str(each.owner) for each in await subscription.progress())
    await fill(events, streams)
    await until_handled(events, 48)
    stop.set()
    await asyncio.gather(*running)
    found = await handled(events)
    assert in_order(found) == {stream: [1, 2, 3] for stream in streams}
    assert {by for _, _, by in found} == {"one", "two"}
    for stream in streams:  # each by one consumer
        assert len({by for s, _, by in found if s == stream}) == 1


async def test_a_dead_consumer_is_replaced(new_events: NewEvents) -> None:
    """Its partitions are another's once its lease has run out, from where it was."""
    events, streams = new_events(), [uuid4() for _ in range(4)]
    await fill(events, streams, 2)
    subscription = await events.subscribe("mortal", partitions=2, lease=timedelta(seconds=0.3))
    params = {"name": "mortal", "consumer": "dead", "lease": timedelta(seconds=0.3)}
    await events.scope.fetch(
        "SELECT * FROM public.claim_partitions(%(name)s, %(consumer)s, %(lease)s)", params
    )
    assert {p.owner for p in await subscription.progress()} == {"dead"}
    stop = asyncio.Event()
    running = asyncio.create_task(subscription.run(noting("heir"), until=stop))
    await until_handled(events, 8)
    stop.set()
    await running
    assert in_order(await handled(events)) == {stream: [1, 2] for stream in streams}


async def test_who_has_lost_a_partition_stores_nothing(new_events: NewEvents) -> None:
    """A consumer that was away too long: the effect of its last page is undone."""
    events, stream = new_events(), uuid4()
    await fill(events, [stream])
    subscription = await events.subscribe("slow", partitions=1, lease=timedelta(seconds=0.2))
    heir = noting("heir")
    stolen = asyncio.Event()

    async def slow(tx: Transaction, event: RecordedEvent) -> None:
        await noting("slow")(tx, event)
        if not stolen.is_set():
            while not (taken := await subscription.catch_up(heir, consumer="heir")):
                await asyncio.sleep(0.02)  # the lease still holds
            assert taken == 3
            stolen.set()

    await subscription.catch_up(slow, consumer="slow")
    assert {by for _, _, by in await handled(events)} == {"heir"}
    assert in_order(await handled(events)) == {stream: [1, 2, 3]}


@pytest.mark.parametrize("poison", list(Poison))
async def test_poison_is_parked_and_replayed(new_events: NewEvents, poison: Poison) -> None:
    """The neighbours flow. Under HOLD the stream waits behind it, and is replayed in order; under
    SKIP it goes on."""
    events, (bad, good) = new_events(), (uuid4(), uuid4())
    await fill(events, [good], 3)
    for amount in (1, 66, 2, 3):
        await events.append(bad, [NewEvent("Deposited", {"amount": amount})], category="account")
    subscription = await events.subscribe("poisoned", partitions=1, poison=poison)
    await subscription.catch_up(noting(refuses={66}))
    before = in_order(await handled(events))
    assert before == {good: [1, 2, 3], bad: [1] if poison is Poison.HOLD else [1, 3, 4]}
    parked = await subscription.parked()
    assert [(one.stream_id, one.version) for one in parked] == [
        (bad, version) for version in ((2, 3, 4) if poison is Poison.HOLD else (2,))
    ]
    assert (parked[0].cause, parked[0].attempts) == ("ValueError: refused 66", 3)
    assert await subscription.replay(noting(refuses={66})) == 0
    assert (await subscription.parked())[0].attempts == 4
    assert await subscription.replay(noting()) == len(parked)
    assert await subscription.parked() == []
    expected = [1, 2, 3, 4] if poison is Poison.HOLD else [1, 3, 4, 2]
    assert in_order(await handled(events)) == {good: [1, 2, 3], bad: expected}
    await events.append(bad, [NewEvent("Deposited", {"amount": 5})])
    assert await subscription.catch_up(noting()) == 1


async def test_a_subscription_keeps_its_partitions(new_events: NewEvents) -> None:
    """Another number would move streams between consumers; another tenant has its own."""
    events = new_events()
    await events.subscribe("fixed", partitions=2)
    with pytest.raises(Conflict, match="has 2 partitions"):
        await events.subscribe("fixed", partitions=3)
    assert (await new_events().subscribe("fixed", partitions=3)).partitions == 3


async def test_only_some_types(new_events: NewEvents) -> None:
    """A subscription to a type is given no other, and its place moves on all the same."""
    events, stream = new_events(), uuid4()
    await events.append(stream, [NewEvent("Opened", {"amount": 0})], category="account")
    await fill(events, [stream], 2)
    subscription = await events.subscribe("opened", partitions=1, types=["Opened"])
    assert await subscription.catch_up(noting()) == 1
    last = (await events.read_all())[-1].place
    assert (await subscription.progress())[0].place >= last


async def test_following_by_oneself(new_events: NewEvents) -> None:
    """Every event from a place on, without end."""
    events, stream = new_events(), uuid4()
    await fill(events, [stream], 2)
    seen: list[int] = []

    async def read(source: AsyncIterator[RecordedEvent]) -> None:
        async for event in source:
            seen.append(event.version)
            if event.version == 4:
                return

    reading = asyncio.create_task(read(events.follow()))
    await fill(events, [stream], 2)
    await asyncio.wait_for(reading, 10)
    assert seen == [1, 2, 3, 4]
    assert isinstance(await events.subscribe("x", partitions=1), Subscription)
    assert time.monotonic() > 0
