"""Closed streams go to the object store, are read from there, and leave the table if proved."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import psycopg
import pytest
from tests.fixtures.fix_events import NewEvents

from neolayer.engines.endpoints import Database, Endpoints, ObjectsEndpoint, Role
from neolayer.engines.engine import Level
from neolayer.engines.objects.engine import Store, open_store
from neolayer.errors import AccessDenied
from neolayer.events import (
    BEGINNING,
    NONE,
    Appended,
    EventIdTaken,
    Events,
    NewEvent,
    RecordedEvent,
    StreamAppend,
    StreamIsClosed,
)
from neolayer.events.archive import Archive, NotArchived, SegmentDamaged, SegmentStore, sql
from neolayer.events.catalogue import CLASSES
from neolayer.events.segments import segment_of
from neolayer.relay.where import State, class_of, where
from neolayer.tenancy import Principal, Transaction


@pytest.fixture
def segments(tmp_path: Path) -> SegmentStore:
    return SegmentStore(ObjectsEndpoint(Level.EMBEDDED, tmp_path.as_uri(), tmp_path))


async def closed_stream(events: Events) -> UUID:
    stream = uuid4()
    batch = [NewEvent("Deposited", {"amount": n, "text": 'é\n"x"'}) for n in range(3)]
    await events.append(stream, batch, category="account")
    assert (await events.close(stream, {"reason": "moved"}, expected_version=3)).version == 4
    return stream


async def test_a_closed_stream_takes_no_more(
    new_events: NewEvents, module_databases: Endpoints
) -> None:
    """Neither by the store nor by SQL; its events stay readable."""
    events = new_events()
    stream = await closed_stream(events)
    with pytest.raises(StreamIsClosed):
        await events.append(stream, [NewEvent("Deposited", {})])
    state = await events.state(stream)
    assert state is not None and state.is_closed
    dsn = module_databases.event_store.dsn(Role.MIGRATOR, Database.EVENT_STORE)
    context = events.scope.core.signer.sign(events.scope.tenant, events.scope.by)
    with psycopg.connect(dsn) as owner, pytest.raises(psycopg.errors.CheckViolation):
        owner.execute("SELECT set_config('neolayer.context', %s, true)", (context,))
        owner.execute(
            "INSERT INTO public.events (tenant_id, aggregate_id, aggregate_type, event_type,"
            " event_version, event_data) VALUES (%s, %s, 'account', 'x', 5, '{}')",
            (events.scope.tenant, stream),
        )


async def test_an_archived_stream_is_read_as_before(
    new_events: NewEvents, segments: SegmentStore
) -> None:
    """The same events from the object store, forwards, backwards and from a version."""
    events = replace(new_events(), segments=segments)
    stream = await closed_stream(events)
    before = [event async for event in events.read_stream(stream)]
    archive = Archive(events.scope, segments)
    place = before[-1].place
    assert await archive.closed(up_to=before[-2].place) == []
    assert await archive.closed(up_to=place) == [stream]
    archived = await archive.archive(stream)
    assert archived.events == 4
    assert await events.read_all() == before
    assert [event async for event in events.read_stream(stream)] == before
    assert [event async for event in events.read_stream(stream, from_version=3)] == before[2:]
    assert [event async for event in events.read_stream(stream, up_to=2)] == before[:2]
    assert [event async for event in events.read_backwards(stream)] == before[::-1]
    assert await archive.closed(up_to=place) == []
    with pytest.raises(NotArchived, match="already"):
        await archive.archive(stream)
    with pytest.raises(StreamIsClosed):
        await events.append(stream, [NewEvent("Deposited", {})])


async def test_an_archived_events_id_is_taken(
    new_events: NewEvents, segments: SegmentStore
) -> None:
    """Given again, an append is told that it was stored, as before archiving; other content under
    its id, in whatever stream and whatever company, is refused. Another tenant has ids of its own.
    """
    events = replace(new_events(), segments=segments)
    stream, batch = uuid4(), [NewEvent("Deposited", {"amount": n, "x": 1.50}) for n in range(3)]
    first = await events.append(stream, batch, category="account")
    closing = (await events.close(stream, {})).events[0]
    await Archive(events.scope, segments).archive(stream)
    again = await events.append(stream, batch, category="account", expected_version=NONE)
    assert (again.is_repeated, again.events) == (True, first.events)
    assert again.versions == first.versions
    taken = batch[1]
    other, plain = uuid4(), NewEvent("Deposited", {"amount": 9})
    await events.append(other, [plain], category="account")
    before = await events.read_all()

    def appends(event: NewEvent, *more: NewEvent) -> list[StreamAppend]:
        return [StreamAppend(to, [event, *more], "account") for to in (uuid4(), other)]

    different = replace(taken, data={"amount": 1, "x": True})
    for to, given in (
        (stream, [different]),
        (other, [taken]),
        (uuid4(), [taken, NewEvent("a", {})]),
    ):
        with pytest.raises(EventIdTaken, match=str(taken.event_id)):
            await events.append(to, given, category="account")
    for append in appends(taken):
        with pytest.raises(EventIdTaken, match=str(taken.event_id)):
            await events.append_all([append, *appends(NewEvent("a", {}))[:1]])
    async with events.scope.transaction() as tx:
        repeated = await events.append_in(tx, [StreamAppend(stream, batch, "account")])
        assert repeated.is_repeated and repeated.events == first.events
    with pytest.raises(EventIdTaken, match=str(taken.event_id)):
        async with events.scope.transaction() as tx:
            await events.append_in(tx, [StreamAppend(other, [taken], "account")])
    fine, closed = uuid4(), NewEvent("StreamClosed", {}, event_id=closing.event_id)
    together = await asyncio.gather(
        *(events.append(uuid4(), [one], category="account") for one in (taken, closed)),
        events.append(fine, [NewEvent("a", {})], category="account"),
        return_exceptions=True,
    )
    assert [type(one) for one in together] == [EventIdTaken, EventIdTaken, Appended]
    assert await events.read_all() == [*before, *together[2].events]  # type: ignore[union-attr]
    theirs = await new_events().append(stream, [taken], category="account")
    assert not theirs.is_repeated


async def test_no_id_slips_through_while_it_is_archived(
    new_events: NewEvents, segments: SegmentStore
) -> None:
    """An append of its id that comes while the rows are being taken out waits, and is refused."""
    events = new_events()
    stream, event = uuid4(), NewEvent("Deposited", {})
    await events.append(stream, [event], category="account")
    await events.close(stream, {})
    asking = "SELECT line FROM public.stream_lines(%s)"
    lines = [line for (line,) in await events.scope.fetch(asking, (stream,))]
    segment, content = segment_of(events.scope.tenant, lines)  # type: ignore[arg-type]
    await segments.put(segment, content)
    async with events.scope.transaction() as tx:
        row = await tx.one(
            "SELECT public.archive_stream(%s, %s, %s), pg_backend_pid()",
            (stream, len(content), segment.hash),
        )
        assert row is not None and row[0] == {"events": 2}
        other = asyncio.create_task(events.append(uuid4(), [event], category="account"))
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
        while await events.scope.fetch(waiting, (row[1],)) != [(1,)]:
            assert not other.done()
    with pytest.raises(EventIdTaken):
        await other


async def test_what_is_open_or_unread_stays(new_events: NewEvents, segments: SegmentStore) -> None:
    """A stream that may still grow, and one that a subscription has not handled."""
    events = new_events()
    archive, stream = Archive(events.scope, segments), uuid4()
    await events.append(stream, [NewEvent("Deposited", {})], category="account")
    with pytest.raises(NotArchived, match="not closed"):
        await archive.archive(stream)
    subscription = await events.subscribe("late", partitions=3)
    closed = await closed_stream(events)
    other = await events.subscribe("other", partitions=1)
    with pytest.raises(NotArchived, match=r"'late' has not handled all of it; .*'other'") as kept:
        await archive.archive(closed)
    assert kept.value.reasons == [("subscription", "late"), ("subscription", "other")]
    with pytest.raises(NotArchived, match="no such stream"):
        await archive.archive(uuid4())

    async def ignore(*_: object) -> None:
        pass

    await subscription.catch_up(ignore)
    await other.catch_up(ignore)
    assert (await archive.archive(closed)).events == 4


async def test_nothing_goes_that_was_not_read_back(
    new_events: NewEvents, segments: SegmentStore, module_databases: Endpoints
) -> None:
    """A wrong hash is told by the database; a DELETE by anybody's SQL is refused, also the owner's,
    and also under the mark that the function sets."""
    events = new_events()
    stream = await closed_stream(events)
    row = await events.scope.one("SELECT public.archive_stream(%s, 1, repeat('0', 64))", (stream,))
    assert row == ({"kept": [["different", None]]},)
    dsn = module_databases.event_store.dsn(Role.MIGRATOR, Database.EVENT_STORE)
    mark = "SELECT set_config('neolayer.archiving', pg_current_xact_id()::text, true)"
    for statement in ("SELECT 1", mark):
        with psycopg.connect(dsn) as owner:
            owner.execute(statement)  # type: ignore[arg-type]
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                owner.execute("DELETE FROM public.events")
    assert len([event async for event in events.read_stream(stream)]) == 4


class Storing:
    """Stands in for an object store that answers as if all were well: a real local one, which
    stores what `change` makes of the bytes it is given, or nothing where that is None."""

    def __init__(self, store: Store, change: Callable[[bytes], bytes | None]) -> None:
        self._store = store
        self._change = change
        self.get_async = store.get_async

    async def put_async(self, key: str, content: bytes) -> None:
        changed = self._change(content)
        if changed is None:
            await self._store.delete_async(key)
        else:
            await self._store.put_async(key, changed)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda content: content[:-20], "not what was stored"),
        (lambda _: b"", "not what was stored"),
        (
            lambda content: gzip.compress(gzip.decompress(content).replace(b"moved", b"other")),
            "not what was stored",
        ),
        (
            lambda content: gzip.compress(gzip.decompress(content).rpartition(b"\n")[0]),
            "not what was stored",
        ),
        (lambda _: None, "missing"),
    ],
    ids=["cut", "empty", "changed", "without its last event", "nothing"],
)
async def test_nothing_goes_that_the_store_does_not_give_back(
    new_events: NewEvents,
    segments: SegmentStore,
    change: Callable[[bytes], bytes | None],
    told: str,
) -> None:
    """An object store that says it stored a segment and has something else: all events stay in the
    table, also where the segment was read before and is still in memory; then they can go."""
    events = new_events()
    stream = await closed_stream(events)
    before = [event async for event in events.read_stream(stream)]
    tenant = events.scope.tenant
    assert tenant is not None
    lines = await events.scope.fetch(sql.stream_lines, {"stream": stream})
    segment, content = segment_of(tenant, [line for (line,) in lines])
    await segments.put(segment, content)
    assert await segments.lines(segment) == gzip.decompress(content)
    honest = open_store(segments.endpoint)
    segments._store = cast("Store", Storing(honest, change))
    archive = Archive(events.scope, segments)
    with pytest.raises(SegmentDamaged, match=told):
        await archive.archive(stream)
    assert [event async for event in events.read_stream(stream)] == before
    assert await archive.closed(up_to=before[-1].place) == [stream]
    segments._store = honest
    assert (await archive.archive(stream)).events == len(before) == 4


async def test_the_database_compares_what_came_back(
    new_events: NewEvents, segments: SegmentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody compares a segment on its way back, the database refuses: it is told the hash of
    what came back, and not of what was sent."""
    events = new_events()
    stream = await closed_stream(events)
    before = [event async for event in events.read_stream(stream)]
    monkeypatch.setattr(
        "neolayer.events.segments._checked", lambda _, content: gzip.decompress(content)
    )
    shorter = Storing(
        open_store(segments.endpoint),
        lambda content: gzip.compress(gzip.decompress(content).rpartition(b"\n")[0]),
    )
    segments._store = cast("Store", shorter)
    with pytest.raises(NotArchived, match="not what the table has"):
        await Archive(events.scope, segments).archive(stream)
    assert [event async for event in events.read_stream(stream)] == before


