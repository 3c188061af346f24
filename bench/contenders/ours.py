"""Our own ingest, through the verbs that `neolayer ingest` calls."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from uuid import UUID

from bench.contenders.protocol import Job, serve
from neolayer.chain import payloads
from neolayer.chain.ingest import ingest
from neolayer.chain.networks import PRESETS
from neolayer.chain.sources.files import read_blocks
from neolayer.chain.trie import ordered_root
from neolayer.chain.wire import block_decoder
from neolayer.errors import BadBlock

_ETHEREUM = PRESETS["ethereum"]
_payloads: dict[str, list[bytes]] = {}


def run(job: Job) -> int:
    paths = [Path(path) for path in job["paths"]]
    match job.get("work", "ingest"):
        case "decode":
            return _decode(paths, verify=job["verify"], senders=job.get("senders", False))
        case "roots":
            return _roots(paths)
        case _:
            return asyncio.run(_ingest(paths, job))


async def _ingest(paths: Sequence[Path], job: Job) -> int:
    network = replace(_ETHEREUM, id=UUID(job["network_id"]))
    report = await ingest(
        read_blocks(paths, network=network, verify=job["verify"]),
        dsn=job["dsn"],
        network=network,
        blocks_per_commit=job["blocks_per_commit"],
    )
    if report.refused:
        raise report.refused[0]
    return report.transactions


def _decode(paths: Sequence[Path], *, verify: bool, senders: bool) -> int:
    count = 0
    for block in read_blocks(paths, network=_ETHEREUM, verify=verify, senders=senders):
        if isinstance(block, BadBlock):
            raise block
        count += len(block.transactions)
    return count


def prepare(job: Job) -> None:
    """Encode what the roots are made of, so that the clock sees the roots alone."""
    for path in job["paths"]:
        block = block_decoder.decode(Path(path).read_bytes())
        _payloads[path] = [payloads.transaction(item) for item in block.transactions]


def _roots(paths: Sequence[Path]) -> int:
    for path in paths:
        ordered_root(_payloads[str(path)])
    return sum(len(_payloads[str(path)]) for path in paths)


if __name__ == "__main__":
    serve(run, prepare)
