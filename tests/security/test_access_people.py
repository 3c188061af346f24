"""E5 and E10 where people and access meet: logins, new passwords, suspensions, owners."""

from __future__ import annotations

from dataclasses import replace

import pytest

from neolayer.errors import Unauthenticated
from neolayer.identity import (
    AccessCache,
    EscalationRefused,
    LastOwner,
    Roles,
    Sessions,
    Status,
    Users,
)
from neolayer.tenancy import Principal
from tests.fixtures.fix_identity import HERE, PASSWORD, People

ANOTHER = "seven orbits of a quiet lamp"


def _sessions(people: People) -> Sessions:
    return Sessions(people.scope, AccessCache(people.scope.core))


async def test_E5_a_login_starts_a_session_and_a_new_password_ends_it(people: People) -> None:
    """From password to access; set by an operator, every session of the person ends at once."""
    ann = await people.add()
    await Roles(people.scope).grant("member", to=Principal.user(ann.id))
    known = await people.try_login()
    here, there = _sessions(people), _sessions(people)
    tokens = await here.start(known.user.id, ip_address=HERE.ip)
    assert (await here.check(tokens.access_token)).allows("documents:create")
    await people.users.set_password(ann.id, password=ANOTHER)
    for sessions in (there, _sessions(people)):
        with pytest.raises(Unauthenticated):
            await sessions.check(tokens.access_token)
    with pytest.raises(Unauthenticated):
        await here.refresh(tokens.refresh_token, ip_address=HERE.ip)


async def test_E5_a_letter_that_resets_the_password_ends_every_session(people: People) -> None:
    """Whoever stole the old one is out, on every device."""
    ann = await people.add()
    sessions = _sessions(people)
    devices = [await sessions.start(ann.id, ip_address=HERE.ip) for _ in range(2)]
    await people.mail.request_reset(ann.email)
    await people.mail.reset_password(people.mailbox.letters[-1].token, password=ANOTHER)
    assert await sessions.list(ann.id) == []
    for tokens in devices:
        with pytest.raises(Unauthenticated):
            await _sessions(people).check(tokens.access_token)


async def test_E5_suspended_people_are_out_and_come_back_by_login_only(people: People) -> None:
    """Letting somebody in again does not bring old sessions back."""
    ann = await people.add()
    tokens = await _sessions(people).start(ann.id, ip_address=HERE.ip)
    await people.users.set_status(ann.id, status=Status.SUSPENDED)
    await people.users.set_status(ann.id, status=Status.ACTIVE)
    with pytest.raises(Unauthenticated):
        await _sessions(people).check(tokens.access_token)
    await _sessions(people).start((await people.try_login()).user.id, ip_address=HERE.ip)


async def test_E10_an_admin_does_not_take_an_owner_over(people: People) -> None:
    """A new password or address for somebody who may do more is refused, and audited as such; so
    are suspending and deleting them, however many owners there are."""
    adam, olga = await people.add("adam"), await people.add("olga")
    mona, paul = await people.add("mona"), await people.add("paul")
    roles = Roles(people.scope)
    roles_of = ((adam, "admin"), (olga, "owner"), (mona, "member"), (paul, "owner"))
    for user, role in roles_of:
        await roles.grant(role, to=Principal.user(user.id))
    as_adam = replace(people, scope=people.scope.acting_as(Principal.user(adam.id))).users
    for attempt in (
        as_adam.set_password(olga.id, password=ANOTHER),
        as_adam.change_email(olga.id, email="adam@evil.example"),
        as_adam.set_status(olga.id, status=Status.SUSPENDED),
        as_adam.delete(olga.id),
    ):
        with pytest.raises(EscalationRefused):
            await attempt
    refused = await people.scope.fetch(
        "SELECT principal, resource_id FROM audit.entries WHERE resource = 'user' AND NOT success"
    )
    assert refused == [(f"user:{adam.id}", str(olga.id))] * 4
    await people.try_login("olga", PASSWORD)
    await as_adam.set_password(mona.id, password=ANOTHER)
    await as_adam.set_status(mona.id, status=Status.SUSPENDED)
    await as_adam.delete(mona.id)


async def test_E10_the_last_owner_is_neither_suspended_nor_deleted(people: People) -> None:
    """With an error that says so; the second last is."""
    olga, paul = await people.add("olga"), await people.add("paul")
    for user in (olga, paul):
        await Roles(people.scope).grant("owner", to=Principal.user(user.id))
    users: Users = people.users
    await users.delete(paul.id)
    for attempt in (
        users.delete(olga.id),
        users.anonymise(olga.id),
        users.set_status(olga.id, status=Status.SUSPENDED),
    ):
        with pytest.raises(LastOwner):
            await attempt
    await people.try_login("olga")
