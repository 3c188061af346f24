"""One seed, one run: the relay's real reader, log and lanes in a world that keeps breaking.

The relay is a `Process` that may die between any two steps: then what its disk had really kept is
put back, sometimes with a torn end, and another process starts. Time is virtual.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import structlog
from tests.simulation.sinks import OnceSink, SimulatedSink, Store
from tests.simulation.source import TABLE, Source, Stream, slot_state_of, snapshot_of
from tests.simulation.virtual_time import VirtualLoop

from neolayer.errors import EngineUnavailable
from neolayer.position import Position, pack_version
from neolayer.relay import checkpoints, decoder, lane, reader, run, segment, segments
from neolayer.relay.comparable import Bound
from neolayer.relay.copying import tables
from neolayer.relay.copying.progress import OwnProgress, Wanted
from neolayer.relay.folder import HeldFolder
from neolayer.relay.segments import SegmentLog
from neolayer.relay.sinks.sink import Rejected
from neolayer.settings import RelaySettings

BOUND = 96 << 10
HEALTHY_LAG_S = 2.0
CALM_S = 20.0
CONVERGES_S = 900.0


_next_record = segment._next_record  # as it is, whatever a mutant makes of it


class Killed(BaseException):
    """The simulated process is gone."""


class Broken(AssertionError):
    """A promise was not kept."""


@dataclass
class Disk:
    """What a power cut leaves: of each segment at least what was brought to the disk."""

    dice: random.Random
    synced: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)  # from where on a failed fsync lost data
    marks: dict[str, bytes] = field(default_factory=dict)  # what of them was brought to the disk
    full: bool = False
    failing: bool = False

    def image(self, folder: Path, *, power_cut: bool) -> dict[str, bytes]:
        kept = dict(self.marks)
        if not power_cut:  # notes outlive the process, but not the machine
            kept = {path.name: path.read_bytes() for path in folder.glob("*.mark")}
        for path in sorted(folder.glob("*.segment")):
            data = path.read_bytes()
            if power_cut:
                safe = min(self.synced.get(path.name, len(data)), len(data))
                data = data[: self.dice.randint(safe, len(data))]
                hole = self.failed.get(path.name, len(data))
                data = data[:hole] + bytes(len(data) - hole)
                if len(data) > safe and self.dice.random() < 0.5:
                    place = self.dice.randrange(safe, len(data))
                    data = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
            kept[path.name] = data
        if power_cut:
            self.failed.clear()
        return kept

    def restore(self, folder: Path, kept: dict[str, bytes]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, data in kept.items():
            (folder / name).write_bytes(data)
        self.synced = {name: len(data) for name, data in kept.items() if name.endswith(".segment")}


class Process:
    """One life of the relay."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.dead = False
        self.image: dict[str, bytes] = {}

    def check(self) -> None:
        if self.dead:
            raise Killed

    def die(self) -> None:
        """Now; raises Killed."""
        if not self.dead:
            self.dead = True
            # Between the two a cut of power, unlike a kill, could take a letter with it.
            power_cut = self.world.dice.random() < 0.5 and not self.world.unparked
            self.image = self.world.disk.image(self.world.folder, power_cut=power_cut)
        raise Killed


