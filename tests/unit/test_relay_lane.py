"""What a lane does with one sink, without a server."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs
from tests.fixtures.batches import PlainSnapshot
from tests.fixtures.copies import Undivided
from tests.fixtures.patience import PATIENCE_S
from tests.simulation.mutants import Mutant
from tests.simulation.virtual_time import VirtualLoop
from tests.unit.test_relay_segments import START, batch, opened

from neolayer.errors import EngineUnavailable
from neolayer.relay import checkpoints, segments
from neolayer.relay import lane as lanes
from neolayer.relay.changes import Batch
from neolayer.relay.checkpoints import WriteMark
from neolayer.relay.comparable import Shape
from neolayer.relay.lane import Lane
from neolayer.relay.segment import _BEGIN as BEGIN
from neolayer.relay.segments import SegmentLog
from neolayer.relay.sinks.null import NullSink
from neolayer.relay.sinks.sink import CopyLost, Park, Rejected, Snapshot
from neolayer.relay.state import LaneState


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


async def begun(lane: Lane, log: SegmentLog) -> asyncio.Task[None]:
    """The lane at work, with one change to be written."""
    running = asyncio.create_task(
        lane.run(lambda: contextlib.nullcontext(Undivided(PlainSnapshot(log.position))))
    )
    log.append(batch(log.position + 1))
    await log.roll()
    return running


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
    running = await begun(lane, log)
    async with asyncio.timeout(PATIENCE_S):
        await lane.caught_up()
        while lane.position < log.position:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert len(tries) == 3 and sink.writes == 1


class LeftWithoutAnAnswer(NullSink):
    """A labelled stand-in for a client that cancels what its callers wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        self.writes += 1
        if self.writes == 1:
            answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            answer.cancel()
            await answer
        return await super().write(batches)


async def test_C6_a_client_that_cancels_what_is_waited_for_ends_no_lane(tmp_path: Path) -> None:
    """Nobody wished the lane to end: it is a failure like others, told and tried again."""
    log = await opened(tmp_path)
    sink, state = LeftWithoutAnAnswer(), LaneState()
    lane = Lane(sink, log, rows=10, state=state)
    running = await begun(lane, log)
    told: str | None = None
    async with asyncio.timeout(PATIENCE_S):
        while lane.position < log.position and not running.done():
            told = told or state.error
            await asyncio.sleep(0.01)
    assert sink.writes == 2 and not running.done()
    assert told == "null was left without an answer"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled()


class Hanging(NullSink):
    """Is given something, and never done with it."""

    def __init__(self) -> None:
        super().__init__()
        self.is_writing = asyncio.Event()

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        self.is_writing.set()
        await asyncio.Event().wait()
        return []


async def test_C6_a_lane_that_is_cancelled_in_mid_write_ends_and_tells_no_failure(
    tmp_path: Path,
) -> None:
    log = await opened(tmp_path)
    sink, state = Hanging(), LaneState()
    lane = Lane(sink, log, rows=10, state=state)
    running = await begun(lane, log)
    async with asyncio.timeout(PATIENCE_S):
        await sink.is_writing.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled() and state.error is None


class SlowToCopy(NullSink):
    """A labelled stand-in for a large table: while it is copied, more comes than the log holds."""

    tables = frozenset({"public.accounts"})

    def __init__(self, log: SegmentLog, *, meanwhile: int) -> None:
        super().__init__()
        self.log = log
        self.began = 0
        self.meanwhile = meanwhile
        self.errors: list[str | None] = []
        self.state = LaneState()

    async def open(self, confirmed: int) -> int | None:
        return None

    def shape(self, table: str) -> Shape:
        return Shape(("id",), ("id",))

    async def begin_copy(self, version: int) -> None:
        self.began = version

    async def copy_began(self) -> int:
        return self.began

    async def copy_part(self, part: Snapshot, table: str, park: Park) -> None:
        self.errors.append(self.state.error)
        for _ in range(self.meanwhile):
            self.log.append(batch(self.log.position + 1))
            await self.log.roll()

    async def drop_below(self, table: str, version: int) -> None:
        pass


