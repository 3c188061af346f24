"""E5: what ended is refused everywhere within a second, and no session can be fixed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from neolayer.engines.endpoints import Endpoints
from neolayer.errors import Unauthenticated
from neolayer.identity import AccessCache
from neolayer.identity.access_cache import LIFETIME_S
from neolayer.identity.session_tokens import Kind, parse_token
from neolayer.tenancy import CoreDatabase, Principal, open_core
from tests.fixtures.fix_access import HERE, Company, NewCompany

Change = Callable[[Company, "Bearers"], Awaitable[object]]


class Bearers:
    """A logged-in person and a service with its key."""

    def __init__(self, user: Principal, token: str, service: Principal, key: str) -> None:
        self.user, self.token, self.service, self.key = user, token, service, key


async def _bearers(company: Company) -> Bearers:
    await company.user("olga", "owner")
    ann = await company.user("ann", "member")
    tokens = await company.sessions.start(ann, ip_address=HERE)
    robot = await company.services.create("robot")
    await company.roles.grant("service", to=Principal.service(robot.id))
    key = await company.services.make_key(robot.id)
    return Bearers(Principal.user(ann), tokens.access_token, Principal.service(robot.id), key.key)


async def _sql(company: Company, statement: str, *params: object) -> None:
    rows = await company.scope.fetch(statement, params)  # type: ignore[arg-type]
    assert rows, statement


def _user(statement: str) -> Change:
    return lambda company, who: _sql(company, statement, who.user.user_id)


# Each as another process does it, or another room: by its own cache, or by SQL alone.
CHANGES: dict[str, Change] = {
    "logout": lambda company, who: company.sessions.log_out(who.token),
    "password change": lambda company, who: company.sessions.revoke_all(
        who.user.user_id or pytest.fail(), reason="password"
    ),
    "suspended": _user("UPDATE auth.users SET status = 'suspended' WHERE id = %s RETURNING id"),
    "deleted": _user("UPDATE auth.users SET deleted_at = now() WHERE id = %s RETURNING id"),
    "erased": _user("DELETE FROM auth.users WHERE id = %s RETURNING id"),
    "tenant deleted": lambda company, _: _sql(
        company,
        "UPDATE core.tenants SET deleted_at = now() WHERE id = %s RETURNING id",
        company.scope.tenant,
    ),
    "role revoked": lambda company, who: company.roles.revoke("member", of=who.user),
}
KEY_CHANGES: dict[str, Change] = {
    "disabled": lambda company, who: _disable(company),
    "key revoked": lambda company, who: _revoke_keys(company),
    "rotated at once": lambda company, who: _rotate(company),
    "role revoked": lambda company, who: company.roles.revoke("service", of=who.service),
    "tenant deleted": CHANGES["tenant deleted"],
}


async def _disable(company: Company) -> None:
    await company.services.disable((await company.services.get("robot")).id)


async def _rotate(company: Company) -> None:
    from datetime import timedelta

    robot = await company.services.get("robot")
    await company.services.rotate_key(robot.id, overlap=timedelta(0))


async def _revoke_keys(company: Company) -> None:
    robot = await company.services.get("robot")
    for key in await company.services.keys(robot.id):
        await company.services.revoke_key(key.id)


@pytest.fixture
async def processes(module_databases: Endpoints) -> AsyncIterator[list[AccessCache]]:
    """Two more processes' worth of pools and caches, with real clocks."""
    async with AsyncExitStack() as stack:
        yield [
            AccessCache(await stack.enter_async_context(open_core(module_databases, size=2)))
            for _ in range(2)
        ]


async def _may(cache: AccessCache, bearer: str, permission: str) -> bool:
    try:
        return (await cache.check(bearer)).allows(permission)
    except Unauthenticated:
        return False


async def _staleness(cache: AccessCache, bearer: str, permission: str) -> float:
    """How long after now a check that is still allowed may begin; asked without a pause."""
    started = last = time.monotonic()
    while True:
        began = time.monotonic()
        if not await _may(cache, bearer, permission):
            return last - started
        last = began
        await asyncio.sleep(0)
        assert last - started < 10, "never refused"


