"""Sessions: started, checked, refreshed, listed and ended."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from tests.fixtures.fix_access import HERE, Company, NewCompany

from neolayer.errors import InvalidInput, NotFound, Unauthenticated
from neolayer.identity import AccessCache, SessionPolicy, Sessions
from neolayer.tenancy import CoreDatabase, Principal


async def test_a_session_proves_who_it_is_and_what_they_may(company: Company) -> None:
    """A login's access token is the user, with the union of the roles."""
    ann = await company.user("ann", "auditor", "signer")
    tokens = await company.sessions.start(ann, ip_address=HERE, user_agent="curl/8")
    access = await company.sessions.check(tokens.access_token)
    assert (access.principal, access.tenant) == (Principal.user(ann), company.scope.tenant)
    assert access.session_id == tokens.session_id
    assert access.allows("wallets:sign")
    assert access.allows("logs:read")
    assert not access.allows("wallets:export")


async def test_nobody_without_standing_gets_a_session(company: Company) -> None:
    """Absent, foreign and suspended people alike."""
    ann = await company.user()
    await company.scope.one("UPDATE auth.users SET status = 'suspended' RETURNING id")
    for user_id in (uuid4(), ann):
        with pytest.raises(NotFound):
            await company.sessions.start(user_id, ip_address=HERE)
    with pytest.raises(InvalidInput):
        await company.sessions.start(ann, ip_address="nowhere")


@pytest.mark.parametrize("status", ["suspended", "inactive", "locked", "deleted"])
async def test_E5_nobody_without_standing_refreshes(company: Company, status: str) -> None:
    """Also where the session itself was left alone; it goes on once the person is back."""
    ann = await company.user()
    tokens = await company.sessions.start(ann, ip_address=HERE)
    change = "UPDATE auth.users SET status = %s, deleted_at = %s WHERE id = %s RETURNING id"
    out = (status, None) if status != "deleted" else ("active", datetime.now(UTC))
    assert await company.scope.one(change, (*out, ann))
    assert await company.scope.one("SELECT revoked_at FROM auth.sessions") == (None,)
    with pytest.raises(Unauthenticated):
        await company.sessions.refresh(tokens.refresh_token, ip_address=HERE)
    assert await company.scope.one(change, ("active", None, ann))
    await company.sessions.refresh(tokens.refresh_token, ip_address=HERE)


async def test_only_hashes_are_stored(company: Company) -> None:
    """Neither a token nor its secret part stands in any column of the three tables."""
    ann = await company.user()
    tokens = await company.sessions.start(ann, ip_address=HERE)
    later = await company.sessions.refresh(tokens.refresh_token, ip_address=HERE)
    stored = str(
        [
            await company.scope.fetch("SELECT row_to_json(t)::text FROM auth.sessions t"),
            await company.scope.fetch("SELECT row_to_json(t)::text FROM auth.refresh_tokens t"),
            await company.scope.fetch("SELECT row_to_json(t)::text FROM audit.entries t"),
        ]
    )
    for pair in (tokens, later):
        for text in (pair.access_token, pair.refresh_token):
            assert text[5:] not in stored
            assert text not in repr(pair)


async def test_absolute_idle_and_access_expiry(company: Company) -> None:
    """Each end counts by itself: the access token's, an hour unused, a day in all."""
    ann = await company.user()
    ends = {
        "access_expires_at": "clock_timestamp()",
        "last_seen_at": "clock_timestamp() - interval '61 minutes'",
        "expires_at": "clock_timestamp()",
    }
    for column, value in ends.items():
        tokens = await company.sessions.start(ann, ip_address=HERE)
        await company.sessions.check(tokens.access_token)
        await company.scope.one(
            f"UPDATE auth.sessions SET {column} = {value} WHERE id = %s RETURNING id",  # type: ignore[arg-type]
            (tokens.session_id,),
        )
        company.a_second_later()
        with pytest.raises(Unauthenticated):
            await company.sessions.check(tokens.access_token)
        if column == "access_expires_at":
            renewed = await company.sessions.refresh(tokens.refresh_token, ip_address=HERE)
            await company.sessions.check(renewed.access_token)
        else:
            with pytest.raises(Unauthenticated):
                await company.sessions.refresh(tokens.refresh_token, ip_address=HERE)


