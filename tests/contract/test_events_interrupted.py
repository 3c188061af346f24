"""A subscription goes on whatever happens to its connection, its time, and the events behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from tests.fixtures.fix_events import NewEvents
from tests.fixtures.fix_tenancy import NewTenant
from tests.fixtures.patience import PATIENCE_S

from neolayer.audit import NotAuditable
from neolayer.engines.endpoints import Database, Endpoints, ObjectsEndpoint, Role
from neolayer.engines.engine import Level
from neolayer.errors import Conflict, NotFound
from neolayer.events import (
    Events,
    NewEvent,
    RecordedEvent,
    Subscription,
    consuming,
    open_event_store,
    parked,
    subscriptions,
)
from neolayer.events.archive import Archive, SegmentStore
from neolayer.events.consuming import Handler
from neolayer.tenancy import Scope, Transaction

NOTE = "INSERT INTO public.effects VALUES (%s, %s, %s)"


@pytest.fixture(scope="module")
def layer_databases(module_databases: Endpoints) -> Endpoints:
    return module_databases


@pytest.fixture(autouse=True)
def admin(module_databases: Endpoints) -> Iterator[psycopg.Connection]:
    """A table for what handlers write. No key: what comes twice shows."""
    dsn = module_databases.event_store.dsn(Role.ADMIN, Database.EVENT_STORE)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS public.effects (tenant uuid, stream uuid, version int)"
        )
        connection.execute("GRANT ALL ON public.effects TO neolayer_app")
        yield connection


async def note(tx: Transaction, event: RecordedEvent) -> None:
    await tx.execute(NOTE, (event.tenant_id, event.stream_id, event.version))


async def effects(events: Events) -> dict[UUID, list[int]]:
    rows = await events.scope.fetch(
        "SELECT stream, version FROM public.effects WHERE tenant = %s ORDER BY ctid",
        (events.scope.tenant,),
    )
    found: dict[UUID, list[int]] = {}
    for stream, version in rows:
        found.setdefault(stream, []).append(version)
    return found


async def fill(events: Events, stream: UUID, count: int) -> None:
    batch = [NewEvent("Deposited", {"amount": amount}) for amount in range(count)]
    await events.append(stream, batch, category="account")


async def until_there(events: Events, expected: dict[UUID, list[int]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await effects(events) != expected:
            await asyncio.sleep(0.01)


# Its connection


@pytest.mark.parametrize("closes", ["the server", "the client", "the driver"])
async def test_C_a_lost_connection_is_no_end(
    new_events: NewEvents,
    admin: psycopg.Connection,
    closes: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The connection is lost in the middle of a handler's transaction: the consumer goes on with
    another, and every effect is there once."""
    events, stream, stop, tries = new_events(), uuid4(), asyncio.Event(), list[int]()
    subscription = await events.subscribe("robust", partitions=1)

    async def handle(tx: Transaction, event: RecordedEvent) -> None:
        await note(tx, event)
        tries.append(event.version)
        if tries in ([1], [1, 1, 2]):
            row = await tx.one("SELECT pg_backend_pid()")
            if closes == "the server":
                assert row is not None
                admin.execute("SELECT pg_terminate_backend(%s, 5000)", row)
            elif closes == "the client":
                await tx._connection.close()  # pyright: ignore[reportPrivateUsage]
            else:
                lost.append(psycopg.InterfaceError("the connection is already closed"))

    lost, commit = list[Exception](), Transaction.commit

    async def lose(tx: Transaction) -> None:
        if lost:
            raise lost.pop()
        await commit(tx)

    monkeypatch.setattr(Transaction, "commit", lose)
    running = asyncio.create_task(subscription.run(handle, until=stop))
    await fill(events, stream, 3)
    await until_there(events, {stream: [1, 2, 3]})
    stop.set()
    await asyncio.wait_for(running, PATIENCE_S)
    assert await subscription.parked() == []


