"""Letters to e-mail addresses: hashes only, good once, and nothing told to strangers."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import uuid4

import pytest
from tests.contract.test_identity_users import SESSION, live_sessions
from tests.fixtures.fix_identity import HERE, PASSWORD, NewPeople, People

from neolayer.engines.endpoints import Endpoints
from neolayer.identity import (
    BadCredentials,
    BadToken,
    Client,
    Credentials,
    Letter,
    Status,
    User,
    WeakPassword,
)
from neolayer.identity.forgetting import PeopleSweeper

NEW = "another quiet lamp"


def last(people: People) -> Letter:
    return people.mailbox.letters[-1]


async def age(people: People, table: str, span: timedelta) -> None:
    await people.scope.fetch(
        f"UPDATE auth.{table} SET expires_at = expires_at - %s RETURNING id",  # type: ignore[arg-type]
        (span,),
    )


async def test_an_address_is_verified_by_its_letter(people: People) -> None:
    """Once; not by another token, not after the address changed, not after three days."""
    user = await people.add()
    await people.mail.request_verification(user.id)
    letter = last(people)
    assert (letter.to, letter.purpose) == ("ann@example.com", "email_verification")
    assert len(letter.token) >= 43
    for wrong in ("", "x", letter.token[:-1], letter.token.swapcase(), "\ud800", "x" * 1_000_000):
        with pytest.raises(BadToken):
            await people.mail.verify_email(wrong)
        with pytest.raises(BadToken):
            await people.mail.reset_password(letter.token, password=NEW)
    assert (await people.mail.verify_email(letter.token)).email_verified
    with pytest.raises(BadToken):
        await people.mail.verify_email(letter.token)
    await people.mail.request_verification(user.id)
    assert len(people.mailbox.letters) == 1
    await people.users.change_email(user.id, email="anna@example.com")
    await people.mail.request_verification(user.id)
    renamed = "UPDATE auth.users SET email = %s WHERE id = %s RETURNING id"
    await people.scope.one(renamed, ("other@example.com", user.id))
    with pytest.raises(BadToken):
        await people.mail.verify_email(last(people).token)
    await people.scope.one(renamed, ("anna@example.com", user.id))
    await age(people, "one_time_tokens", timedelta(days=3))
    with pytest.raises(BadToken):
        await people.mail.verify_email(last(people).token)


async def test_a_letter_to_an_old_address_is_worthless(people: People) -> None:
    """For verifying and for a reset."""
    user = await people.add()
    await people.mail.request_verification(user.id)
    await people.mail.request_reset("ann@example.com")
    await people.users.change_email(user.id, email="anna@example.com")
    verification, reset = people.mailbox.letters
    with pytest.raises(BadToken):
        await people.mail.verify_email(verification.token)
    with pytest.raises(BadToken):
        await people.mail.reset_password(reset.token, password=NEW)


async def test_E5_a_reset_logs_out_everywhere(people: People) -> None:
    """Sessions end, devices are strangers, other letters void; a weak password costs no letter."""
    user = await people.add()
    device = (await people.try_login()).device
    await people.scope.one(SESSION, (people.scope.tenant, user.id))
    for _ in range(2):
        await people.mail.request_reset("ANN@example.com")
    first, second = people.mailbox.letters
    with pytest.raises(WeakPassword):
        await people.mail.reset_password(first.token, password="password12345678")
    assert (await people.mail.reset_password(first.token, password=NEW)).email_verified
    assert await live_sessions(people, user.id) == 0
    for used in (first, second):
        with pytest.raises(BadToken):
            await people.mail.reset_password(used.token, password=NEW)
    with pytest.raises(BadCredentials):
        await people.try_login()
    entered = await people.login.check("ann", Credentials(NEW), Client(HERE.ip, device=device))
    assert not entered.known_device


async def test_E8_a_reset_helps_an_account_that_strangers_closed(people: People) -> None:
    """After a hundred failures the owner's mailbox opens the account again."""
    user = await people.add()
    for _ in range(3):
        with pytest.raises(BadCredentials):
            await people.try_login(password="wrong")
    await people.scope.fetch(
        "UPDATE auth.login_failures SET failures = 100 WHERE kind = 'account' RETURNING kind"
    )
    with pytest.raises(BadCredentials):
        await people.try_login()
    await people.mail.request_reset(user.email)
    await people.mail.reset_password(last(people).token, password=NEW)
    assert await people.try_login(password=NEW)


