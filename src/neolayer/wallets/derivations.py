"""Expensive work beside the event loop, shared fairly: two at a time, a turn for each tenant.

A keystore's password costs most of a second and much memory to try. So any number of them takes no
more than twice the memory of one; who sends many waits for their own, and is refused beyond some;
and what nobody waits for any more is not begun.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock
from typing import Any
from uuid import UUID

from neolayer.errors import LimitExceeded

AT_ONCE = 2
MOST_OF_A_TENANT = 8  # those at work included
MOST_IN_ALL = 256


class TooManyDerivations(LimitExceeded):
    """More keystores are waiting than can be opened in time; try again in a moment."""


@dataclass(slots=True)
class _Job:
    tenant: UUID | None
    work: Callable[[], Any]
    outcome: Future[Any] = field(default_factory=Future[Any])


class Derivations:
    """One a process, whatever event loops it has."""

    def __init__(
        self,
        *,
        at_once: int = AT_ONCE,
        most_of_a_tenant: int = MOST_OF_A_TENANT,
        most_in_all: int = MOST_IN_ALL,
    ) -> None:
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="keystore")
        self._most_of_a_tenant, self._most_in_all = most_of_a_tenant, most_in_all
        self._waiting: dict[UUID | None, deque[_Job]] = {}
        self._running: Counter[UUID | None] = Counter()
        self._turns: dict[UUID | None, int] = {}  # when a tenant that has something began last
        self._turn = 0
        self._lock = Lock()

    async def run(self, work: Callable[[], Any], *, tenant: UUID | None) -> Any:
        """Do it when it is the tenant's turn; not at all once the caller is cancelled before that.

        Raises TooManyDerivations.
        """
        job = _Job(tenant, work)
        with self._lock:
            self._admit(job)
        job.outcome.add_done_callback(lambda _: self._drop(job))
        self._threads.submit(self._do_next)
        return await asyncio.wrap_future(job.outcome)

    def _admit(self, job: _Job) -> None:
        mine = self._waiting.get(job.tenant, ())
        in_all = sum(map(len, self._waiting.values())) + self._running.total()
        if (
            len(mine) + self._running[job.tenant] >= self._most_of_a_tenant
            or in_all >= self._most_in_all
        ):
            raise TooManyDerivations
        self._waiting.setdefault(job.tenant, deque()).append(job)

    def _drop(self, job: _Job) -> None:
        """Forget a job that is over; it waits still where it was cancelled."""
        with self._lock:
            waiting = self._waiting.get(job.tenant)
            if waiting and job in waiting:
                waiting.remove(job)
                self._forget(job.tenant)

    def _do_next(self) -> None:
        with self._lock:
            job = self._take()
        if job is None:  # it was cancelled
            return
        result, failure = None, None
        try:
            result = job.work()
        except BaseException as exc:
            failure = exc
        with self._lock:
            self._running[job.tenant] -= 1
            self._forget(job.tenant)
        if failure is None:
            job.outcome.set_result(result)
        else:
            job.outcome.set_exception(failure)

    def _take(self) -> _Job | None:
        """The first job of who has least at work, of those the longest without a turn."""
        while self._waiting:
            tenant = min(
                self._waiting, key=lambda one: (self._running[one], self._turns.get(one, 0))
            )
            job = self._waiting[tenant].popleft()
            begins = job.outcome.set_running_or_notify_cancel()
            if begins:
                self._running[tenant] += 1
                self._turn = self._turns[tenant] = self._turn + 1
            self._forget(tenant)
            if begins:
                return job
        return None

    def _forget(self, tenant: UUID | None) -> None:
        """Keep nothing of a tenant that has nothing here."""
        if not self._waiting.get(tenant):
            self._waiting.pop(tenant, None)
            if not self._running[tenant]:
                del self._running[tenant]
                self._turns.pop(tenant, None)


_shared = Derivations()


async def derive(work: Callable[..., Any], *arguments: Any, tenant: UUID | None = None) -> Any:
    """The process's own. Raises TooManyDerivations."""
    return await _shared.run(lambda: work(*arguments), tenant=tenant)
