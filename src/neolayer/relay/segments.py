"""The segment log: what was read from PostgreSQL, on our disk, for each sink to read at its pace.

PostgreSQL may throw away what we confirm, and we confirm what is safe here (`durable`). So a sink
that is down holds back neither the server's log nor another sink.

The log is a folder of segments. A segment ends between two transactions, and is durable before the
next begins, so only the last one can be torn; when the log is opened its torn end is cut, and with
it a transaction whose rest is missing, because the server sends that again from its beginning.

What all sinks have passed is deleted. Beyond its bound the log forgets its oldest segment all the
same: a sink that still needed it is cut off, and must copy the tables as they stand. Where such a
copy itself took longer than the log goes back, more is held for the next one. A record that the
disk has changed, or does not give back, and a segment that is missing or cannot be read cost a copy
in the same way, but only for the sinks which still have to read there. The newest batches are kept
in memory too, so that sinks which keep up read nothing from the disk.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from neolayer.crash_points import crash_point
from neolayer.errors import RelayError
from neolayer.position import Position
from neolayer.relay.changes import Batch
from neolayer.relay.segment import CutOff, Head, LogDamaged, Segment, pack, sync
from neolayer.waiting import to_its_end

_SEGMENT_BYTES: Final = 64 << 20
_RECENT_BYTES: Final = 8 << 20
_BATCH_BYTES: Final = 2 << 10  # what a batch weighs in memory beside its rows
_SYNC_EVERY_S: Final = 0.05


class _Boundary(NamedTuple):
    """A place between two transactions: all up to `position` lies before `offset`."""

    offset: int
    position: int
    rows: int


class SegmentLog:
    """See the module. Positions are packed versions, offsets count the bytes of all records."""

    @classmethod
    async def open(cls, folder: Path, *, bound: int) -> SegmentLog:
        """The log in `folder`, which no other process may open. Raises RelayError."""
        return await asyncio.to_thread(cls, folder, bound)

    def __init__(self, folder: Path, bound: int) -> None:
        self.bound = bound
        self.folder = folder
        self._rooms: dict[str, int] = {}
        self._segment_bytes = min(_SEGMENT_BYTES, max(1, bound // 8))
        self._segments: list[Segment] = []
        self._unreadable: list[Path] = []  # what the disk does not give back now: gaps
        self._end = self._boundary = self._durable = _Boundary(0, 0, 0)
        self._recent: dict[int, tuple[Batch, Head]] = {}
        self._recent_bytes = 0
        self._grown = asyncio.Event()
        self._syncing = asyncio.Lock()
        self._is_cut = False  # what was appended is not all there: who opens it anew reads it again
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._load()
        except OSError as exc:
            raise _unusable(folder, exc) from exc

    @property
    def start(self) -> int:
        """Every change after this position is here."""
        return self._segments[0].start if self._segments else 0

    @property
    def position(self) -> int:
        """Every change up to this position was appended."""
        return self._boundary.position

    @property
    def durable(self) -> int:
        """Every change up to this position will be here after a power cut."""
        return self._durable.position

    @property
    def end(self) -> int:
        """The offset behind the last record."""
        return self._end.offset

    @property
    def rows(self) -> int:
        """All rows that were ever appended."""
        return self._end.rows

    @property
    def held_bytes(self) -> int:
        return sum(segment.size for segment in self._segments)

    # The reader's side.

    def resume(self, confirmed: int, *, new_slot: bool) -> None:
        """Be ready for a stream that begins at `confirmed`, or at `position` where that is later.

        Where changes between the two are missing, or the slot is a new one, what is here is of no
        use. Raises RelayError.
        """
        try:
            if new_slot or not self._segments or self.position < confirmed:
                self._start_over(confirmed)
        except OSError as exc:
            raise _unusable(self.folder, exc) from exc

    def append(self, batch: Batch) -> None:
        """Add a batch: it can be read at once, and is safe when `durable` has reached it.

        Positions only rise: by them segments are named, found and deleted. Raises RelayError.
        """
        if batch.position < self.position:
            raise RelayError(
                f"the log of {self.folder} is at {Position.from_version(self.position)} and was "
                f"given {Position.from_version(batch.position)}, which is earlier"
            )
        if self._is_cut:
            raise RelayError(f"the segment log in {self.folder} lost its end")
        head, record = pack(batch, rows_before=self.rows)
        try:
            self._segments[-1].append(record)
        except OSError as exc:
            raise _unusable(self.folder, exc) from exc
        crash_point("relay.after_append")
        self._remember(batch, head)
        self._end = _Boundary(self.end + len(record), batch.position, self.rows + batch.rows)
        if batch.unfinished is None:
            self._boundary = self._end
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()

    async def keep_durable(self) -> None:
        """Bring what is appended to the disk, many batches at a time, until cancelled."""
        while True:
            while self._durable == self._boundary:
                await self._grown.wait()
            await self.sync()
            await asyncio.sleep(_SYNC_EVERY_S)

    async def sync(self) -> None:
        """Return when all whole transactions are on the disk. Raises RelayError."""
        async with self._syncing:
            boundary = self._boundary
            crash_point("relay.before_segment_fsync")
            try:
                await _synced(self._segments[-1].path)
            except OSError as exc:
                # A disk may forget in silence what it once failed to write: nothing of it stays,
                # and nothing is put in its place.
                self._is_cut = True
                with suppress(OSError):
                    self._segments[-1].cut(self._durable.offset)
                raise _unusable(self.folder, exc) from exc
            crash_point("relay.after_segment_fsync")
            self._durable = boundary

    async def roll(self) -> None:
        """Begin a new segment where the last one is full; forget the oldest beyond the bound."""
        if self._end != self._boundary or self._segments[-1].size < self._segment_bytes:
            return
        await self.sync()
        async with self._syncing:
            try:
                self._begin_segment(self._boundary)
            except OSError as exc:
                raise _unusable(self.folder, exc) from exc
        crash_point("relay.after_segment_roll")
        most = self.most_bytes
        while self.held_bytes > most and len(self._segments) > 1:
            self._drop_oldest()

    @property
    def wanted_bytes(self) -> int:
        """What the log may come to hold for sinks that copy; 0 while none does."""
        return max(self._rooms.values(), default=0)

    @property
    def most_bytes(self) -> int:
        """The bound; or what a sink that copies was given, as far as the disk has it and a bound
        stays free."""
        if self.wanted_bytes <= self.bound:
            return self.bound
        return max(
            self.bound, min(self.wanted_bytes, self.held_bytes + self.free_bytes - self.bound)
        )

    @property
    def free_bytes(self) -> int:
        """What its disk has left. Raises RelayError."""
        try:
            return shutil.disk_usage(self.folder).free
        except OSError as exc:
            raise _unusable(self.folder, exc) from exc

    def give_room(self, sink: str, room: int) -> None:
        """Hold so many bytes, be it beyond the bound, until `take_room`: a sink that copies for
        long needs what comes meanwhile."""
        self._rooms[sink] = room

    def take_room(self, sink: str) -> None:
        """The bound is enough for that sink."""
        self._rooms.pop(sink, None)

    def forget(self, position: int | None, *, first: Callable[[], None] | None = None) -> None:
        """Delete what lies before `position`, without one all that can be; the last stays.

        `first` is called where there is something to delete.
        """
        up_to = self.durable if position is None else min(position, self.durable)
        if first is not None and len(self._segments) > 1 and self._segments[1].start <= up_to:
            first()
        while len(self._segments) > 1 and self._segments[1].start <= up_to:
            self._drop_oldest()

    # The lanes' side.

    async def cursor(self, after: int) -> Cursor:
        """A place behind all that `after` contains. Raises CutOff where what follows is gone, and
        LogDamaged where it cannot be found."""
        if not self._segments or after < self.start:
            raise CutOff("the segment log begins later")
        segment = next(one for one in reversed(self._segments) if one.start <= after)
        offset, rows = segment.offset, segment.rows
        if after >= self.position:
            offset, rows = self._boundary.offset, self._boundary.rows
        with _readable(segment):
            find = partial(segment.find, after, offset=offset, rows=rows)
            return Cursor(self, *await asyncio.to_thread(find))

    async def read(self, offset: int) -> list[tuple[Batch, Head]]:
        """The batches that follow an offset, at least one; waits for it.

        Raises CutOff or LogDamaged.
        """
        while offset >= self.end:
            await self._grown.wait()
        if found := self._recent.get(offset):
            return [found]
        if offset < self._segments[0].offset:
            raise CutOff("the segment log begins later")
        segment = next(one for one in reversed(self._segments) if one.offset <= offset)
        with _readable(segment):
            return await asyncio.to_thread(segment.read, offset)

    # The parts.

    def _load(self) -> None:
        """Find what an earlier process left, and cut what is torn or has no end.

        What cannot be believed goes: it leaves a gap, and is missed by whoever must still read it.
        So does what cannot be read, but it stays: another time the disk may give it back. Only the
        end of the log must be readable. Raises OSError.
        """
        trouble = None
        for path in Segment.names(self.folder):
            try:
                segment = Segment.existing(path)
            except OSError as exc:
                self._unreadable.append(path)
                trouble = exc
                continue
            if segment:
                self._segments.append(segment)
                trouble = None
            else:
                path.unlink()
        if trouble is not None:
            raise trouble
        if not self._segments:
            return
        last = self._segments[-1]
        at = self._boundary = _Boundary(last.offset, last.start, last.rows)
        for head in last.whole_records():
            if head.rows_before != at.rows:
                break
            at = _Boundary(at.offset + head.size, head.position, head.rows_before + head.rows)
            if not head.unfinished:
                self._boundary = at
        last.cut(self._boundary.offset)
        try:
            sync(last.path)
        except OSError:
            # As in `sync`; and how much of it was on the disk before, nobody knows any more.
            last.cut(last.offset)
            raise
        self._end = self._durable = self._boundary

    def _start_over(self, position: int) -> None:
        """Forget everything; the log begins at `position`."""
        while self._segments:
            self._drop_oldest()
        self._drop_unreadable()
        self._begin_segment(_Boundary(self.end, position, self.rows))

    def _begin_segment(self, at: _Boundary) -> None:
        segment = Segment.create(self.folder, start=at.position, rows=at.rows, offset=at.offset)
        self._segments.append(segment)
        self._end = self._boundary = self._durable = at

    def _drop_oldest(self) -> None:
        oldest = self._segments[0]
        try:
            self._drop_unreadable(before=oldest.path)
            oldest.path.unlink(missing_ok=True)
        except OSError as exc:
            raise _unusable(self.folder, exc) from exc
        del self._segments[0]

    def _drop_unreadable(self, *, before: Path | None = None) -> None:
        """Those that are older than a segment which goes; by their names, they sort as it does."""
        gone = [path for path in self._unreadable if before is None or path < before]
        for path in gone:
            path.unlink(missing_ok=True)
            self._unreadable.remove(path)

    def _remember(self, batch: Batch, head: Head) -> None:
        self._recent[self.end] = batch, head
        self._recent_bytes += head.length + _BATCH_BYTES
        while self._recent_bytes > _RECENT_BYTES and len(self._recent) > 1:
            oldest = self._recent.pop(next(iter(self._recent)))
            self._recent_bytes -= oldest[1].length + _BATCH_BYTES


class Cursor:
    """One sink's place in the log."""

    def __init__(self, log: SegmentLog, offset: int, rows: int) -> None:
        self._log = log
        self._offset = offset
        self._rows = rows
        self._ahead: deque[tuple[Batch, Head]] = deque()

    @property
    def unread_bytes(self) -> int:
        return self._log.end - self._offset

    @property
    def unread_rows(self) -> int:
        return self._log.rows - self._rows

    async def next(self) -> Batch:
        """The next batch; waits for it. Raises CutOff or LogDamaged. May be cancelled."""
        if not self._ahead:
            self._ahead.extend(await self._log.read(self._offset))
        batch, head = self._ahead.popleft()
        self._offset += head.size
        self._rows = head.rows_before + head.rows
        return batch


async def _synced(path: Path) -> None:
    """On the disk. A failure is said once only, so it is told also to one who was cancelled."""
    syncing = asyncio.ensure_future(asyncio.to_thread(sync, path))
    try:
        await to_its_end(syncing)
    except asyncio.CancelledError:
        syncing.result()
        raise


@contextmanager
def _readable(segment: Segment) -> Generator[None]:
    """What the disk does not give back concerns who wants it, as what it gives back wrong does."""
    try:
        yield
    except OSError as exc:
        raise LogDamaged(f"{segment.path} is damaged: {exc.strerror or exc}") from exc


def _unusable(folder: Path, exc: OSError) -> RelayError:
    return RelayError(f"the segment log in {folder} cannot be used: {exc.strerror or exc}")