async def test_a_damaged_segment_is_told(
    new_events: NewEvents, segments: SegmentStore, tmp_path: Path
) -> None:
    """Changed, another stream's or gone: an error, never fewer events, and none of the other's;
    another tenant's archive is not seen."""
    events = replace(new_events(), segments=segments)
    stream = await closed_stream(events)
    archived = await Archive(events.scope, segments).archive(stream)
    other = replace(new_events(), segments=segments)
    assert [event async for event in other.read_stream(stream)] == []
    file = tmp_path / archived.key
    intact = file.read_bytes()
    for damaged in (intact[:99], b"", b"x" + intact, gzip.compress(bytes(9999))):
        file.write_bytes(damaged)
        events = replace(events, segments=SegmentStore(segments.endpoint))
        with pytest.raises(SegmentDamaged, match="not what was stored"):
            _ = [event async for event in events.read_stream(stream)]
    file.unlink()
    with pytest.raises(SegmentDamaged, match="missing"):
        _ = [event async for event in events.read_stream(stream)]


async def test_where_shows_the_object_of_an_archived_stream(
    new_events: NewEvents, module_databases: Endpoints, tmp_path: Path
) -> None:
    """By the stream's id and by an event's, to the operator and to its tenant, and to no other;
    what is wrong with the object is said."""
    at = replace(
        module_databases, objects=ObjectsEndpoint(Level.EMBEDDED, tmp_path.as_uri(), tmp_path)
    )
    events = replace(new_events(), segments=SegmentStore(at.objects))
    stream = await closed_stream(events)
    first = await anext(aiter(events.read_stream(stream)))
    archived = await Archive(events.scope, events.segments).archive(stream)
    kind = class_of("event", CLASSES)
    for value in (stream, first.event_id):
        for tenant in (None, events.scope.tenant):
            (found,) = await where(at, kind, str(value), tenant=tenant)
            assert found.key["aggregate_id"] == str(stream)
            assert [(one.engine, one.state) for one in found.copies] == [
                ("postgres", State.ARCHIVED),
                ("objects", State.SAME),
            ]
            assert found.copies[1].place == archived.key
        assert await where(at, kind, str(value), tenant=uuid4()) == []
    assert await where(at, kind, "no id") == [] == await where(at, kind, str(uuid4()))
    file = tmp_path / archived.key
    file.write_bytes(b"x")
    assert (await where(at, kind, str(stream)))[0].copies[1].state is State.DIFFERS
    file.unlink()
    copy = (await where(at, kind, str(stream)))[0].copies[1]
    assert copy.state is State.MISSING
    assert copy.detail == f"objects: the segment {archived.key} is missing"