async def test_C_a_commit_whose_answer_was_lost_is_not_done_again(
    new_events: NewEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """COMMIT was done and nobody heard of it: the consumer looks where it is, and handles nothing
    twice."""
    events, stream, stop, lost = new_events(), uuid4(), asyncio.Event(), list[bool]()
    subscription = await events.subscribe("deaf", partitions=1)
    commit = Transaction.commit

    async def deaf(tx: Transaction) -> None:
        wrote = tx._begun  # pyright: ignore[reportPrivateUsage]
        await commit(tx)
        if wrote and not lost and await effects(events):
            lost.append(True)
            raise psycopg.OperationalError("the answer to COMMIT was lost")

    await fill(events, stream, 3)
    monkeypatch.setattr(Transaction, "commit", deaf)
    running = asyncio.create_task(subscription.run(note, until=stop))
    await until_there(events, {stream: [1, 2, 3]})
    await fill(events, stream, 1)
    await until_there(events, {stream: [1, 2, 3, 4]})
    stop.set()
    await asyncio.wait_for(running, PATIENCE_S)
    assert lost and await effects(events) == {stream: [1, 2, 3, 4]}


async def test_C_a_place_moves_only_from_where_it_was_left(new_events: NewEvents) -> None:
    """Whoever begins a page while an earlier try of it is being committed stores nothing."""
    events, stream = new_events(), uuid4()
    subscription = await events.subscribe("twice", partitions=1)
    await fill(events, stream, 2)

    async def meanwhile(tx: Transaction, event: RecordedEvent) -> None:
        await note(tx, event)
        if event.version == 1 and not await effects(events):
            await events.scope.fetch(
                "UPDATE public.subscription_partitions SET transaction_id = %s::text::xid8,"
                " position = %s WHERE subscription = 'twice' AND tenant_id = %s RETURNING 1",
                (str(event.place.transaction), event.place.index, events.scope.tenant),
            )

    await subscription.catch_up(meanwhile)
    await subscription.catch_up(note)
    assert await effects(events) == {stream: [2]}


# Its time


async def test_a_slow_page_is_several_transactions(
    new_events: NewEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The readers of all tenants wait for a handler's transaction, so it ends after a while, with
    what was handled by then; nothing is left out or handled twice, also where it fails between."""
    monkeypatch.setattr(consuming, "MOST_S", 0.0)
    monkeypatch.setattr(consuming, "PAUSES_S", (0.0, 0.0))
    events, stream, transactions = new_events(), uuid4(), set[object]()
    subscription = await events.subscribe("slow", partitions=1)
    await fill(events, stream, 6)
    failures = [4, 4, 2]

    async def handle(tx: Transaction, event: RecordedEvent) -> None:
        await note(tx, event)
        if failures and failures[-1] == event.version:
            failures.pop()
            raise ValueError("not now")
        transactions.add(await tx.one("SELECT pg_current_xact_id()::text"))

    assert await subscription.catch_up(handle) == 6
    assert len(transactions) == 6
    assert await effects(events) == {stream: [1, 2, 3, 4, 5, 6]}
    assert not failures and await subscription.parked() == []


async def gone(endpoints: Endpoints, pid: int) -> None:
    """When the server has ended that connection of its own accord."""
    dsn = endpoints.event_store.dsn(Role.ADMIN, Database.EVENT_STORE)
    query = "SELECT 1 FROM pg_stat_activity WHERE pid = %s"
    async with (
        asyncio.timeout(PATIENCE_S),
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as admin,
    ):
        while await (await admin.execute(query, (pid,))).fetchone():
            await asyncio.sleep(0.01)


async def test_a_handler_beyond_the_limit_is_parked(
    new_events: NewEvents, module_databases: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that keeps its transaction idle for longer than the server allows fails by that, each
    time, and its neighbours flow."""
    monkeypatch.setattr(consuming, "PAUSES_S", (0.0, 0.0))
    events, slow, quick = new_events(), uuid4(), uuid4()
    subscription = await events.subscribe("limited", partitions=1)
    await fill(events, slow, 1)
    await fill(events, quick, 2)

    async def handle(tx: Transaction, event: RecordedEvent) -> None:
        await note(tx, event)
        if event.stream_id == slow:
            ((pid,),) = await tx.fetch("SELECT pg_backend_pid()")
            await tx.execute("SET LOCAL idle_in_transaction_session_timeout = '50ms'")
            await gone(module_databases, pid)

    assert await subscription.catch_up(handle) == 2
    (parked,) = await subscription.parked()
    assert (parked.stream_id, parked.attempts) == (slow, 3)
    assert "idle-in-transaction timeout" in (parked.cause or "")
    assert await effects(events) == {quick: [1, 2]}


# Events that were archived


@pytest.fixture
def segments(tmp_path: Path) -> SegmentStore:
    return SegmentStore(ObjectsEndpoint(Level.EMBEDDED, tmp_path.as_uri(), tmp_path))


@pytest.fixture
def archiving(new_events: NewEvents, segments: SegmentStore) -> Events:
    """The events of a tenant, with an archive."""
    return replace(new_events(), segments=segments)


async def archived(events: Events, streams: int, each: int = 2) -> list[RecordedEvent]:
    """Some streams, their events one among the other, closed and archived; with one that stays
    between them. All events in reading order."""
    assert events.segments is not None
    ids, stays = [uuid4() for _ in range(streams)], uuid4()
    for _ in range(each):
        for stream in (*ids, stays):
            await events.append(stream, [NewEvent("Deposited", {})], category="account")
    for stream in ids:
        await events.close(stream, {})
    await events.append(stays, [NewEvent("Renamed", {})])
    everything = await events.read_all()
    for stream in ids:
        await Archive(events.scope, events.segments).archive(stream)
    return everything


def gathering(into: list[RecordedEvent]) -> Handler:
    async def handle(tx: Transaction, event: RecordedEvent) -> None:
        into.append(event)

    return handle


@pytest.mark.parametrize("page", [200, 2])
async def test_a_subscription_made_later_is_given_archived_events_in_order(
    archiving: Events, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the beginning, where they stood, each once, then what comes; from a place on, what lies
    behind it; of a type, those of that type."""
    monkeypatch.setattr(consuming, "PAGE", page)
    everything, seen = await archived(archiving, 5), list[RecordedEvent]()
    subscription = await archiving.subscribe("late", partitions=1)
    (standing,) = await archiving.subscriptions.list()
    assert standing.lag_events == len(everything)
    assert await subscription.catch_up(gathering(seen)) == len(everything)
    assert seen == everything
    await archiving.append(uuid4(), [NewEvent("Deposited", {})], category="account")
    assert await subscription.catch_up(gathering(seen)) == 1

    middle, rest = everything[len(everything) // 2].place, list[RecordedEvent]()
    behind = await archiving.subscribe("behind", partitions=1, after=middle)
    await behind.catch_up(gathering(rest))
    assert rest == [event for event in seen if event.place > middle]

    renamed, closings = list[RecordedEvent](), list[RecordedEvent]()
    await (await archiving.subscribe("r", types=["Renamed"])).catch_up(gathering(renamed))
    await (await archiving.subscribe("c", types=["StreamClosed"])).catch_up(gathering(closings))
    assert (len(renamed), len(closings)) == (1, 5)


async def test_archived_events_are_shared_by_partition(archiving: Events) -> None:
    """Each stream in one partition, in order, none left out; what is handled may be archived for
    the next one."""
    everything = await archived(archiving, 9)
    subscription = await archiving.subscribe("shared", partitions=4)
    assert await subscription.catch_up(note) == len(everything)
    found = await effects(archiving)
    expected: dict[UUID, list[int]] = {}
    for event in everything:
        expected.setdefault(event.stream_id, []).append(event.version)
    assert found == expected
    assert (await archiving.subscriptions.list())[0].lag_events == 0


async def test_C8_an_archived_event_that_was_parked_is_replayed(archiving: Events) -> None:
    """It is fetched from the archive again."""
    everything = await archived(archiving, 1)
    bad = everything[0].stream_id

    async def refuse(tx: Transaction, event: RecordedEvent) -> None:
        if event.stream_id == bad:
            raise ValueError("no")

    subscription = await archiving.subscribe("picky", partitions=1)
    await subscription.catch_up(refuse)
    assert len(await subscription.parked()) == 3
    assert await subscription.replay(note) == 3
    assert await effects(archiving) == {bad: [1, 2, 3]}


# What was parked


async def _parked(events: Events, stream: UUID, count: int) -> Subscription:
    """A subscription whose first event of the stream is refused; the others wait behind it."""

    async def refuse(tx: Transaction, event: RecordedEvent) -> None:
        raise ValueError("no")

    subscription = await events.subscribe("parking", partitions=1)
    await fill(events, stream, count)
    await subscription.catch_up(refuse)
    assert len(await subscription.parked()) == count
    return subscription


async def test_C8_a_replay_counts_what_it_handled_itself(new_events: NewEvents) -> None:
    """Not what somebody else has taken meanwhile; between them, all of it."""
    events, stream = new_events(), uuid4()
    subscription = await _parked(events, stream, 4)
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(tx: Transaction, event: RecordedEvent) -> None:
        await note(tx, event)
        begun.set()
        await go_on.wait()

    one = asyncio.create_task(subscription.replay(slow))
    await begun.wait()
    two = asyncio.create_task(subscription.replay(note))
    async with asyncio.timeout(PATIENCE_S):
        while not await _waits(events):
            await asyncio.sleep(0.01)
    go_on.set()
    assert await one + await two == 4
    assert sorted((await effects(events))[stream]) == [1, 2, 3, 4]


async def test_C8_what_somebody_else_has_handled_is_not_parked_again(
    new_events: NewEvents,
) -> None:
    """Two replay at once: where the first one's handler fails and the other's does not, the
    event is handled, once."""
    events, stream = new_events(), uuid4()
    subscription = await _parked(events, stream, 1)
    others: list[asyncio.Task[int]] = []

    async def fail(tx: Transaction, event: RecordedEvent) -> None:
        others.append(asyncio.create_task(subscription.replay(note)))
        async with asyncio.timeout(PATIENCE_S):
            while not await _waits(events):
                await asyncio.sleep(0.01)
        raise ValueError("no")

    assert await subscription.replay(fail) == 0
    assert await others[0] == 1
    assert await subscription.parked() == []
    assert await effects(events) == {stream: [1]}


async def _waits(events: Events) -> bool:
    row = await events.scope.one("SELECT count(*) FROM pg_locks WHERE NOT granted")
    return row is not None and row[0] > 0


def _refused(*_: object) -> None:
    raise NotAuditable("the trail takes nothing")


async def test_C8_what_is_discarded_stands_in_the_audit_trail(
    new_events: NewEvents,
    new_tenant: NewTenant,
    module_databases: Endpoints,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One event is given up, the entry says which and by whom, what waited behind it is replayed,
    and the event stays where it is. Without the entry nothing is given up."""
    core = await new_tenant()
    assert core.tenant is not None
    events, stream = new_events(core.tenant), uuid4()
    subscription = await _parked(events, stream, 3)
    with monkeypatch.context() as patch, pytest.raises(NotAuditable):
        patch.setattr(parked, "append", _refused)
        await subscription.discard(stream, core=core)
    assert len(await subscription.parked()) == 3
    given_up = await subscription.discard(stream, core=core)
    assert (given_up.stream_id, given_up.version, given_up.cause) == (stream, 1, "ValueError: no")
    with psycopg.connect(module_databases.postgres.dsn(Role.ADMIN)) as admin:
        entries = admin.execute(
            "SELECT principal, action, resource, resource_id, changes FROM audit.entries"
            " WHERE tenant_id = %s AND resource = 'parked_event'",
            (core.tenant,),
        ).fetchall()
    ((principal, action, _, name, changes),) = entries
    assert (principal, action, name) == (str(core.by), "DELETE", "parking")
    assert (changes["stream_id"], changes["version"]) == (str(stream), 1)
    with pytest.raises(NotFound, match="its events only wait"):  # asked for twice, done once
        await subscription.discard(stream, core=core)
    assert await subscription.replay(note) == 2
    assert await effects(events) == {stream: [2, 3]}
    with pytest.raises(NotFound, match="has parked nothing of stream"):
        await subscription.discard(stream, core=core)
    assert len(await events.read_all()) == 3


@dataclass
class SlowTrail:
    """A core database whose audit trail takes its time."""

    core: Scope
    meanwhile: Callable[[], Awaitable[None]]

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Transaction]:
        await self.meanwhile()
        async with self.core.transaction() as tx:
            yield tx


async def test_C8_two_who_discard_at_once_give_up_one_event(
    new_events: NewEvents, new_tenant: NewTenant
) -> None:
    """The slower one is told that another was faster, and not about what it had not asked."""
    core = await new_tenant()
    assert core.tenant is not None
    events, stream = new_events(core.tenant), uuid4()
    subscription = await _parked(events, stream, 2)
    others: list[asyncio.Task[Any]] = []

    async def another_asks() -> None:
        others.append(asyncio.create_task(subscription.discard(stream, core=core)))
        async with asyncio.timeout(PATIENCE_S):
            while not await _waits(events):
                await asyncio.sleep(0.01)

    slow: Any = SlowTrail(core, another_asks)
    assert (await subscription.discard(stream, core=slow)).version == 1
    with pytest.raises(Conflict, match="somebody else has just given it up") as told:
        await others[0]
    assert "events parked parking" in str(told.value.hint)
    assert [one.version for one in await subscription.parked()] == [2]


# How late it may be


async def test_an_event_is_handled_at_the_first_look_after_its_commit(
    new_events: NewEvents, module_databases: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Appended by another process, catching up or idle for long: so what bounds its latency is one
    pause, which does not grow, and the pages before it."""
    events, stop = new_events(), asyncio.Event()
    assert events.scope.tenant is not None
    appended, seen = dict[UUID, int](), set[UUID]()
    late, pauses = list[UUID](), set[timedelta]()
    read, wait = consuming.Consumer._read, subscriptions.wait

    async def look(consumer: Any, held: Any) -> list[RecordedEvent]:
        below = await events.scope.one("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::int8")
        assert below is not None  # a transaction of the server's own may be older
        expected = {stream for stream, transaction in appended.items() if transaction < below[0]}
        found = await read(consumer, held)
        late.extend(expected - seen - {event.stream_id for event in found})
        return found

    async def pause(length: timedelta, *signals: asyncio.Event | None) -> None:
        pauses.add(length)
        await wait(length, *signals)

    async def handle(tx: Transaction, event: RecordedEvent) -> None:
        seen.add(event.stream_id)

    monkeypatch.setattr(consuming.Consumer, "_read", look)
    monkeypatch.setattr(subscriptions, "wait", pause)
    poll = timedelta(milliseconds=5)
    subscription = await events.subscribe("prompt", partitions=1, poll=poll)
    running = asyncio.create_task(subscription.run(handle, until=stop))
    async with open_event_store(module_databases, size=1, application_name="elsewhere") as other:
        theirs = other.events(events.scope.tenant, by=events.scope.by)
        for _ in range(20):
            stream = uuid4()
            event = NewEvent("Deposited", {"amount": 1})
            written = await theirs.append(stream, [event], category="account")
            appended[stream] = written.events[0].place.transaction
            async with asyncio.timeout(PATIENCE_S):
                while stream not in seen:
                    await asyncio.sleep(0.001)
    stop.set()
    await asyncio.wait_for(running, PATIENCE_S)
    assert late == []
    assert pauses == {poll}
