"""C1: kill -9 of projector, rebuild and switch at every named point; each event counts once."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from tests.crash.kept_seeds import keeping, kept
from tests.fixtures.bank import (
    BALANCES,
    INLINE_BALANCES,
    TOTALS,
    AccountClosed,
    Deposited,
    Opened,
    Withdrawn,
)
from tests.fixtures.fix_projections import Bank

from neolayer.events.projections.rebuild import rebuild
from neolayer.events.rooms import TenantRooms

SEED = int(os.environ.get("TEST_SEED", "20261127"))
PROJECTOR_POINTS = (
    "projector.before_write",
    "projector.after_write",
    "projector.before_commit",
    "projector.after_commit",
)
SWITCH_POINTS = (
    "projections.before_rebuild_write",
    "projections.before_rebuild_commit",
    "projections.in_switch",
    "projections.before_switch_commit",
)
POINTS = (*PROJECTOR_POINTS, *SWITCH_POINTS)
KIND = "projector_kills"  # of the seeds that are kept
KILLS = 300
TOGETHER = 50  # what these leave is compared at once
ROOT = Path(__file__).parents[2]


@contextmanager
def forks(the_bank: Bank) -> Iterator[Callable[[str, str], int]]:
    """Runs work that dies at a named point; the signal that ended it."""
    cluster = the_bank.endpoints.event_store
    told = {
        "admin_dsn": cluster.admin_dsn,
        "passwords": {str(role): password for role, password in cluster.passwords.items()},
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.crash.projecting_process"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
    )
    assert process.stdin is not None and process.stdout is not None
    stdin, stdout = process.stdin, process.stdout
    stdin.write(json.dumps(told) + "\n")

    def die(work: str, crash_at: str) -> int:
        stdin.write(json.dumps({"work": work, "crash_at": crash_at}) + "\n")
        stdin.flush()
        return int(stdout.readline())

    try:
        yield die
    finally:
        process.kill()
        process.wait()
        stdin.close()
        stdout.close()


async def write(acme: TenantRooms, dice: random.Random, accounts: list[UUID], count: int) -> None:
    """So many appends of any kind, of one to three events."""
    for _ in range(count):
        if not accounts or dice.random() < 0.3:
            accounts.append(uuid4())
            await acme.events.append(accounts[-1], [Opened(uuid4(), "Ann"), Deposited(1)])
            continue
        events = [
            dice.choice([Deposited(dice.randrange(100)), Withdrawn(1), AccountClosed()])
            for _ in range(dice.randrange(1, 4))
        ]
        await acme.events.append(dice.choice(accounts), events)


async def require_whole(the_bank: Bank) -> None:
    """Every read model is, to the last row, what a replay of all events makes."""
    await the_bank.project()
    for projection in (BALANCES, TOTALS, INLINE_BALANCES):
        comparison = await rebuild(the_bank.endpoints, the_bank.domain, projection.name)
        assert comparison.certificate.holds, comparison.differences[:3]


def point_of(seed: int) -> str:
    return POINTS[seed % len(POINTS)]


async def run(the_bank: Bank, seeds: Sequence[int]) -> dict[str, int]:
    """A kill a seed, each with work of its own; what was lost or doubled at the end. A seed says
    all of its kill, so that one that is kept dies as it did; where it is only seen later that
    something is wrong, all seeds since the last comparison are kept."""
    acme, accounts = await the_bank.tenant(), list[UUID]()
    with forks(the_bank) as die:
        for first in range(0, len(seeds), TOGETHER):
            some = seeds[first : first + TOGETHER]
            for seed in some:
                with keeping(KIND, seed):
                    await kill(the_bank, acme, accounts, die, seed)
            with keeping(KIND, *some):
                await require_whole(the_bank)
    with keeping(KIND, *seeds[-TOGETHER:]):
        return await counted(the_bank, acme, len(seeds))


async def kill(
    the_bank: Bank,
    acme: TenantRooms,
    accounts: list[UUID],
    die: Callable[[str, str], int],
    seed: int,
) -> None:
    """Events to be folded, and a process that dies while it does."""
    dice = random.Random(seed)
    await write(acme, dice, accounts, dice.randrange(8, 16))
    point = point_of(seed)
    work = "project" if point in PROJECTOR_POINTS else "switch"
    code = await asyncio.to_thread(die, work, f"{point}:{dice.randrange(1, 3)}")
    assert code == -signal.SIGKILL, (seed, point, code)
    await the_bank.burial()


async def counted(the_bank: Bank, acme: TenantRooms, kills: int) -> dict[str, int]:
    """What a tenant's totals lack and hold too often. Raises where they do."""
    total = await acme.read_models.get(TOTALS, "all")
    ((events,),) = await the_bank.rows(
        "SELECT count(*) FROM public.events WHERE tenant_id = %s"
        " AND event_type IN ('deposited', 'withdrawn')",
        acme.subjects.scope.tenant,
    )
    folded = total.events if total else 0
    lost, doubled = max(events - folded, 0), max(folded - events, 0)
    assert (lost, doubled) == (0, 0)
    return {"seeds": kills, "kills": kills, "lost": lost, "doubled": doubled}


async def test_C1_a_killed_projector_counts_each_event_once(the_bank: Bank) -> None:
    """Three times at each of its points, with events waiting."""
    seeds = range(SEED, SEED + 3 * len(POINTS))
    await run(the_bank, [*kept(KIND), *(one for one in seeds if point_of(one) in PROJECTOR_POINTS)])


@pytest.mark.faults
@pytest.mark.timeout(1200)
async def test_C1_projector_and_switch_killed_at_any_point(
    the_bank: Bank, pytestconfig: pytest.Config
) -> None:
    """Three hundred seeded kills, rebuilds and switches among them; tables stay what events say."""
    seeds = [*kept(KIND), *(SEED + 1_000 + number for number in range(KILLS))]
    figures = await run(the_bank, seeds)
    assert pytestconfig.cache is not None
    pytestconfig.cache.set("faults/projector", figures)
