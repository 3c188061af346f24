"""Engine calls block, so they run on threads; how many at once is decided here.

A request waits for a place before it touches the engine. Places are few, so that memory and
threads stay bounded; the queue is bounded too, and beyond it a client is told to come back (503,
which clickhouse-connect retries). `/ping` needs no place.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from neolayer.engines.embedded.clickhouse_server.faults import (
    TOO_MANY_SIMULTANEOUS_QUERIES,
    ClickHouseFault,
)
from neolayer.waiting import to_its_end

P = ParamSpec("P")
T = TypeVar("T")

PLACES = 32
QUEUE = 128
QUEUE_SECONDS = 60.0


class Threads:
    """The engine's threads and the queue before them."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(PLACES + 4, thread_name_prefix="engine")
        self._places = asyncio.Semaphore(PLACES)
        self._waiting = 0

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncGenerator[None]:
        """Hold one of the places. Raises a fault where the queue is full or does not move."""
        if self._places.locked() and self._waiting >= QUEUE:
            raise _busy()
        self._waiting += 1
        try:
            async with asyncio.timeout(QUEUE_SECONDS):
                await self._places.acquire()
        except TimeoutError as exc:
            raise _busy() from exc
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._places.release()

    def start(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """Run on a thread; the caller sees to it that the future is awaited."""
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._pool, lambda: function(*args, **kwargs))

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run on a thread and wait for its end even when cancelled: an engine call cannot be
        left behind, for the link it uses must not be used by two threads."""
        return await to_its_end(self.start(function, *args, **kwargs))

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def _busy() -> ClickHouseFault:
    return ClickHouseFault.of(
        TOO_MANY_SIMULTANEOUS_QUERIES, f"Too many simultaneous queries: {PLACES} run, more wait"
    )
