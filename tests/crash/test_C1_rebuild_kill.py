"""C1: a relay killed while it copies tables goes on with the ranges that are left."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from tests.crash.relay_process import arguments_of
from tests.crash.writer import Writer
from tests.fixtures.fix_relay import RelayScene, clickhouse_statements
from tests.fixtures.fix_relay_operations import desk_at, differences, eventually, tables
from tests.fixtures.patience import PATIENCE_S, STOPS_S

from neolayer.crash_points import VARIABLE
from neolayer.freshness import Store

pytestmark = pytest.mark.faults

TABLE = "public.accounts"
DONE_RANGES = (
    "SELECT number, done_at FROM core.relay_rebuild_ranges WHERE whole AND done_at IS NOT NULL"
)
SEED = int(os.environ.get("TEST_SEED", "20261127"))
POINTS = (
    "relay.after_rebuild_begin",
    "relay.after_rebuild_copy",
    "relay.after_rebuild_copy:4",
    "relay.after_rebuild_range:5",
    "relay.before_rebuild_end",
)


def start(scene: RelayScene, crash_at: str = "") -> subprocess.Popen[bytes]:
    root = Path(__file__).parents[2]
    path = f"{root / 'src'}{os.pathsep}{root}"
    with scene.folder.parent.joinpath("relay.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.crash.rebuilding_process", arguments_of(scene)],
            cwd=root,
            env={**os.environ, "PYTHONPATH": path, VARIABLE: crash_at},
            stdout=log,
            stderr=log,
        )


async def test_C1_a_rebuild_survives_kills(relay_scene: RelayScene) -> None:
    """Killed at each of its points beside a writer: it ends, no range is lost, nothing differs."""
    scene = relay_scene
    scene.sql(
        tables(),
        "INSERT INTO accounts (id, owner) SELECT g, 'ann' FROM generate_series(10001, 12000) g",
    )
    running = start(scene)
    try:
        await scene.arrives(scene.sql("SELECT 1"), Store.CLICKHOUSE)
        running.terminate()
        await asyncio.to_thread(running.wait, STOPS_S)
        await clickhouse_statements(
            scene.endpoints.clickhouse,
            "ALTER TABLE accounts DELETE WHERE id % 3 = 0 SETTINGS mutations_sync = 2",
            "INSERT INTO accounts (id, owner, seen_at, _version) VALUES (-9, 'nobody', 0, 1)",
        )
        async with desk_at(scene) as desk:
            await desk.request_rebuild("clickhouse", TABLE)
            with Writer(scene.dsn, SEED):
                for point in POINTS:
                    running = start(scene, point)
                    assert await asyncio.to_thread(running.wait, PATIENCE_S) == -9, point
                    (found,) = await desk.rebuilds("clickhouse", TABLE)
                    assert not found.ended, point
                running = start(scene)

                async def is_done() -> bool:
                    (found,) = await desk.rebuilds("clickhouse", TABLE)
                    return found.state == "done" and found.ranges_done == found.ranges

                await eventually(is_done)
        report = await differences(scene)
        assert (report.total, report.unsettled) == (0, 0), f"seed {SEED}"
        await scene.same()
    finally:
        running.terminate()
        await asyncio.to_thread(running.wait, STOPS_S)


async def test_C1_a_first_copy_survives_kills(relay_scene: RelayScene) -> None:
    """Killed at each of its points beside a writer: a range that is in is not read again, the
    checkpoint comes last, and nothing differs."""
    scene = relay_scene
    scene.sql(
        tables(),
        "INSERT INTO accounts (id, owner) SELECT g, 'ann' FROM generate_series(10001, 12000) g",
    )
    await clickhouse_statements(
        scene.endpoints.clickhouse,
        "INSERT INTO accounts (id, owner, seen_at, _version) VALUES (-9, 'nobody', 0, 1)",
    )
    done: dict[int, datetime] = {}
    with Writer(scene.dsn, SEED):
        for point in (*POINTS, "relay.after_copy"):
            running = start(scene, point)
            assert await asyncio.to_thread(running.wait, PATIENCE_S) == -9, point
            found: dict[int, datetime] = dict(scene.rows(DONE_RANGES))  # type: ignore[arg-type]
            assert {number: found[number] for number in done} == done, point
            done = found
        assert len(done) >= 10
        running = start(scene)
        try:
            await scene.arrives(scene.sql("SELECT 1"), Store.CLICKHOUSE)
        finally:
            running.terminate()
            await asyncio.to_thread(running.wait, STOPS_S)
    assert scene.rows(DONE_RANGES) == []
    running = start(scene)
    try:
        await scene.arrives(scene.sql("SELECT 1"), Store.CLICKHOUSE)
        report = await differences(scene)
        assert (report.total, report.unsettled) == (0, 0), f"seed {SEED}"
        await scene.same()
    finally:
        running.terminate()
        await asyncio.to_thread(running.wait, STOPS_S)
