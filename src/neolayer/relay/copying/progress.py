"""How far copies are, kept so that a process that dies goes on where it was.

A table that somebody wants made anew stands by itself; the tables of a sink that is copied as a
whole belong together. What is noted of a table holds for the columns and the key it was begun with,
and for where it went: a program that copies others, or elsewhere, starts it over.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Protocol

from neolayer.relay.comparable import Bound, Shape


@dataclass(frozen=True, slots=True)
class Wanted:
    """A table to be copied or gone on with: `version` is None until its parts are known.

    `whole`: the relay copies all tables of the sink, which missed changes; nobody asked. `shape` is
    the mark of what is copied of it.
    """

    sink: str
    table: str
    version: int | None
    whole: bool = False
    shape: str | None = None

    def under(self, shape: Shape) -> Wanted:
        """The same where it was begun for this shape; else it has not begun."""
        mark = _mark(shape)
        return self if self.shape == mark else replace(self, version=None, shape=mark)


@dataclass(frozen=True, slots=True)
class Range:
    """One part of a table, from `low` on and below `high`."""

    number: int
    low: Bound
    high: Bound


class Progress(Protocol):
    """Every failure is a NeolayerError."""

    async def begin_copy(self, sink: str, tables: Collection[str]) -> None:
        """All tables of a sink are to be copied; what was known of an earlier copy is forgotten."""
        ...

    async def copy_of(self, sink: str) -> list[Wanted]:
        """The tables of such a copy, while it has not ended."""
        ...

    async def end_copy(self, sink: str, version: int) -> None:
        """The copy that began with that version is complete."""
        ...

    async def begin_table(
        self, wanted: Wanted, version: int, bounds: Iterable[tuple[Bound, Bound]]
    ) -> None:
        """Its shape, its version and its parts, at once."""
        ...

    async def ranges_left(self, wanted: Wanted) -> list[Range]:
        """The parts that are not in the sink yet."""
        ...

    async def range_done(self, wanted: Wanted, number: int, *, rows: int) -> None: ...


class OwnProgress:
    """The same for as long as this object lives."""

    def __init__(self) -> None:
        self._wanted: dict[tuple[str, str], Wanted] = {}
        self._left: dict[tuple[str, str], dict[int, Range]] = {}

    async def begin_copy(self, sink: str, tables: Collection[str]) -> None:
        self._forget(sink)
        for table in sorted(tables):
            self._wanted[sink, table] = Wanted(sink, table, None, whole=True)

    async def copy_of(self, sink: str) -> list[Wanted]:
        return [one for (name, _), one in self._wanted.items() if name == sink]

    async def end_copy(self, sink: str, version: int) -> None:
        self._forget(sink)

    async def begin_table(
        self, wanted: Wanted, version: int, bounds: Iterable[tuple[Bound, Bound]]
    ) -> None:
        place = wanted.sink, wanted.table
        ranges = (Range(number, *ends) for number, ends in enumerate(bounds))
        self._left[place] = {one.number: one for one in ranges}
        self._wanted[place] = replace(wanted, version=version)

    async def ranges_left(self, wanted: Wanted) -> list[Range]:
        return list(self._left[wanted.sink, wanted.table].values())

    async def range_done(self, wanted: Wanted, number: int, *, rows: int) -> None:
        self._left[wanted.sink, wanted.table].pop(number, None)

    def _forget(self, sink: str) -> None:
        for place in [place for place in self._wanted if place[0] == sink]:
            del self._wanted[place]
            self._left.pop(place, None)


def _mark(shape: Shape) -> str:
    """The same for the same key, columns and target; how old its rows may be changes every
    moment."""
    told = repr((shape.key, shape.columns, shape.target))
    return blake2b(told.encode(), digest_size=16).hexdigest()
