"""Cutting a stream of blocks into commits, and making the next one while this one is written.

Beside the batches that the server works on (see `lanes.py`) one waits for it and one is being
decoded and verified by a thread; no more are in memory. A batch closes at a number of rows rather
than of blocks, because a block of 2015 holds none and a block of today hundreds.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Generator,
    Iterable,
    Iterator,
)
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field

from neolayer.chain.model import BlockRows
from neolayer.errors import BadBlock

Source = Iterable[BlockRows | BadBlock] | AsyncIterable[BlockRows | BadBlock]

ROWS_PER_COMMIT = 4_000
BLOCKS_PER_COMMIT = 1_000


@dataclass(slots=True)
class Batch:
    """Blocks for one commit, and what could not be decoded on the way."""

    blocks: list[BlockRows] = field(default_factory=list[BlockRows])
    bad: list[BadBlock] = field(default_factory=list[BadBlock])
    rows: int = 0

    def add(self, item: BlockRows | BadBlock) -> None:
        if isinstance(item, BadBlock):
            self.bad.append(_without_frames(item))
        else:
            self.blocks.append(item)
            self.rows += 1 + len(item.transactions) + len(item.logs or ())

    def is_full(self, blocks_per_commit: int | None) -> bool:
        if blocks_per_commit is not None:
            return len(self.blocks) >= blocks_per_commit or len(self.bad) >= BLOCKS_PER_COMMIT
        items = len(self.blocks) + len(self.bad)
        return self.rows >= ROWS_PER_COMMIT or items >= BLOCKS_PER_COMMIT

    def __bool__(self) -> bool:
        return bool(self.blocks or self.bad)


def _without_frames(bad: BadBlock) -> BadBlock:
    """The refusal with its causes alone: a traceback would keep the block as it came, all of it,
    until the run ends."""
    link: BaseException | None = bad
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return bad


async def ahead(source: Source, *, blocks_per_commit: int | None) -> AsyncGenerator[Batch]:
    """The source's batches, one of them prepared while the caller works on another."""
    async with aclosing(_cut(source, blocks_per_commit)) as batches:
        coming = asyncio.create_task(_next(batches))
        try:
            while (batch := await coming) is not None:
                coming = asyncio.create_task(_next(batches))
                yield batch
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)


def _cut(source: Source, blocks_per_commit: int | None) -> AsyncGenerator[Batch]:
    if isinstance(source, AsyncIterable):
        return _cut_async(source, blocks_per_commit)
    return _cut_in_thread(source, blocks_per_commit)


async def _next(batches: AsyncIterator[Batch]) -> Batch | None:
    return await anext(batches, None)


async def _cut_async(
    source: AsyncIterable[BlockRows | BadBlock], blocks_per_commit: int | None
) -> AsyncGenerator[Batch]:
    batch = Batch()
    async for item in source:
        batch.add(item)
        if batch.is_full(blocks_per_commit):
            yield batch
            batch = Batch()
    if batch:
        yield batch


async def _cut_in_thread(
    source: Iterable[BlockRows | BadBlock], blocks_per_commit: int | None
) -> AsyncGenerator[Batch]:
    """Always the same thread: what a source opens may belong to the thread that opened it."""
    loop = asyncio.get_running_loop()
    items = iter(source)
    with ThreadPoolExecutor(1, "neolayer-decode") as thread:
        try:
            while batch := await loop.run_in_executor(thread, _take, items, blocks_per_commit):
                yield batch
        finally:
            thread.submit(_close, items)


def _take(items: Iterator[BlockRows | BadBlock], blocks_per_commit: int | None) -> Batch:
    batch = Batch()
    for item in items:
        batch.add(item)
        if batch.is_full(blocks_per_commit):
            break
    return batch


def _close(items: Iterator[BlockRows | BadBlock]) -> None:
    if isinstance(items, Generator):
        items.close()
