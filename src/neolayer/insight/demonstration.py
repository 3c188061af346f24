"""The main job in one go: a chain in, every store in step, the same sums in both.

With no blocks of one's own the chain is made on the spot, with a reorganisation in the middle, and
called synthetic. What this does is what `neolayer ingest --wait` and two queries would do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from neolayer.chain.batches import Batch
from neolayer.chain.evm import decode_block
from neolayer.chain.ingest import IngestReport, Progress, SteadyStore, ingest
from neolayer.chain.model import BlockRows, Network
from neolayer.chain.networks import SYNTHETIC
from neolayer.chain.sources.files import read_blocks
from neolayer.chain.store import Terms, ensure_network
from neolayer.chain.synthetic import make_chain
from neolayer.engines.endpoints import Endpoints, Role
from neolayer.engines.postgres.connections import connect
from neolayer.errors import ChainError
from neolayer.freshness import Store, wait_for
from neolayer.insight.agreement import Comparison, compare
from neolayer.position import Position

_BLOCKS, _PER_BLOCK, _FORK = 60, 25, 40
_WAIT = timedelta(seconds=120)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What landed: the ingest's own count, where each store stands, and the comparison."""

    network: Network
    report: IngestReport
    reached: dict[Store, Position]
    comparisons: Sequence[Comparison]

    @property
    def agrees(self) -> bool:
        return all(each.agrees for each in self.comparisons)


async def known_network(endpoints: Endpoints, name: str, *, chain_id: int | None = None) -> Network:
    """The stored network of that name, made where it is a preset or new. Raises ChainError."""
    dsn = endpoints.postgres.dsn(Role.INGEST)
    async with await connect(dsn, autocommit=True, application_name="demo") as connection:
        return await ensure_network(connection, name, chain_id=chain_id)


async def show_files(
    endpoints: Endpoints, paths: Sequence[Path], network: Network, on_progress: Progress
) -> Outcome:
    """Take in block files, verified."""
    report = await ingest(
        read_blocks(paths, network=network, verify=True),
        dsn=endpoints.postgres.dsn(Role.INGEST),
        network=network,
        on_progress=on_progress,
    )
    return await settled(endpoints, network, report)


async def show_synthetic(endpoints: Endpoints, on_progress: Progress) -> Outcome:
    """Make a chain of signed transactions, take it in, and let a longer branch replace its end."""
    network = await known_network(endpoints, SYNTHETIC.name, chain_id=SYNTHETIC.chain_id)
    chain = make_chain(blocks=_BLOCKS, transactions_per_block=_PER_BLOCK, reorg_at=_FORK)
    dsn = endpoints.postgres.dsn(Role.INGEST)
    first = await ingest(
        _decoded(chain.first, network), dsn=dsn, network=network, on_progress=on_progress
    )
    branch = list(_decoded(chain.second, network))
    async with aclosing(SteadyStore(dsn, network)) as server:
        commit = await server.commit(Batch(branch), Terms(fork=_FORK, all_or_none=True))
        position = await (await server.opened()).settle()
    report = first.plus(commit).at(position)
    on_progress(report)
    return await settled(endpoints, network, report)


def _decoded(pairs: Sequence[tuple[bytes, bytes]], network: Network) -> Iterator[BlockRows]:
    for block, receipts in pairs:
        yield decode_block(
            block, network=network, receipts=receipts, verify=True, origin="synthetic chain"
        )


async def settled(endpoints: Endpoints, network: Network, report: IngestReport) -> Outcome:
    """Wait until every store has what was committed, then compare. Raises NotFresh."""
    if report.position is None or network.id is None:
        raise ChainError("nothing was committed")
    reached = await wait_for(report.position, endpoints, timeout=_WAIT)
    return Outcome(network, report, reached, await compare(endpoints, network.id))