async def test_a_cached_answer_ends_with_what_it_rests_on(
    company: Company, access_core: CoreDatabase
) -> None:
    """A session of a minute is not good for longer because it was asked about."""
    cache = AccessCache(access_core, lifetime_s=3600, clock=company.clock)
    short = Sessions(company.scope, cache, SessionPolicy(absolute=timedelta(minutes=1)))
    tokens = await short.start(await company.user(), ip_address=HERE)
    await short.check(tokens.access_token)
    await company.scope.one("UPDATE auth.sessions SET revoked_at = now() RETURNING id")
    await short.check(tokens.access_token)  # from the cache
    company.clock.now += 60
    with pytest.raises(Unauthenticated):
        await short.check(tokens.access_token)


async def test_use_is_noted_once_a_minute(company: Company) -> None:
    """A check of a session seen just now writes nothing; one of a minute ago moves the time."""
    tokens = await company.sessions.start(await company.user(), ip_address=HERE)
    seen = "SELECT last_seen_at, xmin::text, host(last_ip_address) FROM auth.sessions"
    first = await company.scope.one(seen)
    await company.sessions.check(tokens.access_token, ip_address="2001:db8::1")
    assert await company.scope.one(seen) == first
    await company.scope.one(
        "UPDATE auth.sessions SET last_seen_at = last_seen_at - interval '2 minutes' RETURNING id"
    )
    company.a_second_later()
    await company.sessions.check(tokens.access_token, ip_address="2001:db8::1")
    second = await company.scope.one(seen)
    assert first is not None
    assert second is not None
    assert second[0] > first[0]
    assert second[2] == "2001:db8::1"


async def test_sessions_are_listed_and_ended_one_all_or_all_but_this(company: Company) -> None:
    """Two devices: each is seen, each can be ended by itself, or together."""
    ann, bob = await company.user("ann"), await company.user("bob")
    phone = await company.sessions.start(ann, ip_address=HERE, user_agent="phone\n\ud800")
    laptop = await company.sessions.start(ann, ip_address=HERE)
    other = await company.sessions.start(bob, ip_address=HERE)
    listed = await company.sessions.list(ann)
    assert [s.id for s in listed] == [laptop.session_id, phone.session_id]
    assert listed[1].user_agent == "phone"
    assert len(await company.sessions.list()) == 3
    assert await company.sessions.revoke_all(ann, but=laptop.session_id) == 1
    with pytest.raises(Unauthenticated):
        await company.sessions.check(phone.access_token)
    await company.sessions.check(laptop.access_token)
    await company.sessions.revoke(laptop.session_id)
    await company.sessions.revoke(laptop.session_id)
    assert await company.sessions.list(ann) == []
    await company.sessions.check(other.access_token)
    assert [entry for entry in await company.audited("session") if entry[0] == "DELETE"] == [
        ("DELETE", True),
        ("DELETE", True),
    ]


async def test_logging_out_ends_the_session_and_is_audited(company: Company) -> None:
    """The session of that access token, with its refresh token."""
    tokens = await company.sessions.start(await company.user(), ip_address=HERE)
    await company.sessions.log_out(tokens.access_token)
    with pytest.raises(Unauthenticated):
        await company.sessions.check(tokens.access_token)
    with pytest.raises(Unauthenticated):
        await company.sessions.refresh(tokens.refresh_token, ip_address=HERE)
    assert ("LOGOUT", True) in await company.audited("session")


async def test_E2_sessions_of_another_tenant_are_absent(new_company: NewCompany) -> None:
    """To list, check, refresh, log out or revoke: as if they were not there."""
    ours, theirs = await new_company(), await new_company()
    tokens = await theirs.sessions.start(await theirs.user(), ip_address=HERE)
    assert await ours.sessions.list() == []
    for attempt in (
        ours.sessions.check(tokens.access_token),
        ours.sessions.log_out(tokens.access_token),
        ours.sessions.refresh(tokens.refresh_token, ip_address=HERE),
    ):
        with pytest.raises(Unauthenticated):
            await attempt
    for session_id in (tokens.session_id, uuid4()):
        with pytest.raises(NotFound) as refused:
            await ours.sessions.revoke(session_id)
        assert refused.value.message == "There is no such session."
    await theirs.sessions.check(tokens.access_token)
