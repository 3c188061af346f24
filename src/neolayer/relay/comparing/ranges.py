"""The two sides of one table, range by range: sums first, and keys where sums differ.

A range that differs is cut into sixteen, and one that is small enough is listed. So a difference
among n rows is found in O(log n) requests, and what travels is a few numbers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from neolayer.relay.comparable import Bound, Comparable, Entry, Key
from neolayer.relay.comparing.judging import Candidate
from neolayer.relay.comparing.report import Kind, Progress, TableReport
from neolayer.relay.comparing.source import SourceTable
from neolayer.relay.digests import Summary

_CHUNK_ROWS = 1 << 20  # sums of halves of so many digests are exact in a double
_FANOUT = 16
_LEAF_ROWS = 1_024
_DENSE_ROWS = 8_192  # where most ranges differ, fewer and larger lists

Range = tuple[Bound, Bound]


@dataclass(frozen=True, slots=True)
class Ranges:
    """One snapshot of the source beside the store; requests to the store are counted."""

    source: SourceTable
    rows: Comparable
    report: TableReport

    async def differing(self, on_progress: Progress) -> AsyncIterator[Range]:
        """Small ranges that differ, in key order."""
        cuts = await self.source.bounds(None, None, _CHUNK_ROWS)
        for low, high in pairwise([None, *cuts, None]):
            async for leaf in self._descend([low, high], is_top=True):
                yield leaf
            on_progress(self.report)

    async def _descend(
        self, bounds: Sequence[Bound], *, is_top: bool = False
    ) -> AsyncIterator[Range]:
        ours, theirs = await asyncio.gather(
            self.source.summaries(bounds), self.rows.summaries(self.report.table, bounds)
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
                cuts = await self.source.bounds(low, high, _DENSE_ROWS)
                for leaf in pairwise([low, *cuts, high]):
                    yield leaf
            else:
                cuts = await self.source.bounds(low, high, -(-our.rows // _FANOUT))
                async for leaf in self._descend([low, *cuts, high]):
                    yield leaf

    async def candidates(self, low: Bound, high: Bound) -> dict[Key, Candidate]:
        """Every key of a small range that is not the same on both sides."""
        ours = await self.source.entries(low, high)
        found: dict[Key, Candidate] = {}
        async for entry in self._entries(low, high):
            mine = ours.pop(entry.key, None)
            if mine is None:
                found[entry.key] = Candidate(Kind.EXTRA, entry.version)
            elif mine.digest != entry.digest:
                found[entry.key] = Candidate(Kind.DIFFERING, entry.version, mine.mark)
        found |= {key: Candidate(Kind.MISSING, None, mine.mark) for key, mine in ours.items()}
        return found

    async def _entries(self, low: Bound, high: Bound) -> AsyncIterator[Entry]:
        """The store's rows of a range, page by page; a page begins with the last one's end."""
        last: Key | None = None
        while True:
            page = await self.rows.entries(self.report.table, last or low, high, _DENSE_ROWS + 1)
            self.report.transfers += 1
            for entry in page:
                if entry.key != last:
                    yield entry
            if len(page) <= _DENSE_ROWS:
                return
            last = page[-1].key


def _is_leaf(our: Summary, their: Summary) -> bool:
    return max(our.rows, their.rows) <= _LEAF_ROWS