async def test_E2_members_do_not_archive(new_events: NewEvents, segments: SegmentStore) -> None:
    """Neither by the verb nor by SQL: what is out of the table depends on the object store."""
    events = new_events()
    stream = await closed_stream(events)
    member = new_events(events.scope.tenant, by=Principal.user(uuid4()))
    with pytest.raises(AccessDenied):
        await Archive(member.scope, segments).archive(stream)
    for hash_ in ("0" * 64, None):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="archived by operators"):
            await member.scope.fetch("SELECT public.archive_stream(%s, 1, %s)", (stream, hash_))


async def test_E1_a_segment_of_another_stream_is_none_of_this(
    new_events: NewEvents, segments: SegmentStore, module_databases: Endpoints
) -> None:
    """Where a row names a foreign tenant's segment, with its hash, nothing of it is given out."""
    events, other = (replace(new_events(), segments=segments) for _ in range(2))
    mine, theirs = await closed_stream(events), await closed_stream(other)
    await Archive(events.scope, segments).archive(mine)
    await Archive(other.scope, segments).archive(theirs)
    dsn = module_databases.event_store.dsn(Role.ADMIN, Database.EVENT_STORE)
    with psycopg.connect(dsn) as admin:
        admin.execute(
            "UPDATE public.archived_streams a SET object_key = o.object_key,"
            " object_hash = o.object_hash, lines_bytes = o.lines_bytes"
            " FROM public.archived_streams o WHERE a.aggregate_id = %s AND o.aggregate_id = %s",
            (mine, theirs),
        )
    with pytest.raises(SegmentDamaged, match="another stream"):
        _ = [event async for event in events.read_stream(mine)]


