"""Each database with copies has a reader of its own: the event store's log beside the core's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import uuid4

import pytest
from tests.fixtures.fix_events import NewEvents
from tests.fixtures.patience import PATIENCE_S

from neolayer.engines.endpoints import Database, Endpoints
from neolayer.events import NewEvent
from neolayer.relay import run as relay_run
from neolayer.relay.changes import Batch, TableChanges
from neolayer.relay.sinks.null import NullSink
from neolayer.relay.sinks.sink import Rejected
from neolayer.relay.state import STATE_FILE, read_state, slot_of
from neolayer.relay.status import relay_status
from neolayer.settings import RelaySettings


class EventSink(NullSink):
    """Remembers the types of the events it is given."""

    name = "events"
    database = "event_store"
    tables = frozenset({"public.events"})

    def __init__(self) -> None:
        super().__init__()
        self.types: list[object] = []

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        for changes in (changes for batch in batches for changes in batch.changes):
            assert isinstance(changes, TableChanges) and changes.relation.table == "public.events"
            (place,) = changes.relation.places(["event_type"])
            self.types += [change.row[place] for change in changes.changes()]
        return await super().write(batches)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.02)


async def test_events_reach_their_sinks_through_a_slot_of_their_own(
    module_databases: Endpoints,
    new_events: NewEvents,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two readers, two slots, two logs; what one database commits moves both along, so neither
    holds back the cluster's log while the other is busy."""
    events, core = EventSink(), NullSink()
    monkeypatch.setattr(relay_run, "declared_sinks", lambda *_: [core, events])
    stop = asyncio.Event()
    task = asyncio.create_task(
        relay_run.run(module_databases, RelaySettings(), stop, classes=(), folder=tmp_path)
    )
    await until(lambda: events.position is not None and core.position is not None)
    account = new_events()
    written = await account.append(uuid4(), [NewEvent("Opened", {})], category="account")
    assert written.position is not None
    version = written.position.version
    await until(lambda: (events.position or 0) >= version and (core.position or 0) >= version)
    assert events.types == [b"Opened"] and core.rows == 0
    await until(lambda: read_state(tmp_path / STATE_FILE) is not None)
    status = await relay_status(module_databases, state_file=tmp_path / STATE_FILE)
    slots = [reader.slot for reader in status.readers]
    assert slots == ["neolayer_relay", slot_of(Database.EVENT_STORE)]
    assert status.running and status.alarm is None
    stop.set()
    await asyncio.wait_for(task, PATIENCE_S)
