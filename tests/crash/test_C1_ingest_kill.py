"""kill -9 of the ingest at random moments: what is there afterwards is whole blocks with their
cursor, and running it again comes to the rows of a run that nobody killed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fixtures.fix_chain import EMPTY_BLOCKS, Stored
from tests.fixtures.fix_postgres import traversable_folder
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.shared_data import REPOSITORY

from neolayer.chain import reading
from neolayer.chain.ingest import IngestReport, ingest
from neolayer.chain.sources.files import read_blocks
from neolayer.chain.synthetic import make_chain, write_blocks

pytestmark = pytest.mark.faults
KILLS = 20
SEED = int(os.environ.get("TEST_SEED", "20261124"))


@pytest.fixture(scope="module")
def block_files() -> Iterator[Path]:
    """80 blocks of six transactions, with their receipts."""
    with traversable_folder() as folder:
        write_blocks(folder / "blocks", make_chain(blocks=80, transactions_per_block=6).first)
        yield folder / "blocks"


def start(stored: Stored, folder: Path) -> subprocess.Popen[bytes]:
    """An ingest that has begun to read."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.crash.ingest_process", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=REPOSITORY,
        env={**os.environ, "CRASH_DSN": stored.dsn},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"go\n", process.communicate()[1].decode()
    return process


async def run_again(stored: Stored, folder: Path) -> IngestReport:
    blocks = read_blocks([folder], network=stored.network, verify=True)
    return await ingest(blocks, dsn=stored.dsn, network=stored.network, blocks_per_commit=2)


async def check_whole(stored: Stored) -> int:
    """Every stored block is whole and covered; nothing is there besides. The number of blocks."""
    (coverage,) = await reading.network_coverage(stored.admin)
    count = sum(last - first + 1 for first, last in coverage.covered)
    blocks = await stored.rows(
        "SELECT b.block_number, b.transaction_count, count(t) AS stored FROM blockchain.blocks b"
        " LEFT JOIN blockchain.transactions t USING (network_id, block_number) GROUP BY 1, 2"
    )
    assert all(row["transaction_count"] == row["stored"] for row in blocks)
    assert len(blocks) == count
    kept = "SELECT count(*) FROM blockchain.transaction_keys"
    assert await stored.value(kept) == sum(row["stored"] for row in blocks)
    return count


async def test_C1_killed_at_random_moments(stored: Stored, block_files: Path) -> None:
    """Twenty kills between the first block and the last; each time the same final rows."""
    chance = random.Random(SEED)
    with start(stored, block_files) as process:
        started = time.monotonic()
        assert process.wait(PATIENCE_S) == 0
        duration = time.monotonic() - started
    wanted = await stored.fingerprint()
    reached: list[int] = []
    for _ in range(KILLS):
        await stored.admin.execute(EMPTY_BLOCKS)
        with start(stored, block_files) as process:
            time.sleep(chance.uniform(0, duration))
            process.kill()
        await stored.nobody_ingests()  # the server may be ending its last commit
        reached.append(await check_whole(stored))
        await run_again(stored, block_files)
        assert await stored.fingerprint() == wanted, f"seed {SEED}, after {reached}"
    assert len(set(reached)) > 3, f"the kills hit no different moments: {reached}"
