"""Following a node's head, through reorganisations.

Each round compares what is stored with what the node says at the same height. Only a different
hash at a height both know is a reorganisation; a node whose head is lower but agrees is behind, and
is waited for. The fork point is found by walking back over hashes matched to their heights; the
new branch is then fetched, and the commit that takes it in takes the old one back. Should the node
change its mind in between, the blocks do not fit, nothing is stored, and the next round looks
again. Blocks that are stored above a gap are met on the way up, and compared like all others.

A round may be broken off anywhere and begun again. So it is where the database goes away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass

from neolayer.chain.batches import Batch, ahead
from neolayer.chain.finality import finalise
from neolayer.chain.ingest import IngestReport, Progress, short_turns
from neolayer.chain.lanes import SteadyStore
from neolayer.chain.model import BlockRows, Network
from neolayer.chain.outages import Outage, through_outages
from neolayer.chain.pending import Pool
from neolayer.chain.reorg import highest_stored
from neolayer.chain.rules import first_misfit
from neolayer.chain.sources.rpc import MissingBlock, Node, fetch_range
from neolayer.chain.store import BlockStore, Terms
from neolayer.errors import BadBlock, SourceError

POLL_S = 1.0
# How often in a row a node may send blocks that do not fit before that is an error.
MISFITS = 5
# The first step back compares this many hashes; every further one twice as many.
FIRST_STEP_BACK = 16
LONGEST_STEP_BACK = 512
# At most so many blocks of a new branch are taken in by the commit that takes the old one back.
LONGEST_BRANCH = 1_024


@dataclass(frozen=True, slots=True)
class Plan:
    """What a round fetches: the heights after `after`, up to `last`.

    With `fork` these are a branch that stands on that height: first all is taken back that it rules
    out above.
    """

    after: int
    last: int
    fork: int | None = None


@dataclass(frozen=True, slots=True)
class Following:
    """What to follow: from which height where nothing is stored, how often, and up to where."""

    network: Network
    start: int = 0
    poll_s: float = POLL_S
    until: int | None = None
    blocks_per_commit: int | None = None


async def follow(
    node: Node,
    *,
    dsn: str,
    following: Following,
    pool: Pool | None = None,
    on_progress: Progress | None = None,
    stop: asyncio.Event | None = None,
) -> IngestReport:
    """Keep the store in step with the node until `stop` is set or height `until` is stored.

    Returns the sums and the last position. Raises EngineUnavailable where the database is away from
    the start or stays away for a minute, SourceError where the node stays silent as long or shares
    no block with what is stored, and BadBlock where it goes on sending blocks that are bad or do
    not fit; what was committed by then stays.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(short_turns())
        server = SteadyStore(dsn, following.network, old_is_final=False)
        await stack.enter_async_context(aclosing(server))
        follower = Follower(node, server, following, on_progress, stop or asyncio.Event())
        return await follower.run(pool)


