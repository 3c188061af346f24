"""Snapshots: an aggregate's state at a version, kept to load faster and safe to delete.

One is due when the stream has grown by `every` events since the last. It is written after the
append, in a task of its own: an append neither waits for it nor fails with it. A snapshot of
another schema version is ignored, so changing a state's shape means raising the number.

Where a category's events hold personal fields the whole state is sealed under the key of the one
person concerned; a stream about several people has none, because a state in plain text would
outlive their keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from neolayer.errors import InvalidInput
from neolayer.telemetry import log_warning

_FAREWELL_S = 5.0


@dataclass(frozen=True, slots=True)
class SnapshotPolicy:
    """How often a snapshot is taken, and which form of state it holds."""

    every: int = 100
    schema_version: int = 1

    def __post_init__(self) -> None:
        if self.every < 1 or self.schema_version < 1:
            raise InvalidInput("snapshots are taken every so many events, at least one")

    def is_due(self, *, last: int, version: int) -> bool:
        """Whether a state at `version` is worth keeping, the last one being that of `last`."""
        return version - last >= self.every


class BackgroundWrites:
    """Work that may end after its caller went on; awaited when the platform closes."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], *, what: str) -> None:
        """Run it beside the caller; an error is logged, because nobody waits for it."""
        task = asyncio.create_task(_logged(work, what))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def settle(self) -> None:
        """Wait until nothing is under way."""
        while self._running:
            await asyncio.wait(self._running)


async def _logged(work: Coroutine[Any, Any, None], what: str) -> None:
    try:
        await work
    except Exception as exc:  # a snapshot that is not written costs time, never data
        log_warning(f"{what} failed", error=f"{type(exc).__name__}: {exc}")


@asynccontextmanager
async def background_writes() -> AsyncGenerator[BackgroundWrites]:
    """What is started is given a moment to end when the block does."""
    writes = BackgroundWrites()
    try:
        yield writes
    finally:
        try:
            async with asyncio.timeout(_FAREWELL_S):
                await writes.settle()
        except TimeoutError:
            log_warning("snapshots were still being written")