async def test_one_that_stays_keeps_no_other(new_events: NewEvents, segments: SegmentStore) -> None:
    """All that can go goes, whatever stands before it; what stays says for whom."""
    events = new_events()
    streams = [await closed_stream(events) for _ in range(4)]
    last = (await events.read_all())[-1].place
    subscription = await events.subscribe("broken", partitions=1)

    async def fail(_: Transaction, event: RecordedEvent) -> None:
        if event.stream_id == streams[0]:
            raise ValueError("no")

    await subscription.catch_up(fail)
    archiving = await Archive(events.scope, segments).archive_closed(up_to=last, limit=2)
    assert [one.stream_id for one in archiving.done] == streams[1:3]
    assert [(one.stream_id, one.reasons) for one in archiving.kept] == [
        (streams[0], [("parked", "broken")])
    ]
    assert "the subscription 'broken' has parked events of it" in str(archiving.kept[0])
    again = await Archive(events.scope, segments).archive_closed(up_to=last)
    assert [one.stream_id for one in again.done] == streams[3:]


@pytest.mark.parametrize("markers", [1, 2, 256])
async def test_archived_events_are_read_where_they_stood(
    new_events: NewEvents,
    segments: SegmentStore,
    monkeypatch: pytest.MonkeyPatch,
    markers: int,
) -> None:
    """By position, type, category and correlation, whatever the page and whatever was archived:
    what is read is what was read before, in pages that are full up to the last."""
    monkeypatch.setattr("neolayer.events.archive.MOST_MARKERS", markers)
    events, request = replace(new_events(), segments=segments), uuid4()
    streams = [uuid4() for _ in range(6)]
    for number in range(30):
        some = [streams[n % 6] for n in (number, number * 5 + 1)]
        await events.append_all(
            [
                StreamAppend(
                    stream,
                    [
                        NewEvent(
                            ("Opened", "Moved")[number % 2],
                            {"n": number},
                            correlation_id=request if number % 3 else None,
                        )
                    ],
                    ("account", "order")[streams.index(stream) % 2],
                )
                for stream in dict.fromkeys(some)
            ]
        )
    for stream in streams[:4]:
        await events.close(stream, {})
    kinds: list[dict[str, Any]] = [
        {},
        {"types": ["Moved"]},
        {"types": ["StreamClosed", "Opened"]},
        {"categories": ["order"]},
        {"correlation_id": request},
    ]
    before = [await events.read_all(**kind) for kind in kinds]
    assert all(before) and len(before[0]) > 50
    archiving = await Archive(events.scope, segments).archive_closed(up_to=before[0][-1].place)
    assert len(archiving.done) == 4
    for kind, expected in zip(kinds, before, strict=True):
        for limit in (1, 7, 500):
            pages = [page async for page in paged(events, limit, kind)]
            assert [event for page in pages for event in page] == expected
            assert all(len(page) == limit for page in pages[:-1])


async def paged(
    events: Events, limit: int, kind: dict[str, Any]
) -> AsyncIterator[list[RecordedEvent]]:
    place = BEGINNING
    while page := await events.read_all(after=place, limit=limit, **kind):
        yield page
        place = page[-1].place
