"""Is every copy equal to PostgreSQL as of one position? Which keys are not, and put them right.

A snapshot of the source stands for a position P. Once a store reflects P its rows are summed up
range by range and compared with the source's sums; a range that differs is cut into sixteen, and
one that is small enough is listed. So a difference among n rows is found in O(log n) requests, and
what travels is a few numbers.

The store goes on while it is compared. What it holds of a version above P is not to be judged by
P, and what is missing may have been deleted since: such keys are looked at again under a later
snapshot. A row that PostgreSQL has untouched in both snapshots (its `xmin` is the same) and that
was not there in between is missing; a version that a later snapshot has not reached was never
committed. What changes on and on is called unsettled, and is not a difference.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from itertools import pairwise

from neolayer.position import Position
from neolayer.relay.comparable import Bound, Comparable, Entry, Inspectable, Invadable, Key
from neolayer.relay.comparing.source import SourceTable, open_source
from neolayer.relay.digests import Summary
from neolayer.relay.snapshot import ExportedSnapshot

_CHUNK_ROWS = 1 << 20  # sums of halves of so many digests are exact in a double
_FANOUT = 16
_LEAF_ROWS = 1_024
_DENSE_ROWS = 8_192  # where most ranges differ, fewer and larger lists
_ROUNDS = 4
_DEEP_ROWS = 5_000
_MOST_IN_DOUBT = 20_000
_MOST_NAMED = 1_000
_CHANGED = "updated_at"

SnapshotMaker = Callable[[], AbstractAsyncContextManager[ExportedSnapshot]]


class Kind(StrEnum):
    """How a store's row differs from PostgreSQL's."""

    MISSING = "missing"  # PostgreSQL has the row, the store has not
    EXTRA = "extra"  # the store has a row that PostgreSQL has not
    DIFFERING = "differing"  # both have it, with other values
    STALE = "stale"  # the store has it as it was earlier
    ALTERED = "altered"  # as it should be by its checksum, and with other values all the same
    AHEAD = "ahead"  # the store's version is above everything that was committed


@dataclass(frozen=True, slots=True)
class Difference:
    """One row that is not what it should be, by its key, and the store's version of it.

    `columns` are those that differ, where they were looked at.
    """

    kind: Kind
    key: Key
    version: int | None
    columns: tuple[str, ...] = ()


@dataclass(slots=True)
class TableReport:
    """What a comparison of one table with one store came to.

    `differences` names the first thousand; `counts` counts all. `unsettled` keys changed whenever
    they were looked at. `transfers` are requests made to the store.
    """

    table: str
    store: str
    position: Position
    rows: int = 0
    counts: Counter[Kind] = field(default_factory=Counter[Kind])
    differences: list[Difference] = field(default_factory=list[Difference])
    unsettled: int = 0
    repaired: int = 0
    left: int = 0
    transfers: int = 0

    @property
    def total(self) -> int:
        """How many differences were found."""
        return self.counts.total()

    @property
    def agrees(self) -> bool:
        """Whether the store is equal now, be it by repair."""
        return self.left == 0 and self.repaired == self.total

    def note(self, found: Sequence[Difference]) -> None:
        self.counts.update(one.kind for one in found)
        self.differences += found[: max(0, _MOST_NAMED - len(self.differences))]


@dataclass(frozen=True, slots=True)
class Compared:
    """A store to compare, and how to wait until it reflects a position (raises NotFresh)."""

    rows: Comparable
    reaches: Callable[[Position], Awaitable[object]]


Progress = Callable[[TableReport], None]


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A difference that may be one: what was seen, and of the source's row its mark."""

    kind: Kind
    version: int | None = None
    mark: str | None = None


