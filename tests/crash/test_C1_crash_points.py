"""C1: kill -9 at every named crash point, in seeded runs; the copies end up equal.

A run: a seed chooses the point, at which pass of it the process dies, and what is written
meanwhile. Then the process starts again, drains, and source and copies are compared: every value in
the ledgers and in ClickHouse, and every entry of Redis that a reader would believe. There are rows
to compare in each run. A seed that fails in any way is kept in `seeds.toml`, run again each time
before all others, and ends the runs: what follows it would begin with what it left. A run counts
only where the process died by SIGKILL at its point, and the runs only where each point had one.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.crash import ledger
from tests.crash.crash_runner import Runner
from tests.crash.kept_seeds import keep, keeping, kept
from tests.crash.workload import Workload
from tests.fixtures.bank import AccountClosed, Deposited, Opened, Withdrawn
from tests.fixtures.cached_accounts import cache_all, cached
from tests.fixtures.fix_projections import Bank
from tests.fixtures.fix_relay import RelayScene
from tests.fixtures.patience import PATIENCE_S

from neolayer.events.rooms import TenantRooms

ROOT = Path(__file__).parents[2]
FIRST_SEED = int(os.environ.get("TEST_SEED", "20261128"))

# A point, and at how many of its passes a run may choose to die.
RELAY_POINTS = {
    "relay.after_copy": 1,
    "relay.before_write": 6,
    "relay.after_write": 6,
    "relay.after_park": 6,
    "relay.before_confirm": 3,
    "relay.after_confirm": 3,
    "relay.after_append": 6,
    "relay.before_segment_fsync": 3,
    "relay.after_segment_fsync": 3,
    "relay.after_segment_roll": 2,
    "ledger.before_checkpoint": 4,  # of the tests' own sink
}
CLICKHOUSE_POINTS = {"clickhouse.before_checkpoint": 3, "relay.after_copy": 1}
PROJECTOR_POINTS = {
    "projector.before_write": 3,
    "projector.after_write": 3,
    "projector.before_commit": 3,
    "projector.after_commit": 3,
}
SWITCH_POINTS = {
    "projections.before_rebuild_write": 2,
    "projections.before_rebuild_commit": 2,
    "projections.in_switch": 2,
    "projections.before_switch_commit": 2,
}


def all_points() -> set[str]:
    """Every crash point that the program names."""
    texts = (path.read_text() for path in (ROOT / "src").rglob("*.py"))
    return {name for text in texts for name in re.findall(r'\bcrash_point\("([^"]+)"\)', text)}


def test_C1_every_named_point_has_runs_that_die_there() -> None:
    """Here, or in the tests of the room that names it."""
    here = {*RELAY_POINTS, *CLICKHOUSE_POINTS, *PROJECTOR_POINTS, *SWITCH_POINTS}
    others = [path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    elsewhere = "".join(path.read_text() for path in others)
    assert {name for name in all_points() - here if name not in elsewhere} == set()
    assert {name for name in here - all_points() if not name.startswith("ledger.")} == set()


def seeds_to_run(kind: str, count: int) -> list[int]:
    return [*kept(kind), *range(FIRST_SEED, FIRST_SEED + count)]


class Tally(Counter[str]):
    """seeds, kills, lost, doubled; and what was found wrong, by seed."""

    def __init__(self, kind: str) -> None:
        super().__init__(seeds=0, kills=0, lost=0, doubled=0)
        self.kind = kind
        self.points: Counter[str] = Counter()  # how often a process died at each
        self.failed: list[tuple[int, str, Any]] = []

    def judge(self, seed: int, point: str, *, lost: int, doubled: int, other: Any = ()) -> None:
        self.update(seeds=1, lost=lost, doubled=doubled)
        if lost or doubled or other:
            self.failed.append((seed, point, (lost, doubled, other)))
            print(self.failed[-1])

    def killed(self, crash_at: str) -> None:
        self["kills"] += 1
        self.points[crash_at.partition(":")[0]] += 1

    @contextmanager
    def keeping(self, seed: int) -> Iterator[None]:
        """Keep a seed that fails, be it before it could be judged."""
        failed = len(self.failed)
        with keeping(self.kind, seed):
            yield
        if len(self.failed) > failed:
            keep(self.kind, seed)

    def note(self, config: pytest.Config, began: float) -> None:
        """Only what went well is counted."""
        if self.failed:
            return
        assert config.cache is not None
        figures = {**self, "points": len(self.points)}
        config.cache.set(f"faults/{self.kind}_points", figures)
        each = (time.monotonic() - began) / max(1, self["seeds"])
        print(f"{self.kind}: {dict(self)}, {each:.2f} s a run")


class RelayRuns:
    """Runs over one scene, one after the other: what one leaves, the next begins with."""

    def __init__(self, scene: RelayScene, runner: Runner, tally: Tally) -> None:
        self.scene, self.runner, self.tally = scene, runner, tally
        self.workload = Workload(scene.dsn)
        self.ledger = scene.folder.parent

    def job(self, *, clickhouse: bool, **more: Any) -> dict[str, Any]:
        job = {
            "job": "relay",
            "dsn": self.scene.dsn,
            "slot": self.scene.slot,
            "folder": str(self.scene.folder),
            "ledger": str(self.ledger),
            "log": str(self.ledger / "relay.log"),
            **more,
        }
        if clickhouse:
            at = self.scene.endpoints.clickhouse
            job["clickhouse"] = [at.port, at.username, at.password, at.database]
            job["redis"] = self.scene.endpoints.redis.url
        return job

    async def run(self, seed: int, *, clickhouse: bool) -> None:
        dice = random.Random(seed)
        points = CLICKHOUSE_POINTS if clickhouse and dice.random() < 0.5 else RELAY_POINTS
        point = dice.choice(sorted(points))
        crash_at = f"{point}:{dice.randint(1, points[point])}"
        copies = point == "relay.after_copy" or dice.random() < 0.03
        if copies:
            self.workload.drop_slot(self.scene.slot)
        self.workload.may_truncate = self.tally["seeds"] > 0 and not copies
        for _ in range(dice.randrange(6)):
            self.workload.step(dice)
        self.runner.begin(self.job(clickhouse=clickhouse, crash_at=crash_at))
        self._write_until_dead(dice, f"{seed} {crash_at}")
        self.workload.await_slot(self.scene.slot)
        if clickhouse:  # what changes from here on must not be believed in the end
            cache_all(self.scene)
            for _ in range(3):
                self.workload.step(dice)
        end = self.workload.end()
        code = self.runner.run(self.job(clickhouse=clickhouse, reach=end))
        assert code == 0, (seed, crash_at, code, self._said())
        await self._judge(seed, crash_at, clickhouse=clickhouse)

    def _write_until_dead(self, dice: random.Random, what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while (code := self.runner.ended(within_s=dice.choice((0, 0.002, 0.01)))) is None:
            self.workload.step(dice)
            assert time.monotonic() < deadline, (what, self._said())
        assert code == -9, (what, code, self._said())
        self.tally.killed(what.partition(" ")[2])

    async def _judge(self, seed: int, point: str, *, clickhouse: bool) -> None:
        rows, lost, doubled = self.workload.rows(), 0, 0
        assert rows, (seed, point, "there was nothing to lose")
        other: list[Any] = []
        for sink in ("versioned", "once"):
            copied = ledger.held(self.ledger, sink)
            lost += sum(copied.get(name) != row for name, row in rows.items())
            doubled += sum(name not in rows for name in copied)
            differ = [name for name in rows | copied if rows.get(name) != copied.get(name)]
            other += [(sink, rows.get(name), copied.get(name)) for name in differ[:3]]
        for found in ledger.wrong(self.ledger):
            lost += found[1] == "lost"
            doubled += found[1] == "doubled"
            other.append(found)
        if clickhouse:
            source, copied = self.scene.rows(), await self.scene.copied()
            assert len(source) == len(rows), (seed, point)
            lost += len(set(source) - set(copied))
            doubled += len(set(copied) - set(source)) + len(copied) - len(set(copied))
            wrong, right = cached(self.scene)
            lost += len(wrong)
            other += wrong[:3]
            self.tally["cached"] += len(right)
        self.tally.judge(seed, point, lost=lost, doubled=doubled, other=other)

    def _said(self) -> str:
        return Path(self.job(clickhouse=False)["log"]).read_text()[-9000:]


async def relay_runs(scene: RelayScene, config: pytest.Config, count: int, *, every: int) -> Tally:
    """So many runs, one in `every` with the real ClickHouse and Redis beside the ledgers."""
    tally, began = Tally("relay"), time.monotonic()
    with Runner() as runner:
        runs = RelayRuns(scene, runner, tally)
        try:
            for number, seed in enumerate(seeds_to_run("relay", count)):
                with tally.keeping(seed):
                    await runs.run(seed, clickhouse=number % every == every - 1)
                if tally.failed:
                    break
        finally:
            runs.workload.close()
    tally.note(config, began)
    return tally


# What the read models must say, from the events alone.
_EXPECTED = """
WITH told AS (
    SELECT aggregate_id, event_version, event_type, (event_data->>'amount')::numeric AS amount
    FROM public.events WHERE tenant_id = %s
), closed AS (
    SELECT aggregate_id, max(event_version) FILTER (WHERE event_type = 'account-closed') AS at
    FROM told GROUP BY 1
)
SELECT aggregate_id,
    coalesce(sum(CASE event_type WHEN 'deposited' THEN amount WHEN 'withdrawn' THEN -amount END), 0)
        ::text,
    count(*) FILTER (WHERE event_type IN ('deposited', 'withdrawn'))::int
