"""A lane feeds one sink: it reads the log from the sink's checkpoint on, writes, and tries again.

Each sink has its own lane and its own place in the log, so a slow or dead one delays no other.
What a lane holds in memory is what it writes at once. Where the log has let go of what comes next
or cannot be read there, or the sink lost what it had, the sink opens anew, at once: it copies the
tables as they stand and goes on from there. So it does where the log describes a table otherwise
than the copy needs, as soon as the table itself fits. Where that happens again and again it waits
in between, and is failing. A copy that was cut short, by a failure, a pause or the end of
the process, goes on with what is left. One that took longer than the log goes back starts over with
twice the room, so that it ends.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeVar

import structlog

from neolayer.crash_points import crash_point
from neolayer.errors import NeolayerError, RelayError
from neolayer.freshness import PutBack
from neolayer.position import Position
from neolayer.relay.changes import Batch, Incomplete, Misfit
from neolayer.relay.checkpoints import WriteMark
from neolayer.relay.completing import Completing
from neolayer.relay.copying.progress import OwnProgress, Progress
from neolayer.relay.copying.tables import SnapshotMaker, Way
from neolayer.relay.copying.whole import WholeCopy
from neolayer.relay.segment import CutOff, LogDamaged
from neolayer.relay.segments import Cursor, SegmentLog
from neolayer.relay.sinks.sink import (
    CopyLost,
    Forgetful,
    Park,
    Rebuildable,
    Rejected,
    Resendable,
    Sink,
)
from neolayer.relay.state import LaneState
from neolayer.waiting import answered, honour_cancellation

_WRITE_BYTES: Final = 32 << 20
_WRITE_BATCHES: Final = 4_096
_FIRST_RETRY_S: Final = 0.1
_LAST_RETRY_S: Final = 10.0
_MOST_DOUBLINGS: Final = 6

T = TypeVar("T")


class Lane:
    """One sink's way through the log.

    `position` is what the sink has durably. `needs` is the position from which on the log must be
    kept for it, None while it needs nothing. Whoever holds `turn` may write to the sink beside it.
    """

    def __init__(
        self,
        sink: Sink,
        log: SegmentLog,
        *,
        rows: int,
        state: LaneState,
        park: Park | None = None,
        progress: Progress | None = None,
        ahead: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        self.sink = sink
        self.state = state
        self.position = 0
        self.needs: int | None = log.start
        self.turn = asyncio.Lock()
        self._is_well = False
        self._going = asyncio.Event()
        self._going.set()
        self._park_letters = park
        self._progress = progress or OwnProgress()
        self._ahead = ahead  # what is asked where the sink says it is ahead of the log
        self._log = log
        self._rows = rows
        self._mark = WriteMark(log.folder / f"{sink.name}.mark")
        self._cursor: Cursor | None = None
        self._is_copying = False
        self._has_copied = False  # and not yet read what came meanwhile
        self._completing: Completing | None = None
        self._refused: Sequence[Rejected] | None = None  # of a write that is done, not parked yet
        self._is_unreadable = False  # what comes next, so that only a copy leads past it
        self._misfit: Misfit | None = None  # why, where it does not fit the copy
        self._cut_off = 0  # how often in a row it was cut off then
        self._pause_s = 0.0  # before the sink may open anew again
        self._in_doubt = False  # it has opened anew more than once, and nothing was written since
        self._moved = asyncio.Event()
        self._logger = structlog.get_logger().bind(sink=sink.name)
        if self._mark.is_copying:  # what was held for it stays, and as much again may come
            log.give_room(sink.name, max(log.bound, 2 * log.held_bytes))

    @property
    def unread_bytes(self) -> int:
        """How much of the log the sink has still to be given."""
        return self._cursor.unread_bytes if self._cursor else self._log.held_bytes

    @property
    def working(self) -> bool:
        """False while the sink opens or copies, while it fails, and while it is paused."""
        return self._is_well and self._going.is_set()

    def pause(self) -> None:
        """Let the sink have nothing more; a write under way ends."""
        if self._going.is_set():
            self._going.clear()
            self._moved.set()
            self._logger.info("paused")

    def resume(self) -> None:
        """Go on where it was, as far as the log still goes back."""
        if not self._going.is_set():
            self._going.set()
            self._logger.info("goes on")

    async def run(self, snapshot: SnapshotMaker) -> None:
        """Serve the sink until cancelled. Raises PutBack, which concerns every sink."""
        while True:
            try:
                cursor = await self._until_done(partial(self._open, snapshot))
                await self._follow(cursor, snapshot)
            except CopyLost as exc:
                await self._start_over(exc)
            except CutOff as exc:
                await self._start_over(exc, said=self._widened())
            except LogDamaged as exc:
                self._is_unreadable = True
                await self._start_over(exc, said=exc)
            except Misfit as exc:
                self._is_unreadable, self._misfit = True, exc
                await self._start_over(exc, said=exc)

    def keep_mark(self) -> None:
        """Before the log lets go of something: a note from before its start then tells of a write
        that did not end, never of a machine that did. Raises RelayError."""
        self._mark.keep()

    async def caught_up(self) -> None:
        """Return when the sink has everything in the log, or cannot take it now."""
        while self.working and self.position < self._log.position:
            self._moved.clear()
            await self._moved.wait()

    def show(self) -> None:
        """Bring the state up to date for those who look at it."""
        self.state.position = self.position
        self.state.paused = not self._going.is_set()
        self.state.copying = self._is_copying
        self.state.waiting_bytes = self.unread_bytes
        self.state.waiting_rows = self._cursor.unread_rows if self._cursor else 0

    async def _start_over(self, exc: NeolayerError, *, said: NeolayerError | None = None) -> None:
        """At once the first time, which is a failure only where something is `said` of it; then
        after growing pauses, as one that fails until it is written to."""
        self._is_well, self.needs, self._cursor = False, None, None
        self._moved.set()
        self._logger.warning("the copy starts over", reason=exc.message)
        pause_s, self._in_doubt = self._pause_s, self._pause_s > 0
        if said is not None or self._in_doubt:
            self._failed(said or exc)
        self._pause_s = min(max(pause_s * 2, _FIRST_RETRY_S), _LAST_RETRY_S)
        await _rest(pause_s)

    def _widened(self) -> RelayError | None:
        """More room for the next copy, where the last one itself was cut off; what to say then."""
        if not self._has_copied:
            return None
        self._cut_off += 1
        room = self._log.bound << min(self._cut_off, _MOST_DOUBLINGS)
        self._log.give_room(self.sink.name, room)
        return RelayError(
            f"the copy into {self.sink.name} took longer than the log goes back: it starts"
            f" over, and up to {room >> 20:,} MiB of log are held for it",
            hint="raise relay.log_bytes",
        )

    def _caught_up_with_copy(self, cursor: Cursor) -> None:
        """What came while the sink copied is read, or soon will be: the bound holds again."""
        if self._has_copied and cursor.unread_bytes <= self._log.bound // 2:
            self._has_copied, self._cut_off = False, 0
            self._log.take_room(self.sink.name)

    async def _open(self, snapshot: SnapshotMaker) -> Cursor:
        self._completing, self._refused = None, None
        while (after := await self._opened(snapshot)) is None:
            await self._going.wait()  # it was paused in the midst of a copy
        self._cursor = await self._log.cursor(after)
        self._reached(after)
        return self._cursor

    async def _opened(self, snapshot: SnapshotMaker) -> int | None:
        """From where on the sink is to be fed; None where it is not whole yet."""
        checkpoint = await self.sink.open(self._log.start)
        self._require_no_later_epoch(checkpoint or 0)
        if self._ahead is not None and (checkpoint or 0) > self._log.position:
            await self._ahead(checkpoint or 0)
        after = None if checkpoint is None else self._mark.resume_at(checkpoint)
        must_copy = self._is_unreadable or self._mark.is_copying
        if after is None or after < self._log.start or must_copy:
            return await self._copy(snapshot)
        if after != checkpoint:
            await asyncio.to_thread(self.keep_mark)
        return after

    def _require_no_later_epoch(self, checkpoint: int) -> None:
        """A sink would take what is new for old, and refuse it in silence. Raises RelayError."""
        held, read = (Position.from_version(one).epoch for one in (checkpoint, self._log.position))
        if held > read:
            raise RelayError(
                f"{self.sink.name} reflects timeline {held} of the database, which is on {read}",
                hint="point the DSN at the server that was promoted, or empty the sink",
            )

    async def _copy(self, snapshot: SnapshotMaker) -> int | None:
        if self._misfit is not None:
            # A copy leads past what does not fit once the table itself does.
            async with snapshot() as tables:
                await tables.require_fit(self._misfit)
        self._is_copying = self._has_copied = True
        if not self._cut_off:
            self._log.give_room(self.sink.name, max(self._log.bound, self._log.wanted_bytes))
        self._mark.begin_copy()
        await asyncio.to_thread(self.keep_mark)
        try:
            if isinstance(self.sink, Rebuildable | Resendable):
                version = await self._copy_whole(self.sink, snapshot)
            else:
                version = await self._start_empty(snapshot)
        finally:
            self._is_copying = False
        return version

    async def _copy_whole(
        self, sink: Rebuildable | Resendable, snapshot: SnapshotMaker
    ) -> int | None:
        """Copy what is not in the sink yet; None where that was not all."""
        way = Way(sink, self._progress, self._park, self._going.is_set, self.turn)
        copy = WholeCopy(way)
        if await copy.resume(reaches_back_to=self._log.start):
            self.needs = copy.version
            self._logger.info("the copy goes on")
        else:
            self.needs = self._log.position
            await copy.begin()
            self._logger.info("copying the tables as they stand")
        async with snapshot() as tables:
            version = await copy.run(tables)
        if version is None:
            return None
        await self._copied(version)
        await copy.end()
        return version

    async def _start_empty(self, snapshot: SnapshotMaker) -> int:
        """Nothing is copied: at most, what the sink has from before is forgotten."""
        self.needs = self._log.position
        async with snapshot() as tables:
            version = tables.version
        if isinstance(self.sink, Forgetful):
            await self.sink.forget_below(version)
        await self.sink.reflect(version)
        await self._copied(version)
        return version

    async def _copied(self, version: int) -> None:
        crash_point("relay.after_copy")
        self._mark.move(version)
        await asyncio.to_thread(self.keep_mark)
        self._is_unreadable, self._misfit = False, None
        self._logger.info("copied")

    async def _follow(self, cursor: Cursor, snapshot: SnapshotMaker) -> None:
        """Write what the log brings. Raises CutOff, LogDamaged, CopyLost or Misfit."""
        opened_at = time.monotonic()
        while True:
            self._caught_up_with_copy(cursor)
            batches = await self._gather(cursor)
            await self._until_done(partial(self._write, batches, snapshot))
            if time.monotonic() - opened_at > _LAST_RETRY_S:
                self._pause_s = 0.0

    async def _gather(self, cursor: Cursor) -> list[Batch]:
        """The next batches to write as one: full, old enough, or ending inside a transaction."""
        batches = [await cursor.next()]
        rows, size = batches[0].rows, batches[0].size
        deadline = time.monotonic() + self.sink.wait_s
        while (
            rows < self._rows
            and size < _WRITE_BYTES
            and len(batches) < _WRITE_BATCHES
            and batches[-1].unfinished is None
        ):
            batch = await _next_before(deadline, cursor)
            if batch is None:
                break
            batches.append(batch)
            rows += batch.rows
            size += batch.size
        return batches

    async def _write(self, batches: list[Batch], snapshot: SnapshotMaker) -> None:
        # A sink can be ahead of the log, which lost its end with the machine.
        fresh = [batch for batch in batches if not batch.contained_in(self.position)]
        if fresh:
            self._mark.move(self.position)
            crash_point("relay.before_write")
            async with self.turn:
                if self._refused is None:  # a stream that took all is not told twice
                    self._refused = await self._given(fresh, snapshot)
            crash_point("relay.after_write")
            await self._park(self._refused)
            self._refused = None
            self._mark.move(batches[-1].position)
            crash_point("relay.after_park")
            self.state.writes += 1
        for batch in batches:
            self.state.written_rows += batch.rows
            self.state.committed_at = batch.committed_at or self.state.committed_at
        self._in_doubt = False
        self._reached(max(self.position, batches[-1].position))

    async def _given(self, batches: list[Batch], snapshot: SnapshotMaker) -> Sequence[Rejected]:
        """What the sink refuses of them; what their updates leave out is looked up."""
        try:
            if self._completing is None:
                return await self.sink.write(batches)
        except Incomplete:
            if not isinstance(self.sink, Rebuildable | Resendable):
                raise
            self._completing = Completing(self.sink, self.sink.shape, batches, self.position)
        rejected = await self._completing.write(snapshot)
        self._completing = None
        return rejected

    async def _park(self, rejected: Sequence[Rejected]) -> None:
        """Keep what was refused, before the log may let go of it."""
        if rejected and self._park_letters is not None:
            await self._park_letters(rejected)
        for one in rejected:
            self.state.rejected += 1
            # Why, is in the letter: a store's words may quote what the row holds.
            self._logger.error("a change is refused for ever", table=one.table)

    def _reached(self, position: int) -> None:
        self.position = self.needs = position
        self._moved.set()

    async def _until_done(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do it, and again after each failure, with growing pauses; never gives up.

        Raises CutOff, LogDamaged, CopyLost, PutBack or Misfit, which trying again does not help.
        """
        pause_s = _FIRST_RETRY_S
        while True:
            honour_cancellation()
            await self._going.wait()
            try:
                with answered(self.sink.name):
                    done = await work()
            except (CutOff, LogDamaged, CopyLost, PutBack):
                raise
            except NeolayerError as exc:
                if isinstance(exc, Misfit) and _is_copied(self.sink):
                    raise
                self._failed(exc)
            except Exception as exc:  # a fault of ours in one sink must not stop the others
                self._logger.exception("the sink failed unexpectedly")
                self._failed(RelayError(f"{self.sink.name} failed: {type(exc).__name__}: {exc}"))
            else:
                honour_cancellation()
                self._is_well = True
                if not self._in_doubt:
                    self.state.recovered()
                return done
            await _rest(pause_s)
            pause_s = min(pause_s * 2, _LAST_RETRY_S)

    def _failed(self, exc: NeolayerError) -> None:
        self._is_well = False
        self.state.failed(exc)
        self._moved.set()
        self._logger.warning("cannot write, will try again", error=exc.message)


def _is_copied(sink: Sink) -> bool:
    """Whether a copy makes good what it is not given, of rows or of a stream, as webhooks are one,
    which is told anew. One that keeps nothing waits for what it can read."""
    return isinstance(sink, Rebuildable | Resendable | Forgetful)


async def _rest(seconds: float) -> None:
    await asyncio.sleep(seconds * random.uniform(0.5, 1.0))  # noqa: S311


async def _next_before(deadline: float, cursor: Cursor) -> Batch | None:
    if cursor.unread_bytes:
        return await cursor.next()
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            return await cursor.next()
    except TimeoutError:
        return None