class SimulatedDesk(OwnProgress):
    """Where dead letters lie, pauses are asked for and copies note how far they are; in the
    source's database."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self.letters = 0
        self.paused: set[str] = set()

    async def park(self, sink: str, database: str, letters: Sequence[Rejected]) -> None:
        self._world.may_die(self._world.process, 0.04)
        await self._trip()
        self.letters += len(letters)
        for one in letters:
            if self._world.unparked.get((sink, one.key[0]), 0) <= one.version:
                self._world.unparked.pop((sink, one.key[0]), None)
        await asyncio.sleep(0.001)
        self._world.may_die(self._world.process, 0.01)

    async def pauses(self) -> set[str]:
        await self._trip()
        return self.paused

    async def begin_copy(self, sink: str, tables: Collection[str]) -> None:
        await self._trip()
        await super().begin_copy(sink, tables)
        await self._trip()

    async def copy_of(self, sink: str) -> list[Wanted]:
        await self._trip()
        return await super().copy_of(sink)

    async def end_copy(self, sink: str, version: int) -> None:
        await self._trip()
        if any(one.version == version for one in await super().copy_of(sink)):
            await super().end_copy(sink, version)
        await self._trip()

    async def begin_table(
        self, wanted: Wanted, version: int, bounds: Iterable[tuple[Bound, Bound]]
    ) -> None:
        await self._trip()
        await super().begin_table(wanted, version, bounds)
        await self._trip()

    async def range_done(self, wanted: Wanted, number: int, *, rows: int) -> None:
        await self._trip()
        await super().range_done(wanted, number, rows=rows)
        await self._trip()

    async def requested_letters(self, sinks: Sequence[str]) -> dict[Any, Any]:
        return {}

    async def wanted_rebuilds(self, sinks: Sequence[str]) -> Sequence[Wanted]:
        return [one for sink in sinks for one in await super().copy_of(sink)]

    async def _trip(self) -> None:
        await asyncio.sleep(0.001)
        self._world.may_die(self._world.process, 0.01)
        self._world.process.check()
        self._world.source.require()


class World:
    """Source, disk, stores and the process that runs now."""

    def __init__(
        self, seed: int, folder: Path, *, minutes: float, outage_minutes: float = 0
    ) -> None:
        self.seed = seed
        self.outage_until = 60 * outage_minutes  # of the dead sink, from the start
        self.dice = random.Random(seed)
        self.loop = VirtualLoop(random.Random(seed + 1))
        self.loop.set_exception_handler(lambda loop, context: None)  # `broken` tells of it
        self.folder = folder / "relay" / "slot"
        self.disk = Disk(random.Random(seed + 2))
        self.minutes = minutes
        self.source = Source(self.dice, self.loop.time)
        self.stores = {name: Store() for name in ("healthy", "faulty", "dead", "once")}
        self.stores["dead"].down_until = self.outage_until
        self.stores["faulty"].refuses = frozenset({"7", "21", "42"})
        self.desk = SimulatedDesk(self)
        self.unparked: dict[tuple[str, str | None], int] = {}  # refused, and not in a letter yet
        self.forgiven = False  # the disk failed while the log was opened: all of it may go
        self.cut_at = 0  # up to here the log had a reason to let go
        self.process = Process(self)
        self.flow: Any = None
        self.broken: list[str] = []
        self.kills = self.starts = self.failovers = self.resumed = 0
        self.dangerous = True
        self.calm_since = 0.0  # source and disk are well
        self.sinks_well_since = 0.0
        self.commits: dict[int, float] = {}

    # Promises.

    def require(self, truth: bool, promise: str) -> None:
        if not truth:
            self.broken.append(promise)
            raise Broken(promise)

    def note_lag(self, store: Store, version: int) -> None:
        """The healthy sink, while the source is up and the process was not just started."""
        if store is not self.stores["healthy"] or version not in self.commits:
            return
        lag = self.loop.time() - max(self.commits[version], self.calm_since, self.sinks_well_since)
        store.worst_lag_s = max(store.worst_lag_s, lag)
        self.require(lag < HEALTHY_LAG_S, f"the healthy sink is {lag:.1f} s behind")

    def note_dropped(self, log: SegmentLog, by: str) -> None:
        """A segment goes: what lies before the next may now be missing, and with good reason?"""
        if by == "roll":
            self.cut_at = max(self.cut_at, log._segments[1].start)

    def has_reason_to_copy(self, sink: str) -> bool:
        """A copy of it did not end, or the log has let go of where a write began that did not."""
        mark = self.folder / f"{sink}.mark"
        return mark.exists() and (
            mark.read_text() == "f" * 16 or int(mark.read_text(), 16) < self.cut_at
        )

    def check_flow(self) -> None:
        """However the sinks are, the server need not keep its log for us."""
        now, source = self.loop.time(), self.source
        if now - self.calm_since < CALM_S or source.slot is None or source.lost:
            return
        late = next((one for one in source.log if one.end > source.slot), None)
        age = now - max(late.at, self.calm_since) if late else 0
        self.require(age < CALM_S, "the slot stands still")

    def check_memory(self) -> None:
        log: SegmentLog | None = self.flow._segments if self.flow else None
        if log is None:
            return
        bound = max(BOUND, *log._rooms.values(), 0)
        self.require(log.held_bytes <= bound + (BOUND // 8) + (32 << 10), "the log has outgrown")
        self.require(log._recent_bytes <= segments._RECENT_BYTES + (32 << 10), "memory has grown")

    def opened(self, log: SegmentLog) -> None:
        """What was acknowledged to the source is here after any end of the process."""
        if self.source.slot and log._segments and self.source.acknowledged:
            acknowledged = pack_version(self.source.epoch, self.source.acknowledged)
            is_here = log.position >= acknowledged
            self.require(is_here or self.forgiven, "acknowledged before it was durable")
            self.forgiven = self.forgiven and not is_here
        for part in log._segments:
            with part.path.open("rb") as file:
                file.seek(segment._BEGIN)
                while file.tell() < segment._BEGIN + part.size:
                    self.require(_next_record(file) is not None, "the log holds a damaged record")

    def check_rows(self, name: str) -> None:
        """A sink holds what its checkpoint says, or newer."""
        store = self.stores[name]
        store.saves += 1
        if store.saves % 5:
            return
        for key, version, value in self.source.as_of(store.checkpoint or 0):
            held, is_there = store.rows.get(key, (0 if value else version, None))
            of_commit = version <= held < version + decoder.PARTS
            known = is_there == value if of_commit else held > version
            # What a copy read last may have been deleted by then, and leaves no trace.
            known = known or self.source.deletes(key, after=version, up_to=store.ahead)
            self.require(known or key in store.refuses, f"{name} misses a change of {key}")

    # The process and its ends.

    def may_die(self, process: Process, chance: float) -> None:
        if process.dead:
            raise Killed
        if self.dangerous and self.dice.random() < chance:
            process.die()

    def may_cut(self, chance: float) -> None:
        """The connection to the source breaks, whatever has just come."""
        if self.dangerous and self.dice.random() < chance:
            self.calm_since = max(self.calm_since, self.loop.time() + 40)
            raise EngineUnavailable("postgres", "the connection broke")

    def crash_point(self, name: str) -> None:
        self.may_die(self.process, 0.003)

    async def live(self) -> None:
        """Lives of the process, one after the other, while the world breaks around it."""
        end = self.minutes * 60
        beside = [asyncio.create_task(one) for one in (self._write(end), self._break(end))]
        while self.loop.time() < end:
            await self._one_life(self.dice.expovariate(1 / 40), until=end)
        await asyncio.gather(*beside)
        self._heal()
        await self._converge()

    async def _one_life(self, length_s: float, *, until: float) -> None:
        task, stop = self._start()
        left = min(length_s, max(1.0, until - self.loop.time()))
        await asyncio.wait([task], timeout=left)
        if not task.done():
            how = self.dice.random()
            if how < 0.4 or self.broken:
                with contextlib.suppress(Killed):
                    self.process.die()
            if how < 0.7:
                task.cancel()  # at whatever it waits for
            else:
                stop.set()
            await asyncio.wait([task], timeout=60)
            self.require(task.done(), "the relay does not end")
        self._end(task)

    def _start(self) -> tuple[asyncio.Task[None], asyncio.Event]:
        self.process = process = Process(self)
        self.starts += 1
        self.calm_since = max(self.calm_since, self.loop.time() + 1)
        kinds = {"healthy": SimulatedSink, "faulty": SimulatedSink, "dead": SimulatedSink}
        sinks = [
            kinds.get(name, OnceSink)(name, store, process) for name, store in self.stores.items()
        ]
        settings = RelaySettings(batch_rows=50, batch_seconds=0.05, log_bytes=1 << 20)
        settings = settings.model_copy(update={"log_bytes": BOUND})
        self.flow = run._Flow(run.Source("neolayer", "dsn", "slot"), sinks, settings, self.desk)  # type: ignore[arg-type]
        stop = asyncio.Event()
        self.held = HeldFolder(self.folder.parent)
        return asyncio.create_task(self.flow.run(stop, self.held)), stop

    def _end(self, task: asyncio.Task[None]) -> None:
        self.held.close()
        error = None if task.cancelled() else task.exception()
        if self.process.dead:
            self.kills += 1
            self.disk.restore(self.folder, self.process.image)
        elif error is not None and not self.broken:
            raise error
        if self.broken:
            raise Broken(self.broken[0])

    # What goes on around it.

    async def _write(self, end: float) -> None:
        while self.loop.time() < end:
            await asyncio.sleep(self.dice.choice((0.01, 0.1, 0.5, 3.0)))
            for _ in range(self.dice.choice((1, 1, 3))):
                self._commit()
            self.check_memory()
            self.check_flow()

    def _commit(self) -> None:
        self.source.commit()
        last = self.source.log[-1]
        self.commits[pack_version(self.source.epoch, last.lsn + 1)] = last.at

    async def _break(self, end: float) -> None:
        dice, stores = self.dice, self.stores
        while self.loop.time() < end:
            await asyncio.sleep(dice.expovariate(1 / 8))
            now, die = self.loop.time(), dice.random()
            stores["faulty"].trouble = stores["once"].trouble = dice.choice((0, 0.1, 0.6))
            if die < 0.2:
                stores["dead"].down_until = max(self.outage_until, now + dice.choice((20, 600)))
            elif die < 0.4:
                stores["faulty"].slow_until = now + 20
            elif die < 0.5:
                stores["faulty"].down_until = now + 5
            elif die < 0.6:
                self.source.breaks += 1
                self.calm_since = max(self.calm_since, now + 40)
            elif die < 0.67:
                self.source.down_until = now + 5
                self.calm_since = max(self.calm_since, now + 40)
            elif die < 0.7:
                self.source.drop_slot()
                self.source.breaks += 1
                self.calm_since = max(self.calm_since, now + 40)
            elif die < 0.73:
                self.source.lost = True
                self.source.breaks += 1
                self.calm_since = max(self.calm_since, now + 40)
            elif die < 0.76:
                self.disk.full = True
                self.calm_since = max(self.calm_since, now + 40)
                await asyncio.sleep(dice.uniform(0.1, 5))
                self.disk.full = False
            elif die < 0.79:
                self.disk.failing = True
                self.calm_since = max(self.calm_since, now + 40)
                await asyncio.sleep(dice.uniform(0.1, 2))
                self.disk.failing = False
            elif die < 0.81:
                self.loop.slow = True
                self.sinks_well_since = now + 60
                await asyncio.sleep(dice.uniform(1, 10))
                self.loop.slow = False
            elif die < 0.84:
                for store in stores.values():
                    store.down_until = max(store.down_until, now + 200)
                self.sinks_well_since = now + 240
            elif die < 0.86:
                self.desk.paused = dice.choice((set(), {"faulty"}, {"once", "dead"}))
            elif die < 0.88 and stores["dead"].checkpoint:
                stores["dead"].empty()
            elif 0.88 <= die < 0.93:
                await self._fail_over()

    async def _fail_over(self) -> None:
        """The primary dies and a standby takes over, with the last commits or without; sometimes
        the old primary answers once more, when the log knows better."""
        dice, source = self.dice, self.source
        self.failovers += 1
        lost = min(dice.choice((0, 1, 3, 12)), len(source.log))
        source.fail_over(lost=lost, slot_stays=dice.random() < 0.5)
        source.down_until = self.loop.time() + dice.choice((0, 3))
        self.calm_since = max(self.calm_since, self.loop.time() + 60)
        await asyncio.sleep(dice.uniform(0, 20))
        log: SegmentLog | None = self.flow._segments
        if log is not None and Position.from_version(log.start).epoch == source.epoch:
            source.breaks += 1
            source.older_until = self.loop.time() + dice.uniform(0, 10)
            self.calm_since = max(self.calm_since, source.older_until + 60)

    def _heal(self) -> None:
        self.dangerous = False
        self.disk.full = False
        self.source.down_until = self.source.older_until = 0
        self.desk.paused = set()
        for store in self.stores.values():
            store.down_until = store.slow_until = store.trouble = 0

    async def _converge(self) -> None:
        """In calm, every copy becomes what the source is; also after a time in which no sink
        worked, and one that was emptied, and whose new copy fails once. What is written after that
        arrives as well."""
        task, stop = self._start()
        await self._catch_up(task)
        await self._no_sink_works()
        await self._catch_up(task)
        self.stores["dead"].fails_in_copies = 1
        self.stores["dead"].empty()
        await self._catch_up(task)
        await self._catch_up(task)
        stop.set()
        await asyncio.wait([task], timeout=60)
        self._end(task)
        for name, store in self.stores.items():
            due = {key: one for key, one in self.source.rows.items() if key not in store.refuses}
            self.require(store.live() == due, f"{name} is not what the source is")
        self.require(not self.unparked, "a change that was refused has no letter")

    async def _no_sink_works(self) -> None:
        """More is written than the log may hold, and the server keeps none of it for us."""
        end = self.loop.time() + 4 * CALM_S
        for store in self.stores.values():
            store.down_until = end
        self.sinks_well_since = end + 40
        while self.loop.time() < end:
            await asyncio.sleep(0.2)
            self._commit()
            self.check_memory()
            self.check_flow()

    async def _catch_up(self, task: asyncio.Task[None]) -> None:
        self.source.commit()
        version, began = self.source.version(), self.loop.time()
        while any((store.checkpoint or 0) < version for store in self.stores.values()):
            await asyncio.sleep(0.5)
            if task.done():
                self._end(task)
            self.require(self.loop.time() - began < CONVERGES_S, "a copy never catches up")


@contextlib.contextmanager
def _simulated(world: World) -> Iterator[None]:
    """The relay's modules with this world under them."""
    clock = SimpleNamespace(monotonic=world.loop.time, time=world.loop.time)
    open_log = SegmentLog.open.__func__  # type: ignore[attr-defined]
    write, cut_segment = segment.Segment._write, segment.Segment.cut
    drop, begin_anew = SegmentLog._drop_oldest, SegmentLog._start_over

    class Connection:
        @staticmethod
        async def connect(dsn: str, *, application_name: str) -> Stream:
            await asyncio.sleep(0.001)
            world.process.check()
            world.source.require()
            return Stream(world.process)

    async def opened(cls: type[SegmentLog], folder: Path, *, bound: int) -> SegmentLog:
        log = await open_log(cls, folder, bound=bound)
        world.opened(log)
        return log

    async def slot_state(dsn: str, slot: str) -> Any:
        await asyncio.sleep(0.001)
        return slot_state_of(world.process)

    async def published(dsn: str, publication: str) -> bool:
        return True

    async def tables_of(dsn: str, publication: str) -> dict[int, str]:
        return {TABLE.id: TABLE.table}

    def sync(path: Path) -> None:
        world.process.check()
        name = path.with_suffix(".segment").name
        if (world.disk.full or world.disk.failing) and world.dice.random() < 0.5:
            if path.is_file():
                world.forgiven |= sys._getframe(1).f_code.co_name == "_load"
                lost = world.disk.synced.get(name, 0)
                world.disk.failed[name] = min(lost, world.disk.failed.get(name, lost))
            raise OSError(errno.EIO, "simulated")
        if path.suffix == ".mark":
            world.disk.marks[path.name] = path.read_bytes()
        elif path.is_file():
            if path.suffix == ".new":  # all of it was written again, and is on the disk now
                world.disk.failed.pop(name, None)
            world.disk.synced[name] = path.stat().st_size

    def cut(self: segment.Segment, end: int) -> None:
        """What is written again where it was cut is written to the disk again."""
        cut_segment(self, end)
        size = self.path.stat().st_size
        if world.disk.failed.get(self.path.name, size) >= size:
            world.disk.failed.pop(self.path.name, None)
        world.disk.synced[self.path.name] = min(size, world.disk.synced.get(self.path.name, 0))

    def dropped(self: SegmentLog) -> None:
        if len(self._segments) > 1:
            world.note_dropped(self, sys._getframe(1).f_code.co_name)
        drop(self)

    def start_over(self: SegmentLog, position: int) -> None:
        world.cut_at, world.forgiven = max(world.cut_at, position), False
        begin_anew(self, position)

    def written(self: segment.Segment, file: int, data: memoryview) -> None:
        if world.disk.full:
            os.write(file, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "simulated: no space left")
        write(self, file, data)

    fakes: list[tuple[Any, str, Any]] = [
        (run, "ReplicationConnection", Connection),
        (run, "slot_state", slot_state),
        (run, "publication_exists", published),
        (run, "published_tables", tables_of),
        (run, "export_snapshot", lambda dsn, epoch: snapshot_of(world.process, epoch)),
        (SegmentLog, "open", classmethod(opened)),
        (SegmentLog, "_drop_oldest", dropped),
        (SegmentLog, "_start_over", start_over),
        (segment.Segment, "_write", written),
        (segment.Segment, "cut", cut),
        (segment, "sync", sync),
        (segments, "sync", sync),
        (checkpoints, "sync", sync),
        (segments, "_RECENT_BYTES", 8 << 10),
        (decoder, "BATCH_ROWS", 40),
        (decoder, "PART_BYTES", 512),
        (tables, "RANGE_ROWS", 9),
        (reader, "_MESSAGES_AT_ONCE", 7),
    ]
    for module in (lane, reader, run):
        fakes.append((module, "time", clock))
    for module in (lane, run):
        fakes.append((module, "random", world.dice))
    for module in (lane, reader, segments, tables):
        fakes.append((module, "crash_point", world.crash_point))
    with contextlib.ExitStack() as stack:
        for owner, name, fake in fakes:
            stack.callback(setattr, owner, name, owner.__dict__[name])
            setattr(owner, name, fake)
        yield


def simulate(seed: int, folder: Path, *, minutes: float = 10, outage_minutes: float = 0) -> World:
    """One run, in which the dead sink is down for the outage. Raises Broken where a promise was
    not kept."""
    world = World(seed, folder, minutes=minutes, outage_minutes=outage_minutes)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    try:
        with _simulated(world):
            main = world.loop.create_task(world.live())
            try:
                world.loop.run_until_complete(main)
            finally:
                _clear(world)
        return world
    finally:
        structlog.reset_defaults()
        shutil.rmtree(folder / "relay", ignore_errors=True)


def _clear(world: World) -> None:
    """End what is still there, so that nothing is left to the collector."""
    world.process.dead = True
    loop = world.loop
    while tasks := [task for task in asyncio.all_tasks(loop) if not task.done()]:
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.close()