class Follower:
    """One run of `follow`."""

    def __init__(
        self,
        node: Node,
        server: SteadyStore,
        following: Following,
        on_progress: Progress | None,
        stop: asyncio.Event,
    ) -> None:
        self._node = node
        self._server = server
        self._following = following
        self._on_progress = on_progress
        self._stop = stop
        self._outage = Outage(is_wanted=lambda: not stop.is_set())
        self._misfits = 0
        self._report = IngestReport()

    async def run(self, pool: Pool | None) -> IngestReport:
        await self._server.opened()  # not tried again: a wrong address tells at once
        while not self._stop.is_set():
            if await through_outages(lambda: self._round(pool), self._outage):
                break
            await self._pause()
        return self._report

    async def _round(self, pool: Pool | None) -> bool:
        """One comparison with the node, and what follows from it; whether `until` is reached."""
        store = await self._server.opened()
        plan = await make_plan(self._node, store, start=self._following.start)
        fits = plan is None or await self._try(plan)
        if pool is not None:
            await pool.refresh(await self._server.opened())
        return fits and await self._is_done(plan)

    async def _try(self, plan: Plan) -> bool:
        """Whether the blocks fit. Raises what is wrong with them when it goes on too long."""
        try:
            await self._carry_out(plan)
        except (BadBlock, MissingBlock):
            self._misfits += 1
            if self._misfits >= MISFITS:
                raise
            return False
        self._misfits = 0
        return True

    async def _carry_out(self, plan: Plan) -> None:
        blocks = fetch_range(self._node, first=plan.after + 1, last=plan.last)
        async with aclosing(blocks):
            if plan.fork is not None:
                branch = await _gathered(blocks)
                await self._check_branch(plan, branch.blocks)
                await self._commit(branch, Terms(fork=plan.fork, all_or_none=True))
            else:
                await self._append(blocks)
        store = await self._server.opened()
        await finalise(store, node_final=await self._node.final())
        self._report = self._report.at(await store.position())
        self._tell()

    async def _append(self, blocks: AsyncGenerator[BlockRows | BadBlock]) -> None:
        batches = ahead(blocks, blocks_per_commit=self._following.blocks_per_commit)
        async with aclosing(batches):
            async for batch in batches:
                await self._commit(batch, Terms(all_or_none=True))
                self._tell()
                if self._stop.is_set():
                    return

    async def _check_branch(self, plan: Plan, blocks: list[BlockRows]) -> None:
        """Raises BadBlock where the branch has a gap or does not stand on the fork point."""
        known = await (await self._server.opened()).known([plan.after])
        parent = known[plan.after].block_hash if plan.after in known else None
        if (misfit := first_misfit(blocks, parent)) is not None:
            raise misfit

    async def _commit(self, batch: Batch, terms: Terms) -> None:
        if batch.bad:
            raise batch.bad[0]
        store = await self._server.opened()
        self._report = self._report.plus(await store.commit(batch.blocks, terms))
        self._outage.ended()

    def _tell(self) -> None:
        if self._on_progress is not None:
            self._on_progress(self._report)

    async def _is_done(self, plan: Plan | None) -> bool:
        until = self._following.until
        if until is None or (plan is not None and plan.last < until):
            return False
        head = await (await self._server.opened()).head()
        return head is not None and head.number >= until

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self._stop.wait(), self._following.poll_s)
        except TimeoutError:
            return


async def make_plan(node: Node, store: BlockStore, *, start: int) -> Plan | None:
    """What to do now, or None where there is nothing to do but wait.

    Raises SourceError where node and store share no block.
    """
    stored = await store.head()
    theirs = await node.head()
    if stored is None:
        return _onwards(start - 1, theirs)
    common = await highest_stored(store, up_to=min(stored.number, theirs))
    if common is None:
        return None  # the node is behind all that is stored
    hashes = await node.hashes([common])
    known = await store.known([common])
    if common not in hashes or common not in known:
        return None  # one of them lost it between two answers
    if hashes[common] != known[common].block_hash:
        return _branch(await find_fork(node, store, below=common), theirs)
    if theirs <= common or common == stored.number:
        return _onwards(common, theirs)
    return _branch(common, theirs)  # into a gap, with an island above


def _branch(fork: int, theirs: int) -> Plan:
    return Plan(fork, min(theirs, fork + LONGEST_BRANCH), fork=fork)


def _onwards(after: int, last: int) -> Plan | None:
    return Plan(after, last) if last > after else None


async def find_fork(node: Node, store: BlockStore, *, below: int) -> int:
    """The highest height at which node and store agree, below one at which they do not.

    Raises SourceError where they agree nowhere.
    """
    step = FIRST_STEP_BACK
    while (top := await highest_stored(store, up_to=below - 1)) is not None:
        heights = range(max(0, top + 1 - step), top + 1)
        theirs = await node.hashes(heights)
        ours = await store.known(heights)
        if agreed := [n for n in heights if n in ours and theirs.get(n) == ours[n].block_hash]:
            return max(agreed)
        below, step = heights[0], min(step * 2, LONGEST_STEP_BACK)
    raise SourceError(
        f"{node.address} shares no block with what is stored of this network",
        hint="is it a node of the same chain?",
    )


async def _gathered(blocks: AsyncIterable[BlockRows | BadBlock]) -> Batch:
    batch = Batch()
    async for block in blocks:
        batch.add(block)
    return batch
