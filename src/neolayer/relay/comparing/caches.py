"""Is every cached row as PostgreSQL has it, as of one position? What is not is taken back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from neolayer.position import Position
from neolayer.relay.comparable import Shape
from neolayer.relay.comparing.as_of import Reaches, SnapshotMaker, source_as_of_now
from neolayer.relay.comparing.redis import Cached, CachedRows
from neolayer.relay.comparing.report import Difference, Kind, Progress, TableReport
from neolayer.relay.comparing.source import SourceTable

_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class ComparedCache:
    """A cache to compare, and how to wait until it reflects a position (raises NotFresh)."""

    rows: CachedRows
    reaches: Reaches


async def reconcile_cache(
    cache: ComparedCache,
    table: str,
    database: str,
    snapshot: SnapshotMaker,
    *,
    repair: bool = False,
    on_progress: Progress = lambda _: None,
) -> TableReport:
    """Compare what is cached of one table, and with `repair` leave tombstones where it is wrong.

    Rows that are not cached are no difference. `rows` of the report are entries. Raises NotFresh,
    and what engines say.
    """
    work = _Cache(cache, table, database, snapshot, repair=repair)
    return await work.run(on_progress)


class _Cache:
    def __init__(
        self,
        cache: ComparedCache,
        table: str,
        database: str,
        snapshot: SnapshotMaker,
        *,
        repair: bool,
    ) -> None:
        self._cache = cache
        self._rows = cache.rows
        self._table = table
        self._database = database
        self._snapshot = snapshot
        self._repair = repair
        self._wrong: list[bytes] = []
        self.report = TableReport(table, cache.rows.name, Position(0, 0, database))

    async def run(self, on_progress: Progress) -> TableReport:
        doubted: list[Cached] = []
        async with self._source() as source:
            self.report.position = Position.from_version(source.version, self._database)
            async for entries in self._rows.scan(self._table):
                self.report.transfers += 1
                self.report.rows += len(entries)
                doubted += await self._judge(source, entries)
                on_progress(self.report)
        for _ in range(_ROUNDS):
            if not doubted:
                break
            async with self._source() as source:
                doubted = await self._look_again(source, doubted)
        self.report.unsettled = len(doubted)
        if self._wrong:
            async with self._source() as source:
                await self._verify(source)
        return self.report

    def _source(self) -> AbstractAsyncContextManager[SourceTable]:
        shape = Shape(self._rows.key_columns(self._table), ())
        return source_as_of_now(
            self._snapshot, self._cache.reaches, self._table, shape, self._database
        )

    async def _unequal(
        self, source: SourceTable, entries: Sequence[Cached]
    ) -> list[tuple[Cached, Kind]]:
        rows = await source.typed_rows([one.key for one in entries])
        found: list[tuple[Cached, Kind]] = []
        for one in entries:
            row = rows.get(one.key)
            if row is None:
                found.append((one, Kind.EXTRA))
            elif not self._rows.is_equal(self._table, one, row):
                found.append((one, Kind.DIFFERING))
        return found

    async def _judge(self, source: SourceTable, entries: Sequence[Cached]) -> list[Cached]:
        """Note what is wrong for certain; what lies above the snapshot is returned."""
        certain: list[tuple[Cached, Kind]] = []
        doubted: list[Cached] = []
        for one, kind in await self._unequal(source, entries):
            if one.version <= source.version:
                certain.append((one, kind))
            else:
                doubted.append(one)
        await self._note(source, certain)
        return doubted

    async def _look_again(self, source: SourceTable, doubted: Sequence[Cached]) -> list[Cached]:
        """Under a later snapshot: a version that it has not reached was never committed."""
        ahead = [one for one in doubted if one.version > source.version]
        await self._note(source, [(one, Kind.AHEAD) for one in ahead])
        again = [one.place for one in doubted if one.version <= source.version]
        if not again:
            return []
        self.report.transfers += 1
        return await self._judge(source, await self._rows.read(self._table, again))

    async def _note(self, source: SourceTable, found: Sequence[tuple[Cached, Kind]]) -> None:
        self.report.note([Difference(kind, one.key, one.version) for one, kind in found])
        if not self._repair or not found:
            return
        ahead = [one.place for one, kind in found if kind is Kind.AHEAD]
        if ahead:
            await self._rows.remove(ahead)
        places = [one.place for one, _ in found]
        await self._rows.mark(places, source.version)
        self._wrong += places

    async def _verify(self, source: SourceTable) -> None:
        entries = await self._rows.read(self._table, self._wrong)
        left = [
            one for one, _ in await self._unequal(source, entries) if one.version <= source.version
        ]
        self.report.note_repair(len(self._wrong), left)