FROM told JOIN closed USING (aggregate_id) WHERE event_version > coalesce(at, 0) GROUP BY 1
"""
_BALANCES = (
    """SELECT account_id, balance::text, movements::int FROM read_models.{} WHERE tenant_id = %s"""
)
_EXPECTED_TOTAL = """SELECT count(*)::int, coalesce(sum((event_data->>'amount')::numeric), 0)::text
FROM public.events WHERE tenant_id = %s AND event_type IN ('deposited', 'withdrawn')"""
_TOTAL = """SELECT coalesce(max(events), 0)::int, coalesce(max(amount), 0)::text FROM read_models.{}
WHERE tenant_id = %s AND kind = 'all'"""


def counted(expected: int, found: int) -> tuple[int, int]:
    return max(0, expected - found), max(0, found - expected)


async def judged(the_bank: Bank, tenant: UUID) -> tuple[int, int, list[Any]]:
    """Events lost and doubled in a tenant's read models, and rows that differ otherwise."""
    lost, doubled, other = 0, 0, list[Any]()
    rows = {row[0]: row[1:] for row in await the_bank.rows(_EXPECTED, tenant)}
    ((events, amount),) = await the_bank.rows(_EXPECTED_TOTAL, tenant)
    assert rows and events, "there was nothing to lose"
    for name in ("balances", "inline_balances"):
        query = _BALANCES.format(name)
        found = {row[0]: row[1:] for row in await the_bank.rows(query, tenant)}
        for account in rows.keys() | found.keys():
            less, more = counted(rows.get(account, ("0", 0))[1], found.get(account, ("0", 0))[1])
            lost, doubled = lost + less, doubled + more
        if found != rows:
            other.append((name, len(rows), len(found)))
    for name in ("totals", "inline_totals"):
        ((got, sum_got),) = await the_bank.rows(_TOTAL.format(name), tenant)
        less, more = counted(events, got)
        lost, doubled = lost + less, doubled + more
        if sum_got != amount:
            other.append((name, amount, sum_got))
    return lost, doubled, other