async def test_E5_every_end_is_seen_everywhere_within_a_second(
    new_company: NewCompany, processes: list[AccessCache]
) -> None:
    """Logout, new password, suspension, deletion, erasure, end of the tenant, lost role; and of
    services alike: two processes that had the answer cached refuse within a second.
    """
    cases = [(change, "token", "chain:read") for change in CHANGES.values()]
    cases += [(change, "key", "chain:read") for change in KEY_CHANGES.values()]

    async def worst(change: Change, which: str, permission: str) -> float:
        company = await new_company()
        who = await _bearers(company)
        bearer: str = getattr(who, which)
        for cache in processes:
            assert await _may(cache, bearer, permission)
        await change(company, who)
        stale = await asyncio.gather(*(_staleness(c, bearer, permission) for c in processes))
        return max(stale)

    found = await asyncio.gather(*(worst(*case) for case in cases))
    print(f"max stale ms: {max(found) * 1000:.0f}")
    assert max(found) < 1.0


async def test_E5_a_role_granted_is_seen_too(company: Company) -> None:
    """A cached refusal of a permission is no older than that either."""
    ann = await company.user()
    tokens = await company.sessions.start(ann, ip_address=HERE)
    assert not (await company.sessions.check(tokens.access_token)).allows("wallets:sign")
    await company.roles.grant("signer", to=Principal.user(ann))
    company.clock.now += LIFETIME_S
    assert (await company.sessions.check(tokens.access_token)).allows("wallets:sign")


async def test_E5_an_answer_is_never_used_beyond_its_lifetime(company: Company) -> None:
    """Until then no statement is sent; from then on one is, and a new one starts its own time."""
    tokens = await company.sessions.start(await company.user(), ip_address=HERE)
    await company.sessions.check(tokens.access_token)
    await _sql(company, "UPDATE auth.sessions SET revoked_at = now() RETURNING id")
    company.clock.now += LIFETIME_S - 0.01
    await company.sessions.check(tokens.access_token)
    company.clock.now += 0.01
    with pytest.raises(Unauthenticated):
        await company.sessions.check(tokens.access_token)


@asynccontextmanager
async def _no_connection_left(core: CoreDatabase) -> AsyncIterator[None]:
    """All connections of the pool in use, so that statements wait."""
    async with AsyncExitStack() as stack:
        for _ in range(8):
            await stack.enter_async_context(core.connection())
        yield


async def test_E5_a_slow_statement_is_not_joined_by_who_comes_later(
    company: Company, access_core: CoreDatabase
) -> None:
    """Whoever asks a second after a statement was sent gets one of their own."""
    tokens = await company.sessions.start(await company.user(), ip_address=HERE)
    async with _no_connection_left(access_core):
        slow = [asyncio.create_task(company.cache.check(tokens.access_token)) for _ in range(3)]
        await asyncio.sleep(0)
        company.a_second_later()
        late = asyncio.create_task(company.cache.check(tokens.access_token))
        await asyncio.sleep(0)
    await asyncio.gather(*slow, late)
    assert company.cache.statements == 2


async def test_E5_an_answer_is_as_old_as_its_question(
    company: Company, access_core: CoreDatabase
) -> None:
    """What took long to come is used for the less."""
    tokens = await company.sessions.start(await company.user(), ip_address=HERE)
    async with _no_connection_left(access_core):
        slow = asyncio.create_task(company.cache.check(tokens.access_token))
        await asyncio.sleep(0)
        company.clock.now += LIFETIME_S - 0.1
    await slow
    await company.cache.check(tokens.access_token)
    assert company.cache.statements == 1
    company.clock.now += 0.1
    await company.cache.check(tokens.access_token)
    assert company.cache.statements == 2


async def test_E5_a_change_made_here_is_seen_here_at_once(company: Company) -> None:
    """Without any time passing."""
    tokens = await company.sessions.start(await company.user(), ip_address=HERE)
    await company.sessions.check(tokens.access_token)
    await company.sessions.revoke(tokens.session_id)
    with pytest.raises(Unauthenticated):
        await company.sessions.check(tokens.access_token)


async def test_E5_a_refresh_forgets_nobody_else(company: Company) -> None:
    """One person's new token costs the others of the tenant no statement."""
    ann = await company.sessions.start(await company.user("ann"), ip_address=HERE)
    bob = await company.sessions.start(await company.user("bob"), ip_address=HERE)
    await company.sessions.check(bob.access_token)
    await company.sessions.refresh(ann.refresh_token, ip_address=HERE)
    await company.sessions.check(bob.access_token)
    assert company.cache.statements == 1


