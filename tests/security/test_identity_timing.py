"""E3: who is absent and who mistyped get their answer after the same time; so does a letter.

A try's time on a shared machine is mostly other people's: so what is compared at a login is the
processor time it takes here and in the database's server processes, where each argon2 counts as
the median of all that had its parameters (how many there are, and with which, is counted: half of
a try's time, and nearly all of its noise). At a letter it is the time to which the answer is
stretched, without what the machine overslept, and the processor time around it. Times by the clock
are printed, and fail where they are clearly different. How it is told: tests/fixtures/paired_tries.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import argon2
import psycopg
import pytest

from neolayer.engines.endpoints import Endpoints, Role
from neolayer.face import Platform
from neolayer.identity import BadCredentials, Client, Credentials, tokens
from neolayer.tenancy import NOBODYS, Principal
from tests.fixtures.fix_api import PASSWORD, Api
from tests.fixtures.paired_tries import CONTROL, USUAL, Comparing, Verdict

pytestmark = [pytest.mark.security, pytest.mark.timeout(900)]

HERE = Client(ip="192.0.2.1", user_agent="tests")
SECONDS = {"login": 240, "reset": 90}  # in which it has to be told, or twice as many at worst
Ask = Callable[[], Awaitable[None]]
Cost = tuple[int, int, int]


@dataclass(frozen=True)
class Asked:
    """What is compared."""

    platform: Platform
    tenant: str

    async def _refused(self, tenant: str, name: str, password: str) -> None:
        with pytest.raises(BadCredentials):
            await self.platform.log_in(tenant, name, Credentials(password), HERE)

    def logins(self) -> dict[str, Ask]:
        return {
            USUAL: lambda: self._refused(self.tenant, "ann", "not the password"),
            "absent person": lambda: self._refused(self.tenant, "nobody", PASSWORD),
            "absent tenant": lambda: self._refused("absent", "ann", PASSWORD),
            CONTROL: lambda: self._refused(self.tenant, "bob", "not the password"),
        }

    def resets(self) -> dict[str, Ask]:
        def asking(tenant: str, name: str) -> Ask:
            return lambda: self.platform.request_reset(tenant, f"{name}@example.com", HERE)

        return {
            USUAL: asking(self.tenant, "ann"),
            "absent person": asking(self.tenant, "nobody"),
            "absent tenant": asking("absent", "ann"),
            CONTROL: asking(self.tenant, "bob"),
        }


@dataclass
class Try:
    """What one try took, in seconds, and its hashes."""

    clock: float = 0.0
    worked: float = 0.0  # of processors, without argon2 and without what is stretched
    stretched: float = 0.0
    overslept: float = 0.0
    hashes: list[Cost] = field(default_factory=list[Cost])


@dataclass
class Meter:
    """Measures tries. `servers` are the database's processes that answer them."""

    servers: Sequence[Path]
    of_argon2: dict[Cost, list[float]] = field(default_factory=lambda: defaultdict(list))
    now: Try = field(default_factory=Try)
    _medians: dict[Cost, tuple[int, float]] = field(default_factory=dict[Cost, tuple[int, float]])

    @contextmanager
    def attached(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Tell the time of argon2, of sleeps and of what is stretched apart."""
        verifying, stretching = argon2.PasswordHasher.verify, tokens.answering_evenly

        def verify(hasher: Any, stored: str, password: bytes) -> Any:
            asked = argon2.extract_parameters(stored)
            cost = (asked.memory_cost, asked.time_cost, asked.parallelism)
            start = time.thread_time()
            try:
                return verifying(hasher, stored, password)
            finally:
                taken = time.thread_time() - start
                self.of_argon2[cost].append(taken)
                self.now.hashes.append(cost)
                self.now.worked -= taken

        async def sleep(seconds: float) -> None:
            start = time.perf_counter()
            await asyncio.sleep(seconds)
            self.now.overslept += time.perf_counter() - start - seconds

        @asynccontextmanager
        async def answering_evenly() -> AsyncGenerator[None]:
            worked, start = self.processors(), time.perf_counter()
            async with stretching():
                yield
            self.now.stretched += time.perf_counter() - start - self.now.overslept
            self.now.worked -= self.processors() - worked

        with monkeypatch.context() as patch:
            patch.setattr(argon2.PasswordHasher, "verify", verify)
            patch.setattr(tokens, "answering_evenly", answering_evenly)
            ours = SimpleNamespace(sleep=sleep, get_running_loop=asyncio.get_running_loop)
            patch.setattr(tokens, "asyncio", ours)
            yield

    def processors(self) -> float:
        """Seconds of processors, ours and the servers'."""
        served = sum(int(path.read_text().split()[0]) for path in self.servers)
        return time.process_time() + served / 1e9

    async def timed(self, ask: Ask) -> Try:
        self.now = Try()
        worked, start = self.processors(), time.perf_counter()
        await ask()
        self.now.clock += time.perf_counter() - start
        self.now.worked += self.processors() - worked
        return self.now

    def work(self, one: Try) -> float:
        """Processor time, each argon2 at the median of its cost, and what was stretched."""
        return one.worked + one.stretched + sum(map(self._usual_argon2, one.hashes))

    def _usual_argon2(self, cost: Cost) -> float:
        """The median, which is asked for much more often than it changes."""
        taken = self.of_argon2[cost]
        if self._medians.get(cost, (0, 0.0))[0] != len(taken):
            self._medians[cost] = len(taken), statistics.median(taken)
        return self._medians[cost][1]


def servers_of(at: Endpoints) -> list[Path]:
    """Where Linux tells the nanoseconds that each process behind the application's role ran."""
    with psycopg.connect(at.postgres.dsn(Role.ADMIN)) as admin:
        found = admin.execute(
            "SELECT pid FROM pg_stat_activity WHERE usename = 'neolayer_app'"
        ).fetchall()
    paths = [Path(f"/proc/{pid}/schedstat") for (pid,) in found]
    return [path for path in paths if path.exists()]


@dataclass
class Bench:
    """What strangers ask, and the meter that is held to it."""

    what: str
    tries: dict[str, Ask]
    meter: Meter
    forget: Callable[[], Awaitable[None]]
    tell: Callable[[str], None]

    @property
    def measures(self) -> dict[str, Callable[[Try], float]]:
        """Processor time, and time."""
        return {"work": self.meter.work, "clock": lambda one: one.clock}

    async def verdict(self, *measures: str) -> Verdict:
        """Compare by these; the first one decides."""
        verdict = await Comparing(
            kinds=self.tries,
            take=lambda kind: self.meter.timed(self.tries[kind]),
            between=self.forget,
            measures={measure: self.measures[measure] for measure in measures},
            seconds=SECONDS[self.what],
        ).verdict()
        self.tell("".join(f"\nE3 {self.what}, {line}" for line in verdict.figures.splitlines()))
        return verdict


@pytest.fixture
async def bench(
    api: Api,
    layer_databases: Endpoints,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> AsyncGenerator[Bench]:
    acme = await api.tenant()
    for name in ("ann", "bob"):
        await api.person(acme, name, "member")
    assert acme.scope.tenant is not None
    asked = Asked(api.platform, (await acme.tenants.get(acme.scope.tenant)).identifier)
    tries = asked.logins() if what == "login" else asked.resets()
    nowhere = api.platform.core.scope(NOBODYS, by=Principal.operator("tests"))

    async def forget() -> None:
        for scope in (acme.scope, nowhere):
            await scope.fetch("DELETE FROM auth.login_failures RETURNING kind")
        await acme.scope.fetch("DELETE FROM auth.one_time_tokens RETURNING id")

    def tell(line: str) -> None:
        with capsys.disabled():
            print(line, end="")

    for ask in tries.values():
        await ask()
    meter = Meter(servers_of(layer_databases))
    assert meter.servers
    with meter.attached(monkeypatch):
        yield Bench(what, tries, meter, forget, tell)


@pytest.mark.parametrize("what", SECONDS)
async def test_E3_absent_and_wrong_take_the_same_time(bench: Bench) -> None:
    """The 95 % interval of the difference lies within 1 %, for a person and a tenant that are not
    there, at logins and at requests for a new password; a control of the same kind has to pass as
    well."""
    verdict = await bench.verdict("work", "clock")
    assert not verdict.lasting, verdict.figures
    if not verdict.is_alike:
        pytest.skip(f"too noisy here to see 1 %:\n{verdict.figures}")


def work(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


@pytest.mark.parametrize(
    ("what", "waste", "part", "measure"),
    [
        ("login", time.sleep, 0.2, "clock"),
        ("login", work, 0.05, "work"),
        ("reset", work, 0.05, "work"),
    ],
)
async def test_E3_a_leak_is_seen(
    bench: Bench, waste: Callable[[float], None], part: float, measure: str
) -> None:
    """What takes longer by a fifth of a try, or works by a twentieth more, for who is not there."""
    absent, usual = bench.tries["absent person"], bench.tries[USUAL]
    taken: list[Try] = []
    for _ in range(9):
        await bench.forget()
        taken.append(await bench.meter.timed(usual))
    typical = statistics.median(map(bench.measures[measure], taken))

    async def leaking() -> None:
        await absent()
        waste(part * typical)

    bench.tries = {USUAL: usual, CONTROL: bench.tries[CONTROL], "absent person": leaking}
    verdict = await bench.verdict(measure)
    assert ("absent person", measure, "slower") in verdict.lasting, verdict.figures
