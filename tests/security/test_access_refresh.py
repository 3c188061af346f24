"""E6: refresh tokens under parallel use, lost answers, replay and theft."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from neolayer.engines.endpoints import Endpoints
from neolayer.errors import Unauthenticated
from neolayer.identity import AccessCache, SessionPolicy, Sessions, Tokens
from neolayer.tenancy import CoreDatabase, open_core
from tests.fixtures.fix_access import HERE, Company


@pytest.fixture
async def other_process(module_databases: Endpoints) -> AsyncIterator[CoreDatabase]:
    """Another pool, as another process has it."""
    async with open_core(module_databases, application_name="other") as database:
        yield database


async def _family(company: Company) -> tuple[int, int]:
    """Tokens in all, and those still unused."""
    row = await company.scope.one(
        "SELECT count(*), count(*) FILTER (WHERE used_at IS NULL) FROM auth.refresh_tokens"
    )
    assert row is not None
    return row[0], row[1]


async def _seconds_pass(company: Company, seconds: int) -> None:
    await company.scope.fetch(
        "UPDATE auth.refresh_tokens SET used_at = used_at - make_interval(secs => %s)"
        " WHERE used_at IS NOT NULL RETURNING id",
        (seconds,),
    )


async def _refresh(company: Company, tokens: Tokens) -> Tokens:
    return await company.sessions.refresh(tokens.refresh_token, ip_address=HERE)


async def _is_alive(company: Company, tokens: Tokens) -> bool:
    try:
        await _refresh(company, tokens)
    except Unauthenticated:
        return False
    return True


async def test_E6_a_hundred_parallel_refreshes_have_one_child(
    company: Company, other_process: CoreDatabase
) -> None:
    """From two processes at once: one family, one child, nobody logged out, theft still caught."""
    first = await company.sessions.start(await company.user(), ip_address=HERE)
    assert company.scope.tenant is not None
    scope = other_process.scope(company.scope.tenant, by=company.scope.by)
    there = Sessions(scope, AccessCache(other_process))
    answers = await asyncio.gather(
        *(
            place.refresh(first.refresh_token, ip_address=HERE)
            for _ in range(50)
            for place in (company.sessions, there)
        )
    )
    assert len(answers) == 100
    pairs = {(a.session_id, a.access_token, a.refresh_token) for a in answers}
    assert len(pairs) == 1
    assert await _family(company) == (2, 1)
    access = await company.sessions.check(answers[0].access_token)
    assert access.session_id == first.session_id
    await _seconds_pass(company, 11)
    assert not await _is_alive(company, first)
    assert not await _is_alive(company, answers[0])


def first_tenant(company: Company):
    assert company.scope.tenant is not None
    return company.scope.tenant


async def test_E6_a_lost_answer_is_given_again(company: Company) -> None:
    """Within ten seconds the same tokens, to the byte; the session goes on from them."""
    assert SessionPolicy().grace == timedelta(seconds=10)
    ten_minutes = SessionPolicy(grace=timedelta(minutes=10))  # a busy machine outwaits seconds
    sessions = Sessions(company.scope, company.cache, ten_minutes)
    first = await sessions.start(await company.user(), ip_address=HERE)
    lost = await sessions.refresh(first.refresh_token, ip_address=HERE)
    await _seconds_pass(company, 9 * 60)
    again = await sessions.refresh(first.refresh_token, ip_address=HERE)
    assert again == lost
    assert (again.access_token, again.refresh_token) == (lost.access_token, lost.refresh_token)
    third = await sessions.refresh(again.refresh_token, ip_address=HERE)
    await sessions.check(third.access_token)


async def test_E6_the_old_access_token_ends_with_the_refresh(company: Company) -> None:
    """A refresh is a new token, not a second one."""
    first = await company.sessions.start(await company.user(), ip_address=HERE)
    await company.sessions.check(first.access_token)
    await _refresh(company, first)
    with pytest.raises(Unauthenticated):
        await company.sessions.check(first.access_token)


async def test_E6_replay_after_ten_seconds_ends_the_family(company: Company) -> None:
    """Whoever comes late has stolen it or was stolen from: both must log in, and it is audited."""
    first = await company.sessions.start(await company.user(), ip_address=HERE)
    second = await _refresh(company, first)
    await _seconds_pass(company, 11)
    assert not await _is_alive(company, first)
    assert not await _is_alive(company, second)
    with pytest.raises(Unauthenticated):
        await company.sessions.check(second.access_token)
    assert await company.audited("refresh_token") == [("EXECUTE", False)]
    reason = await company.scope.one("SELECT revoked_reason FROM auth.sessions")
    assert reason == ("replay",)


async def test_E6_replay_of_a_grandparent_ends_the_family(company: Company) -> None:
    """Its child was used, so this is no lost answer, however soon it comes; also if a restored
    row still had its salt.
    """
    first = await company.sessions.start(await company.user(), ip_address=HERE)
    second = await _refresh(company, first)
    third = await _refresh(company, second)
    await company.scope.fetch(
        "UPDATE auth.refresh_tokens SET child_salt = %s WHERE used_at IS NOT NULL RETURNING id",
        (b"s" * 32,),
    )
    assert not await _is_alive(company, first)
    assert not await _is_alive(company, third)


async def test_E6_a_thief_within_the_grace_is_caught_at_the_next_turn(company: Company) -> None:
    """Both get the same child; the one who uses it second, later, ends the family."""
    first = await company.sessions.start(await company.user(), ip_address=HERE)
    mine = await _refresh(company, first)
    stolen = await _refresh(company, first)
    my_next = await _refresh(company, mine)
    await _seconds_pass(company, 11)
    assert not await _is_alive(company, stolen)
    assert not await _is_alive(company, my_next)


async def test_E6_two_devices_are_two_families(company: Company) -> None:
    """Theft on one device does not log the other one out."""
    ann = await company.user()
    phone = await company.sessions.start(ann, ip_address=HERE)
    laptop = await company.sessions.start(ann, ip_address=HERE)
    await _refresh(company, phone)
    await _seconds_pass(company, 11)
    assert not await _is_alive(company, phone)
    assert await _is_alive(company, laptop)


async def test_E6_nothing_stored_gives_a_token_away(company: Company) -> None:
    """The salt of a parent goes when its child is used, and alone it says nothing."""
    first = await company.sessions.start(await company.user(), ip_address=HERE)
    second = await _refresh(company, first)
    await _refresh(company, second)
    salts = await company.scope.fetch(
        "SELECT child_salt IS NOT NULL FROM auth.refresh_tokens ORDER BY created_at"
    )
    assert salts == [(False,), (True,), (False,)]


async def test_E6_replay_and_refresh_at_once_leave_no_living_family(company: Company) -> None:
    """Whichever comes first: after a replay no token of the family is good."""
    first = await company.sessions.start(await company.user(), ip_address=HERE)
    second = await _refresh(company, first)
    await _seconds_pass(company, 11)
    outcomes = await asyncio.gather(
        *(_refresh(company, tokens) for tokens in [first, second] * 5), return_exceptions=True
    )
    assert any(isinstance(outcome, Unauthenticated) for outcome in outcomes)
    for outcome in outcomes:
        if isinstance(outcome, Tokens):
            assert not await _is_alive(company, outcome)
