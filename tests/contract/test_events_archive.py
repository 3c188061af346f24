"""Closed streams go to the object store, are read from there, and leave the table if proved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from tests.fixtures.fix_events import NewEvents

from neolayer.engines.endpoints import Database, Endpoints, ObjectsEndpoint, Role
from neolayer.engines.engine import Level
from neolayer.events import Events, NewEvent, StreamIsClosed
from neolayer.events.archive import Archive, NotArchived, SegmentDamaged, SegmentStore


@pytest.fixture
def segments(tmp_path: Path) -> SegmentStore:
    return SegmentStore(ObjectsEndpoint(Level.EMBEDDED, tmp_path.as_uri(), tmp_path))


async def closed_stream(events: Events) -> UUID:
    stream = uuid4()
    batch = [NewEvent("Deposited", {"amount": n, "text": 'é\n"x"'}) for n in range(3)]
    await events.append(stream, batch, category="account")
    assert (await events.close(stream, {"reason": "moved"}, expected_version=3)).version == 4
    return stream


async def test_a_closed_stream_takes_no_more(new_events: NewEvents) -> None:
    """Neither by the store nor by SQL; its events stay readable."""
    events = new_events()
    stream = await closed_stream(events)
    with pytest.raises(StreamIsClosed):
        await events.append(stream, [NewEvent("Deposited", {})])
    state = await events.state(stream)
    assert state is not None and state.is_closed
    with pytest.raises(psycopg.errors.CheckViolation):
        await events.scope.fetch(
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
    assert await events.read_all() == []
    assert [event async for event in events.read_stream(stream)] == before
    assert [event async for event in events.read_stream(stream, from_version=3)] == before[2:]
    assert [event async for event in events.read_stream(stream, up_to=2)] == before[:2]
    assert [event async for event in events.read_backwards(stream)] == before[::-1]
    assert await archive.closed(up_to=place) == []
    with pytest.raises(NotArchived, match="already"):
        await archive.archive(stream)
    with pytest.raises(StreamIsClosed):
        await events.append(stream, [NewEvent("Deposited", {})])


async def test_what_is_open_or_unread_stays(new_events: NewEvents, segments: SegmentStore) -> None:
    """A stream that may still grow, and one that a subscription has not handled."""
    events = new_events()
    archive, stream = Archive(events.scope, segments), uuid4()
    await events.append(stream, [NewEvent("Deposited", {})], category="account")
    with pytest.raises(NotArchived, match="not closed"):
        await archive.archive(stream)
    subscription = await events.subscribe("late", partitions=3)
    closed = await closed_stream(events)
    with pytest.raises(NotArchived, match="not handled"):
        await archive.archive(closed)

    async def ignore(*_: object) -> None:
        pass

    await subscription.catch_up(ignore)
    assert (await archive.archive(closed)).events == 4


async def test_nothing_goes_that_was_not_read_back(
    new_events: NewEvents, segments: SegmentStore, module_databases: Endpoints
) -> None:
    """A wrong hash is told by the database; a DELETE by anybody's SQL is refused, also the owner's,
    and also under the mark that the function sets."""
    events = new_events()
    stream = await closed_stream(events)
    row = await events.scope.one(
        "SELECT public.archive_stream(%s, 'k', repeat('0', 64), 1, repeat('0', 64))", (stream,)
    )
    assert row == ("different",)
    dsn = module_databases.event_store.dsn(Role.MIGRATOR, Database.EVENT_STORE)
    mark = "SELECT set_config('neolayer.archiving', pg_current_xact_id()::text, true)"
    for statement in ("SELECT 1", mark):
        with psycopg.connect(dsn) as owner:
            owner.execute(statement)  # type: ignore[arg-type]
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                owner.execute("DELETE FROM public.events")
    assert len([event async for event in events.read_stream(stream)]) == 4


async def test_a_damaged_segment_is_told(
    new_events: NewEvents, segments: SegmentStore, tmp_path: Path
) -> None:
    """Changed or gone: an error, never fewer events; another tenant's archive is not seen."""
    events = replace(new_events(), segments=segments)
    stream = await closed_stream(events)
    archived = await Archive(events.scope, segments).archive(stream)
    other = replace(new_events(), segments=segments)
    assert [event async for event in other.read_stream(stream)] == []
    file = tmp_path / archived.key
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(SegmentDamaged, match="not what was stored"):
        _ = [event async for event in events.read_stream(stream)]
    file.unlink()
    with pytest.raises(SegmentDamaged, match="missing"):
        _ = [event async for event in events.read_stream(stream)]
