"""C1: clients that append are killed, stopped and cut off; who reads all events misses none.

The other proof (tests/contract/test_events_order.py) has each step of a transaction in its hands.
This one has none: real processes append through the verbs, and die by SIGKILL wherever they are.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from tests.crash.appending_process import CATEGORY, NAME, TYPES
from tests.crash.kept_seeds import keeping, kept
from tests.fixtures.patience import PATIENCE_S

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.events import BEGINNING, Events, EventStore, Place, RecordedEvent, open_event_store
from neolayer.tenancy import Principal

ROOT = Path(__file__).parents[2]
SEED = int(os.environ.get("TEST_SEED", "20261129"))
KIND = "order_kills"  # of the seeds that are kept
APPENDERS, BLOWS = 3, 6
_CUT = """SELECT pid FROM pg_stat_activity WHERE application_name LIKE %s AND state <> 'idle'"""
_LEFT = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE %s"
_STORED = "SELECT event_id, aggregate_id, event_version FROM public.events WHERE tenant_id = %s"
# Some commits take their time, so that others that began later overtake them, and kills find them.
_STALL = """
CREATE FUNCTION public.stall() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_sleep(random() * 0.05) WHERE random() < 0.3;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER stall AFTER INSERT ON public.events DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION public.stall()
"""
_KINDS: dict[str, dict[str, Any]] = {
    "all": {},
    "by type": {"types": TYPES},
    "by category": {"categories": [CATEGORY]},
}


@dataclass
class Reader:
    """Reads on from its place, page after page."""

    events: Events
    kind: dict[str, Any]
    place: Place = BEGINNING
    seen: list[RecordedEvent] = field(default_factory=list[RecordedEvent])

    async def poll(self) -> int:
        found = await self.events.read_all(after=self.place, limit=200, **self.kind)
        if found:
            self.seen += found
            self.place = found[-1].place
        return len(found)


class Appenders:
    """Processes that append into one tenant, each to be killed."""

    def __init__(self, process: subprocess.Popen[str], stored: Path, dice: random.Random) -> None:
        self.process, self.stored, self.dice = process, stored, dice
        self.running: list[int] = []
        self.kills = 0

    def start(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{self.dice.randrange(1 << 30)}\n")
        self.process.stdin.flush()
        self.running.append(int(self.process.stdout.readline()))

    def kill(self, pid: int) -> None:
        self.running.remove(pid)
        os.kill(pid, signal.SIGKILL)
        self.kills += 1

    async def progress(self, stored: int) -> None:
        """Wait until so many more events were said to be stored."""
        aim = self.size() + stored * 37  # an id a line
        async with asyncio.timeout(PATIENCE_S):
            while self.size() < aim:
                await asyncio.sleep(0.001)

    def size(self) -> int:
        return self.stored.stat().st_size

    def said(self) -> set[UUID]:
        """What was said to be stored; a line that a kill cut off was not."""
        lines = self.stored.read_text().split("\n")[:-1]
        return {UUID(line) for line in lines}


@contextmanager
def appenders(
    at: Endpoints, tenant: UUID, dice: random.Random, stored: Path
) -> Iterator[Appenders]:
    cluster = at.event_store
    told = {
        "admin_dsn": cluster.admin_dsn,
        "passwords": {str(role): word for role, word in cluster.passwords.items()},
        "tenant": str(tenant),
        "streams": [str(uuid4()) for _ in range(4)],
        "stored": str(stored),
    }
    stored.touch()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.crash.appending_process"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps(told) + "\n")
    found = Appenders(process, stored, dice)
    try:
        yield found
    finally:
        for pid in found.running:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@asynccontextmanager
async def polling(readers: list[Reader]) -> AsyncIterator[None]:
    """The readers read all the while, each by itself; at the end each is read to the end."""
    over = asyncio.Event()

    async def read(reader: Reader) -> None:
        while not over.is_set():
            await reader.poll()
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for reader in readers:
            group.create_task(read(reader))
        try:
            yield
        finally:
            over.set()
    for reader in readers:
        while await reader.poll():
            pass


async def strike(found: Appenders, admin: psycopg.Connection) -> None:
    """Kill a client, stop one for a while, or end what the server does for one."""
    dice = found.dice
    await found.progress(dice.randint(1, 30))
    blow, pid = dice.choice(("kill", "kill", "stop", "cut off")), dice.choice(found.running)
    if blow == "kill":
        found.kill(pid)
        found.start()
    elif blow == "stop":
        os.kill(pid, signal.SIGSTOP)
        await found.progress(dice.randint(1, 30))
        if dice.random() < 0.5:
            found.kill(pid)
            found.start()
        else:
            os.kill(pid, signal.SIGCONT)
    else:
        busy = [row[0] for row in admin.execute(_CUT, (f"%{NAME}%",)).fetchall()]
        if busy:
            admin.execute("SELECT pg_terminate_backend(%s)", (dice.choice(busy),))


async def gone(admin: psycopg.Connection) -> None:
    """Wait until the server has noticed that its clients are dead."""
    async with asyncio.timeout(PATIENCE_S):
        while admin.execute(_LEFT, (f"%{NAME}%",)).fetchone() != (0,):
            await asyncio.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Found:
    kills: int
    stored: int
    wrong: list[str]


async def run(
    at: Endpoints, store: EventStore, admin: psycopg.Connection, seed: int, folder: Path
) -> Found:
    """One seed: what is stored at the end was seen once, in its streams' order, by every reader."""
    dice, tenant = random.Random(seed), uuid4()
    events = store.events(tenant, by=Principal.operator("tests"))
    readers = {name: Reader(events, kind) for name, kind in _KINDS.items()}
    with appenders(at, tenant, dice, folder / f"stored_{seed}") as found:
        for _ in range(APPENDERS):
            found.start()
        async with polling([*readers.values()]):
            for _ in range(BLOWS):
                await strike(found, admin)
            for pid in [*found.running]:
                found.kill(pid)
            await gone(admin)
        stored = {row[0]: row[1:] for row in admin.execute(_STORED, (tenant,)).fetchall()}
        wrong = [
            f"{len(lost)} said to be stored" for lost in [found.said() - stored.keys()] if lost
        ]
        for name, reader in readers.items():
            wrong += [f"{name}: {what}" for what in mistakes(reader.seen, stored)]
        return Found(found.kills, len(stored), wrong)


