"""What a lane does with one sink, without a server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path

from structlog.testing import capture_logs
from tests.fixtures.patience import PATIENCE_S
from tests.unit.test_relay_segments import batch, opened

from neolayer.errors import EngineUnavailable
from neolayer.relay.changes import Batch
from neolayer.relay.lane import Lane
from neolayer.relay.segments import SegmentLog
from neolayer.relay.sinks.null import NullSink
from neolayer.relay.sinks.sink import Rejected, Snapshot
from neolayer.relay.status import LaneState


async def test_A6_a_refused_row_leaves_no_value_in_the_logs(tmp_path: Path) -> None:
    """A store quotes what it refuses; the letter is masked, the log names table and sink only."""
    parked: list[Rejected] = []

    async def park(rejected: Sequence[Rejected]) -> None:
        parked.extend(rejected)

    log = await SegmentLog.open(tmp_path, bound=1 << 20)
    lane = Lane(NullSink(), log, rows=10, state=LaneState(), park=park)
    poison = Rejected(
        "auth.users",
        ("1",),
        7,
        False,
        "cannot parse 'ann@example.com'",
        {"email": "ann@example.com"},
    )
    with capture_logs() as said:
        await lane._park([poison])
    assert parked == [poison]
    (entry,) = said
    assert (entry["table"], entry["sink"]) == ("auth.users", "null")
    assert "ann" not in str(said)


class Refusing(NullSink):
    """A labelled stand-in for a stream that refuses one row of each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        self.writes += 1
        await super().write(batches)
        return [Rejected("public.things", ("1",), 7, False, "too large", {"id": "1"})]


async def test_C8_what_a_stream_took_is_not_told_twice_where_a_letter_cannot_be_kept(
    tmp_path: Path,
) -> None:
    """The desk is down for two tries: the letter is kept at the third, the write is done once."""
    tries: list[Rejected] = []

    async def park(rejected: Sequence[Rejected]) -> None:
        tries.extend(rejected)
        if len(tries) < 3:
            raise EngineUnavailable("postgres", "not now")

    log = await opened(tmp_path)
    sink = Refusing()
    lane = Lane(sink, log, rows=10, state=LaneState(), park=park)
    running = asyncio.create_task(lane.run(lambda: contextlib.nullcontext(Moment(log.position))))
    log.append(batch(log.position + 1))
    await log.roll()
    async with asyncio.timeout(PATIENCE_S):
        await lane.caught_up()
        while lane.position < log.position:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert len(tries) == 3 and sink.writes == 1


class Moment:
    """A snapshot of now."""

    def __init__(self, version: int) -> None:
        self.version = version


class SlowToCopy(NullSink):
    """A labelled stand-in for a large table: while it is copied, more comes than the log holds."""

    def __init__(self, log: SegmentLog, *, meanwhile: int) -> None:
        super().__init__()
        self.log = log
        self.meanwhile = meanwhile
        self.errors: list[str | None] = []
        self.state = LaneState()

    async def open(self, confirmed: int) -> int | None:
        return None

    async def copy(self, snapshot: Snapshot, tables: Collection[str] | None = None) -> None:
        self.errors.append(self.state.error)
        for _ in range(self.meanwhile):
            self.log.append(batch(self.log.position + 1))
            await self.log.roll()
        await super().copy(snapshot, tables)


async def test_C12_a_copy_that_takes_longer_than_the_log_goes_back_ends(tmp_path: Path) -> None:
    """It starts over with more room, says so, and when it has caught up the bound holds again."""
    bound = 4_000
    log = await opened(tmp_path, bound=bound)
    sink = SlowToCopy(log, meanwhile=150)  # some three bounds
    lane = Lane(sink, log, rows=10, state=sink.state)

    @contextlib.asynccontextmanager
    async def snapshot() -> AsyncIterator[Moment]:
        yield Moment(log.position)

    task = asyncio.create_task(lane.run(snapshot))  # type: ignore[arg-type]
    try:
        async with asyncio.timeout(PATIENCE_S):
            while lane.position < log.position or not lane.working:
                await asyncio.sleep(0)
    finally:
        task.cancel()
    first, *others = sink.errors
    assert first is None and 1 <= len(others) <= 3
    assert all("took longer than the log goes back" in str(one) for one in others)
    assert sink.position == log.position
    log.append(batch(log.position + 1))
    for _ in range(20):
        log.append(batch(log.position + 1))
        await log.roll()
    assert log.held_bytes <= bound + bound // 8
