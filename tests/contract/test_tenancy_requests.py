"""Requests per minute: one rule, over all processes where Redis answers, by each where not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from redis.asyncio import Redis
from tests.fixtures.fix_tenancy import NewTenant

from neolayer.engines.endpoints import Endpoints, RedisEndpoint
from neolayer.engines.engine import Level
from neolayer.engines.redis.client import connect
from neolayer.errors import InvalidInput
from neolayer.tenancy import CoreDatabase, TenantNotFound, Tenants
from neolayer.tenancy.requests import KEY, RequestLimiter

NOBODY = RedisEndpoint(Level.REAL, "redis://127.0.0.1:1/0", "127.0.0.1:1")


@pytest.fixture(scope="module")
def layer_databases(module_databases: Endpoints) -> Endpoints:
    return module_databases


class Clock:
    """The time that only a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def redis(redis_server: RedisEndpoint) -> AsyncIterator[Redis]:
    client = connect(redis_server)
    yield client
    await client.aclose()


@pytest.fixture(params=["redis", "without redis"])
async def limiter(
    request: pytest.FixtureRequest, core: CoreDatabase, redis: Redis, clock: Clock
) -> AsyncIterator[RequestLimiter]:
    """Both levels must give the same answers."""
    if request.param == "redis":
        yield RequestLimiter(core, redis)
        return
    nowhere = connect(NOBODY)
    yield RequestLimiter(core, nowhere, clock=clock)
    await nowhere.aclose()


NewSlow = Callable[[], Awaitable[UUID]]


@pytest.fixture
def new_slow_tenant(core: CoreDatabase, new_tenant: NewTenant) -> NewSlow:
    """Makes tenants with six requests a minute: a slow machine gives none back meanwhile."""

    async def make() -> UUID:
        scope = await new_tenant(tier="free")
        assert scope.tenant is not None
        tenants = Tenants(core.platform(by=scope.by))
        await tenants.set_limits(scope.tenant, {"requests_per_minute": 6})
        return scope.tenant

    return make


async def test_a_minutes_requests_may_come_at_once(
    limiter: RequestLimiter, new_slow_tenant: NewSlow
) -> None:
    """Six at once, then one every ten seconds; the answer says when."""
    tenant = await new_slow_tenant()
    taken = await asyncio.gather(*(limiter.take(tenant) for _ in range(6)))
    assert all(each.allowed for each in taken)
    assert sorted(each.remaining for each in taken) == [0, 1, 2, 3, 4, 5]
    refused = await limiter.take(tenant)
    assert (refused.allowed, refused.limit, refused.remaining) == (False, 6, 0)
    assert timedelta() < refused.retry_after <= timedelta(seconds=10)
    assert timedelta(seconds=50) < refused.reset_after <= timedelta(seconds=60)


async def test_what_costs_more_takes_more(
    limiter: RequestLimiter, new_slow_tenant: NewSlow
) -> None:
    """A cost is whole and positive (errata 25: -100 minted quota), and never beyond the limit."""
    tenant = await new_slow_tenant()
    assert (await limiter.take(tenant, cost=5)).remaining == 1
    assert not (await limiter.take(tenant, cost=2)).allowed
    assert (await limiter.take(tenant)).allowed
    for cost in (0, -100):
        with pytest.raises(InvalidInput):
            await limiter.take(tenant, cost=cost)
    assert not (await limiter.take(tenant, cost=7)).allowed


async def test_one_tenants_requests_are_no_others(
    limiter: RequestLimiter, new_slow_tenant: NewSlow
) -> None:
    a, b = await new_slow_tenant(), await new_slow_tenant()
    assert (await limiter.take(a, cost=6)).allowed
    assert not (await limiter.take(a)).allowed
    assert (await limiter.take(b)).remaining == 5


