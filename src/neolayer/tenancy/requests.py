"""A tenant's requests per minute, over all processes: GCRA in one atomic call of Redis.

    taken = await limiter.take(tenant_id)
    if not taken.allowed: answer 429, Retry-After: taken.retry_after

Who was quiet may use a whole minute's requests at once; from then on one comes back every 60/limit
seconds. The specification's counter refuses fair clients, and a negative cost mints quota. The
limit is the tier's or the tenant's own; a change is in force within a second.

Where Redis does not answer, each process goes on with the same rule by itself: no request fails
because of the limiter, and a tenant gets at most its limit from each process.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from time import monotonic
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import RedisError

from neolayer.engines.postgres.queries import load_queries
from neolayer.engines.redis.scripts import load_script
from neolayer.errors import InvalidInput
from neolayer.telemetry import log_warning
from neolayer.tenancy.context import Principal
from neolayer.tenancy.database import CoreDatabase
from neolayer.tenancy.model import TenantNotFound

QUERIES = load_queries(__name__, "tenants.sql")
KEY = "requests:{tenant}"
_SCRIPT = load_script(__name__, "take_requests.lua")
_MINUTE_US = 60_000_000
_LIMIT_FRESH_S = 1.0  # how late a changed limit is noticed at most
_REDIS_TIMEOUT_S = 0.25
_LEAVE_ALONE_S = 1.0  # after Redis did not answer
_MOST_KEPT = 50_000


@dataclass(frozen=True, slots=True)
class Taken:
    """Whether a request may go on. `limit` None: no limit, and nothing else to tell."""

    allowed: bool
    limit: int | None = None
    remaining: int = 0
    retry_after: timedelta = timedelta()
    reset_after: timedelta = timedelta()


@dataclass(slots=True)
class RequestLimiter:
    """Takes requests of tenants; one a process. `clock` is for the time without Redis."""

    core: CoreDatabase
    redis: Redis
    clock: Callable[[], float] = monotonic
    _limits: dict[UUID, tuple[float, int | None]] = field(
        default_factory=dict[UUID, tuple[float, "int | None"]], init=False
    )
    _at_rest_us: dict[UUID, float] = field(default_factory=dict[UUID, float], init=False)
    _ask_again_at: float = field(default=-math.inf, init=False)

    async def take(self, tenant: UUID, *, cost: int = 1) -> Taken:
        """Take `cost` requests. Raises TenantNotFound, also where the tenant was deleted."""
        if cost < 1:
            raise InvalidInput(f"a request costs 1 or more, not {cost}")
        limit = await self._limit(tenant)
        if limit is None:
            return Taken(allowed=True)
        if limit < cost:
            return Taken(False, limit, retry_after=timedelta(minutes=1))
        interval = _MINUTE_US // limit or 1
        answer = await self._take_of_redis(tenant, interval, limit, cost)
        if answer is None:
            answer = self._take_here(tenant, interval, limit, cost)
        allowed, remaining, retry_us, reset_us = answer
        return Taken(
            bool(allowed),
            limit,
            remaining,
            timedelta(microseconds=retry_us),
            timedelta(microseconds=reset_us),
        )

    async def _limit(self, tenant: UUID) -> int | None:
        now = monotonic()
        known = self._limits.get(tenant)
        if known is not None and now < known[0] + _LIMIT_FRESH_S:
            return known[1]
        scope = self.core.scope(tenant, by=Principal.anonymous())
        row = await scope.one(QUERIES.requests_per_minute)
        if row is None:
            self._limits.pop(tenant, None)
            raise TenantNotFound
        if len(self._limits) >= _MOST_KEPT:
            self._limits.clear()
        self._limits[tenant] = (now, row[0])
        return row[0]

    async def _take_of_redis(
        self, tenant: UUID, interval: int, burst: int, cost: int
    ) -> tuple[int, int, float, float] | None:
        """What the script answers; None where Redis is away."""
        if monotonic() < self._ask_again_at:
            return None
        try:
            async with asyncio.timeout(_REDIS_TIMEOUT_S):
                answer = await _SCRIPT.run(
                    self.redis, [KEY.format(tenant=tenant)], [interval, burst, cost]
                )
        except (RedisError, TimeoutError, OSError) as exc:
            self._ask_again_at = monotonic() + _LEAVE_ALONE_S
            log_warning("requests are limited by each process alone", reason=type(exc).__name__)
            return None
        return tuple(answer)  # pyright: ignore[reportReturnType]

    def _take_here(
        self, tenant: UUID, interval: int, burst: int, cost: int
    ) -> tuple[int, int, float, float]:
        """The script's rule, by this process alone."""
        now, whole = self.clock() * 1e6, interval * burst
        rest = min(max(self._at_rest_us.get(tenant, now), now), now + whole)
        after = rest + interval * cost
        if after > now + whole:
            return 0, int((now + whole - rest) // interval), after - whole - now, rest - now
        if len(self._at_rest_us) >= _MOST_KEPT:
            self._at_rest_us.clear()
        self._at_rest_us[tenant] = after
        return 1, int((now + whole - after) // interval), 0, after - now
