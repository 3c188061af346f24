"""A tenant's requests per minute, counted at the door."""

from __future__ import annotations

from tests.fixtures.fix_api import Api


async def test_requests_over_the_limit_wait(api: Api) -> None:
    """429 with Retry-After once the minute's requests are used up; other tenants go on."""
    acme, other = await api.tenant("acme"), await api.tenant("other")
    ann, bob = await api.person(acme, "ann", "owner"), await api.person(other, "bob", "owner")
    assert acme.scope.tenant is not None
    await acme.tenants.set_limits(acme.scope.tenant, {"requests_per_minute": 3})
    answers = [await ann.ask("GET", "/v1/users/me") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200] * 3 + [429] * 2
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 20
    assert answers[-1].headers["content-type"] == "application/problem+json"
    assert (await bob.ask("GET", "/v1/users/me")).status_code == 200


async def test_a_limit_without_redis_still_holds(api: Api) -> None:
    """Where Redis is away each process counts by itself; no request fails for that."""
    acme = await api.tenant("acme")
    ann = await api.person(acme, "ann", "owner")
    assert acme.scope.tenant is not None
    await acme.tenants.set_limits(acme.scope.tenant, {"requests_per_minute": 2})
    await api.platform.requests.redis.connection_pool.aclose()
    api.platform.requests.redis.connection_pool.connection_kwargs["port"] = 1
    statuses = [(await ann.ask("GET", "/v1/users/me")).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
