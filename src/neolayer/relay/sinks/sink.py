"""The face of a sink: what it copies, and three verbs.

A sink is idempotent by (key, version): given the same batch twice, or an old one late, it ends in
the same state. It stores its checkpoint, the position it reflects, after the data and in the same
engine, so that the two are lost or kept together.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from neolayer.errors import RelayError
from neolayer.relay.changes import Batch, Relation
from neolayer.relay.comparable import Shape


class CopyLost(RelayError):
    """A sink no longer holds what was written to it."""

    def __init__(self, sink: str) -> None:
        super().__init__(f"{sink} no longer holds what was written to it")


@dataclass(frozen=True, slots=True)
class Rejected:
    """A change the destination will never take: parked with its cause while its neighbours flow.

    `row` holds the values as PostgreSQL's text, None for NULL; of a deleted row only its key.
    """

    table: str
    key: tuple[str | None, ...]
    version: int
    deleted: bool
    cause: str
    row: dict[str, str | None]


class Snapshot(Protocol):
    """The tables as they were at one position, readable once per table."""

    @property
    def version(self) -> int: ...

    async def describe(self, table: str, columns: Sequence[str]) -> Relation:
        """These columns of a table with their types, in this order: what `rows` are made of."""
        ...

    def rows(self, table: str, columns: Sequence[str]) -> AsyncIterator[bytes]:
        """PostgreSQL's COPY text of these columns, in blocks of whole lines."""
        ...


class Sink(Protocol):
    """One destination of one database's changes.

    Every failure is a NeolayerError; the lane that feeds the sink tries again.
    """

    @property
    def name(self) -> str:
        """Unique, and the checkpoint's name: "clickhouse", "mongodb:event_store"."""
        ...

    @property
    def database(self) -> str:
        """The database whose log it reads."""
        ...

    @property
    def tables(self) -> frozenset[str]:
        """What it copies, as `schema.table`."""
        ...

    @property
    def wait_s(self) -> float:
        """How long changes may wait for company, so that writes stay few."""
        ...

    async def open(self, confirmed: int) -> int | None:
        """Connect, make what is missing, and return the checkpoint.

        `confirmed` is the version from which changes can still be had. None means that changes
        before it are missing here, so that `copy` must come first.
        """
        ...

    async def copy(
        self, snapshot: Snapshot, tables: Collection[str] | None = None
    ) -> Sequence[Rejected] | None:
        """Make these tables reflect the snapshot, whatever they held.

        Without `tables`: all of them, and then the snapshot's version is the checkpoint. Returns
        the rows that the destination refuses for ever.
        """
        ...

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        """Apply batches in order, then store the last one's position as checkpoint.

        Returns the changes that the destination refuses for ever; the checkpoint passes them.
        Raises CopyLost where the sink was emptied since it was last written to; then nothing is
        written, and `copy` must come first.
        """
        ...

    async def close(self) -> None:
        """Release everything; safe to call twice, or without open."""
        ...


@runtime_checkable
class Rebuildable(Protocol):
    """A sink that holds rows, each by its key and version: one may be put in by itself.

    These verbs may run beside `write`.
    """

    @property
    def name(self) -> str: ...

    @property
    def database(self) -> str: ...

    @property
    def tables(self) -> frozenset[str]: ...

    def shape(self, table: str) -> Shape:
        """What it holds of a table."""
        ...

    async def copy_part(self, part: Snapshot, table: str) -> Sequence[Rejected]:
        """Put in the rows of a part of the table, and leave the others and the checkpoint alone.

        Returns the rows that the destination refuses for ever.
        """
        ...

    async def drop_below(self, table: str, version: int) -> None:
        """Remove what is older than this version: PostgreSQL has it no more."""
        ...

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]: ...


@runtime_checkable
class Resendable(Protocol):
    """A stream, which takes nothing back: a table may be told once more, part by part.

    These verbs come between two writes, never beside one.
    """

    @property
    def name(self) -> str: ...

    @property
    def database(self) -> str: ...

    @property
    def tables(self) -> frozenset[str]: ...

    def shape(self, table: str) -> Shape:
        """What it tells of a table."""
        ...

    async def begin_again(self, version: int, table: str) -> None:
        """Tell readers that what they have from before this version is told anew.

        Raises NotSupported where the table cannot be told again.
        """
        ...

    async def copy_part(self, part: Snapshot, table: str) -> Sequence[Rejected]:
        """Tell the rows of a part, and leave the checkpoint alone; what is refused for ever."""
        ...