async def test_of_twenty_with_one_reset_token_one_sets_the_password(people: People) -> None:
    """The token is used up in one statement."""
    await people.add()
    await people.mail.request_reset("ann@example.com")
    token = last(people).token
    tries = [people.mail.reset_password(token, password=f"{NEW} {n}") for n in range(20)]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    winners = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, User)]
    assert len(winners) == 1
    assert sum(isinstance(outcome, BadToken) for outcome in outcomes) == 19
    assert await people.try_login(password=f"{NEW} {winners[0]}")


async def test_E3_a_reset_tells_nothing_of_who_exists(people: People) -> None:
    """Known, unknown, suspended, deleted, no address at all: no answer, after the same time."""
    await people.add()
    gone, suspended = await people.add("gone"), await people.add("suspended")
    await people.users.delete(gone.id)
    await people.users.set_status(suspended.id, status=Status.SUSPENDED)
    clock = asyncio.get_running_loop().time
    for email in ("ann@example.com", "nobody@example.com", gone.email, suspended.email, "\x00@"):
        start = clock()
        await people.mail.request_reset(email)
        assert clock() - start >= 0.1
    assert [letter.to for letter in people.mailbox.letters] == ["ann@example.com"]
    noted = await people.scope.fetch(
        "SELECT success, resource_id IS NULL, changes FROM audit.entries WHERE action = 'EXECUTE'"
        " ORDER BY occurred_at"
    )
    assert noted == [(n == 0, n > 0, {"letter": "password_reset"}) for n in range(5)]


async def test_a_stranger_cannot_fill_a_mailbox(people: People) -> None:
    """Three letters of a kind are good at a time; more are not sent."""
    await people.add()
    for _ in range(5):
        await people.mail.request_reset("ann@example.com")
    assert len(people.mailbox.letters) == 3
    await age(people, "one_time_tokens", timedelta(minutes=30))
    with pytest.raises(BadToken):
        await people.mail.reset_password(last(people).token, password=NEW)
    await people.mail.request_reset("ann@example.com")
    assert len(people.mailbox.letters) == 4


async def test_E1_a_letter_of_another_tenant_is_none(new_people: NewPeople) -> None:
    """A token proves nothing elsewhere; a letter for a foreign or absent user is not sent."""
    here, there = await new_people(), await new_people()
    user = await here.add()
    await there.add()
    await here.mail.request_reset(user.email)
    with pytest.raises(BadToken):
        await there.mail.reset_password(last(here).token, password=NEW)
    for foreign in (user.id, uuid4()):
        await there.mail.request_verification(foreign)
    assert there.mailbox.letters == []
    assert await there.try_login(password=PASSWORD)


async def test_what_ran_out_is_swept(people: People, module_databases: Endpoints) -> None:
    """Letters, devices and old failures go, in small batches; what still counts is kept."""
    user = await people.add()
    for n in range(3):
        await people.try_login(ip=f"198.51.100.{n}")
        with pytest.raises(BadCredentials):
            await people.try_login(password="wrong", ip=f"198.51.100.{n}")
    await people.mail.request_reset(user.email)
    sweeper = PeopleSweeper(module_databases, people.scope.core, batch_size=2)
    await sweeper.sweep()
    assert await counts(people) == [1, 3, 7]
    await age(people, "one_time_tokens", timedelta(hours=1))
    await age(people, "known_devices", timedelta(days=366))
    await people.scope.fetch(
        "UPDATE auth.login_failures SET last_failed_at = last_failed_at - interval '2 days'"
        " RETURNING kind"
    )
    assert await sweeper.sweep() == 1 + 3 + 6
    assert await counts(people) == [0, 0, 1]


async def counts(people: People) -> list[int]:
    row = await people.scope.one(
        "SELECT (SELECT count(*) FROM auth.one_time_tokens),"
        " (SELECT count(*) FROM auth.known_devices), (SELECT count(*) FROM auth.login_failures)"
    )
    assert row is not None
    return list(row)
