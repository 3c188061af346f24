"""The verb behind `neolayer ingest`: a source of blocks in, committed rows and a position out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import AsyncExitStack, aclosing, contextmanager
from dataclasses import dataclass, replace

from neolayer.chain.batches import Source, ahead
from neolayer.chain.finality import finalise
from neolayer.chain.lanes import Lanes
from neolayer.chain.model import Network
from neolayer.chain.outages import Outage, through_outages
from neolayer.chain.store import Commit
from neolayer.errors import BadBlock
from neolayer.position import Position


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What a run stored. `refused` are the blocks it did not take, each with its reason; the
    position covers everything stored. Both are told at the end of a run only."""

    blocks: int = 0
    transactions: int = 0
    logs: int = 0
    contracts: int = 0
    skipped: int = 0
    orphaned: int = 0
    refused: tuple[BadBlock, ...] = ()
    position: Position | None = None

    def plus(self, commit: Commit) -> IngestReport:
        """With what a commit stored; what it refused is gathered apart: there may be much of it."""
        return replace(
            self,
            blocks=self.blocks + commit.blocks,
            transactions=self.transactions + commit.transactions,
            logs=self.logs + commit.logs,
            contracts=self.contracts + commit.contracts,
            skipped=self.skipped + commit.skipped,
            orphaned=self.orphaned + commit.orphaned,
        )

    def at(self, position: Position) -> IngestReport:
        return replace(self, position=position)


Progress = Callable[[IngestReport], None]


async def ingest(
    source: Source,
    *,
    dsn: str,
    network: Network,
    blocks_per_commit: int | None = None,
    on_progress: Progress | None = None,
    begun: IngestReport | None = None,
) -> IngestReport:
    """Store every block of the source that can be; safe to run twice, in parallel, after a kill.

    A block that is bad, or contradicts a stored one, ends up in `refused` and nothing of it is
    stored; the rest is unharmed. Without `blocks_per_commit` a commit holds about 4,000 rows.
    `on_progress` is called after each commit. The report goes on from `begun`. Raises
    EngineUnavailable where the server stays away for a minute, and whatever the source raises; what
    was committed by then stays.
    """
    report = begun or IngestReport()
    refused = list(report.refused)
    async with AsyncExitStack() as stack:
        stack.enter_context(short_turns())
        lanes = await stack.enter_async_context(aclosing(Lanes(dsn, network)))
        batches = ahead(source, blocks_per_commit=blocks_per_commit)
        await stack.enter_async_context(aclosing(batches))

        async def land() -> IngestReport:
            batch, commit = await lanes.land()
            refused.extend((*batch.bad, *commit.refused))
            landed = report.plus(commit)
            if on_progress is not None:
                on_progress(landed)
            return landed

        async for batch in batches:
            while not lanes.may_start(batch):
                report = await land()
            lanes.start(batch)
        while lanes:
            report = await land()

        async def settle() -> Position:
            store = await lanes.opened()
            await finalise(store)
            return await store.position()

        # Where nothing came nothing was reached yet: do not wait.
        came = refused or report != IngestReport()
        position = await (through_outages(settle, Outage()) if came else settle())
        return replace(report, refused=tuple(refused), position=position)


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
