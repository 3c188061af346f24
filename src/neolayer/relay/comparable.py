"""What a store must answer so that its rows can be compared with PostgreSQL's, and put right.

A key is the tuple of its columns' texts as PostgreSQL writes them. Keys are ordered column by
column as PostgreSQL orders the type, texts by their bytes (`COLLATE "C"`). A range goes from its
lower bound, which belongs to it, to its upper bound, which does not; None is the open end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeAlias, runtime_checkable

from neolayer.relay.changes import Relation, TableChanges
from neolayer.relay.digests import Summary

Key: TypeAlias = tuple[str, ...]
Bound: TypeAlias = Key | None


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a table a store holds: the key it knows rows by, and the columns, in order.

    `since`, an instant, where the store lets go of old rows: those whose `created_at` is earlier
    may be there or not, and are not compared. `target` is where in the store it goes (a collection,
    a subject), with the names that it bears there.
    """

    key: tuple[str, ...]
    columns: tuple[str, ...]
    since: datetime | None = None
    target: tuple[str, ...] = ()


AGE = "created_at"
"""The column that says how old a row is."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row as a store has it. `version` is the packed position it was written with."""

    key: Key
    digest: int
    version: int


@dataclass(frozen=True, slots=True)
class StoredRow:
    """One whole row: PostgreSQL's text of each column, or the trace of a deletion.

    `digest` where the store keeps one beside values that it writes in another way.
    """

    key: Key
    values: Mapping[str, str | None]
    version: int
    deleted: bool = False
    digest: int | None = None


@dataclass(frozen=True, slots=True)
class Altered:
    """A row under the right checksum that holds something else in these columns."""

    key: Key
    version: int
    columns: tuple[str, ...]


class Comparable(Protocol):
    """A store that holds rows. Every failure is a NeolayerError."""

    @property
    def name(self) -> str: ...

    @property
    def tables(self) -> Collection[str]:
        """The tables (`schema.table`) it has copies of."""
        ...

    def shape(self, table: str) -> Shape:
        """What it holds of a table."""
        ...

    async def summaries(self, table: str, bounds: Sequence[Bound]) -> list[Summary]:
        """One summary for each range between two consecutive bounds, from one request.

        Rows that are marked as deleted are not there.
        """
        ...

    async def entries(self, table: str, low: Bound, high: Bound, limit: int) -> list[Entry]:
        """The first `limit` rows of a range, in key order."""
        ...

    async def entry(self, table: str, key: Key) -> StoredRow | None:
        """The row of that key, or the trace of its deletion where the store keeps one."""
        ...

    async def put_right(self, table: str, changes: TableChanges) -> None:
        """Apply rows and deletions as the sink would, leaving its checkpoint alone.

        Whatever the store has of a newer version stays.
        """
        ...

    async def newest(self, table: str, limit: int) -> list[tuple[Key, int]]:
        """The keys of the highest versions with these, deletions too; the highest first."""
        ...

    async def forget(self, table: str, keys: Sequence[Key], above: int) -> None:
        """Remove what these keys hold of a version above `above`, which no commit can have."""
        ...

    async def close(self) -> None:
        """Release everything."""
        ...


@runtime_checkable
class Inspectable(Protocol):
    """A store whose checksums lie beside the values: what somebody altered is found by looking."""

    async def altered(self, table: str, part: Rows) -> list[Altered]:
        """The rows of a part of the source that are here in that version or an older one, under
        the checksum they should have, and with other values."""
        ...


@runtime_checkable
class Invadable(Protocol):
    """A store whose documents need not be the relay's: others may put some of theirs beside them,
    which have neither version nor key and are in nobody's ranges."""

    async def strangers(self, table: str, limit: int) -> list[str]:
        """What names them, the first of them."""
        ...

    async def remove_strangers(self, table: str) -> None: ...


class Rows(Protocol):
    """A part of a table at a snapshot: see `sinks.sink.Snapshot`."""

    @property
    def version(self) -> int: ...

    async def describe(self, table: str, columns: Sequence[str]) -> Relation: ...

    def rows(self, table: str, columns: Sequence[str]) -> AsyncIterator[bytes]: ...
