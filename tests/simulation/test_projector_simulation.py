"""The real projector in a simulated world: killed and cut off for hours, one seed a run."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import UUID

import psycopg
import pytest
import structlog
from tests.crash.kept_seeds import keeping, kept
from tests.fixtures import bank
from tests.simulation.event_store import LARGEST, Connection, EventStore, ReadModel, StoredEvent
from tests.simulation.virtual_time import VirtualLoop

from neolayer.engines.endpoints import Endpoints
from neolayer.events.projections import projector as module
from neolayer.events.projections.domain import Domain
from neolayer.events.projections.projector import Projector

KIND = "projector_simulation"  # of the seeds that are kept
FIRST_SEED = int(os.environ.get("TEST_SEED", "1"))
DOMAIN = Domain.of([bank.accounts], [bank.BALANCES, bank.TOTALS])
CONVERGES_S = 600.0
HUGE = LARGEST + 1


class Killed(BaseException):
    """The simulated process is gone."""


@dataclass
class World:
    """Writers that stall and give up, projectors that die, and one store."""

    seed: int
    minutes: float
    kills: int = 0
    starts: int = 0
    poisoned: int = 0
    is_calm: bool = False
    sessions: list[Connection] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.loop = VirtualLoop(self.dice)
        self.store = EventStore(self.dice, faults=self.dice.choice((0.001, 0.005, 0.02)))
        self.store.models = {
            one.name: ReadModel(target.shape.mark)
            for one in DOMAIN.projections
            if (target := module.Target.of(one, DOMAIN.registry))
        }
        self.tenants = [self.uuid() for _ in range(3)]

    def uuid(self) -> UUID:
        return UUID(int=self.dice.getrandbits(128), version=4)

    def crash_point(self, _: str) -> None:
        if not self.is_calm and self.dice.random() < 0.003:
            self.kills += 1
            raise Killed

    async def write(self) -> None:
        """Transactions of one writer: some stall, some abort, some hold what nobody can fold."""
        streams = [(self.dice.choice(self.tenants), self.uuid()) for _ in range(4)]
        versions = dict.fromkeys(streams, 0)
        while self.loop.now < self.minutes * 60:
            await asyncio.sleep(self.dice.expovariate(2.0))
            transaction, fresh, ahead = self.store.begin(), list[StoredEvent](), dict(versions)
            for index in range(self.dice.randrange(1, 6)):
                tenant, stream = at = self.dice.choice(streams)
                ahead[at] += 1
                kind, data, schema_version = self._event()
                fresh.append(
                    StoredEvent(
                        (transaction, index),
                        tenant,
                        self.uuid(),
                        stream,
                        ahead[at],
                        kind,
                        json.dumps(data),
                        schema_version,
                    )
                )
            await asyncio.sleep(self.dice.choice((0.0, 0.0, 0.05, 3.0)))
            if self.dice.random() < 0.1:
                self.store.end(transaction)
                continue
            versions = ahead
            self.store.end(transaction, fresh)
            if self.dice.random() < 0.1:  # a stream without hope, and a new one
                fresh_stream = self.dice.choice(self.tenants), self.uuid()
                streams[self.dice.randrange(4)] = fresh_stream
                versions[fresh_stream] = 0

    def _event(self) -> tuple[str, dict[str, Any], int]:
        chance = self.dice.random()
        if chance < 0.005:
            return "deposited", {"amount": self.dice.choice(("five", HUGE))}, 3
        if chance < 0.01:
            return "deposited", {"amount": 1}, self.dice.choice((1, 9))
        if chance < 0.1:
            return "noted", {}, 1  # of no projection
        if chance < 0.3:
            return "deposited", {"units": 1}, 1
        return "deposited", {"amount": self.dice.randrange(100)}, 3

    async def live(self) -> None:
        """One projector after another, each until it is killed."""
        while True:
            self.starts += 1
            projector = Simulated(cast("Endpoints", None), DOMAIN, self.dice.choice((3, 20, 200)))
            projector.world = self
            try:
                while True:
                    with contextlib.suppress(psycopg.OperationalError):
                        await projector.catch_up()
                    await asyncio.sleep(0.2)
            except Killed:
                await projector.close()
                await asyncio.sleep(self.dice.choice((0.1, 5.0)))

    async def run(self) -> None:
        alive = [asyncio.create_task(self.live()) for _ in range(2)]
        await asyncio.gather(*(self.write() for _ in range(4)))
        self.is_calm, self.store.faults = True, 0.0
        async with asyncio.timeout(CONVERGES_S):
            while any(self.store.settled(one.place) for one in self.store.models.values()):
                await asyncio.sleep(0.5)
        for task in alive:
            task.cancel()
        results = await asyncio.gather(*alive, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in results), results


class Simulated(Projector):
    """The real one, on a simulated connection."""

    world: World

    async def _connected(self) -> Any:
        if self._connection is None or self._connection.closed:
            await asyncio.sleep(0.01)
            self._connection = cast("Any", Connection(self.world.store))
            for target in self._targets.values():
                self.world.store.know(target)
        return self._connection


def expected(world: World) -> tuple[dict[tuple[str, ...], int], dict[tuple[UUID, UUID], int]]:
    """Each stream's balance up to its first event that cannot be folded, and which that is."""
    balances: dict[tuple[str, ...], int] = {}
    standing: dict[tuple[UUID, UUID], int] = {}
    for event in sorted(world.store.events, key=lambda event: event.place):
        stream = event.tenant, event.stream
        if event.kind != "deposited" or stream in standing:
            continue
        data = json.loads(event.data)
        amount = data["units"] * 100 if "units" in data else data["amount"]
        fits = isinstance(amount, int) and amount < HUGE
        if not fits or event.schema_version != (1 if "units" in data else 3):
            standing[stream] = event.version
            continue
        key = str(event.tenant), str(event.stream)
        balances[key] = balances.get(key, 0) + amount
    return balances, standing


