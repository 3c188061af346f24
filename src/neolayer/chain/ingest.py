"""The verb behind `neolayer ingest`: a source of blocks in, committed rows and a position out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import AsyncExitStack, aclosing, contextmanager
from dataclasses import dataclass

import stamina

from neolayer.chain.batches import Batch, Source, ahead
from neolayer.chain.finality import finalise
from neolayer.chain.model import Network
from neolayer.chain.store import BlockStore, Commit, Terms, open_store
from neolayer.errors import BadBlock, EngineUnavailable
from neolayer.position import Position

# How long a server may be away (a restart, a failover) before a run gives up.
SERVER_AWAY_S = 60.0


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What a run stored. `refused` are the blocks it did not take, each with its reason; the
    position covers everything stored."""

    blocks: int = 0
    transactions: int = 0
    logs: int = 0
    contracts: int = 0
    skipped: int = 0
    orphaned: int = 0
    refused: tuple[BadBlock, ...] = ()
    position: Position | None = None

    def plus(self, commit: Commit, bad: tuple[BadBlock, ...] = ()) -> IngestReport:
        return IngestReport(
            self.blocks + commit.blocks,
            self.transactions + commit.transactions,
            self.logs + commit.logs,
            self.contracts + commit.contracts,
            self.skipped + commit.skipped,
            self.orphaned + commit.orphaned,
            (*self.refused, *bad, *commit.refused),
            self.position,
        )

    def at(self, position: Position) -> IngestReport:
        fields = (self.blocks, self.transactions, self.logs, self.contracts, self.skipped)
        return IngestReport(*fields, self.orphaned, self.refused, position)


Progress = Callable[[IngestReport], None]


async def ingest(
    source: Source,
    *,
    dsn: str,
    network: Network,
    blocks_per_commit: int | None = None,
    on_progress: Progress | None = None,
) -> IngestReport:
    """Store every block of the source that can be; safe to run twice, in parallel, after a kill.

    A block that is bad, or contradicts a stored one, ends up in `refused` and nothing of it is
    stored; the rest is unharmed. Without `blocks_per_commit` a commit holds about 4,000 rows.
    `on_progress` is called after each commit. Raises EngineUnavailable where the server stays away
    for a minute, and whatever the source raises; what was committed by then stays.
    """
    report = IngestReport()
    async with AsyncExitStack() as stack:
        stack.enter_context(short_turns())
        server = await stack.enter_async_context(aclosing(SteadyStore(dsn, network)))
        batches = ahead(source, blocks_per_commit=blocks_per_commit)
        await stack.enter_async_context(aclosing(batches))
        async for batch in batches:
            report = report.plus(await server.commit(batch), tuple(batch.bad))
            if on_progress is not None:
                on_progress(report)
        store = await server.opened()
        await finalise(store)
        return report.at(await store.position())


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


@contextmanager
def short_turns(seconds: float = 0.0005) -> Generator[None]:
    """Let threads take turns more often than every 5 ms: the one that feeds the server's socket
    would otherwise wait behind the one that decodes, once for every buffer it sends."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
