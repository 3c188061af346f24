"""Subscriptions: each event once in effect, streams in order, poison parked, the dead replaced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID, uuid4

import psycopg
import pytest
from tests.fixtures.fix_events import NewEvents
from tests.fixtures.patience import PATIENCE_S

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.errors import Conflict, EngineUnavailable, InvalidInput, NotFound
from neolayer.events import (
    BEGINNING,
    Events,
    NewEvent,
    Poison,
    RecordedEvent,
    Subscription,
    consuming,
    open_event_store,
)
from neolayer.tenancy import Transaction

RUN_OUT = (
    "UPDATE public.subscription_partitions SET owned_until = clock_timestamp()"
    " WHERE tenant_id = %s AND subscription = %s RETURNING 1"
)


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
    async with asyncio.timeout(PATIENCE_S):
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
    """Appended by the same process: no poll is waited for (it is half an hour here)."""
    events, stop, stream = new_events(), asyncio.Event(), uuid4()
    subscription = await events.subscribe("live", partitions=2, poll=timedelta(minutes=30))
    running = asyncio.create_task(subscription.run(noting(), until=stop))
    for amount in range(5):
        await events.append(stream, [NewEvent("Deposited", {"amount": amount})], category="account")
        await until_handled(events, amount + 1)
    stop.set()
    await asyncio.wait_for(running, PATIENCE_S)
    assert in_order(await handled(events)) == {stream: [1, 2, 3, 4, 5]}


async def test_events_of_another_process_come_within_a_poll(
    new_events: NewEvents, module_databases: Endpoints
) -> None:
    """Nobody tells this process of them: the bound of their latency is how often it looks."""
    events, stop, stream = new_events(), asyncio.Event(), uuid4()
    subscription = await events.subscribe("far", partitions=2, poll=timedelta(milliseconds=20))
    running = asyncio.create_task(subscription.run(noting(), until=stop))
    async with open_event_store(module_databases, application_name="tests") as elsewhere:
        theirs = elsewhere.events(events.scope.tenant, by=events.scope.by)  # type: ignore[arg-type]
        for amount in range(3):
            event = NewEvent("Deposited", {"amount": amount})
            await theirs.append(stream, [event], category="account")
            await until_handled(events, amount + 1)
    stop.set()
    await asyncio.wait_for(running, PATIENCE_S)
    assert in_order(await handled(events)) == {stream: [1, 2, 3]}


async def test_consumers_share_partitions(new_events: NewEvents) -> None:
    """Two at once have two partitions each, do all of it between them, and lose no order."""
    events, stop = new_events(), asyncio.Event()
    streams = [uuid4() for _ in range(16)]
    lease = timedelta(seconds=3)  # is asked for anew three times in it
    subscription = await events.subscribe("shared", partitions=4, lease=lease)
    running = [
        asyncio.create_task(subscription.run(noting(name), until=stop, consumer=name))
        for name in ("one", "two")
    ]
    owners: list[str] = []
    async with asyncio.timeout(PATIENCE_S):
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
    params = {"name": "mortal", "consumer": "dead", "lease": timedelta(seconds=3)}
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
    subscription = await events.subscribe("slow", partitions=1)
    stolen = asyncio.Event()

    async def slow(tx: Transaction, event: RecordedEvent) -> None:
        await noting("slow")(tx, event)
        if not stolen.is_set():
            await events.scope.fetch(RUN_OUT, (events.scope.tenant, "slow"))
            assert await subscription.catch_up(noting("heir"), consumer="heir") == 3
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


async def test_C8_a_handler_that_is_left_without_an_answer_is_tried_again_and_parked(
    new_events: NewEvents,
) -> None:
    """A client of its own cancels what it waits for; nobody wished that the consumer ends."""
    events, stop, tries = new_events(), asyncio.Event(), list[int]()
    subscription = await events.subscribe("given up", partitions=1)
    stream = uuid4()
    await events.append(
        stream, [NewEvent("Deposited", {"amount": n}) for n in (1, 2, 3)], category="account"
    )

    async def handle(tx: Transaction, event: RecordedEvent) -> None:
        tries.append(event.version)
        if event.version == 3 or tries.count(event.version) == 1:
            raise asyncio.CancelledError

    running = asyncio.create_task(subscription.run(handle, until=stop))
    async with asyncio.timeout(PATIENCE_S):
        while not (parked := await subscription.parked()):
            await asyncio.sleep(0.02)
    stop.set()
    await asyncio.wait_for(running, PATIENCE_S)
    assert [one.version for one in parked] == [3]
    assert "the handler was left without an answer" in (parked[0].cause or "")


async def test_a_subscription_keeps_its_partitions(new_events: NewEvents) -> None:
    """Another number would move streams between consumers; another tenant has its own."""
    events = new_events()
    await events.subscribe("fixed", partitions=2)
    with pytest.raises(Conflict, match="has 2 partitions"):
        await events.subscribe("fixed", partitions=3)
    assert (await new_events().subscribe("fixed", partitions=3)).partitions == 3
    for partitions in (-1, 0, 1025, 1 << 40):
        with pytest.raises(InvalidInput, match="1 to 1024 partitions"):
            await events.subscribe("other", partitions=partitions)


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
    await asyncio.wait_for(reading, PATIENCE_S)
    assert seen == [1, 2, 3, 4]
    assert isinstance(await events.subscribe("x", partitions=1), Subscription)


async def test_C8_replay_reaches_streams_behind_a_long_one(
    new_events: NewEvents, module_databases: Endpoints
) -> None:
    """A thousand parked events of a stream that fails again hide no other stream."""
    events, stop_at = new_events(), UUID(int=1)
    subscription = await events.subscribe("long", partitions=1)
    for stream in (stop_at, UUID(int=2)):
        await events.append(stream, [NewEvent("Deposited", {"amount": 66})], category="account")
    assert await subscription.catch_up(noting(refuses={66})) == 0
    dsn = module_databases.event_store.dsn(Role.ADMIN, Database.EVENT_STORE)
    with psycopg.connect(dsn) as admin:
        admin.execute(
            "INSERT INTO public.parked_events"
            " (tenant_id, subscription, aggregate_id, event_version, attempts)"
            " SELECT %s, 'long', %s, n, 0 FROM generate_series(2, 1200) AS n",
            (events.scope.tenant, stop_at),
        )

    async def refuse_the_first(tx: Transaction, event: RecordedEvent) -> None:
        await noting(refuses={66} if event.stream_id == stop_at else None)(tx, event)

    assert await subscription.replay(refuse_the_first) == 1
    assert in_order(await handled(events)) == {UUID(int=2): [1]}


@pytest.mark.parametrize(
    "trouble", [psycopg.OperationalError("no route"), EngineUnavailable("redis", "no answer")]
)
async def test_C8_an_engine_of_the_handler_that_never_answers_is_parked(
    new_events: NewEvents,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    trouble: Exception,
) -> None:
    """Tried for a while, told each time, then parked with its cause; other streams flow."""
    monkeypatch.setattr(consuming, "LONG_PAUSES_S", (0.0, 0.01, 0.01))
    events, (bad, good) = new_events(), (uuid4(), uuid4())
    subscription = await events.subscribe("elsewhere", partitions=1)
    for stream in (bad, good):
        await events.append(stream, [NewEvent("Deposited", {"amount": 1})], category="account")

    async def handle(tx: Transaction, event: RecordedEvent) -> None:
        await noting()(tx, event)
        if event.stream_id == bad:
            raise trouble

    assert await subscription.catch_up(handle) == 1
    (parked,) = await subscription.parked()
    assert (parked.stream_id, parked.attempts) == (bad, 4)
    assert str(trouble) in (parked.cause or "")
    assert in_order(await handled(events)) == {good: [1]}
    assert capsys.readouterr().out.count("a subscription's handler failed") == 3
    assert await subscription.replay(noting()) == 1


async def test_C8_a_shy_handler_loses_nothing(new_events: NewEvents) -> None:
    """One that fails now here, now there: what stands before the culprit is handled before it."""
    events, stream, tries = new_events(), uuid4(), list[int]()
    await fill(events, [stream], 6)
    subscription = await events.subscribe("shy", partitions=1)

    async def handle(tx: Transaction, event: RecordedEvent) -> None:
        tries.append(event.version)
        if tries in ([1, 2, 3, 4], [1, 2, 3, 4, 1, 2]):
            raise ValueError("not now")
        await noting()(tx, event)

    await subscription.catch_up(handle)
    assert in_order(await handled(events)) == {stream: [1, 2, 3, 4, 5, 6]}
    assert await subscription.parked() == []


async def test_subscriptions_are_listed_and_deleted(new_events: NewEvents) -> None:
    """By name, with place, lag, what is parked and who works; a tenant has its own. The consumers
    of a deleted one end."""
    events, stream = new_events(), uuid4()
    await fill(events, [stream], 2)
    await events.subscribe("b", partitions=2)
    first = await events.subscribe("a", partitions=1)
    await first.catch_up(noting(refuses={2}))
    one, two = await events.subscriptions.list()
    assert (one.name, one.partitions, one.parked, one.lag_events) == ("a", 1, 1, 0)
    assert (two.name, two.partitions, two.parked, two.lag_events) == ("b", 2, 0, 2)
    assert await new_events().subscriptions.list() == []
    stop = asyncio.Event()
    short = await events.subscribe("a", partitions=1, lease=timedelta(milliseconds=90))
    running = asyncio.create_task(short.run(noting(), until=stop, consumer="me"))
    async with asyncio.timeout(PATIENCE_S):
        while (await events.subscriptions.list())[0].consumers != ("me",):
            await asyncio.sleep(0.01)
    with pytest.raises(NotFound):
        await new_events().subscriptions.delete("a")
    await events.subscriptions.delete("a")
    with pytest.raises(NotFound, match="was deleted"):
        await asyncio.wait_for(running, PATIENCE_S)
    assert [each.name for each in await events.subscriptions.list()] == ["b"]
    with pytest.raises(NotFound, match="no subscription 'a'"):
        await events.subscriptions.delete("a")


async def test_what_is_replayed_is_waited_for(new_events: NewEvents) -> None:
    """An event that comes while the last parked one of its stream is handled is not parked behind
    it: it is handled after it."""
    events, stream = new_events(), uuid4()
    await fill(events, [stream], 1)
    subscription = await events.subscribe("patient", partitions=1)
    await subscription.catch_up(noting(refuses={1}))
    await fill(events, [stream], 1)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(tx: Transaction, event: RecordedEvent) -> None:
        begun.set()
        await go_on.wait()
        await noting("replay")(tx, event)

    replaying = asyncio.create_task(subscription.replay(slow))
    await begun.wait()
    following = asyncio.create_task(subscription.catch_up(noting("follow")))
    async with asyncio.timeout(PATIENCE_S):
        while not await _waits(events):
            await asyncio.sleep(0.01)
    go_on.set()
    assert (await replaying, await following) == (1, 1)
    assert await handled(events) == [(stream, 1, "replay"), (stream, 2, "follow")]
    assert await subscription.parked() == []


async def _waits(events: Events) -> bool:
    row = await events.scope.one("SELECT count(*) FROM pg_locks WHERE NOT granted")
    return row is not None and row[0] > 0


async def test_C_a_subscription_keeps_its_types_and_its_start(new_events: NewEvents) -> None:
    """Whoever asks for it with others is refused, where events would be passed over without a word;
    where no start is named it goes on."""
    events, stream = new_events(), uuid4()
    await fill(events, [stream], 3)
    first = (await events.read_all())[0].place
    await events.subscribe("narrow", types=["B", "A", "B"], after=first)
    again = await events.subscribe("narrow", types=["A", "B"])
    assert again.types == ["A", "B"]
    assert (await events.subscribe("narrow", types=["A", "B"], after=first)).name == "narrow"
    with pytest.raises(Conflict, match="is of A, B, not of all types") as refused:
        await events.subscribe("narrow")
    assert refused.value.hint == "name its types: A, B"
    with pytest.raises(Conflict, match=f"began after {first}, not after 0:0"):
        await events.subscribe("narrow", types=["A", "B"], after=BEGINNING)
    with pytest.raises(InvalidInput, match="1 to 1000 types"):
        await events.subscribe("none", types=[])
    await events.subscribe("wide")
    with pytest.raises(Conflict, match="is of all types, not of A"):
        await events.subscribe("wide", types=["A"])
    assert [one.types for one in await events.subscriptions.list()] == [("A", "B"), None]


async def test_C_an_older_subscription_is_told_its_types(
    new_events: NewEvents, module_databases: Endpoints
) -> None:
    """One from before they were noted takes those of whoever subscribes first, and keeps its
    place; its start is whatever the first one says who names one."""
    events, stream = new_events(), uuid4()
    await fill(events, [stream], 2)
    began = (await events.read_all())[0].place
    assert await (await events.subscribe("old", after=began)).catch_up(noting()) == 1
    dsn = module_databases.event_store.dsn(Role.ADMIN, Database.EVENT_STORE)
    with psycopg.connect(dsn) as admin:
        admin.execute(
            "UPDATE public.subscriptions SET started_transaction_id = NULL,"
            " started_position = NULL, types_known = false WHERE tenant_id = %s",
            (events.scope.tenant,),
        )
    old = await events.subscribe("old", types=["Deposited"])
    assert await old.catch_up(noting()) == 0
    with pytest.raises(Conflict, match="is of Deposited"):
        await events.subscribe("old")
    again = await events.subscribe("old", types=["Deposited"], after=began)
    assert await again.catch_up(noting()) == 0
    with pytest.raises(Conflict, match=f"began after {began}, not after 0:0"):
        await events.subscribe("old", types=["Deposited"], after=BEGINNING)
    with pytest.raises(Conflict, match="is of Deposited, not of all types"):
        await events.subscribe("old", after=began)


async def test_C_catching_up_waits_for_a_dead_consumer(new_events: NewEvents) -> None:
    """It has died with its lease running: what it held is handled once that ends, and not called
    done before. Its row is gone then."""
    events, streams = new_events(), [uuid4() for _ in range(4)]
    await fill(events, streams, 2)
    subscription = await events.subscribe("once", partitions=2, lease=timedelta(seconds=0.3))
    await events.scope.fetch(
        "SELECT * FROM public.claim_partitions('once', 'dead', interval '1.5 seconds')"
    )
    assert await subscription.catch_up(noting("heir")) == 8
    assert in_order(await handled(events)) == {stream: [1, 2] for stream in streams}
    rows = await events.scope.fetch(
        "SELECT consumer FROM public.subscription_consumers WHERE tenant_id = %s",
        (events.scope.tenant,),
    )
    assert rows == []


async def test_C_catching_up_waits_for_what_another_handles(new_events: NewEvents) -> None:
    """A living consumer is at it: done is when that one has handled it."""
    events, stream, go_on = new_events(), uuid4(), asyncio.Event()
    await fill(events, [stream], 1)
    subscription = await events.subscribe("shared once", partitions=1)
    begun = asyncio.Event()

    async def slow(tx: Transaction, event: RecordedEvent) -> None:
        begun.set()
        await go_on.wait()
        await noting("slow")(tx, event)

    one = asyncio.create_task(subscription.catch_up(slow))
    await begun.wait()
    other = asyncio.create_task(subscription.catch_up(noting("other")))
    async with asyncio.timeout(PATIENCE_S):
        while len((await events.subscriptions.list())[0].consumers) < 2 and not other.done():
            await asyncio.sleep(0.01)
    go_on.set()
    assert (await one, await other) == (1, 0)
    assert await handled(events) == [(stream, 1, "slow")]