async def test_C12_a_copy_that_takes_longer_than_the_log_goes_back_ends(tmp_path: Path) -> None:
    """It starts over with more room, says so, and when it has caught up the bound holds again."""
    bound = 4_000
    log = await opened(tmp_path, bound=bound)
    sink = SlowToCopy(log, meanwhile=150)  # some three bounds
    lane = Lane(sink, log, rows=10, state=sink.state)

    @contextlib.asynccontextmanager
    async def snapshot() -> AsyncIterator[Undivided]:
        yield Undivided(PlainSnapshot(log.position))

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


class Down(NullSink):
    """Cannot be opened, and notes when it was tried."""

    def __init__(self) -> None:
        super().__init__()
        self.tries: list[float] = []

    async def open(self, confirmed: int) -> int | None:
        self.tries.append(asyncio.get_running_loop().time())
        raise EngineUnavailable("null", "not now")


def pauses_of(folder: Path, *, seconds: float, seed: int) -> list[float]:
    """How long a lane waits between two tries to open a sink that is down."""
    loop = VirtualLoop(random.Random(1))
    random.seed(seed)

    async def try_to_open() -> list[float]:
        sink = Down()
        lane = Lane(sink, await opened(folder), rows=10, state=LaneState())
        task = asyncio.create_task(lane.run(nothing_to_copy))  # type: ignore[arg-type]
        await asyncio.sleep(seconds)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return [later - sooner for sooner, later in pairwise(sink.tries)]

    try:
        return loop.run_until_complete(try_to_open())
    finally:
        loop.close()


def require_back_off(folder: Path) -> None:
    pauses = pauses_of(folder, seconds=300, seed=1)
    assert 30 < len(pauses) < 75
    most = [min(0.1 * 2**step, 10.0) for step in range(len(pauses))]
    shares = [pause / longest for pause, longest in zip(pauses, most, strict=True)]
    assert all(0.499 < share < 1.001 for share in shares)
    assert max(shares) - min(shares) > 0.25, "they come in step"
    assert pauses != pauses_of(folder, seconds=300, seed=2)


def test_C7_a_sink_that_is_down_is_tried_ever_more_seldom_and_out_of_step(tmp_path: Path) -> None:
    """Pauses double up to ten seconds, and each is cut short by chance, so that sinks which went
    down at once do not come back at once."""
    require_back_off(tmp_path)


@pytest.mark.parametrize(
    "mutant",
    [
        Mutant(
            "no growth", lanes, "Lane._until_done", "min(pause_s * 2, _LAST_RETRY_S)", "pause_s"
        ),
        Mutant("no end", lanes, "Lane._until_done", "min(pause_s * 2, _LAST_RETRY_S)", "pause_s*2"),
        Mutant("no jitter", lanes, "_rest", "random.uniform(0.5, 1.0)", "1.0"),
    ],
    ids=str,
)
def test_a_back_off_without_growth_end_or_jitter_is_noticed(tmp_path: Path, mutant: Mutant) -> None:
    """What the test above shows is what the pauses are made of."""
    with mutant.applied(), pytest.raises(AssertionError):
        require_back_off(tmp_path)


class Losing(NullSink):
    """Is emptied whenever something is written to it, so many times in a row."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times
        self.position = START
        self.state = LaneState()
        self.began: list[tuple[float, str | None]] = []

    async def open(self, confirmed: int) -> int | None:
        self.began.append((asyncio.get_running_loop().time(), self.state.error))
        return await super().open(confirmed)

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        if self.times:
            self.times -= 1
            self.position = None
            raise CopyLost(self.name)
        return await super().write(batches)


def test_C12_a_sink_that_loses_its_copy_again_and_again_is_given_one_ever_more_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once the first time, which is no failure; then after pauses that grow, as failing until it
    is written to. In five minutes that is some fifty copies, and no thousand."""
    loop = VirtualLoop(random.Random(1))
    monkeypatch.setattr(lanes, "time", SimpleNamespace(monotonic=loop.time, time=loop.time))

    async def lose(times: int) -> Losing:
        log = await opened(tmp_path / str(times))
        sink = Losing(times)
        lane = Lane(sink, log, rows=10, state=sink.state)

        @contextlib.asynccontextmanager
        async def snapshot() -> AsyncIterator[Undivided]:
            yield Undivided(PlainSnapshot(log.position))

        task = asyncio.create_task(lane.run(snapshot))  # type: ignore[arg-type]
        while loop.time() < 300 and (sink.times or lane.position < log.position):
            log.append(batch(log.position + 1))
            await asyncio.sleep(0.25)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return sink

    try:
        once = loop.run_until_complete(lose(1))
        began, again = once.began
        assert again[0] - began[0] <= 0.25 and again[1] is None
        assert once.state.failures == 0 and once.state.error is None
        for_ever = loop.run_until_complete(lose(100_000))
        assert 25 < len(for_ever.began) < 75
        assert all("no longer holds" in str(error) for _, error in for_ever.began[2:])
        assert for_ever.state.error and for_ever.state.failures >= len(for_ever.began) - 2
    finally:
        loop.close()


