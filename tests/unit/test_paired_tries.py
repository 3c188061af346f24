"""How times are compared on a shared machine: what is alike, what is not, and what noise makes."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from tests.fixtures.paired_tries import CONTROL, FEWEST, USUAL, Comparing, Verdict, trimmed_interval

KINDS = (USUAL, CONTROL, "absent person", "absent tenant")
TYPICAL_S = 0.025


class Tries:
    """Made-up tries: `cost` says what one takes, by its kind, its place in the round and chance."""

    def __init__(self, cost: Callable[[str, int, random.Random], float], seed: int) -> None:
        self.cost, self.chance = cost, random.Random(seed)
        self.clock, self.place, self.rounds = 0.0, 0, 0

    async def ready(self) -> None:
        self.place, self.rounds = 0, self.rounds + 1

    async def take(self, kind: str) -> float:
        taken = TYPICAL_S * self.cost(kind, self.place, self.chance)
        self.place += 1
        self.clock += taken
        return taken

    async def verdict(self, seconds: float = 240) -> Verdict:
        return await Comparing(
            kinds=KINDS,
            take=self.take,
            between=self.ready,
            measures={"clock": lambda taken: taken},
            seconds=seconds,
            now=lambda: self.clock,
        ).verdict()


def test_an_interval_holds_the_middle_as_often_as_it_says() -> None:
    chance, held = random.Random(1), {0.95: 0, 0.999: 0}
    for _ in range(2000):
        values = [chance.gauss(1, 1) + (9 if chance.random() < 0.02 else 0) for _ in range(50)]
        for sure in held:
            low, high = trimmed_interval(values, sure)
            held[sure] += low < 1.02 < high  # what strikes every fiftieth moves it a little
    assert 0.93 < held[0.95] / 2000 < 0.97
    assert held[0.999] / 2000 > 0.997


@pytest.mark.parametrize("seed", range(5))
async def test_what_is_alike_is_alike(seed: int) -> None:
    tries = Tries(lambda kind, place, chance: chance.gauss(1, 0.05), seed)
    verdict = await tries.verdict()
    assert (verdict.lasting, verdict.is_alike) == (frozenset(), True)


@pytest.mark.parametrize(("part", "direction"), [(1.02, "slower"), (0.98, "faster")])
@pytest.mark.parametrize("seed", range(3))
async def test_a_leak_of_two_hundredths_is_seen(seed: int, part: float, direction: str) -> None:
    """In noise of which each single try has more than twice as much."""

    def cost(kind: str, place: int, chance: random.Random) -> float:
        return chance.gauss(1, 0.05) * (part if kind == "absent tenant" else 1)

    verdict = await Tries(cost, seed).verdict()
    assert verdict.lasting == {("absent tenant", "clock", direction)}, verdict.figures
    assert not verdict.is_alike


async def test_what_the_first_of_a_round_costs_falls_on_all() -> None:
    tries = Tries(lambda kind, place, chance: chance.gauss(1.1 if place == 0 else 1, 0.001), 1)
    verdict = await tries.verdict()
    assert (verdict.lasting, verdict.is_alike) == (frozenset(), True), verdict.figures


@pytest.mark.parametrize("leak", [1, 1.02])
@pytest.mark.parametrize("seed", range(3))
async def test_a_neighbour_in_one_sample_makes_no_difference_and_hides_none(
    seed: int, leak: float
) -> None:
    """Even one who always works when it is the turn of the same kind."""

    def cost(kind: str, place: int, chance: random.Random) -> float:
        struck = kind == "absent person" and tries.rounds <= FEWEST
        return chance.gauss(1.3 if struck else 1, 0.05) * (leak if kind == "absent tenant" else 1)

    tries = Tries(cost, seed)
    verdict = await tries.verdict()
    assert tries.rounds > FEWEST, "the first sample was believed"
    leaks = {("absent tenant", "clock", "slower")} if leak > 1 else set()
    assert verdict.lasting == leaks, verdict.figures
    assert verdict.is_alike == (not leaks)


@pytest.mark.parametrize("seed", range(3))
async def test_what_is_hard_to_tell_takes_no_more_than_twice_its_time(seed: int) -> None:
    def cost(kind: str, place: int, chance: random.Random) -> float:
        return chance.gauss(1, 0.1) * (1.015 if kind == "absent tenant" else 1)

    tries = Tries(cost, seed)
    verdict = await tries.verdict(seconds=60)
    assert tries.clock < 2.1 * 60
    assert not verdict.is_alike


async def test_what_cannot_be_told_is_neither() -> None:
    tries = Tries(lambda kind, place, chance: chance.gauss(1, 0.5), 1)
    verdict = await tries.verdict(seconds=1)
    assert (verdict.lasting, verdict.is_alike) == (frozenset(), False)
    assert tries.rounds == FEWEST
