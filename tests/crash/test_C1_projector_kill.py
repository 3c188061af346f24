"""C1: kill -9 of projector, rebuild and switch at every named point; each event counts once."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from uuid import UUID, uuid4

import pytest
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

from neolayer.crash_points import VARIABLE
from neolayer.events.projections.rebuild import rebuild
from neolayer.events.rooms import TenantRooms

SEED = int(os.environ.get("NEOLAYER_TEST_SEED", "20261127"))
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
ROOT = Path(__file__).parents[2]


def start(the_bank: Bank, work: str, crash_at: str) -> subprocess.Popen[bytes]:
    """A process that dies at the named point."""
    cluster = the_bank.endpoints.event_store
    told = {
        "work": work,
        "admin_dsn": cluster.admin_dsn,
        "passwords": {str(role): password for role, password in cluster.passwords.items()},
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.crash.projecting_process"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        env={
            **os.environ,
            VARIABLE: crash_at,
            "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
        },
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(told).encode() + b"\n")
    process.stdin.close()
    return process


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


async def killed_at(the_bank: Bank, work: str, point: str) -> None:
    """The process gets to the point and dies there."""
    process = start(the_bank, work, point)
    try:
        code = await asyncio.to_thread(process.wait, 60)
    finally:
        process.kill()
    assert code == -9, (point, code)


async def require_whole(the_bank: Bank) -> None:
    """Every read model is, to the last row, what a replay of all events makes."""
    await the_bank.project()
    for projection in (BALANCES, TOTALS, INLINE_BALANCES):
        comparison = await rebuild(the_bank.endpoints, the_bank.domain, projection.name)
        assert comparison.certificate.holds, comparison.differences[:3]


async def run(the_bank: Bank, seed: int, kills: int) -> None:
    dice = random.Random(seed)
    acme, accounts = await the_bank.tenant(), list[UUID]()
    points = [*PROJECTOR_POINTS, *SWITCH_POINTS] if kills >= 8 else list(PROJECTOR_POINTS)
    for number in range(kills):
        await write(acme, dice, accounts, dice.randrange(8, 30))
        point = points[number % len(points)]
        work = "project" if point in PROJECTOR_POINTS else "switch"
        passes = 1 if point in SWITCH_POINTS else dice.randrange(1, 3)
        await killed_at(the_bank, work, f"{point}:{passes}")
    await require_whole(the_bank)
    counted = await acme.read_models.get(TOTALS, "all")
    ((events,),) = await the_bank.rows(
        "SELECT count(*) FROM public.events WHERE tenant_id = %s"
        " AND event_type IN ('deposited', 'withdrawn')",
        acme.subjects.scope.tenant,
    )
    assert counted is not None and counted.events == events  # each once, none twice


async def test_C1_a_killed_projector_counts_each_event_once(the_bank: Bank) -> None:
    """Once at each of its points, with events waiting."""
    await run(the_bank, SEED, kills=len(PROJECTOR_POINTS))


@pytest.mark.faults
async def test_C1_projector_and_switch_killed_at_any_point(the_bank: Bank) -> None:
    """Forty seeded kills, rebuilds and switches among them; the tables stay what events say."""
    await run(the_bank, SEED + 1, kills=40)
