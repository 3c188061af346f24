"""Stores that outlive the simulated process, and sinks that write to them and fail in every way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.simulation.source import TABLE, Snapshot

from neolayer.errors import EngineUnavailable
from neolayer.relay.changes import DELETE, INSERT, Batch, TableChanges, Truncation
from neolayer.relay.comparable import Shape
from neolayer.relay.sinks.sink import CopyLost, Park, Rejected

if TYPE_CHECKING:
    from tests.simulation.world import Process


@dataclass
class Store:
    """What a destination holds: key -> (version, value; None: deleted), and the checkpoint."""

    rows: dict[str, tuple[int, str | None]] = field(default_factory=dict)
    checkpoint: int | None = None
    note: int = 0  # of a copy
    ahead: int = 0  # the newest snapshot that a copy was read under
    down_until: float = 0.0
    slow_until: float = 0.0
    trouble: float = 0.0
    fails_in_copies: int = 0  # so many times, come what may
    copies: int = 0
    effects: int = 0
    saves: int = 0
    refuses: frozenset[str] = frozenset()  # rows with these keys, for ever
    worst_lag_s: float = 0.0

    def empty(self) -> None:
        """Somebody did."""
        self.rows.clear()
        self.checkpoint = self.note = 0

    def live(self) -> dict[str, str]:
        return {key: value for key, (_, value) in self.rows.items() if value is not None}


class SimulatedSink:
    """Idempotent by version, its checkpoint after its data."""

    database = "neolayer"
    tables = frozenset({TABLE.table})
    wait_s = 0.0

    def __init__(self, name: str, store: Store, process: Process) -> None:
        self.name = name
        self.store = store
        self.process = process
        self.before: deque[Batch] = deque(maxlen=6)
        self.left = 0
        self.may_copy = False

    @property
    def dice(self):
        return self.process.world.dice

    async def open(self, confirmed: int) -> int | None:
        await self._trip()
        self.before.clear()
        self.may_copy = self.process.world.has_reason_to_copy(self.name)
        checkpoint = self.store.checkpoint
        self.left = checkpoint or 0
        return checkpoint if checkpoint is not None and checkpoint >= confirmed else None

    def shape(self, table: str) -> Shape:
        return Shape(("id",), TABLE.columns)

    async def begin_copy(self, version: int) -> None:
        await self._trip()
        self._begin_copy()
        self.store.note = version

    async def copy_began(self) -> int:
        await self._trip()
        return self.store.note

    async def copy_part(self, part: Snapshot, table: str, park: Park) -> None:
        await self._trip()
        world = self.process.world
        world.resumed += part.version != self.store.note
        self.store.ahead = max(self.store.ahead, part.version)
        refused: list[Rejected] = []
        async for line in part.rows(TABLE.table, TABLE.columns):
            key, value = line.decode().rstrip("\n").split("\t")
            self.put(key, part.version, value, refused)
            world.may_die(self.process, 0.002)
        await self._step()
        self._owe(refused)
        world.may_die(self.process, 0.02)
        await park(refused)
        for one in refused:
            owed = world.unparked.get((self.name, one.key[0]), 0)
            world.require(owed == 0, f"{self.name} goes on, what it refused has no letter")
        if self.store.fails_in_copies:
            self.store.fails_in_copies -= 1
            raise EngineUnavailable(self.name, "failed in a copy")
        if self.dice.random() < self.store.trouble / 3:
            raise EngineUnavailable(self.name, "done, but the answer was lost")

    async def drop_below(self, table: str, version: int) -> None:
        await self._trip()
        for key, (held, _) in list(self.store.rows.items()):
            if held < version:
                del self.store.rows[key]

    async def reflect(self, version: int) -> None:
        """What was refused before the copy is refused again in it, or is no more."""
        await self._trip()
        world = self.process.world
        for place in [place for place in world.unparked if place[0] == self.name]:
            del world.unparked[place]
        self._save(version)
        world.may_die(self.process, 0.1)

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        await self._trip()
        self._require_whole()
        refused: list[Rejected] = []
        troubled = self.dice.random() < self.store.trouble
        if troubled and self.dice.random() < 0.3:
            raise EngineUnavailable(self.name, "429: later")
        for batch in self._again(troubled):
            self._apply(batch, [])
        for number, batch in enumerate(batches):
            self._apply(batch, refused)
            await self._step()
            if troubled and self.dice.random() < 0.3:
                raise EngineUnavailable(self.name, f"failed after {number + 1} batches")
        if batches[-1].position < self.left:  # done again: misfortunes come together
            self.process.world.may_die(self.process, 0.2)
        self._require_whole()
        self._passed(refused, batches[-1].position)
        self._owe(refused)
        self._save(batches[-1].position)
        self.process.world.check_rows(self.name)
        self.before.extend(one for one in batches if not any(one is past for past in self.before))
        await self._step()
        if troubled and self.dice.random() < 0.3:
            raise EngineUnavailable(self.name, "done, but the answer was lost")
        return refused

    def _require_whole(self) -> None:
        """Before data and again with the checkpoint: somebody may empty the store meanwhile."""
        if (self.store.checkpoint or 0) < self.left:
            raise CopyLost(self.name)

    def _again(self, troubled: bool) -> list[Batch]:
        """What was written last, once more and out of order, parts of one transaction too."""
        if not troubled:
            return []
        again = list(self.before)
        self.dice.shuffle(again)
        return again

    def _apply(self, batch: Batch, refused: list[Rejected]) -> None:
        for part in batch.changes:
            if isinstance(part, Truncation):
                for key, (version, _) in list(self.store.rows.items()):
                    if version <= part.version:
                        self.store.rows[key] = (part.version, None)
                continue
            for change in part.changes():
                key, value = _text(change.row[0]), _text(change.row[1])
                if change.old is not None and _text(change.old[0]) != key:
                    self.put(_text(change.old[0]), change.version, None, refused)
                value = None if change.kind == DELETE else value
                self.put(key, change.version, value, refused)
                self.process.world.note_lag(self.store, change.version)

    def put(self, key: str, version: int, value: str | None, refused: list[Rejected]) -> None:
        held = self.store.rows.get(key)
        if value is not None and key in self.store.refuses:
            row: dict[str, str | None] = {"id": key, "value": value}
            refused.append(Rejected(TABLE.table, (key,), version, False, "poison", row))
            return
        if held is None or version >= held[0]:
            self.store.rows[key] = (version, value)

    def _save(self, version: int) -> None:
        if self.store.checkpoint is None or version > self.store.checkpoint:
            self.store.checkpoint = version
        self.left = self.store.checkpoint

    def _owe(self, refused: list[Rejected]) -> None:
        """From here on only the lane knows what was refused."""
        unparked = self.process.world.unparked
        for one in refused:
            place = (self.name, one.key[0])
            unparked[place] = max(one.version, unparked.get(place, 0))

    def _passed(self, refused: list[Rejected], position: int) -> None:
        """What an earlier write had refused is refused again before it is passed."""
        again = {one.key[0] for one in refused}
        for (sink, key), version in self.process.world.unparked.items():
            lost = sink == self.name and version <= position and key not in again
            self.process.world.require(not lost, f"{sink} passes what was refused: {key}")

    def _begin_copy(self) -> None:
        world, checkpoint = self.process.world, self.store.checkpoint
        needless = checkpoint and checkpoint >= world.cut_at and not self.may_copy
        world.require(not needless, f"{self.name} is copied although the log reaches back to it")
        self.store.copies += 1
        self.left = 0

    async def _trip(self) -> None:
        await self._step()
        if self.process.world.loop.time() < self.store.down_until:
            raise EngineUnavailable(self.name, "is down")

    async def _step(self) -> None:
        """A moment in which anything may happen."""
        slow = self.process.world.loop.time() < self.store.slow_until
        await asyncio.sleep(0.002 * (100 if slow else 1))
        self.process.world.may_die(self.process, 0.001)
        self.process.check()

    async def close(self) -> None:
        pass


class OnceSink(SimulatedSink):
    """Not idempotent: rows and checkpoint change at once; each change must fit what is there.

    So it takes a copy at once or not at all: it keeps no note of one, and each starts over."""

    def __init__(self, name: str, store: Store, process: Process) -> None:
        super().__init__(name, store, process)
        self.pieces: list[TableChanges | Truncation] = []
        self.copied: dict[str, tuple[int, str | None]] = {}
        self.began = 0

    async def open(self, confirmed: int) -> int | None:
        self.pieces.clear()
        self.began = 0
        return await super().open(confirmed)

    async def begin_copy(self, version: int) -> None:
        await self._trip()
        self._begin_copy()
        self.copied, self.began = {}, version

    async def copy_began(self) -> int:
        return self.began

    async def copy_part(self, part: Snapshot, table: str, park: Park) -> None:
        await self._trip()
        async for line in part.rows(TABLE.table, TABLE.columns):
            key, value = line.decode().rstrip("\n").split("\t")
            self.copied[key] = (part.version, value)

    async def drop_below(self, table: str, version: int) -> None:
        pass

    async def reflect(self, version: int) -> None:
        await self._step()
        self.store.rows, self.store.checkpoint = self.copied, version

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        await self._trip()
        pieces = list(self.pieces)
        if self.dice.random() < self.store.trouble:
            raise EngineUnavailable(self.name, "not now")
        rows, reached = dict(self.store.rows), self.store.checkpoint or 0
        effects = 0
        for batch in batches:
            pieces += batch.changes
            if batch.unfinished is None:
                for part in pieces:
                    effects += self._fit(rows, part, reached)
                pieces.clear()
                reached = max(reached, batch.position)
        await self._step()
        self.store.rows, self.store.checkpoint, self.pieces = rows, reached, pieces
        self.store.effects += effects
        return ()

    def _fit(
        self,
        rows: dict[str, tuple[int, str | None]],
        part: TableChanges | Truncation,
        reached: int,
    ) -> int:
        if isinstance(part, Truncation):
            if part.version > reached:
                rows.clear()
            return 0
        effects = 0
        for change in part.changes():
            if change.version <= reached:
                continue
            effects += 1
            key, value = _text(change.row[0]), _text(change.row[1])
            old = key if change.old is None else _text(change.old[0])
            if change.kind == INSERT:
                self.process.world.require(key not in rows, f"{key} is inserted twice")
            else:
                self.process.world.require(old in rows, f"{old} is changed but was never there")
                held = rows.pop(old, (0, None))
                self.process.world.require(held[0] <= change.version, f"{key} goes back in time")
            if change.kind != DELETE:
                rows[key] = (change.version, value)
        return effects


def _text(value: bytes | int) -> str:
    assert isinstance(value, bytes)
    return value.decode()
