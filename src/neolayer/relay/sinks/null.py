"""A sink that keeps nothing: to measure the reading and decoding before it."""

from __future__ import annotations

from collections.abc import Sequence

from neolayer.relay.changes import Batch, TableChanges
from neolayer.relay.sinks.sink import Rejected


class NullSink:
    """Decodes every row, counts it and forgets it."""

    name = "null"
    database = "neolayer"
    tables: frozenset[str] = frozenset()
    wait_s = 0.0

    def __init__(self) -> None:
        self.rows = 0
        self.copies = 0
        self.position: int | None = None

    async def open(self, confirmed: int) -> int | None:
        if self.position is None:
            self.position = confirmed
        return self.position if self.position >= confirmed else None

    async def reflect(self, version: int) -> None:
        self.copies += 1
        self.position = version

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        for batch in batches:
            for changes in batch.changes:
                if isinstance(changes, TableChanges):
                    self.rows += _count(changes)
            self.position = batch.position
        return ()

    async def close(self) -> None:
        pass


def _count(changes: TableChanges) -> int:
    if changes.inserts_only:
        return sum(len(page) for page in changes.rows())
    return sum(1 for _ in changes.changes())
