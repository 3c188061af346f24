"""The relay in a simulated world: thousands of faults in virtual hours, one seed a run."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path

import pytest
from tests.crash.kept_seeds import keeping, kept
from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.world import Broken, simulate

KIND = "relay_simulation"  # of the seeds that are kept
FIRST_SEED = int(os.environ.get("TEST_SEED", "1"))
# Most mutants are noticed in the first; what only shows while all else is well takes luck.
SEEDS = 32


def run_seeds(count: int, folder: Path, *, minutes: float) -> dict[str, float]:
    began, hours, kills, starts = time.perf_counter(), 0.0, 0, 0
    failovers, resumed = 0, 0
    seeds = [*kept(KIND), *range(FIRST_SEED, FIRST_SEED + count)]
    for seed in seeds:
        try:
            with keeping(KIND, seed):
                world = simulate(seed, folder, minutes=minutes)
        except Broken as broken:
            pytest.fail(f"seed {seed}: {broken}")
        hours += world.loop.now / 3600
        kills += world.kills
        starts += world.starts
        failovers += world.failovers
        resumed += world.resumed
    took = time.perf_counter() - began
    return {
        "runs": len(seeds),
        "simulated hours": round(hours, 1),
        "kills": kills,
        "starts": starts,
        "failovers": failovers,
        "ranges of copies that went on": resumed,
        "runs per second": round(len(seeds) / took, 2),
    }


def test_C1_C3_C6_C7_C10_C12_C14_the_relay_keeps_its_promises_in_simulated_hours(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Whatever breaks, failovers that lose commits among it: acknowledged is durable, order by key,
    nothing lost or doubled, a dead sink delays no other, memory is bounded, copies end equal."""
    figures = run_seeds(1, tmp_path, minutes=5)
    request.node.user_properties.append(("relay simulated", figures))
    assert figures["kills"] > 0


@pytest.mark.faults
def test_C1_the_relay_keeps_its_promises_in_hours_of_simulation(
    tmp_path: Path, request: pytest.FixtureRequest, pytestconfig: pytest.Config
) -> None:
    """The same over more seeds, each ten minutes of its world's time."""
    figures = run_seeds(12, tmp_path, minutes=10)
    request.node.user_properties.append(("relay simulated", figures))
    assert figures["ranges of copies that went on"] > 0
    assert pytestconfig.cache is not None
    noted = {
        "simulated_hours": figures["simulated hours"],
        "simulated_kills": figures["kills"],
        "simulated_failovers": figures["failovers"],
    }
    pytestconfig.cache.set("faults/simulation", noted)


@pytest.mark.faults
def test_C14_a_sink_that_is_down_for_an_hour(tmp_path: Path) -> None:
    """Log and memory stay within their bounds all the while, no other sink waits, and when it is
    back it is given the tables as they stand and goes on."""
    world = simulate(FIRST_SEED, tmp_path, minutes=63, outage_minutes=60)
    assert world.stores["dead"].copies > 0


def notices(mutant: Mutant, folder: Path, *, seeds: int = SEEDS) -> int | None:
    """The first seed in which the mutant breaks a promise."""
    try:
        with mutant.applied():
            for seed in range(FIRST_SEED, FIRST_SEED + seeds):
                try:
                    simulate(seed, folder, minutes=5)
                except Exception:  # a broken promise, or an end that no relay should find
                    return seed
        return None
    finally:
        gc.collect()  # what a broken relay leaves open is told here, and to no other test


def test_every_mutant_still_finds_its_line() -> None:
    """The relay's source has moved on under none of them."""
    for mutant in MUTANTS:
        assert callable(mutant.mutated()) or isinstance(mutant.mutated(), property)


LEAVES_FILES_OPEN = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
QUICK = {
    "a segment ends inside a transaction",
    "the stream begins one byte behind the end of the log",
    "what a sink refuses is not kept",
    "an older version overwrites a newer one",
}


@LEAVES_FILES_OPEN
@pytest.mark.parametrize("mutant", [one for one in MUTANTS if one.name in QUICK], ids=str)
def test_C1_the_simulation_notices_a_broken_relay(mutant: Mutant, tmp_path: Path) -> None:
    """A relay with one line made wrong breaks a promise; some that are soon found."""
    assert notices(mutant, tmp_path), f"{mutant.name}: nobody noticed"


@pytest.mark.faults
@pytest.mark.timeout(600)
@LEAVES_FILES_OPEN
@pytest.mark.parametrize("mutant", [one for one in MUTANTS if one.name not in QUICK], ids=str)
def test_C1_the_simulation_notices_every_mutant(
    mutant: Mutant, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """Each line of the relay that keeps a promise is missed where it is gone."""
    seed = notices(mutant, tmp_path)
    assert seed, f"{mutant.name}: nobody noticed in {SEEDS} seeds"
    assert pytestconfig.cache is not None
    found = pytestconfig.cache.get("faults/mutants", {"mutants": 0})
    pytestconfig.cache.set("faults/mutants", {"mutants": found["mutants"] + 1})
