"""An ingest in a process of its own, to be killed: `python -m tests.crash.ingest_process FOLDER`.

The DSN comes by the environment. It says `go` when it begins to read.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from neolayer.chain.ingest import ingest
from neolayer.chain.registry import ensure_network
from neolayer.chain.sources.files import read_blocks
from neolayer.engines.postgres.connections import connect


async def main(folder: Path) -> None:
    dsn = os.environ["CRASH_DSN"]
    async with await connect(dsn, autocommit=True, application_name="crash") as connection:
        network = await ensure_network(connection, "testnet", chain_id=1337)
    print("go", flush=True)
    blocks = read_blocks([folder], network=network, verify=True)
    await ingest(blocks, dsn=dsn, network=network, blocks_per_commit=2)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
