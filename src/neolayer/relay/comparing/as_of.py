"""A table at a snapshot that the store has caught up with: what the two are compared as of."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from neolayer.position import Position
from neolayer.relay.comparable import Shape
from neolayer.relay.comparing.source import SourceTable, open_source
from neolayer.relay.snapshot import ExportedSnapshot

SnapshotMaker = Callable[[], AbstractAsyncContextManager[ExportedSnapshot]]
Reaches = Callable[[Position], Awaitable[object]]


@asynccontextmanager
async def source_as_of_now(
    snapshot: SnapshotMaker, reaches: Reaches, table: str, shape: Shape, database: str
) -> AsyncGenerator[SourceTable]:
    """The table as it is now, once the store has everything of it. Raises NotFresh."""
    async with snapshot() as exported:
        await reaches(Position.from_version(exported.version, database))
        yield await open_source(exported, table, shape)
