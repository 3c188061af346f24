"""The main job in one go: a chain in, every store in step, the same sums in both.

With no blocks of one's own the chain is made on the spot, with a reorganisation in the middle, and
called synthetic. What this does is what `neolayer ingest --wait` and two queries would do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import msgspec

from neolayer.chain.batches import Batch
from neolayer.chain.evm import decode_block
from neolayer.chain.ingest import IngestReport, Progress, ingest
from neolayer.chain.lanes import SteadyStore
from neolayer.chain.model import BlockRows, Network
from neolayer.chain.networks import SYNTHETIC
from neolayer.chain.registry import ingest_as, network_of
from neolayer.chain.sources.files import read_blocks
from neolayer.chain.sources.jsonrpc import open_rpc
from neolayer.chain.sources.neo_rpc import node_for
from neolayer.chain.sources.rpc import fetch_range
from neolayer.chain.store import Terms
from neolayer.chain.synthetic import make_chain
from neolayer.chain.synthetic_blocks import Mined
from neolayer.engines.endpoints import Endpoints, Role
from neolayer.errors import ChainError
from neolayer.freshness import Store, Stream, wait_for
from neolayer.insight.agreement import Comparison, compare
from neolayer.position import Position

_BLOCKS, _PER_BLOCK, _FORK = 60, 25, 40
_LAST = 100
_WAIT = timedelta(seconds=120)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What landed: the ingest's own count, where each store stands, and the comparison."""

    network: Network
    report: IngestReport
    reached: Mapping[Store | Stream, Position]
    comparisons: Sequence[Comparison]

    @property
    def agrees(self) -> bool:
        return all(each.agrees for each in self.comparisons)


async def show_files(
    endpoints: Endpoints, paths: Sequence[Path], network: Network, on_progress: Progress
) -> Outcome:
    """Take in block files, verified."""
    report = await ingest_as(
        read_blocks(paths, network=network, verify=True),
        dsn=endpoints.postgres.dsn(Role.INGEST),
        network=network,
        on_progress=on_progress,
    )
    return await settled(endpoints, network, report)


async def show_node(
    endpoints: Endpoints, url: str, network: Network, on_progress: Progress
) -> Outcome:
    """Take in the last blocks of a node, verified."""
    async with open_rpc(url) as rpc:
        node = node_for(rpc, network)
        await node.check()
        head = await node.head()
        report = await ingest_as(
            fetch_range(node, first=max(0, head - _LAST + 1), last=head),
            dsn=endpoints.postgres.dsn(Role.INGEST),
            network=network,
            on_progress=on_progress,
        )
    return await settled(endpoints, network, report)


async def show_synthetic(endpoints: Endpoints, on_progress: Progress) -> Outcome:
    """Make a chain of signed transactions, take it in, and let a longer branch replace its end.

    Where an earlier run left that branch in place, all of it is known already.
    """
    dsn = endpoints.postgres.dsn(Role.INGEST)
    network = await network_of(dsn, SYNTHETIC.name, chain_id=SYNTHETIC.chain_id)
    chain = make_chain(blocks=_BLOCKS, transactions_per_block=_PER_BLOCK, reorg_at=_FORK)
    async with aclosing(SteadyStore(dsn, network)) as server:
        stored = await (await server.opened()).known([_FORK])
        replaced = _FORK in stored and stored[_FORK].block_hash == chain.fork[0].block["hash"]
        mined = chain.canonical if replaced else chain.first
        report = await ingest(
            _decoded(mined, network), dsn=dsn, network=network, on_progress=on_progress
        )
        if not replaced:
            branch = Batch(list(_decoded(chain.fork, network)))
            commit = await server.commit(branch, Terms(fork=_FORK - 1, all_or_none=True))
            report = report.plus(commit).at(await (await server.opened()).position())
    on_progress(report)
    return await settled(endpoints, network, report)


def _decoded(mined: Sequence[Mined], network: Network) -> Iterator[BlockRows]:
    for each in mined:
        yield decode_block(
            msgspec.json.encode(each.block),
            network=network,
            receipts=msgspec.json.encode(each.receipts),
            verify=True,
            origin="synthetic chain",
        )


async def settled(endpoints: Endpoints, network: Network, report: IngestReport) -> Outcome:
    """Wait until every store has what was committed, then compare.

    Raises NotFresh, and ChainError where nothing was committed.
    """
    if report.position is None:
        reason = report.refused[0].message if report.refused else "there was none"
        raise ChainError(f"no block could be taken in: {reason}")
    dsn = endpoints.postgres.dsn(Role.INGEST)
    network = await network_of(dsn, network.name, chain_id=network.chain_id)
    assert network.id is not None
    reached = await wait_for(report.position, endpoints, timeout=_WAIT)
    return Outcome(network, report, reached, await compare(endpoints, network.id))
