"""Is every copy equal to PostgreSQL as of one position? Which keys are not, and put them right.

A snapshot of the source stands for a position P. Once a store reflects P its rows are summed up
range by range and compared with the source's sums (`comparing/ranges.py`); of the keys that differ
those are told which can be judged by P (`comparing/judging.py`), and the others looked at again
under later snapshots. What changes on and on is called unsettled, and is not a difference.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise

from neolayer.position import Position
from neolayer.relay.comparable import Bound, Comparable, Inspectable, Invadable, Key
from neolayer.relay.comparing.as_of import Reaches, SnapshotMaker, source_as_of_now
from neolayer.relay.comparing.judging import Candidate
from neolayer.relay.comparing.ranges import Ranges
from neolayer.relay.comparing.report import MOST_NAMED, Difference, Kind, Progress, TableReport
from neolayer.relay.comparing.source import SourceTable
from neolayer.relay.comparing.telling import told_columns, told_stale

_ROUNDS = 4
_DEEP_ROWS = 5_000
_MOST_IN_DOUBT = 20_000


@dataclass(frozen=True, slots=True)
class Compared:
    """A store to compare, how to wait until it reflects a position (raises NotFresh), and a look
    that ends soon where it says nothing (raises EngineUnavailable)."""

    rows: Comparable
    reaches: Reaches
    answers: Callable[[str], Awaitable[object]]


@dataclass(slots=True)
class _Leaf:
    """A small range in which keys are in doubt."""

    low: Bound
    high: Bound
    doubted: dict[Key, Candidate]


async def reconcile_table(
    store: Compared,
    table: str,
    database: str,
    snapshot: SnapshotMaker,
    *,
    repair: bool = False,
    deep: bool = False,
    on_progress: Progress = lambda _: None,
) -> TableReport:
    """Compare one table with one store, as of now, and with `repair` put it right.

    With `deep` every value is looked at, also where a store keeps checksums beside them, and of a
    row that differs it is said in which columns.

    Raises NotFresh where the store does not get as far as the snapshot, and what engines say.
    """
    work = _Reconciling(
        store, table, database, snapshot, repair=repair, deep=deep, on_progress=on_progress
    )
    return await work.run()


class _Reconciling:
    """One comparison over its snapshots."""

    def __init__(
        self,
        store: Compared,
        table: str,
        database: str,
        snapshot: SnapshotMaker,
        *,
        repair: bool,
        deep: bool,
        on_progress: Progress,
    ) -> None:
        self._store = store
        self._rows = store.rows
        self._table = table
        self._database = database
        self._snapshot = snapshot
        self._repair = repair
        self._deep = deep
        self._on_progress = on_progress
        self._touched: list[tuple[Bound, Bound, set[Key]]] = []
        self._altered: list[tuple[Bound, Bound, set[Key]]] = []
        self._ahead: set[Key] = set()
        self.report = TableReport(table, store.rows.name, Position(0, 0, database))

    async def run(self) -> TableReport:
        await self._store.answers(self._database)
        newest = await self._rows.newest(self._table, MOST_NAMED)
        self.report.transfers += 1
        async with self._ranges() as ranges:
            source = ranges.source
            self.report.position = Position.from_version(source.version, self._database)
            await self._note_ahead(source, newest)
            await self._note_strangers()
            await self._compare(ranges)
            if self._deep and isinstance(self._rows, Inspectable):
                await self._inspect(source, self._rows)
        await self._verify()
        return self.report

    def _source(self) -> AbstractAsyncContextManager[SourceTable]:
        """The table as it is now, once the store has everything of it."""
        shape = self._rows.shape(self._table)
        return source_as_of_now(
            self._snapshot, self._store.reaches, self._table, shape, self._database
        )

    @asynccontextmanager
    async def _ranges(self) -> AsyncGenerator[Ranges]:
        async with self._source() as source:
            yield Ranges(source, self._rows, self.report)

    # What needs no ranges

    async def _note_ahead(self, source: SourceTable, newest: Sequence[tuple[Key, int]]) -> None:
        """What was there before the snapshot and is newer than it was never committed: it would win
        over every change to come, whatever it says now."""
        found = [
            Difference(Kind.AHEAD, key, version)
            for key, version in newest
            if version > source.version
        ]
        self.report.note(found)
        keys = {one.key for one in found}
        if not (found and self._repair):
            self._ahead = keys
            return
        await self._put_right(source, found)
        again = await self._rows.newest(self._table, MOST_NAMED)
        left = keys & {key for key, version in again if version > source.version}
        self.report.note_repair(len(keys), left)

    async def _note_strangers(self) -> None:
        if not isinstance(self._rows, Invadable):
            return
        found = await self._rows.strangers(self._table, MOST_NAMED)
        self.report.note([Difference(Kind.EXTRA, (name,), None) for name in found])
        if found and self._repair:
            await self._rows.remove_strangers(self._table)
            left = await self._rows.strangers(self._table, MOST_NAMED)
            self.report.note_repair(len(found), left)

    async def _inspect(self, source: SourceTable, rows: Inspectable) -> None:
        """Look at every value, range by range."""
        cuts = await source.bounds(None, None, _DEEP_ROWS)
        for low, high in pairwise([None, *cuts, None]):
            found = await rows.altered(self._table, source.part(low, high))
            self.report.transfers += 1
            if not found:
                continue
            found.sort(key=lambda one: one.key)
            told = [Difference(Kind.ALTERED, one.key, one.version, one.columns) for one in found]
            self.report.note(told)
            if self._repair:
                await self._put_right(source, told)
                self._altered.append((low, high, {one.key for one in told}))

    # Keys that differ, until they are judged

    async def _compare(self, ranges: Ranges) -> None:
        doubted: list[_Leaf] = []
        async for low, high in ranges.differing(self._on_progress):
            leaf = _Leaf(low, high, await ranges.candidates(low, high))
            await self._settle(ranges.source, leaf, None)
            if leaf.doubted:
                doubted.append(leaf)
            if sum(len(one.doubted) for one in doubted) >= _MOST_IN_DOUBT:
                await self._look_again(doubted)
                doubted = []
            if sum(len(keys) for _, _, keys in self._touched) >= _MOST_IN_DOUBT:
                await self._verify()
        await self._look_again(doubted)

    async def _look_again(self, leaves: list[_Leaf]) -> None:
        """Judge what is in doubt under later snapshots, a few times."""
        for _ in range(_ROUNDS):
            if not leaves:
                return
            async with self._ranges() as ranges:
                for leaf in leaves:
                    before = leaf.doubted
                    found = await ranges.candidates(leaf.low, leaf.high)
                    leaf.doubted = {key: one for key, one in found.items() if key in before}
                    await self._settle(ranges.source, leaf, before)
            leaves = [leaf for leaf in leaves if leaf.doubted]
        self.report.unsettled += sum(len(leaf.doubted) for leaf in leaves)

    async def _settle(
        self, source: SourceTable, leaf: _Leaf, before: dict[Key, Candidate] | None
    ) -> None:
        """Judge what can be judged; the rest stays in doubt."""
        certain: list[Difference] = []
        for key, one in list(leaf.doubted.items()):
            if key in self._ahead:  # told already
                del leaf.doubted[key]
                continue
            kind = one.judged(before.get(key) if before else None, source.version)
            if kind is not None:
                certain.append(Difference(kind, key, one.version))
                del leaf.doubted[key]
        if not certain:
            return
        certain = await self._told(source, certain)
        self.report.note(certain)
        if self._repair:
            await self._put_right(source, certain)
            self._touched.append((leaf.low, leaf.high, {one.key for one in certain}))

    async def _told(self, source: SourceTable, found: Sequence[Difference]) -> list[Difference]:
        room = self.report.room
        told = await told_stale(source, self._rows, self._table, found, room=room)
        if not self._deep or isinstance(self._rows, Inspectable):
            return told
        return await told_columns(source, self._rows, self._table, told, room=room)

    # Repair

    async def _put_right(self, source: SourceTable, found: Sequence[Difference]) -> None:
        ahead = [one.key for one in found if one.kind is Kind.AHEAD]
        if ahead:
            await self._rows.forget(self._table, ahead, source.version)
        await self._rows.put_right(self._table, await source.changes([one.key for one in found]))

    async def _verify(self) -> None:
        """Count what is still different among the keys that were put right since the last time."""
        touched, self._touched = self._touched, []
        if self._altered and isinstance(self._rows, Inspectable):
            await self._verify_altered(self._rows)
        if not touched:
            return
        async with self._ranges() as ranges:
            version = ranges.source.version
            for low, high, keys in touched:
                found = await ranges.candidates(low, high)
                both = keys & found.keys()
                wrong = [key for key in both if found[key].is_wrong_still(version)]
                self.report.note_repair(len(keys), wrong)

    async def _verify_altered(self, rows: Inspectable) -> None:
        altered, self._altered = self._altered, []
        async with self._source() as source:
            for low, high, keys in altered:
                found = await rows.altered(self._table, source.part(low, high))
                wrong = keys & {one.key for one in found}
                self.report.note_repair(len(keys), wrong)
