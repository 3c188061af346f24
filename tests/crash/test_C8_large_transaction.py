"""A transaction of a million rows goes through in bounded memory, also with a sink down."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest
from tests.crash.test_C1_relay_kill import relay_of, until
from tests.fixtures.fix_relay import RelayScene

from neolayer.freshness import Store

pytestmark = pytest.mark.faults

MILLION = 1_000_000
ROWS = f"""INSERT INTO accounts (id, owner, amount, note)
SELECT g, 'ann', g, 'note ' || g FROM generate_series(1, {MILLION}) g"""
# Reading, the newest batches, and what each of two sinks is given at once.
ROOM_MB = 320


def peak_mb(process: subprocess.Popen[bytes]) -> int:
    """The most memory the process ever had."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line) // 1024


async def test_C8_a_million_rows_in_one_transaction(relay_scene: RelayScene) -> None:
    """Every row arrives, exactly, and the relay never holds them all."""
    async with relay_of(relay_scene) as relay:
        await until(relay_scene.is_streaming)
        before = peak_mb(relay[0])
        position = await asyncio.to_thread(relay_scene.sql, ROWS)
        await relay_scene.arrives(position, Store.CLICKHOUSE, seconds=200)
        assert peak_mb(relay[0]) - before < ROOM_MB
    copied = "SELECT count(), toString(sum(amount)), uniqExact(id) FROM accounts FINAL"
    total = str(MILLION * (MILLION + 1) // 2)
    assert await relay_scene.copied(copied) == [(MILLION, total, MILLION)]