async def test_requests_come_back_with_time(
    core: CoreDatabase, clock: Clock, new_tenant: NewTenant
) -> None:
    """One a second of sixty a minute; a fair client is never refused (errata 25: 22 of 30)."""
    tenant = (await new_tenant(tier="free")).tenant
    assert tenant is not None
    nowhere = connect(NOBODY)
    limiter = RequestLimiter(core, nowhere, clock=clock)
    assert (await limiter.take(tenant, cost=60)).allowed
    for _ in range(200):
        clock.now += 1.0
        assert (await limiter.take(tenant)).allowed
        assert not (await limiter.take(tenant)).allowed
    clock.now -= 3600  # a clock that was set back locks nobody out for an hour
    assert (await limiter.take(tenant)).retry_after <= timedelta(minutes=1)
    await nowhere.aclose()


async def test_processes_share_a_limit(
    core: CoreDatabase, redis: Redis, redis_server: RedisEndpoint, new_slow_tenant: NewSlow
) -> None:
    """Two limiters, forty requests at once, six places."""
    tenant = await new_slow_tenant()
    another = connect(redis_server)
    both = (RequestLimiter(core, redis), RequestLimiter(core, another))
    taken = await asyncio.gather(*(both[n % 2].take(tenant) for n in range(40)))
    await another.aclose()
    assert sum(each.allowed for each in taken) == 6
    assert 0 < await redis.pttl(KEY.format(tenant=tenant)) <= 60_000


@pytest.mark.parametrize("foreign", ["set", "list"])
async def test_a_foreign_value_under_the_key_stops_nobody(
    core: CoreDatabase, redis: Redis, new_slow_tenant: NewSlow, foreign: str
) -> None:
    """Errata 25: the specification's script fails on it. Another type is written over."""
    tenant = await new_slow_tenant()
    key = KEY.format(tenant=tenant)
    await (redis.set(key, "x") if foreign == "set" else redis.rpush(key, "x"))  # type: ignore[misc]
    limiter = RequestLimiter(core, redis)
    assert [(await limiter.take(tenant)).remaining for _ in range(2)] == [5, 4]


async def test_limits_are_the_tenants_own_and_change_within_a_second(
    core: CoreDatabase, redis: Redis, new_tenant: NewTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By tier, by its own limit, without one, none at all; a deleted or absent one is not found."""
    scope = await new_tenant(tier="free")
    assert scope.tenant is not None
    tenants = Tenants(core.platform(by=scope.by))
    monkeypatch.setattr("neolayer.tenancy.requests._LIMIT_FRESH_S", 0.0)
    limiter = RequestLimiter(core, redis)
    assert (await limiter.take(scope.tenant, cost=60)).limit == 60
    await tenants.set_limits(scope.tenant, {"requests_per_minute": 600})
    after = await limiter.take(scope.tenant)  # the minute is used up, but now it fills in tenths
    assert (after.limit, after.retry_after <= timedelta(seconds=0.1)) == (600, True)
    await tenants.set_limits(scope.tenant, {"requests_per_minute": 0})
    assert not (await limiter.take(scope.tenant)).allowed
    await tenants.set_limits(scope.tenant, {"requests_per_minute": None})
    assert (await limiter.take(scope.tenant)).limit is None
    await tenants.delete(scope.tenant)
    for absent in (scope.tenant, uuid4()):
        with pytest.raises(TenantNotFound):
            await limiter.take(absent)


async def test_C13_no_request_waits_for_a_redis_that_is_away(
    core: CoreDatabase, new_slow_tenant: NewSlow
) -> None:
    """One call finds out; those that follow do not ask for a while, and the rule still holds."""
    tenant = await new_slow_tenant()
    nowhere = connect(NOBODY)
    limiter = RequestLimiter(core, nowhere)
    taken = [await limiter.take(tenant) for _ in range(10)]
    assert limiter.rates._ask_again_at > 0  # pyright: ignore[reportPrivateUsage]
    assert [each.allowed for each in taken] == [True] * 6 + [False] * 4
    await nowhere.aclose()
