"""Expensive work is shared fairly, bounded, and not begun for those who have left."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from uuid import UUID, uuid4

import pytest

from neolayer.wallets.derivations import Derivations, TooManyDerivations

ACME, GLOBEX = uuid4(), uuid4()


class Work:
    """Work that goes on until it is told to end, and notes who began."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.end = threading.Event()
        self._changed = threading.Condition()

    def of(self, name: str) -> Callable[[], str]:
        def do() -> str:
            with self._changed:
                self.begun.append(name)
                self._changed.notify_all()
            assert self.end.wait(30)
            return name

        return do

    async def has_begun(self, count: int) -> None:
        def wait() -> None:
            with self._changed:
                assert self._changed.wait_for(lambda: len(self.begun) >= count, 30)

        await asyncio.to_thread(wait)


def begin(
    derivations: Derivations, work: Work, tenant: UUID, *names: str
) -> list[asyncio.Task[str]]:
    return [asyncio.create_task(derivations.run(work.of(name), tenant=tenant)) for name in names]


async def test_D_a_tenant_of_many_keystores_waits_for_its_own() -> None:
    """Who comes with one is next, however many another has waiting; who has too many is told at
    once, and nobody else is."""
    derivations, work = Derivations(at_once=1, most_of_a_tenant=4), Work()
    tasks = begin(derivations, work, GLOBEX, "g1")
    await work.has_begun(1)
    tasks += begin(derivations, work, GLOBEX, "g2", "g3", "g4")
    await asyncio.sleep(0)
    with pytest.raises(TooManyDerivations):
        await derivations.run(work.of("g5"), tenant=GLOBEX)
    tasks += begin(derivations, work, ACME, "a1", "a2")
    await asyncio.sleep(0)
    work.end.set()
    await asyncio.gather(*tasks)
    assert work.begun == ["g1", "a1", "g2", "a2", "g3", "g4"]
    assert await derivations.run(work.of("g5"), tenant=GLOBEX) == "g5"


async def test_D_all_together_are_bounded() -> None:
    """However many tenants there are."""
    derivations, work = Derivations(at_once=2, most_in_all=3), Work()
    tasks = [task for n in range(3) for task in begin(derivations, work, uuid4(), str(n))]
    await asyncio.sleep(0)
    with pytest.raises(TooManyDerivations):
        await derivations.run(work.of("more"), tenant=ACME)
    work.end.set()
    assert await asyncio.gather(*tasks) == ["0", "1", "2"]


async def test_D_what_nobody_waits_for_is_not_begun() -> None:
    """A cancelled one gives its place back at once; what was at work ends by itself."""
    derivations, work = Derivations(at_once=1, most_of_a_tenant=3), Work()
    (at_work,) = begin(derivations, work, GLOBEX, "g1")
    await work.has_begun(1)
    for _ in range(5):
        left = begin(derivations, work, GLOBEX, "left", "left")
        await asyncio.sleep(0)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
    at_work.cancel()
    (last,) = begin(derivations, work, GLOBEX, "g2")
    work.end.set()
    assert await last == "g2"
    assert work.begun == ["g1", "g2"]


async def test_what_goes_wrong_is_the_callers() -> None:
    """And the next one is done."""
    derivations = Derivations()
    for _ in range(5):
        with pytest.raises(ZeroDivisionError):
            await derivations.run(lambda: 1 // 0, tenant=ACME)
    assert await derivations.run(lambda: 1, tenant=ACME) == 1
