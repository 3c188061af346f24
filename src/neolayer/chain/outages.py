"""Waiting for a server that went away, once for every outage.

A run may last for weeks and meet any number of restarts; each may take a minute. So the time is
counted from the first failure, and anew after anything worked. A deadlock that was lost counts as
an outage too: a short one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TypeVar

import stamina

from neolayer.chain.lanes import SERVER_AWAY_S
from neolayer.chain.store import errors_at_the_door
from neolayer.errors import EngineUnavailable

FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 2.0
T = TypeVar("T")


def _always() -> bool:
    return True


class Outage:
    """Whether the server is away, and since when. `is_wanted`: false when nobody waits any more."""

    def __init__(self, is_wanted: Callable[[], bool] = _always) -> None:
        self._is_wanted = is_wanted
        self._began_s: float | None = None

    def ended(self) -> None:
        """Something worked: the next failure is another outage's."""
        self._began_s = None

    def is_bearable(self, exc: Exception) -> bool:
        """Whether to try again after this."""
        if not isinstance(exc, EngineUnavailable) or not self._is_wanted():
            return False
        if self._began_s is None:
            self._began_s = monotonic()
        return monotonic() - self._began_s < SERVER_AWAY_S


async def through_outages(work: Callable[[], Awaitable[T]], outage: Outage) -> T:
    """What the work comes to, begun again while the server is away: it must bear that.

    Raises EngineUnavailable after a minute of one outage; the driver's errors become ours.
    """
    async for attempt in stamina.retry_context(
        on=outage.is_bearable,
        attempts=None,
        timeout=None,
        wait_initial=FIRST_WAIT_S,
        wait_max=LONGEST_WAIT_S,
    ):
        with attempt, errors_at_the_door():
            result = await work()
            outage.ended()
            return result
    raise AssertionError("unreachable")