@dataclass(slots=True)
class _Leaf:
    """A small range in which keys are in doubt."""

    low: Bound
    high: Bound
    doubted: dict[Key, _Candidate]


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
        newest = await self._rows.newest(self._table, _MOST_NAMED)
        self.report.transfers += 1
        async with self._source() as source:
            self.report.position = Position.from_version(source.version, self._database)
            await self._note_ahead(source, newest)
            await self._note_strangers()
            await self._compare(source)
            if self._deep and isinstance(self._rows, Inspectable):
                await self._inspect(source, self._rows)
        await self._verify()
        return self.report

    @asynccontextmanager
    async def _source(self) -> AsyncGenerator[SourceTable]:
        """The table as it is now, once the store has everything of it."""
        async with self._snapshot() as exported:
            await self._store.reaches(Position.from_version(exported.version, self._database))
            yield await open_source(exported, self._table, self._rows.shape(self._table))

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
        again = await self._rows.newest(self._table, _MOST_NAMED)
        left = keys & {key for key, version in again if version > source.version}
        self.report.left += len(left)
        self.report.repaired += len(keys) - len(left)

    async def _note_strangers(self) -> None:
        if not isinstance(self._rows, Invadable):
            return
        found = await self._rows.strangers(self._table, _MOST_NAMED)
        self.report.note([Difference(Kind.EXTRA, (name,), None) for name in found])
        if found and self._repair:
            await self._rows.remove_strangers(self._table)
            left = len(await self._rows.strangers(self._table, _MOST_NAMED))
            self.report.left += left
            self.report.repaired += len(found) - left

    async def _compare(self, source: SourceTable) -> None:
        doubted: list[_Leaf] = []
        async for low, high in self._differing(source):
            leaf = _Leaf(low, high, await self._candidates(source, low, high))
            await self._settle(source, leaf, None)
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
            async with self._source() as source:
                for leaf in leaves:
                    before = leaf.doubted
                    found = await self._candidates(source, leaf.low, leaf.high)
                    leaf.doubted = {key: one for key, one in found.items() if key in before}
                    await self._settle(source, leaf, before)
            leaves = [leaf for leaf in leaves if leaf.doubted]
        self.report.unsettled += sum(len(leaf.doubted) for leaf in leaves)

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

    async def _verify(self) -> None:
        """Count what is still different among the keys that were put right since the last time."""
        touched, self._touched = self._touched, []
        if self._altered and isinstance(self._rows, Inspectable):
            await self._verify_altered(self._rows)
        if not touched:
            return
        async with self._source() as source:
            for low, high, keys in touched:
                found = await self._candidates(source, low, high)
                wrong = [
                    key
                    for key in keys & found.keys()
                    if found[key].kind is Kind.MISSING or _is_certain(found[key], source.version)
                ]
                self.report.left += len(wrong)
                self.report.repaired += len(keys) - len(wrong)

    async def _verify_altered(self, rows: Inspectable) -> None:
        altered, self._altered = self._altered, []
        async with self._source() as source:
            for low, high, keys in altered:
                found = await rows.altered(self._table, source.part(low, high))
                wrong = keys & {one.key for one in found}
                self.report.left += len(wrong)
                self.report.repaired += len(keys) - len(wrong)

    async def _differing(self, source: SourceTable) -> AsyncIterator[tuple[Bound, Bound]]:
        """Small ranges that differ, in key order."""
        cuts = await source.bounds(None, None, _CHUNK_ROWS)
        for low, high in pairwise([None, *cuts, None]):
            async for leaf in self._descend(source, [low, high], is_top=True):
                yield leaf
            self._on_progress(self.report)

    async def _descend(
        self, source: SourceTable, bounds: Sequence[Bound], *, is_top: bool = False
    ) -> AsyncIterator[tuple[Bound, Bound]]:
        ours, theirs = await asyncio.gather(
            source.summaries(bounds), self._rows.summaries(self._table, bounds)
        )
        self.report.transfers += 1
        if is_top:
            self.report.rows += sum(one.rows for one in ours)
        ranges = list(zip(pairwise(bounds), ours, theirs, strict=True))
        differing = [one for one in ranges if one[1] != one[2]]
        is_dense = len(ranges) > 1 and len(differing) * 2 > len(ranges)
        for (low, high), our, their in differing:
            if _is_leaf(our, their):
                yield low, high
            elif is_dense or our.rows <= _LEAF_ROWS:
                cuts = await source.bounds(low, high, _DENSE_ROWS)
                for leaf in pairwise([low, *cuts, high]):
                    yield leaf
            else:
                cuts = await source.bounds(low, high, -(-our.rows // _FANOUT))
                async for leaf in self._descend(source, [low, *cuts, high]):
                    yield leaf

    async def _candidates(
        self, source: SourceTable, low: Bound, high: Bound
    ) -> dict[Key, _Candidate]:
        """Every key of a small range that is not the same on both sides."""
        ours = await source.entries(low, high)
        found: dict[Key, _Candidate] = {}
        async for entry in self._entries(low, high):
            mine = ours.pop(entry.key, None)
            if mine is None:
                found[entry.key] = _Candidate(Kind.EXTRA, entry.version)
            elif mine.digest != entry.digest:
                found[entry.key] = _Candidate(Kind.DIFFERING, entry.version, mine.mark)
        found |= {key: _Candidate(Kind.MISSING, None, mine.mark) for key, mine in ours.items()}
        return found

    async def _entries(self, low: Bound, high: Bound) -> AsyncIterator[Entry]:
        """The store's rows of a range, page by page; a page begins with the last one's end."""
        last: Key | None = None
        while True:
            page = await self._rows.entries(self._table, last or low, high, _DENSE_ROWS + 1)
            self.report.transfers += 1
            for entry in page:
                if entry.key != last:
                    yield entry
            if len(page) <= _DENSE_ROWS:
                return
            last = page[-1].key

    async def _settle(
        self, source: SourceTable, leaf: _Leaf, before: dict[Key, _Candidate] | None
    ) -> None:
        """Judge what can be judged; the rest stays in doubt."""
        certain: list[Difference] = []
        for key, one in list(leaf.doubted.items()):
            if key in self._ahead:  # told already
                del leaf.doubted[key]
                continue
            earlier = before.get(key) if before else None
            kind = _judge(one, earlier, source.version)
            if kind is not None:
                certain.append(Difference(kind, key, one.version))
                del leaf.doubted[key]
        if not certain:
            return
        certain = await self._told_columns(source, await self._told_stale(source, certain))
        self.report.note(certain)
        if self._repair:
            await self._put_right(source, certain)
            self._touched.append((leaf.low, leaf.high, {one.key for one in certain}))

    async def _told_stale(
        self, source: SourceTable, found: Sequence[Difference]
    ) -> list[Difference]:
        """Tell which differing rows are merely older, by `updated_at`; only of those named."""
        room = _MOST_NAMED - len(self.report.differences)
        if _CHANGED not in self._rows.shape(self._table).columns or room <= 0:
            return list(found)
        wanted = [one.key for one in found[:room] if one.kind is Kind.DIFFERING]
        ours = await source.values(wanted, _CHANGED)
        told: list[Difference] = []
        for one in found:
            ours_at = ours.get(one.key)
            theirs = await self._rows.entry(self._table, one.key) if ours_at else None
            theirs_at = theirs.values.get(_CHANGED) if theirs else None
            is_older = (
                ours_at is not None and theirs_at is not None and _is_before(theirs_at, ours_at)
            )
            told.append(replace(one, kind=Kind.STALE) if is_older else one)
        return told

    async def _told_columns(
        self, source: SourceTable, found: Sequence[Difference]
    ) -> list[Difference]:
        """Say in which columns rows differ, where the store has PostgreSQL's texts of them."""
        room = _MOST_NAMED - len(self.report.differences)
        if not self._deep or isinstance(self._rows, Inspectable) or room <= 0:
            return list(found)
        both = [one.key for one in found[:room] if one.kind in (Kind.DIFFERING, Kind.STALE)]
        ours = await source.texts(both)
        told: list[Difference] = []
        for one in found:
            mine = ours.get(one.key)
            theirs = await self._rows.entry(self._table, one.key) if mine else None
            differ = theirs and mine and _differing_columns(mine, theirs.values)
            told.append(replace(one, columns=differ) if differ else one)
        return told

    async def _put_right(self, source: SourceTable, found: Sequence[Difference]) -> None:
        ahead = [one.key for one in found if one.kind is Kind.AHEAD]
        if ahead:
            await self._rows.forget(self._table, ahead, source.version)
        await self._rows.put_right(self._table, await source.changes([one.key for one in found]))


def _differing_columns(
    ours: Mapping[str, str | None], theirs: Mapping[str, str | None]
) -> tuple[str, ...]:
    return tuple(name for name, text in ours.items() if theirs.get(name) != text)


def _is_before(one: str, other: str) -> bool:
    """Of two instants, each as its store writes it; what no calendar of ours holds is not told."""
    try:
        return datetime.fromisoformat(one) < datetime.fromisoformat(other)
    except (ValueError, TypeError):
        return False


def _is_leaf(our: Summary, their: Summary) -> bool:
    return max(our.rows, their.rows) <= _LEAF_ROWS


def _is_certain(one: _Candidate, version: int) -> bool:
    """Whether the store's row can be judged by the source's at that version."""
    return one.version is not None and one.version <= version


def _judge(one: _Candidate, earlier: _Candidate | None, version: int) -> Kind | None:
    """What kind of difference it is; None while it cannot be told."""
    if _is_certain(one, version):
        return one.kind
    if earlier is None:
        return None
    if earlier.version is not None and earlier.version > version:
        return Kind.AHEAD
    if one.kind is Kind.MISSING is earlier.kind and one.mark == earlier.mark:
        return Kind.MISSING
    return None
