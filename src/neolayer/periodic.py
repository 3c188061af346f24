"""Work that is done again and again: what a room declares and the worker `tasks` carries out.

A room's `tasks.py` lists its own, each with what it needs as its one parameter:

    TASKS = (Task("identity: end old sessions", timedelta(minutes=5), end_old_sessions),)

`platform.py` gives each what it needs (`task.given(core)`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Generic, TypeVar
from uuid import UUID

from neolayer.errors import EngineUnavailable
from neolayer.telemetry import log_error

Need = TypeVar("Need")


@dataclass(frozen=True, slots=True)
class Task(Generic[Need]):
    """One piece of work, done every `every`, never twice at a time; an error is tried again."""

    name: str
    every: timedelta
    run: Callable[[Need], Awaitable[object]]

    def given(self, need: Need) -> BoundTask:
        """The task with what it needs."""
        return BoundTask(self.name, self.every, partial(self.run, need))


@dataclass(frozen=True, slots=True)
class BoundTask:
    """A task that can run."""

    name: str
    every: timedelta
    run: Callable[[], Awaitable[object]]


async def in_each(tenants: Iterable[UUID], work: Callable[[UUID], Awaitable[int]]) -> int:
    """Do the work in each tenant; the sum of what it counts.

    What one tenant's rows make of it stops no other's: the first such error is raised at the end.
    Raises EngineUnavailable at once.
    """
    total, failed = 0, None
    for tenant in tenants:
        try:
            total += await work(tenant)
        except EngineUnavailable:
            raise
        except Exception as exc:
            log_error("periodic work failed in a tenant", tenant=str(tenant), error=str(exc))
            failed = failed or exc
    if failed is not None:
        raise failed
    return total