class Power(BaseException):
    """It is gone, and the process with it."""


class PassingSink(NullSink):
    """Has stored a checkpoint, and is given again what its last write may not have ended with."""

    def __init__(self, checkpoint: int, *, fails: BaseException | None = None) -> None:
        super().__init__()
        self.position = checkpoint
        self.given: list[int] = []
        self.fails = fails

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        self.given += [one.position for one in batches]
        if self.fails is not None:
            raise self.fails
        return await super().write(batches)


async def until_it_fails_or(lane: Lane, done: Callable[[], bool]) -> None:
    """Serve the sink until the power goes, or that is true."""
    task = asyncio.create_task(lane.run(nothing_to_copy))  # type: ignore[arg-type]
    async with asyncio.timeout(PATIENCE_S):
        while not done() and not task.done():
            await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(Power, asyncio.CancelledError):
        await task


@contextlib.asynccontextmanager
async def nothing_to_copy() -> AsyncIterator[Undivided]:
    pytest.fail("nothing is copied here")
    yield


async def test_C1_a_write_that_is_done_again_is_so_after_a_power_cut_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between a sink's checkpoint and what it refused: the write is done again. While it is,
    the power goes. The note that tells of it is on the disk by then, so it is done once more."""
    kept: dict[Path, bytes] = {}

    def sync(path: Path) -> None:
        if path.is_file():
            kept[path] = path.read_bytes()

    monkeypatch.setattr(checkpoints, "sync", sync)
    log = await opened(tmp_path)
    for step in range(1, 4):
        log.append(batch(START + step))
    mark = WriteMark(tmp_path / "null.mark")
    mark.move(START + 1)  # and nothing else of that write was seen
    assert kept == {}
    dying = PassingSink(START + 3, fails=Power())
    await until_it_fails_or(Lane(dying, log, rows=10, state=LaneState()), lambda: False)
    assert dying.given == [START + 2, START + 3]
    path = tmp_path / "null.mark"
    path.unlink()
    if path in kept:
        path.write_bytes(kept[path])
    again = PassingSink(START + 3)
    lane = Lane(again, log, rows=10, state=LaneState())
    await until_it_fails_or(lane, lambda: bool(again.given) or lane.position == START + 3)
    assert again.given[:2] == [START + 2, START + 3]


class CoveringSink(NullSink):
    """Fails where it is cancelled first, as a group of tasks does of which one fails just then."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.writes = asyncio.Event(), 0

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        self.writes += 1
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if self.writes > 1:
                raise
            raise EngineUnavailable(self.name, "one of its tasks failed") from None
        return ()


async def test_C6_a_lane_that_is_cancelled_while_its_sink_fails_ends(tmp_path: Path) -> None:
    """It does not try again until the sink is well: nobody would start the stream meanwhile."""
    log, sink = await opened(tmp_path), CoveringSink()
    log.append(batch(START + 1))
    task = asyncio.create_task(Lane(sink, log, rows=10, state=LaneState()).run(None))  # type: ignore[arg-type]
    await sink.begun.wait()
    sink.begun.clear()
    task.cancel()
    again = asyncio.create_task(sink.begun.wait())
    await asyncio.wait([task, again], return_when=asyncio.FIRST_COMPLETED)
    again.cancel()
    assert task.cancelled() and sink.writes == 1


