"""A transaction of a million rows goes through in bounded memory, also with a sink down."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.crash.test_C1_relay_kill import relay_of, until
from tests.fixtures.fix_relay import RelayScene
from tests.fixtures.tcp_proxy import Proxy, proxied

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


@contextlib.contextmanager
def through_proxy(scene: RelayScene) -> Iterator[tuple[RelayScene, Proxy]]:
    """The scene with its Redis behind a proxy."""
    redis = scene.endpoints.redis
    port = urlsplit(redis.url).port
    assert port is not None
    with proxied(port) as proxy:
        there = dataclasses.replace(redis, url=redis.url.replace(f":{port}", f":{proxy.port}"))
        endpoints = dataclasses.replace(scene.endpoints, redis=there)
        yield dataclasses.replace(scene, endpoints=endpoints), proxy


@pytest.mark.timeout(600)
@pytest.mark.parametrize("is_down", [False, True], ids=["all up", "redis down"])
async def test_C8_a_million_rows_in_one_transaction(relay_scene: RelayScene, is_down: bool) -> None:
    """Every row arrives, exactly, and the relay never holds them all: not for the sinks that are
    there, not for one that is down while the transaction comes, and not when it catches up."""
    with through_proxy(relay_scene) as (scene, proxy):
        async with relay_of(scene) as relay:
            await until(scene.is_streaming)
            await scene.arrives(scene.sql("INSERT INTO unrelated (text) VALUES ('x')"))
            before = peak_mb(relay[0])
            with proxy.refusing() if is_down else contextlib.nullcontext():
                position = await asyncio.to_thread(scene.sql, ROWS)
                await scene.arrives(position, Store.CLICKHOUSE, seconds=200)
                if is_down:
                    await scene.error_of("redis")
                assert peak_mb(relay[0]) - before < ROOM_MB
            await scene.arrives(position, seconds=200)
            assert peak_mb(relay[0]) - before < ROOM_MB
        copied = "SELECT count(), toString(sum(amount)), uniqExact(id) FROM accounts FINAL"
        total = str(MILLION * (MILLION + 1) // 2)
        assert await scene.copied(copied) == [(MILLION, total, MILLION)]
