"""The face of a sink: what it copies, and its verbs.

A sink is idempotent by (key, version): given the same batch twice, or an old one late, it ends in
the same state. It stores its checkpoint, the position it reflects, after the data and in the same
engine, so that the two are lost or kept together.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
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


Park = Callable[[Sequence[Rejected]], Awaitable[None]]
"""Keeps what was refused, before whoever met it goes on."""


class Snapshot(Protocol):
    """A table, or a part of it, as it was at one position, readable once."""

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

    Every failure is a NeolayerError; the lane that feeds the sink tries again. One that is
    neither `Rebuildable` nor `Resendable` nor `Forgetful` keeps nothing of the tables.
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
        before it are missing here, so that all tables must be copied first.
        """
        ...

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        """Apply batches in order, then store the last one's position as checkpoint.

        Returns the changes that the destination refuses for ever; the checkpoint passes them.
        Raises CopyLost where the sink was emptied since it was last written to; then nothing is
        written, and all tables must be copied first.
        """
        ...

    async def reflect(self, version: int) -> None:
        """Store this as the checkpoint, and nothing else: all tables are copied."""
        ...

    async def close(self) -> None:
        """Release everything; safe to call twice, or without open."""
        ...


class Copied(Protocol):
    """A sink into which tables are copied part by part."""

    @property
    def name(self) -> str: ...

    @property
    def database(self) -> str: ...

    @property
    def tables(self) -> frozenset[str]: ...

    def shape(self, table: str) -> Shape:
        """What it holds of a table, or tells of it."""
        ...

    async def begin_copy(self, version: int) -> None:
        """Note beside the data that all tables are being copied, from this version on.

        The note is lost with the data, so that what is in already is never looked for in vain.
        """
        ...

    async def copy_began(self) -> int:
        """The note that was left last; 0 where there is none."""
        ...

    async def reflect(self, version: int) -> None: ...


def note_of(sink: str) -> str:
    """The name of that note, where it lies among checkpoints."""
    return f"{sink}:copy"


@runtime_checkable
class Rebuildable(Copied, Protocol):
    """A sink that holds rows, each by its key and version: one may be put in by itself.

    These verbs may run beside `write`, and beside each other.
    """

    async def copy_part(self, part: Snapshot, table: str, park: Park) -> None:
        """Put in the rows of a part of the table, and leave the others and the checkpoint alone.

        What the destination refuses for ever goes to `park` as it is met.
        """
        ...

    async def drop_below(self, table: str, version: int) -> None:
        """Remove what is older than this version: PostgreSQL has it no more."""
        ...

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]: ...


@runtime_checkable
class Typed(Protocol):
    """A sink whose columns have types of their own, which a table may outgrow."""

    async def require_types(self, relation: Relation) -> None:
        """Raises Misfit where what it copies of the table does not fit."""
        ...


@runtime_checkable
class Resendable(Copied, Protocol):
    """A stream, which takes nothing back: a table may be told once more, part by part.

    These verbs come between two writes, never beside one.
    """

    async def begin_again(self, version: int, table: str) -> None:
        """Tell readers that what they have from before this version is told anew.

        Raises NotSupported where the table cannot be told again.
        """
        ...

    async def copy_part(self, part: Snapshot, table: str, park: Park, *, asked: bool) -> None:
        """Tell the rows of a part, and leave the checkpoint alone; `park` gets what is refused.

        `asked`: somebody wants all of it told once more; else only what may have been missed.
        """
        ...


@runtime_checkable
class Forgetful(Protocol):
    """A cache: it starts empty, so nothing needs to be copied."""

    async def forget_below(self, version: int) -> None:
        """Believe nothing that is older than this version; the checkpoint stays."""
        ...
