"""Users: one form of a name, unique among the living, and nothing set but what a verb is for."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import uuid4

import pytest
from tests.fixtures.fix_identity import PASSWORD, NewPeople, People

from neolayer.errors import InvalidInput
from neolayer.identity import (
    AlreadyRegistered,
    BadCredentials,
    EscalationRefused,
    LastOwner,
    Status,
    UserNotFound,
    WeakPassword,
)
from neolayer.tenancy import Principal

SESSION = """
    INSERT INTO auth.sessions (tenant_id, user_id, token_hash, ip_address, expires_at)
    VALUES (%s, %s, encode(sha256(gen_random_uuid()::text::bytea), 'hex'), '192.0.2.1',
        now() + interval '1 day') RETURNING id
"""
LIVE_SESSIONS = "SELECT count(*) FROM auth.sessions WHERE revoked_at IS NULL AND user_id = %s"


async def live_sessions(people: People, user_id: object) -> int:
    row = await people.scope.one(LIVE_SESSIONS, (user_id,))
    assert row is not None
    return row[0]


async def test_D_names_have_one_form(people: People) -> None:
    """Twins in case, composition and IDNA are the same user, found by any spelling."""
    user = await people.users.create(
        email="Ann+News@Bücher.Example", username="Ann.Smith", password=PASSWORD
    )
    assert (user.email, user.username) == ("ann+news@xn--bcher-kva.example", "ann.smith")
    assert user.status is Status.ACTIVE
    assert not user.email_verified
    assert not user.mfa_enabled
    assert await people.users.find("ANN+NEWS@BU\u0308CHER.example") == user
    assert await people.users.find("ANN.smith") == user
    assert await people.users.get(user.id) == user
    for email, username in (("ANN+news@bücher.example", "other"), ("o@x.example", "ANN.SMITH")):
        with pytest.raises(AlreadyRegistered):
            await people.users.create(email=email, username=username, password=PASSWORD)


async def test_E3_one_tenant_learns_nothing_of_anothers_names(new_people: NewPeople) -> None:
    """The same address in two tenants is two users; foreign and absent ids answer alike."""
    here = await new_people()
    there = await new_people()
    user, other = await here.add(), await there.add()
    assert user.id != other.id
    for users, foreign in ((here.users, other.id), (here.users, uuid4()), (there.users, user.id)):
        verbs = [
            lambda u, i: u.get(i),
            lambda u, i: u.rename(i, username="x"),
            lambda u, i: u.change_email(i, email="x@x.example"),
            lambda u, i: u.set_status(i, status=Status.LOCKED),
            lambda u, i: u.set_password(i, password="another quiet lamp"),
            lambda u, i: u.delete(i),
            lambda u, i: u.anonymise(i),
            lambda u, i: u.mfa.begin(i),
            lambda u, i: u.mfa.confirm(i, code="123456"),
            lambda u, i: u.mfa.remove(i),
        ]
        for verb in verbs:
            with pytest.raises(UserNotFound, match="There is no such user"):
                await verb(users, foreign)
    assert await here.users.get(user.id) == user
    assert await there.users.get(other.id) == other


async def test_one_of_many_registers_an_address(people: People) -> None:
    """Twenty at once: one user, nineteen told that it is taken."""
    tries = [
        people.users.create(email="ann@example.com", username=f"ann{n}", password=PASSWORD)
        for n in range(20)
    ]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(outcome, AlreadyRegistered) for outcome in outcomes) == 19
    assert len(await people.users.list()) == 1


async def test_who_left_may_come_back(people: People) -> None:
    """A deleted user is gone for every verb, cannot log in, and frees address and name."""
    user = await people.add()
    await people.scope.one(SESSION, (people.scope.tenant, user.id))
    await people.users.delete(user.id)
    for refused in (people.users.get(user.id), people.users.delete(user.id)):
        with pytest.raises(UserNotFound):
            await refused
    with pytest.raises(BadCredentials):
        await people.try_login()
    assert await live_sessions(people, user.id) == 0
    again = await people.add()
    assert again.id != user.id
    assert [found.id for found in await people.users.list()] == [again.id]


async def test_an_anonymised_user_is_nobody(people: People) -> None:
    """No name, password, seed, session or token of the person is left; the row is."""
    user = await people.add()
    await people.scope.one(SESSION, (people.scope.tenant, user.id))
    await people.users.anonymise(user.id)
    row = await people.scope.one(
        "SELECT row_to_json(u)::text, deleted_at IS NOT NULL FROM auth.users AS u WHERE id = %s",
        (user.id,),
    )
    assert row is not None
    assert row[1]
    assert "ann@" not in row[0]
    assert "argon2" not in row[0]
    assert await people.scope.one("SELECT count(*) FROM auth.sessions") == (0,)
    await people.users.anonymise(user.id)
    assert (await people.add()).id != user.id


async def test_names_and_addresses_change(people: People) -> None:
    """A new address is unverified, the same one stays verified; what is taken is refused."""
    ann, bob = await people.add(), await people.add("bob")
    await people.scope.one(
        "UPDATE auth.users SET email_verified = TRUE WHERE id = %s RETURNING id", (ann.id,)
    )
    assert (await people.users.rename(ann.id, username="Anna")).username == "anna"
    assert (await people.users.change_email(ann.id, email="ANN@example.com")).email_verified
    changed = await people.users.change_email(ann.id, email="anna@example.com")
    assert (changed.email, changed.email_verified) == ("anna@example.com", False)
    assert changed.updated_at > ann.updated_at
    for refused in (
        people.users.rename(bob.id, username="anna"),
        people.users.change_email(bob.id, email="anna@example.com"),
    ):
        with pytest.raises(AlreadyRegistered):
            await refused


@pytest.mark.parametrize("status", [Status.INACTIVE, Status.LOCKED, Status.SUSPENDED])
async def test_E5_who_is_kept_out_is_logged_out(people: People, status: Status) -> None:
    """A status other than active ends every session at once and refuses the right password."""
    user = await people.add()
    await people.scope.one(SESSION, (people.scope.tenant, user.id))
    assert (await people.users.set_status(user.id, status=status)).status is status
    assert await live_sessions(people, user.id) == 0
    with pytest.raises(BadCredentials):
        await people.try_login()
    await people.users.set_status(user.id, status=Status.ACTIVE)
    assert (await people.try_login()).user.id == user.id


async def test_E5_a_new_password_ends_every_session(people: People) -> None:
    """And the old password with them; a weak one changes nothing."""
    user = await people.add()
    await people.scope.one(SESSION, (people.scope.tenant, user.id))
    with pytest.raises(WeakPassword):
        await people.users.set_password(user.id, password="password12345678")
    assert await live_sessions(people, user.id) == 1
    await people.users.set_password(user.id, password="another quiet lamp")
    assert await live_sessions(people, user.id) == 0
    with pytest.raises(BadCredentials):
        await people.try_login()
    assert await people.try_login(password="another quiet lamp")


async def test_users_are_listed_by_pages(people: People) -> None:
    """Every one once, in the order of names, by status where asked."""
    names = [f"user{n:02}" for n in range(7)]
    for name in reversed(names):
        await people.add(name)
    found: list[str] = []
    while page := await people.users.list(after=found[-1] if found else "", limit=3):
        found += [user.username for user in page]
    assert found == names
    locked = await people.users.find("user03")
    await people.users.set_status(locked.id, status=Status.LOCKED)
    assert [u.id for u in await people.users.list(status=Status.LOCKED)] == [locked.id]
    for limit in (0, -1, 10**9):
        with pytest.raises(InvalidInput):
            await people.users.list(limit=limit)


@pytest.mark.parametrize(
    "extra", ["tenant_id", "status", "mfa_enabled", "email_verified", "role", "id", "is_system"]
)
async def test_E9_a_caller_sets_nothing_else(people: People, extra: str) -> None:
    """Verbs take named values only, so a body handed on as it came is refused."""
    body = {"email": "ann@example.com", "username": "ann", "password": PASSWORD, extra: "x"}
    with pytest.raises(TypeError):
        await people.users.create(**body)  # type: ignore[arg-type]


async def test_E9_nobody_takes_over_who_holds_more(people: People) -> None:
    """A user without rights cannot set an owner's password, address or second factor; each try is
    in the audit. The last owner cannot be deleted or suspended."""
    owner, helper = await people.add("owner"), await people.add("helper")
    await people.scope.fetch(
        "INSERT INTO auth.user_roles (tenant_id, user_id, role_id, role_scope_id)"
        " SELECT %s, %s, id, scope_id FROM auth.roles WHERE name = 'owner' AND is_system"
        " RETURNING role_id",
        (people.scope.tenant, owner.id),
    )
    own = replace(people, scope=people.scope.acting_as(Principal.user(helper.id)))
    for refused in (
        own.users.set_password(owner.id, password="another quiet lamp"),
        own.users.change_email(owner.id, email="helper@example.org"),
        own.users.mfa.begin(owner.id),
    ):
        with pytest.raises(EscalationRefused):
            await refused
    noted = await people.scope.fetch(
        "SELECT count(*) FROM audit.entries WHERE NOT success AND resource_id = %s",
        (str(owner.id),),
    )
    assert noted == [(3,)]
    for refused in (
        people.users.delete(owner.id),
        people.users.set_status(owner.id, status=Status.SUSPENDED),
    ):
        with pytest.raises(LastOwner):
            await refused
    assert await people.try_login("owner")