async def write_events(acme: TenantRooms, dice: random.Random, appends: int) -> None:
    """The last is a new account, so that not all of them are closed."""
    accounts: list[UUID] = []
    for number in range(1, appends + 1):
        if not accounts or number == appends or dice.random() < 0.3:
            accounts.append(uuid4())
            await acme.events.append(accounts[-1], [Opened(uuid4(), "Ann"), Deposited(1)])
            continue
        events = [
            dice.choice([Deposited(dice.randrange(100)), Withdrawn(1), AccountClosed()])
            for _ in range(dice.randrange(1, 4))
        ]
        await acme.events.append(dice.choice(accounts), events)


async def projector_run(the_bank: Bank, runner: Runner, seed: int, tally: Tally, log: Path) -> None:
    dice = random.Random(seed)
    switching = dice.random() < 0.25
    points = SWITCH_POINTS if switching else PROJECTOR_POINTS
    point = dice.choice(sorted(points))
    crash_at = f"{point}:{dice.randint(1, points[point])}"
    acme = await the_bank.tenant()
    if switching:
        await write_events(acme, dice, 2)
        await the_bank.project()  # rebuild goes as far as the live table is
    await write_events(acme, dice, dice.randrange(12, 18))
    cluster = the_bank.endpoints.event_store
    job = {
        "job": "projector",
        "work": "switch" if switching else "project",
        "admin_dsn": cluster.admin_dsn,
        "passwords": {str(role): password for role, password in cluster.passwords.items()},
        "crash_at": crash_at,
        "page": 2_000 if point.startswith("projections.") and "rebuild" not in point else 5,
        "log": str(log),
    }
    code = runner.run(job)
    assert code == -9, (seed, crash_at, code, log.read_text()[-9000:])
    tally.killed(crash_at)
    await the_bank.burial()
    await the_bank.project()
    lost, doubled, other = await judged(the_bank, acme.subjects.scope.tenant)
    tally.judge(seed, crash_at, lost=lost, doubled=doubled, other=other)


