"""A commit log as the relay sees PostgreSQL: slot, stream, snapshots, and what breaks them."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tests.unit import pgoutput_encoder as wire

from neolayer.engines.postgres.replication import CreatedSlot, Server, SlotLost, SlotMissing
from neolayer.errors import EngineUnavailable
from neolayer.position import pack_version
from neolayer.relay.changes import Misfit, Relation
from neolayer.relay.comparable import Bound, Key, Shape

if TYPE_CHECKING:
    from tests.simulation.world import Process

TABLE = Relation(7, "public", "things", ("id", "value"), (25, 25))


@dataclass
class Transaction:
    """One commit: (kind, key, value, old key) of each change; kind is I, U, D or T."""

    lsn: int
    end: int
    changes: list[tuple[str, str, str, str]]
    at: float
    xid: int
    large: bool
    haunted: bool  # something large was rolled back just before it
    watched: bool

    def messages(self) -> list[memoryview]:
        """What is sent when its turn comes; of a large one, what was not sent before."""
        made = [self._message(*change) for change in self.changes]
        if self.large:
            part = self.xid | 1 << 24
            return [
                *wire.piece(self.xid, ghost(), part=part),
                wire.piece_abort(self.xid, part=part),
                *wire.piece(self.xid, *made[len(made) // 2 :]),
                wire.piece_commit(self.xid, self.lsn, self.end),
            ]
        if self.watched:  # the server shows signs of life while it sends
            made.insert(1, wire.keepalive(self.end))
        return [wire.begin(self.lsn), *made, wire.commit(self.lsn, self.end)]

    def first_piece(self) -> list[memoryview]:
        """What of a large one comes before its end is known."""
        made = [self._message(*change) for change in self.changes]
        described = wire.relation(TABLE.id, TABLE.columns, name=TABLE.name)
        return wire.piece(self.xid, described, *made[: len(made) // 2])

    def ghosts(self) -> list[memoryview]:
        """Another large one that comes to nothing."""
        xid = self.xid | 1 << 25
        described = wire.relation(TABLE.id, TABLE.columns, name=TABLE.name)
        return [*wire.piece(xid, described, ghost()), wire.piece_abort(xid)]

    def _message(self, kind: str, key: str, value: str, old: str) -> memoryview:
        new = (key.encode(), value.encode())
        if kind == "I":
            return wire.insert(TABLE.id, new)
        if kind == "U":
            return wire.update(TABLE.id, new, old=(old.encode(), b"before"))
        if kind == "D":
            return wire.delete(TABLE.id, (key.encode(), b"before"))
        return wire.truncate(TABLE.id)


def ghost() -> memoryview:
    """A row that never was."""
    return wire.insert(TABLE.id, (b"ghost", b"boo"))


@dataclass
class Source:
    """The truth, its log, and one slot. `epoch` is the timeline, which rises at a failover."""

    dice: random.Random
    now: Any
    rows: dict[str, str] = field(default_factory=dict)
    log: list[Transaction] = field(default_factory=list)
    lsn: int = 1 << 12
    epoch: int = 1
    older_until: float = 0.0  # until then the server of an older timeline answers
    slot: int | None = None
    acknowledged: int = 0
    lost: bool = False
    down_until: float = 0.0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    breaks: int = 0
    history: dict[str, list[tuple[int, str | None]]] = field(default_factory=dict)
    # What a server that is gone had deleted in commits that went with it: copies were read there.
    undone: set[tuple[str, int]] = field(default_factory=set)

    def commit(self) -> None:
        """One random transaction of one to thirty changes."""
        changes: list[tuple[str, str, str, str]] = []
        for _ in range(self.dice.choice((1, 1, 2, 5, 30))):
            changes.append(self._change())
        self.lsn += self.dice.choice((0, 1 << 9))  # a commit may stand right behind the last one
        end = self.lsn + (1 << 8)
        large, haunted = self.dice.random() < 0.15, self.dice.random() < 0.1
        xid = len(self.log) + 1
        watched = self.dice.random() < 0.1
        self._note(changes, pack_version(self.epoch, self.lsn + 1))
        self.log.append(
            Transaction(self.lsn, end, changes, self.now(), xid, large, haunted, watched)
        )
        self.lsn = end
        arrived, self.arrived = self.arrived, asyncio.Event()
        arrived.set()

    def _note(self, changes: Sequence[tuple[str, str, str, str]], version: int) -> None:
        for kind, key, value, old in changes:
            gone = list(self.history) if kind == "T" else [old] if old else []
            for one in gone:
                self.history[one].append((version, None))
            if kind != "T":
                self.history.setdefault(key, []).append((version, None if kind == "D" else value))

    def as_of(self, position: int) -> Iterator[tuple[str, int, str | None]]:
        """Every key that ever was, its version and value at a position."""
        for key, states in self.history.items():
            for version, value in reversed(states):
                if version <= position:
                    yield key, version, value
                    break

    def deletes(self, key: str, *, after: int, up_to: int) -> bool:
        """Whether the key was deleted between two positions, be it in a commit that was lost."""
        deleted = {version for version, value in self.history[key] if value is None}
        deleted |= {version for one, version in self.undone if one == key}
        return any(after < version <= up_to for version in deleted)

    def _change(self) -> tuple[str, str, str, str]:
        key, value, die = str(self.dice.randrange(60)), str(self.dice.random()), self.dice.random()
        if die < 0.003:
            self.rows.clear()
            return "T", "", "", ""
        if key not in self.rows:
            self.rows[key] = value
            return "I", key, value, ""
        if die < 0.25:
            del self.rows[key]
            return "D", key, "", ""
        other = str(self.dice.randrange(60))
        if die < 0.35 and other not in self.rows:  # the key changes
            del self.rows[key]
            self.rows[other] = value
            return "U", other, value, key
        self.rows[key] = value
        return "U", key, value, key

    @property
    def is_down(self) -> bool:
        return self.now() < self.down_until

    def require(self) -> None:
        if self.is_down:
            raise EngineUnavailable("postgres", "is down")

    def version(self) -> int:
        return pack_version(self.epoch, self.lsn)

    def drop_slot(self) -> None:
        self.slot, self.acknowledged, self.lost = None, 0, False

    def fail_over(self, *, lost: int, slot_stays: bool) -> None:
        """A standby takes over that lacks the last commits, with the slot as it knew it, or none.

        What is written next stands where the lost commits stood.
        """
        kept = len(self.log) - lost
        gone = {pack_version(self.epoch, one.lsn + 1) for one in self.log[kept:]}
        self.lsn = self.log[kept].lsn if gone else self.lsn
        del self.log[kept:]
        self.undone |= {
            (key, version)
            for key, states in self.history.items()
            for version, value in states
            if version in gone and value is None
        }
        self.history = {
            key: [state for state in states if state[0] not in gone]
            for key, states in self.history.items()
        }
        self.rows = self._replayed()
        self.epoch += 1
        self.older_until = 0.0  # the server that died is gone for good
        slot = None if self.slot is None or not slot_stays else min(self.slot, self.lsn)
        self.drop_slot()
        self.slot = slot
        self.breaks += 1

    def _replayed(self) -> dict[str, str]:
        rows: dict[str, str] = {}
        for kind, key, value, old in (change for one in self.log for change in one.changes):
            if kind == "T":
                rows.clear()
                continue
            rows.pop(old or key, None)
            if kind != "D":
                rows[key] = value
        return rows

    @property
    def is_older(self) -> bool:
        return self.now() < self.older_until


class Stream:
    """A replication connection."""

    gathers = True

    def __init__(self, process: Process) -> None:
        self._process = process
        self._source = process.world.source
        self._breaks = self._source.breaks
        self._left: Iterator[memoryview] = iter(())
        self._place = 0
        self._begun: set[int] = set()
        self._asked = False

    async def identify(self) -> Server:
        await self._trip()
        source = self._source
        return Server("simulated", source.epoch - source.is_older, source.lsn)

    async def create_slot(self, name: str, **_: Any) -> CreatedSlot:
        await self._trip()
        self._require_newest()
        self._source.drop_slot()
        self._source.slot = self._source.lsn
        self._process.world.may_die(self._process, 0.1)
        return CreatedSlot(name, self._source.lsn, None)

    async def drop_slot(self, name: str) -> None:
        await self._trip()
        self._source.drop_slot()

    async def start(self, slot: str, *, publication: str, lsn: int, streaming: bool) -> None:
        await self._trip()
        self._require_newest()
        if self._source.slot is None:
            raise SlotMissing("postgres", "no slot")
        if self._source.lost:
            raise SlotLost("postgres", "the log it needs is gone")
        begin = max(lsn, self._source.slot)
        log = self._source.log
        self._place = next((n for n, one in enumerate(log) if one.lsn >= begin), len(log))
        # A server tells of the slot's own place until it has got to where it was asked to begin.
        first = [
            wire.keepalive(self._source.slot),
            wire.relation(TABLE.id, TABLE.columns, name=TABLE.name),
        ]
        self._left = iter(first)

    def receive(self, handle: Any, *, limit: int) -> int:
        self._check()
        received = 0
        while received < limit:
            message = next(self._left, None)
            if message is None:
                message = self._next_message()
                if message is None:
                    break
            received += 1
            if handle(message):
                break
            self._process.world.may_cut(0.001)
        return received

    def _next_message(self) -> memoryview | None:
        log = self._source.log
        if self._place < len(log):
            self._place += 1
            self._left = iter(self._messages(*log[self._place - 1 : self._place + 1]))
            return next(self._left)
        if self._asked:
            self._asked = False
            return wire.keepalive(self._source.lsn)
        return None

    def _messages(self, one: Transaction, later: Transaction | None = None) -> list[memoryview]:
        """A transaction; before it the first piece of a large one that is open meanwhile."""
        pieces: list[memoryview] = []
        for open_ in (later, one):
            if open_ is not None and open_.large and open_.xid not in self._begun:
                self._begun.add(open_.xid)
                pieces += open_.first_piece()
        return [*pieces, *(one.ghosts() if one.haunted else ()), *one.messages()]

    async def wait(self, timeout_s: float) -> None:
        self._check()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._place >= len(self._source.log) and not self._asked:
                    await self._source.arrived.wait()

    def confirm(self, *, received: int, durable: int, ask: bool = False) -> None:
        self._check()
        assert self._source.slot is not None
        self._source.slot = max(self._source.slot, durable)
        self._source.acknowledged = max(self._source.acknowledged, durable)
        self._asked = self._asked or ask

    async def close(self) -> None:
        pass

    def _require_newest(self) -> None:
        older = self._source.is_older
        self._process.world.require(not older, "a server of an older timeline is read")

    async def _trip(self) -> None:
        await asyncio.sleep(0.001)
        self._check()

    def _check(self) -> None:
        self._process.check()
        self._source.require()
        if self._breaks != self._source.breaks:
            raise EngineUnavailable("postgres", "the connection broke")


class Snapshot:
    """The rows as they are now, or a range of them."""

    def __init__(
        self, process: Process, version: int, rows: dict[str, str], *, ends_at: float
    ) -> None:
        self._process = process
        self._rows = rows
        self._ends_at = ends_at
        self.version = version

    async def divide(self, table: str, shape: Shape) -> Snapshot:
        await self._trip()
        return self

    async def require_fit(self, misfit: Misfit) -> None:
        await self._trip()

    async def bounds(self, low: Bound, high: Bound, rows: int) -> list[Key]:
        await self._trip()
        return [(key,) for key in sorted(self._rows)[rows::rows]]

    def part(self, low: Bound, high: Bound) -> Snapshot:
        rows = {
            key: value
            for key, value in self._rows.items()
            if (low is None or (key,) >= low) and (high is None or (key,) < high)
        }
        return Snapshot(self._process, self.version, rows, ends_at=self._ends_at)

    @contextlib.asynccontextmanager
    async def again(self) -> AsyncGenerator[Snapshot]:
        await self._trip()
        yield self

    async def describe(self, table: str, columns: Sequence[str]) -> Relation:
        return TABLE

    async def rows(self, table: str, columns: Sequence[str]) -> AsyncIterator[bytes]:
        for key, value in self._rows.items():
            if self._process.world.dice.random() < 0.05:
                await asyncio.sleep(0.05)
                await self._trip()
            yield f"{key}\t{value}\n".encode()

    async def _trip(self) -> None:
        """It is lost with its connection, which may end at any time."""
        await asyncio.sleep(0.001)
        self._process.check()
        self._process.world.source.require()
        if self._process.world.loop.time() > self._ends_at:
            raise EngineUnavailable("postgres", "the snapshot's connection broke")


@contextlib.asynccontextmanager
async def snapshot_of(process: Process, epoch: int) -> AsyncGenerator[Snapshot]:
    await asyncio.sleep(0.002)
    process.check()
    process.world.source.require()
    world = process.world
    lives_s = world.dice.choice((0.05, 1, 1_000)) if world.dangerous else 1_000
    ends_at = world.loop.time() + lives_s
    version = pack_version(epoch, world.source.lsn)
    yield Snapshot(process, version, dict(world.source.rows), ends_at=ends_at)


def slot_state_of(process: Process) -> SimpleNamespace | None:
    process.check()
    source = process.world.source
    source.require()
    if source.slot is None:
        return None
    return SimpleNamespace(lost=source.lost, confirmed_lsn=source.slot, flushed_lsn=source.lsn)
