"""E14, C1: kill -9 of the sealer while people write; every entry is sealed once, in one chain."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from tests.fixtures.fix_audit import Trail
from tests.fixtures.patience import PATIENCE_S

from neolayer.audit.verify import verify

pytestmark = pytest.mark.faults

KILLS = 10
SEED = int(os.environ.get("TEST_SEED", "20261127"))


def start_sealer(trail: Trail) -> subprocess.Popen[bytes]:
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.crash.sealing_process", trail.sealer.dsn],
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"},
    )


async def sealed(trail: Trail) -> int:
    ((count,),) = await trail.rows("SELECT coalesce(sum(chain_number), 0) FROM audit.heads")
    return int(count)


async def keep_writing(trail: Trail, enough: asyncio.Event) -> None:
    while not enough.is_set():
        await trail.write(5)
        await trail.write_without_tenant(1)


async def test_E14_a_killed_sealer_loses_nothing(trail: Trail) -> None:
    """Ten times killed at any moment of its work, and each time another goes on."""
    chance = random.Random(SEED)
    enough = asyncio.Event()
    writing = [asyncio.create_task(keep_writing(trail, enough)) for _ in range(3)]
    for _ in range(KILLS):
        before, more = await sealed(trail), chance.randrange(1, 40)
        process = start_sealer(trail)
        try:
            async with asyncio.timeout(PATIENCE_S):
                while await sealed(trail) < before + more:
                    assert process.poll() is None
        finally:
            process.kill()
            process.wait()
    enough.set()
    await asyncio.gather(*writing)
    while await trail.sealer.seal_waiting() == 0:  # until a killed one's turn has ended
        if await trail.rows("SELECT 1 FROM audit.entries WHERE chain_number IS NULL LIMIT 1") == []:
            break
    report = await verify(trail.operator_dsn, trail.anchorer.store)
    assert report.findings == []
    ((count, unsealed),) = await trail.rows(
        "SELECT count(*), count(*) FILTER (WHERE chain_number IS NULL) FROM audit.entries"
    )
    assert (report.entries, unsealed) == (count, 0)
    assert await sealed(trail) == count