async def projector_runs(the_bank: Bank, config: pytest.Config, count: int, folder: Path) -> Tally:
    tally, began = Tally("projector"), time.monotonic()
    with Runner() as runner:
        for seed in seeds_to_run("projector", count):
            with tally.keeping(seed):
                await projector_run(the_bank, runner, seed, tally, folder / "projector.log")
            if tally.failed:
                break
    tally.note(config, began)
    return tally


def wrong_in(tally: Tally) -> Sequence[object]:
    return [(tally["lost"], tally["doubled"]), tally.failed] if tally.failed else []


async def test_C1_a_projector_killed_at_seeded_points(
    the_bank: Bank, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    """A few runs: every event counts once in every read model."""
    tally = await projector_runs(the_bank, pytestconfig, 4, tmp_path)
    assert wrong_in(tally) == [] and tally["kills"] == tally["seeds"] >= 4


async def test_C1_a_relay_killed_at_seeded_points(
    relay_scene: RelayScene, pytestconfig: pytest.Config
) -> None:
    """A few runs: zero lost, zero doubled, rows equal."""
    tally = await relay_runs(relay_scene, pytestconfig, 3, every=4)
    assert wrong_in(tally) == [] and tally["kills"] == tally["seeds"] >= 3


@pytest.mark.faults
@pytest.mark.timeout(900)
async def test_C1_the_projector_killed_in_hundreds_of_seeded_runs(
    the_bank: Bank, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    """At every point of projector, rebuild and switch: each event counts once."""
    runs = int(os.environ.get("CRASH_RUNS", "500"))
    tally = await projector_runs(the_bank, pytestconfig, runs, tmp_path)
    assert wrong_in(tally) == [] and tally["kills"] == tally["seeds"] >= runs
    assert set(tally.points) == {*PROJECTOR_POINTS, *SWITCH_POINTS}


@pytest.mark.faults
@pytest.mark.timeout(600)
async def test_C1_the_relay_killed_in_hundreds_of_seeded_runs(
    relay_scene: RelayScene, pytestconfig: pytest.Config
) -> None:
    """At every point of relay and ClickHouse sink: zero lost, zero doubled, rows equal."""
    runs = int(os.environ.get("CRASH_RUNS", "150"))
    tally = await relay_runs(relay_scene, pytestconfig, runs, every=6)
    assert wrong_in(tally) == [] and tally["kills"] == tally["seeds"] >= runs
    assert set(tally.points) == {*RELAY_POINTS, *CLICKHOUSE_POINTS}
    assert tally["cached"] > 0, "no entry of the cache was ever compared"