async def test_C1_a_write_that_the_log_has_let_go_of_is_made_good_by_a_copy(
    tmp_path: Path,
) -> None:
    """The note says that a write from before the log's start never ended: what the sink refused of
    it can be had from the tables only."""
    log = await opened(tmp_path)
    log.append(batch(START + 1))
    WriteMark(tmp_path / "null.mark").move(START - 5)
    sink = PassingSink(START + 1)
    lane = Lane(sink, log, rows=10, state=LaneState())

    @contextlib.asynccontextmanager
    async def snapshot() -> AsyncIterator[Undivided]:
        yield Undivided(PlainSnapshot(log.position))

    task = asyncio.create_task(lane.run(snapshot))  # type: ignore[arg-type]
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not lane.working:
                await asyncio.sleep(0)
    finally:
        task.cancel()
    assert sink.copies == 1


async def test_C12_a_long_copy_leaves_the_disk_a_bound_of_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much it was given: the log holds its bound, and beyond it only what is free."""
    log = await opened(tmp_path, bound=4_000)
    free = 1_000_000
    monkeypatch.setattr(segments.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert log.most_bytes == 4_000
    log.give_room("slow", 64_000)
    assert log.most_bytes == log.wanted_bytes == 64_000
    free = 10_000
    assert log.most_bytes == log.held_bytes + 6_000
    free = 100
    assert log.most_bytes == 4_000


async def test_C12_what_was_held_for_a_copy_is_held_when_it_goes_on(tmp_path: Path) -> None:
    """The process ends in the midst of a copy: the next one lets go of nothing that it needs."""
    log = await opened(tmp_path, bound=4_000)
    WriteMark(tmp_path / "null.mark").begin_copy()
    log.give_room("null", 64_000)
    for _ in range(100):
        log.append(batch(log.position + 1))
        await log.roll()
    await log.sync()
    held, start = log.held_bytes, log.start
    assert held > 8_000
    again = await SegmentLog.open(tmp_path, bound=4_000)
    Lane(NullSink(), again, rows=10, state=LaneState())
    again.append(batch(again.position + 1))
    await again.roll()
    assert (again.start, again.wanted_bytes) == (start, 2 * held)


def damage(folder: Path, *, segment: int, at: float) -> None:
    """One byte of a segment of the log is not what was written."""
    path = sorted(folder.glob("*.segment"))[segment]
    data = bytearray(path.read_bytes())
    data[BEGIN + int((len(data) - BEGIN) * at)] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize("segment", [0, -1])
@pytest.mark.parametrize("at", [0.0, 0.02, 0.3, 0.5, 0.77])
async def test_C12_a_damaged_record_costs_only_those_who_must_still_read_it_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, segment: int, at: float
) -> None:
    """Wherever the byte lies: the sink that lags says so, copies, and goes on behind the damage;
    the one that has everything is given what comes, and copies nothing."""
    monkeypatch.setattr(segments, "_RECENT_BYTES", 1)
    log = await opened(tmp_path, bound=8_000)
    for step in range(45):
        log.append(batch(log.position + 1))
        if step < 40:
            await log.roll()
    await log.sync()
    damage(tmp_path, segment=segment, at=at)
    lagging, current = PassingSink(log.start), PassingSink(log.position)
    lanes = [Lane(sink, log, rows=3, state=LaneState()) for sink in (lagging, current)]
    lanes[0]._mark = WriteMark(tmp_path / "lagging.mark")

    @contextlib.asynccontextmanager
    async def snapshot() -> AsyncIterator[Undivided]:
        yield Undivided(PlainSnapshot(log.position))

    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(lane.run(snapshot)) for lane in lanes]  # type: ignore[arg-type]
        while not all(lane.working and lane.position == log.position for lane in lanes):
            await asyncio.sleep(0)
        log.append(batch(log.position + 1))
        while any(lane.position < log.position for lane in lanes):
            await asyncio.sleep(0)
        for task in running:
            task.cancel()
    assert (lagging.copies, current.copies) == (1, 0)
    assert [lane.state.failures for lane in lanes] == [1, 0]
    assert lagging.position == current.position == log.position