def simulate(seed: int, minutes: float, monkeypatch: pytest.MonkeyPatch) -> World:
    """Run a world to its end and check what came out. Raises AssertionError with the seed."""
    world = World(seed, minutes)
    monkeypatch.setattr(module, "crash_point", world.crash_point)
    asyncio.set_event_loop(world.loop)
    try:
        world.loop.run_until_complete(world.run())
    finally:
        asyncio.set_event_loop(None)
        world.loop.close()
    balances, standing = expected(world)
    model = world.store.models["balances"]
    assert {at: json.loads(row)["balance"] for at, row in model.rows.items()} == balances, seed
    assert {at: version for at, (version, _) in model.parked.items()} == standing, seed
    for tenant in world.tenants:
        theirs = [amount for at, amount in balances.items() if at[0] == str(tenant)]
        if theirs:
            total = json.loads(world.store.models["totals"].rows[str(tenant), "all"])
            assert total["amount"] == sum(theirs), seed
    world.poisoned = len(standing)
    return world


def run_seeds(count: int, minutes: float, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    quiet = structlog.get_config()["logger_factory"]
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    worlds: list[World] = []
    try:
        for seed in [*kept(KIND), *range(FIRST_SEED, FIRST_SEED + count)]:
            with keeping(KIND, seed):
                worlds.append(simulate(seed, minutes, monkeypatch))
    finally:
        structlog.configure(logger_factory=quiet)
    return {
        "runs": len(worlds),
        "simulated hours": round(sum(world.loop.now for world in worlds) / 3600, 2),
        "events": sum(len(world.store.events) for world in worlds),
        "kills": sum(world.kills for world in worlds),
        "lost connections": sum(world.store.lost for world in worlds),
        "streams that stand": sum(world.poisoned for world in worlds),
    }


def test_C1_C8_the_projector_keeps_its_promises_in_simulated_time(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Killed between any two steps, cut off before and after COMMIT, two at once, over writers that
    stall and abort: each event counts once, a bad one holds up its own stream alone."""
    figures = run_seeds(2, 2, monkeypatch)
    request.node.user_properties.append(("projector simulated", figures))
    assert min(figures["kills"], figures["lost connections"], figures["streams that stand"]) > 0


@pytest.mark.faults
def test_C1_C8_the_projector_keeps_its_promises_in_simulated_hours(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, pytestconfig: pytest.Config
) -> None:
    """The same over more seeds, for six minutes each."""
    figures = run_seeds(10, 6, monkeypatch)
    request.node.user_properties.append(("projector simulated", figures))
    assert pytestconfig.cache is not None
    noted = {
        "projector_simulated_hours": figures["simulated hours"],
        "projector_simulated_kills": figures["kills"],
    }
    pytestconfig.cache.set("faults/projector_simulation", noted)
