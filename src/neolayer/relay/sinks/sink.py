"""The face of a sink: three verbs and how it likes its batches.

A sink is idempotent by (key, version): given the same batch twice, or an old one late, it ends in
the same state. It stores its checkpoint, the position it reflects, after the data and in the same
engine, so that the two are lost or kept together.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from neolayer.errors import RelayError
from neolayer.relay.changes import Batch


class CopyLost(RelayError):
    """A sink no longer holds what was written to it."""

    def __init__(self, sink: str) -> None:
        super().__init__(f"{sink} no longer holds what was written to it")


class Snapshot(Protocol):
    """The tables as they were at one position, readable once per table."""

    @property
    def version(self) -> int: ...

    def rows(self, table: str, columns: Sequence[str]) -> AsyncIterator[bytes]:
        """PostgreSQL's COPY text of these columns, in blocks of whole lines."""
        ...


class Sink(Protocol):
    """One destination. Every failure is a NeolayerError; the lane that feeds it tries again."""

    @property
    def name(self) -> str: ...

    @property
    def wait_s(self) -> float:
        """How long changes may wait for company, so that writes stay few."""
        ...

    async def open(self, confirmed: int) -> int | None:
        """Connect and return the checkpoint; `confirmed` is where the stream starts.

        None means that changes are missing before `confirmed`, so that `copy` must come first.
        """
        ...

    async def copy(self, snapshot: Snapshot) -> None:
        """Make the sink reflect the snapshot, whatever it held, and store its checkpoint."""
        ...

    async def write(self, batches: Sequence[Batch]) -> None:
        """Apply batches in order and store the last one's position as checkpoint.

        Raises CopyLost where the sink was emptied since it was last written to; then nothing is
        written, and `copy` must come first.
        """
        ...

    async def close(self) -> None:
        """Release everything; safe to call twice, or without open."""
        ...