def mistakes(seen: list[RecordedEvent], stored: dict[UUID, tuple[Any, ...]]) -> Iterator[str]:
    ids = [event.event_id for event in seen]
    if lost := stored.keys() - set(ids):
        yield f"{len(lost)} lost"
    if doubled := len(ids) - len(set(ids)):
        yield f"{doubled} doubled"
    versions: dict[UUID, list[int]] = {}
    for event in seen:
        versions.setdefault(event.stream_id, []).append(event.version)
    if any(found != list(range(1, len(found) + 1)) for found in versions.values()):
        yield "a stream out of order"


@pytest.fixture
async def one_run(
    module_databases: Endpoints, tmp_path: Path
) -> AsyncIterator[Callable[[int], Awaitable[Found]]]:
    dsn = module_databases.event_store.dsn(Role.ADMIN, Database.EVENT_STORE)
    async with open_event_store(module_databases, application_name="reading") as store:
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute(_STALL)

            async def judged(seed: int) -> Found:
                with keeping(KIND, seed):
                    found = await run(module_databases, store, admin, seed, tmp_path)
                    assert found.stored and not found.wrong, (seed, found)
                return found

            yield judged


async def test_C1_no_event_is_skipped_when_clients_are_killed(
    one_run: Callable[[int], Awaitable[Found]],
) -> None:
    """SIGKILL of clients, SIGSTOP, and pg_terminate_backend, while three readers read on."""
    kills = [(await one_run(seed)).kills for seed in [*kept(KIND), *range(SEED, SEED + 2)]]
    assert min(kills) >= APPENDERS


@pytest.mark.faults
@pytest.mark.timeout(900)
async def test_C1_no_event_is_skipped_in_sixty_runs_of_kills(
    one_run: Callable[[int], Awaitable[Found]], pytestconfig: pytest.Config
) -> None:
    """The long form: sixty seeds, some three hundred kills."""
    seeds = [*kept(KIND), *range(SEED + 1_000, SEED + 1_060)]
    kills = sum([(await one_run(seed)).kills for seed in seeds])
    assert pytestconfig.cache is not None
    figures = {"seeds": len(seeds), "kills": kills, "lost": 0, "doubled": 0}
    pytestconfig.cache.set("faults/order_kills", figures)
