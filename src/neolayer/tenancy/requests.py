"""A tenant's requests per minute, over all processes.

    taken = await limiter.take(tenant_id)
    if not taken.allowed: answer 429, Retry-After: taken.retry_after

The rule is that of `rates.py`: the specification's counter refuses fair clients, and a negative
cost mints quota. The limit is the tier's or the tenant's own; a change is in force within a second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from uuid import UUID

from redis.asyncio import Redis

from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import InvalidInput
from neolayer.tenancy.context import Principal
from neolayer.tenancy.database import CoreDatabase
from neolayer.tenancy.model import TenantNotFound
from neolayer.tenancy.rates import Rates, Taken

QUERIES = load_queries(__name__, "tenants.sql")
KEY = "requests:{tenant}"
_LIMIT_FRESH_S = 1.0  # how late a changed limit is noticed at most
_MOST_KEPT = 50_000


@dataclass(slots=True)
class RequestLimiter:
    """Takes requests of tenants; one a process. `clock` is for the time without Redis."""

    core: CoreDatabase
    redis: Redis
    clock: Callable[[], float] = monotonic
    rates: Rates = field(init=False)
    _limits: dict[UUID, tuple[float, int | None]] = field(
        default_factory=dict[UUID, tuple[float, "int | None"]], init=False
    )

    def __post_init__(self) -> None:
        self.rates = Rates(self.redis, self.clock)

    async def take(self, tenant: UUID, *, cost: int = 1) -> Taken:
        """Take `cost` requests. Raises TenantNotFound, also where the tenant was deleted."""
        if cost < 1:
            raise InvalidInput(f"a request costs 1 or more, not {cost}")
        limit = await self._limit(tenant)
        if limit is None:
            return Taken(allowed=True)
        return await self.rates.take(KEY.format(tenant=tenant), per_minute=limit, cost=cost)

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
