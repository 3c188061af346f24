"""The relay in a simulated world: thousands of faults in virtual hours, one seed a run."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from tests.simulation.world import Broken, simulate

FIRST_SEED = int(os.environ.get("NEOLAYER_TEST_SEED", "1"))


def run_seeds(count: int, folder: Path, *, minutes: float) -> dict[str, float]:
    began, hours, kills, starts = time.perf_counter(), 0.0, 0, 0
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        try:
            world = simulate(seed, folder, minutes=minutes)
        except Broken as broken:
            pytest.fail(f"seed {seed}: {broken}")
        hours += world.loop.now / 3600
        kills += world.kills
        starts += world.starts
    took = time.perf_counter() - began
    return {
        "runs": count,
        "simulated hours": round(hours, 1),
        "kills": kills,
        "starts": starts,
        "runs per second": round(count / took, 2),
    }


def test_C1_C6_C7_C10_C12_C14_the_relay_keeps_its_promises_in_simulated_hours(
    tmp_path: Path,
) -> None:
    """Whatever breaks: acknowledged is durable, order by key, nothing lost or doubled, a dead sink
    delays no other, memory is bounded, and every copy ends equal."""
    print(run_seeds(1, tmp_path, minutes=5))


@pytest.mark.faults
def test_C1_the_relay_keeps_its_promises_in_hours_of_simulation(tmp_path: Path) -> None:
    """The same over more seeds, each twenty minutes of its world's time."""
    print(run_seeds(12, tmp_path, minutes=20))
