"""Commits under way: over connections that come back, and more than one at a time.

Two commits at once keep the server busy while one of them waits for the disk, and use a second
processor where there is one. They may overlap because blocks come in any order anyway; only a batch
that shares a height with one under way, or contradicts it, waits, so that what a source says first
about a height is what counts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import AsyncExitStack
from dataclasses import dataclass

import stamina

from neolayer.chain.batches import Batch
from neolayer.chain.model import Network
from neolayer.chain.rules import contradiction, known_from
from neolayer.chain.store import BlockStore, Commit, Terms, open_store
from neolayer.errors import EngineUnavailable

# How long a server may be away (a restart, a failover) before a run gives up.
SERVER_AWAY_S = 60.0
LANES = 2


class SteadyStore:
    """A store that comes back when the server does.

    A commit whose answer was lost is simply made again: what it stored is skipped.
    """

    def __init__(self, dsn: str, network: Network, *, old_is_final: bool = True) -> None:
        self._dsn = dsn
        self._old_is_final = old_is_final
        self._network = network
        self._stack = AsyncExitStack()
        self._store: BlockStore | None = None

    async def opened(self) -> BlockStore:
        """The store, reopened where its connection broke. Raises EngineUnavailable."""
        if self._store is None or self._store.connection.closed:
            await self.aclose()
            self._store = await self._stack.enter_async_context(
                open_store(self._dsn, self._network, old_is_final=self._old_is_final)
            )
        return self._store

    async def commit(self, batch: Batch, terms: Terms | None = None) -> Commit:
        """See `BlockStore.commit`. The first opening is not retried: a wrong DSN tells at once."""
        if self._store is None:
            await self.opened()
        async for attempt in stamina.retry_context(
            on=EngineUnavailable, attempts=None, timeout=SERVER_AWAY_S, wait_initial=0.2
        ):
            with attempt:
                return await (await self.opened()).commit(batch.blocks, terms)
        raise AssertionError("unreachable")

    async def aclose(self) -> None:
        await self._stack.aclose()
        self._store = None


@dataclass(frozen=True, slots=True)
class _UnderWay:
    batch: Batch
    server: SteadyStore
    task: asyncio.Task[Commit]


class Lanes:
    """Commits of one run: `start` them in the order of the source, `land` them in the same."""

    def __init__(self, dsn: str, network: Network, *, lanes: int = LANES) -> None:
        self._idle = deque(SteadyStore(dsn, network) for _ in range(lanes))
        self._under_way: deque[_UnderWay] = deque()

    def __bool__(self) -> bool:
        """Whether any commit is under way."""
        return bool(self._under_way)

    def may_start(self, batch: Batch) -> bool:
        """Whether a lane is free and the batch has nothing to fear from those under way."""
        if not self._idle:
            return False
        known = {
            block.number: known_from(block)
            for flight in self._under_way
            for block in flight.batch.blocks
        }
        return not any(
            block.number in known or contradiction(block, known) for block in batch.blocks
        )

    def start(self, batch: Batch) -> None:
        """Begin the commit; see `may_start`."""
        server = self._idle.popleft()
        task = asyncio.create_task(server.commit(batch))
        self._under_way.append(_UnderWay(batch, server, task))

    async def land(self) -> tuple[Batch, Commit]:
        """Wait for the oldest commit under way; raises what it raised."""
        oldest = self._under_way[0]
        commit = await oldest.task
        self._under_way.popleft()
        self._idle.append(oldest.server)
        return oldest.batch, commit

    async def opened(self) -> BlockStore:
        """A store that no commit is using. Raises EngineUnavailable."""
        return await self._idle[-1].opened()

    async def aclose(self) -> None:
        """End what is under way, and the connections."""
        tasks = [flight.task for flight in self._under_way]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        servers = [*self._idle, *(flight.server for flight in self._under_way)]
        await asyncio.gather(*(server.aclose() for server in servers))