async def test_E5_every_login_has_new_tokens(company: Company) -> None:
    """A session cannot be fixed: no token is taken from outside, and none comes twice."""
    ann = await company.user()
    started = [await company.sessions.start(ann, ip_address=HERE) for _ in range(3)]
    texts = {text for t in started for text in (t.access_token, t.refresh_token)}
    assert len(texts) == 6
    assert len({t.session_id for t in started}) == 3


async def test_E5_a_check_takes_one_round_trip_cold_and_none_warm(company: Company) -> None:
    """Counted by statements; `bench/session.py` counts them on the wire."""
    tokens = await company.sessions.start(await company.user("ann", "member"), ip_address=HERE)
    for _ in range(10):
        await company.cache.check(tokens.access_token)
    await asyncio.gather(*(company.cache.check(tokens.access_token) for _ in range(10)))
    assert company.cache.statements == 1
    company.a_second_later()
    await asyncio.gather(*(company.cache.check(tokens.access_token) for _ in range(10)))
    assert company.cache.statements == 2


async def test_E5_unknown_tokens_are_not_remembered(
    company: Company, access_core: CoreDatabase
) -> None:
    """Guesses fill no memory, and known ones stay within bounds."""
    small = AccessCache(access_core, capacity=3, clock=company.clock)
    ann = await company.user()
    for _ in range(5):
        tokens = await company.sessions.start(ann, ip_address=HERE)
        await small.check(tokens.access_token)
    assert len(small) == 3
    token = parse_token(tokens.access_token, Kind.ACCESS)
    for _ in range(5):
        guess = type(token)(token.kind, token.tenant, b"x" * 32)
        with pytest.raises(Unauthenticated):
            await small.check(guess.text)
    assert len(small) == 3


async def test_E5_a_cancelled_check_does_not_fail_who_waits_with_it(company: Company) -> None:
    """One who leaves does not take the statement along."""
    tokens = await company.sessions.start(await company.user(), ip_address=HERE)
    first = asyncio.create_task(company.cache.check(tokens.access_token))
    second = asyncio.create_task(company.cache.check(tokens.access_token))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).session_id == tokens.session_id
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_E10_a_token_with_another_tenant_put_in_is_unknown(new_company: NewCompany) -> None:
    """The tenant in the text only says where to look; session tokens, keys and refresh tokens."""
    ours, theirs = await new_company(), await new_company()
    who = await _bearers(ours)
    login = await ours.sessions.start(who.user.user_id or pytest.fail(), ip_address=HERE)
    assert theirs.scope.tenant is not None
    for text in (who.token, who.key):
        token = parse_token(text, Kind.ACCESS, Kind.API_KEY)
        swapped = type(token)(token.kind, theirs.scope.tenant, token.secret)
        with pytest.raises(Unauthenticated):
            await ours.cache.check(swapped.text)
    refresh = parse_token(login.refresh_token, Kind.REFRESH)
    swapped = type(refresh)(refresh.kind, theirs.scope.tenant, refresh.secret)
    for sessions in (ours.sessions, theirs.sessions):
        with pytest.raises(Unauthenticated):
            await sessions.refresh(swapped.text, ip_address=HERE)
    await ours.sessions.refresh(login.refresh_token, ip_address=HERE)


async def test_E10_kinds_of_token_do_not_stand_in_for_each_other(company: Company) -> None:
    """A refresh token opens nothing, an access token refreshes nothing, a key is no session."""
    who = await _bearers(company)
    login = await company.sessions.start(who.user.user_id or pytest.fail(), ip_address=HERE)
    for attempt in (
        company.cache.check(login.refresh_token),
        company.cache.check(login.refresh_token.replace("nlr1", "nls1")),
        company.sessions.refresh(login.access_token, ip_address=HERE),
        company.sessions.refresh(login.access_token.replace("nls1", "nlr1"), ip_address=HERE),
        company.sessions.check(who.key),
        company.services.check(who.token),
        company.cache.check(who.key.replace("nlk1", "nls1")),
    ):
        with pytest.raises(Unauthenticated):
            await attempt
