"""E3: who is absent and who mistyped get their answer after the same time; so does a letter.

A try's time on a shared machine is mostly other people's: so what is compared at a login is the
processor time it takes here and in the database's server processes, where each argon2 counts as
the median of all that had its parameters (how many there are, and with which, is counted: half of
a try's time, and nearly all of its noise). At a letter it is the time to which the answer is
stretched, without what the machine overslept, and the processor time around it. Pairs are added
until the interval is narrow enough to tell. Times by the clock are printed, and fail where they are
clearly different. What differs is measured anew: a busy neighbour falls on one sample, a leak on
all.
"""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
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

pytestmark = [pytest.mark.security, pytest.mark.timeout(500)]

HERE = Client(ip="192.0.2.1", user_agent="tests")
SECONDS = {"login": 240, "reset": 90}  # for as long as it cannot be told
FEWEST = 50  # pairs
SAMPLES = 3  # in each of which a difference has to be seen
RESAMPLES = 2000
TRIM = 0.2  # of the pairs at either end: a neighbour's work falls on single tries
BAR = 0.01
Ask = Callable[[], Awaitable[None]]
Cost = tuple[int, int, int]
Difference = tuple[str, str, str]  # of which kind, by which measure, slower or faster


@dataclass(frozen=True)
class Asked:
    """What is compared: `usual` with all the others; `control` is as usual."""

    platform: Platform
    tenant: str

    async def _refused(self, tenant: str, name: str, password: str) -> None:
        with pytest.raises(BadCredentials):
            await self.platform.log_in(tenant, name, Credentials(password), HERE)

    def logins(self) -> dict[str, Ask]:
        return {
            "usual": lambda: self._refused(self.tenant, "ann", "not the password"),
            "absent person": lambda: self._refused(self.tenant, "nobody", PASSWORD),
            "absent tenant": lambda: self._refused("absent", "ann", PASSWORD),
            "control": lambda: self._refused(self.tenant, "bob", "not the password"),
        }

    def resets(self) -> dict[str, Ask]:
        def asking(tenant: str, name: str) -> Ask:
            return lambda: self.platform.request_reset(tenant, f"{name}@example.com", HERE)

        return {
            "usual": asking(self.tenant, "ann"),
            "absent person": asking(self.tenant, "nobody"),
            "absent tenant": asking("absent", "ann"),
            "control": asking(self.tenant, "bob"),
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
        hashed = sum(statistics.median(self.of_argon2[cost]) for cost in one.hashes)
        return one.worked + one.stretched + hashed


def busy(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def trimmed_mean(values: Sequence[float]) -> float:
    cut = int(len(values) * TRIM)
    return statistics.fmean(sorted(values)[cut : len(values) - cut])


def interval(
    one: Sequence[float], other: Sequence[float], sure: float = 0.95
) -> tuple[float, float]:
    """The bootstrap interval of the difference in a pair, as a part of the usual try."""
    chance = random.Random(20)
    usual = statistics.median(other)
    pairs = [(a - b) / usual for a, b in zip(one, other, strict=True)]
    means = sorted(trimmed_mean(chance.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES))
    out = (1 - sure) / 2
    return means[int(RESAMPLES * out)], means[int(RESAMPLES * (1 - out)) - 1]


def servers_of(at: Endpoints) -> list[Path]:
    """Where Linux tells the nanoseconds that each process behind the application's role ran."""
    with psycopg.connect(at.postgres.dsn(Role.ADMIN)) as admin:
        found = admin.execute(
            "SELECT pid FROM pg_stat_activity WHERE usename = 'neolayer_app'"
        ).fetchall()
    paths = [Path(f"/proc/{pid}/schedstat") for (pid,) in found]
    return [path for path in paths if path.exists()]


@dataclass
class Comparison:
    """Tries of each kind in pairs with the usual one, and what can be said of them so far."""

    what: str
    measures: Mapping[str, Callable[[Try], float]]  # the first one decides
    taken: dict[str, list[Try]] = field(default_factory=lambda: defaultdict(list))

    def interval(self, kind: str, measure: str, sure: float = 0.95) -> tuple[float, float]:
        ours, usual = ([self.measures[measure](t) for t in self.taken[k]] for k in (kind, "usual"))
        return interval(ours, usual, sure)

    def kinds(self) -> list[str]:
        return sorted(self.taken.keys() - {"usual"})

    def is_shown(self) -> bool:
        """Whether each interval lies within the bar."""
        found = [self.interval(kind, next(iter(self.measures))) for kind in self.kinds()]
        return all(-BAR < low <= high < BAR for low, high in found)

    def differing(self, sure: float) -> set[Difference]:
        """What lies wholly beyond the bar."""
        return {
            (kind, measure, "slower" if low > BAR else "faster")
            for kind in self.kinds()
            if kind != "control"
            for measure in self.measures
            for low, high in [self.interval(kind, measure, sure)]
            if low > BAR or high < -BAR
        }

    def told(self) -> str:
        lines = []
        for measure, value in self.measures.items():
            usual = statistics.median(value(one) for one in self.taken["usual"]) * 1e3
            for kind in self.kinds():
                low, high = self.interval(kind, measure)
                lines.append(
                    f"E3 {self.what}, {measure}: {kind} {low:+.2%} .. {high:+.2%} of {usual:.1f} ms"
                )
        return "\n".join([*lines, f"E3 {self.what}: {len(self.taken['usual'])} pairs"])


@dataclass
class Bench:
    """What strangers ask, and the meter that is held to it."""

    what: str
    tries: dict[str, Ask]
    meter: Meter
    forget: Callable[[], Awaitable[None]]
    tell: Callable[[str], None]

    async def compared(self) -> tuple[set[Difference], Comparison, bool]:
        """What differs in each of `SAMPLES`, the last sample, and whether it could be told.

        The first one has to be nearly sure; each of the others has twice the pairs of the one
        before, and looks for nothing else than what was seen in all of them.
        """
        end = time.monotonic() + SECONDS[self.what]
        found, shown = await self._sampled(FEWEST, lambda one: one.differing(0.999), end)
        lasting = found.differing(0.95 if shown is None else 0.999)
        for sample in range(1, SAMPLES):
            if not lasting:
                return lasting, found, bool(shown)
            seen = lasting
            found, shown = await self._sampled(
                FEWEST << sample, lambda one, seen=seen: one.differing(0.95) & seen, end
            )
            lasting = found.differing(0.95) & seen
        return lasting, found, bool(shown)

    async def _sampled(
        self, fewest: int, differing: Callable[[Comparison], set[Difference]], end: float
    ) -> tuple[Comparison, bool | None]:
        """Add pairs until it is known: True: they are alike, False: they differ; None: no time."""
        found = Comparison(self.what, {"work": self.meter.work, "clock": lambda one: one.clock})
        chance, look, shown = random.Random(20), fewest, None
        gc.collect()
        gc.disable()
        try:
            while shown is None and (look == fewest or time.monotonic() < end):
                await self.forget()
                for kind in chance.sample(sorted(self.tries), len(self.tries)):
                    found.taken[kind].append(await self.meter.timed(self.tries[kind]))
                if len(found.taken["usual"]) == look:
                    look *= 2
                    shown = True if found.is_shown() else False if differing(found) else None
        finally:
            gc.enable()
        self.tell(f"\n{found.told()}")
        return found, True if found.is_shown() else shown


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
    there, at logins and at requests for a new password. Tries alternate in an order that is drawn,
    so that a slow second falls on all kinds; a control of the same kind has to pass as well."""
    differing, last, told = await bench.compared()
    assert differing == set(), last.told()
    if not told:
        pytest.skip(f"too noisy here to see 1 %:\n{last.told()}")


@pytest.mark.parametrize("what", ["login"])
@pytest.mark.parametrize(
    ("waste", "measure"), [(time.sleep, "clock"), (busy, "work")], ids=["waiting", "working"]
)
async def test_E3_a_leak_is_seen(
    bench: Bench, waste: Callable[[float], None], measure: str
) -> None:
    """What takes a fifth longer for who is not there is told, by the measure it shows in."""
    absent, usual = bench.tries["absent person"], bench.tries["usual"]
    fifth = (await bench.meter.timed(usual)).clock / 5

    async def leaking() -> None:
        await absent()
        waste(fifth)

    bench.tries["absent person"] = leaking
    differing, last, _ = await bench.compared()
    assert ("absent person", measure, "slower") in differing, last.told()
