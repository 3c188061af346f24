"""E9 and E10: nobody gets more than they were given, by the verbs or by SQL."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest

from neolayer.errors import AccessDenied
from neolayer.identity import AccessCache, EscalationRefused, LastOwner
from neolayer.identity.session_tokens import Kind, UnknownToken, new_token
from neolayer.tenancy import CoreDatabase, Principal, Scope
from tests.fixtures.fix_access import HERE, Company, NewCompany

PLATFORM = UUID(int=0)
OWNER_ROLE = UUID("00000000-0000-4000-8000-000000000001")
GRANT: LiteralString = (
    "INSERT INTO auth.user_roles (tenant_id, user_id, role_id, role_scope_id)"
    " VALUES (%s, %s, %s, %s) RETURNING user_id"
)


async def _as(company: Company, name: str, *roles: str) -> Company:
    return company.acting_as(Principal.user(await company.user(name, *roles)))


async def test_E10_nobody_grants_what_they_do_not_hold(company: Company) -> None:
    """Not to others, not to oneself, not through a service, a role of one's own or a key."""
    admin = await _as(company, "adam", "admin")
    ann = Principal.user(await company.user("ann"))
    robot = await company.services.create("robot")
    strong = await company.services.create("strong")
    await company.roles.grant("signer", to=Principal.service(strong.id))
    await company.roles.create("clerk", ["wallets:read"])
    me = admin.scope.by
    for attempt in (
        admin.roles.grant("owner", to=ann),
        admin.roles.grant("owner", to=me),
        admin.roles.grant("signer", to=me),
        admin.roles.grant("signer", to=Principal.service(robot.id)),
        admin.roles.create("mine", ["wallets:sign"]),
        admin.roles.create("mine", ["*"]),
        admin.roles.create("mine", ["wallets:*"]),
        admin.roles.update("clerk", ["wallets:sign"]),
        admin.services.make_key(strong.id),
        admin.services.rotate_key(strong.id),
    ):
        with pytest.raises(EscalationRefused) as refused:
            await attempt
        assert refused.value.permission in {"*", "wallets:sign", "wallets:*"}
    assert [role.name for role in await company.roles.list() if not role.is_system] == ["clerk"]
    assert await company.roles.grants(ann) == []
    refusals = [
        await company.audited("grant"),
        await company.audited("role"),
        await company.audited("api_key"),
    ]
    assert sum(entry[1] is False for entries in refusals for entry in entries) == 10
    await admin.roles.grant("member", to=ann)
    await admin.services.make_key(robot.id)


async def test_E10_granting_needs_the_permission_to_grant(company: Company) -> None:
    """A member may not pass on what it holds, a service neither, and a stranger nothing."""
    ann = Principal.user(await company.user("ann"))
    robot = await company.services.create("robot")
    await company.roles.grant("service", to=Principal.service(robot.id))
    for by in (
        (await _as(company, "mona", "member")).scope.by,
        Principal.service(robot.id),
        Principal.user(uuid4()),
        Principal.anonymous(),
    ):
        with pytest.raises(EscalationRefused) as refused:
            await company.acting_as(by).roles.grant("member", to=ann)
        assert refused.value.permission == "roles:grant"


async def test_E10_the_database_refuses_it_to_any_code(company: Company) -> None:
    """The same by SQL, as another room or a mistake would: 42501, by INSERT and by UPDATE."""
    admin = await _as(company, "adam", "admin")
    ann = await company.user("ann", "member")
    clerk = await company.roles.create("clerk", ["wallets:read"])
    tenant, me = company.scope.tenant, admin.scope.by.user_id
    attempts: list[tuple[LiteralString, tuple[object, ...]]] = [
        (GRANT, (tenant, ann, OWNER_ROLE, PLATFORM)),
        (GRANT, (tenant, me, OWNER_ROLE, PLATFORM)),
        (
            "UPDATE auth.user_roles SET role_id = %s WHERE user_id = %s RETURNING user_id",
            (OWNER_ROLE, me),
        ),
        (
            "INSERT INTO auth.role_permissions (tenant_id, role_id, permission_id)"
            " SELECT %s, %s, id FROM auth.permissions WHERE name = '*' RETURNING role_id",
            (tenant, clerk.id),
        ),
    ]
    for statement, params in attempts:
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as refused:
            await admin.scope.fetch(statement, params)
        assert refused.value.diag.constraint_name == "no_escalation"


async def test_E10_a_grant_ends_no_later_than_the_granters(company: Company) -> None:
    """Who is admin until tonight makes nobody admin for longer, themselves included."""
    adam, ann = await company.user("adam"), Principal.user(await company.user("ann"))
    tonight = datetime.now(UTC) + timedelta(hours=6)
    await company.roles.grant("admin", to=Principal.user(adam), expires_at=tonight)
    admin = company.acting_as(Principal.user(adam))
    for expires_at in (None, tonight + timedelta(seconds=1)):
        for to in (ann, Principal.user(adam)):
            with pytest.raises(EscalationRefused):
                await admin.roles.grant("admin", to=to, expires_at=expires_at)
    await admin.roles.grant("admin", to=ann, expires_at=tonight)


async def test_E10_an_expired_grant_gives_nothing(company: Company) -> None:
    """Neither access, nor the power to grant; to people and services alike."""
    adam, ann = await company.user("adam", "admin"), await company.user("ann")
    robot = await company.services.create("robot")
    await company.roles.grant("service", to=Principal.service(robot.id))
    tokens = await company.sessions.start(adam, ip_address=HERE)
    key = await company.services.make_key(robot.id)
    for table in ("user_roles", "service_roles"):
        await company.scope.fetch(
            f"UPDATE auth.{table} SET expires_at = now() RETURNING role_id"  # type: ignore[arg-type]
        )
    for access in (
        await company.sessions.check(tokens.access_token),
        await company.services.check(key.key),
    ):
        assert access.permissions == frozenset()
        with pytest.raises(AccessDenied, match="chain:read"):
            access.require("chain:read")
    with pytest.raises(EscalationRefused):
        await company.acting_as(Principal.user(adam)).roles.grant("member", to=Principal.user(ann))


async def test_E10_a_key_carries_what_its_service_could_when_it_was_made(company: Company) -> None:
    """An admin makes a key of a weak service and waits until an owner makes it strong: the key
    stays weak, also where a role that the service has is widened. A new key carries it, and what
    the service loses every key loses."""
    robot = await company.services.create("robot")
    service = Principal.service(robot.id)
    await company.roles.create("clerk", ["wallets:read", "*:create"])
    await company.roles.grant("clerk", to=service)
    admin = await _as(company, "adam", "admin")
    with pytest.raises(EscalationRefused):
        await admin.services.make_key(robot.id)
    old = await company.services.make_key(robot.id)
    await company.roles.grant("owner", to=service)
    await company.roles.update("clerk", ["wallets:*", "*:create"])
    new = await company.services.make_key(robot.id)
    held = (await company.services.check(old.key)).permissions
    assert held == {"wallets:read", "*:create", "wallets:create"}
    assert (await company.services.check(new.key)).permissions >= {"*", "wallets:*"}
    explained = await company.roles.explain(service, "wallets:sign")
    assert (explained.is_allowed, explained.keys, explained.keys_without) == (True, 2, 1)
    assert "1 of 2 keys were made before the service had this" in explained.sentences()[-1]
    assert (await company.roles.explain(service, "users:create")).keys_without == 0
    await company.roles.revoke("owner", of=service)
    company.a_second_later()
    assert (await company.services.check(new.key)).permissions == {
        "wallets:*",
        "*:create",
        "wallets:create",
    }


async def test_E10_a_keys_permissions_do_not_move(company: Company) -> None:
    """Not by SQL of the application's role either; nor may the row be born with more."""
    robot = await company.services.create("robot")
    await company.roles.grant("service", to=Principal.service(robot.id))
    made = await company.services.make_key(robot.id)
    before = (await company.services.keys(robot.id))[0].permissions
    for statement in (
        "UPDATE auth.api_keys SET permissions = '{*}' RETURNING id",
        "INSERT INTO auth.api_keys (tenant_id, service_id, key_hash, expires_at, permissions)"
        " SELECT tenant_id, service_id, repeat('a', 64), expires_at, '{*}' FROM auth.api_keys"
        " RETURNING id",
    ):
        await company.scope.fetch(statement)
    assert {key.permissions for key in await company.services.keys(robot.id)} == {before}
    assert not (await company.services.check(made.key)).allows("roles:grant")


async def test_E10_a_service_gives_only_what_each_of_its_keys_carries(company: Company) -> None:
    """A context names the service and not the key, so an old key cannot use what a new one has."""
    ann = Principal.user(await company.user("ann"))
    robot = await company.services.create("robot")
    service = Principal.service(robot.id)
    await company.roles.create("granter", ["roles:grant"])
    await company.roles.grant("granter", to=service)
    old = await company.services.make_key(robot.id)
    await company.roles.grant("owner", to=service)
    with pytest.raises(EscalationRefused):
        await company.acting_as(service).roles.grant("owner", to=ann)
    await company.services.revoke_key(old.id)
    await company.acting_as(service).roles.grant("owner", to=ann)


async def test_E10_only_an_owner_or_the_person_acts_on_an_owner(company: Company) -> None:
    """An admin renames no owner and ends no session of one; the attempt is in the trail. Somebody
    who holds no more than the admin is fair game."""
    olga, mona = await company.user("olga", "owner"), await company.user("mona", "member")
    admin = await _as(company, "adam", "admin")
    tokens = [await company.sessions.start(user, ip_address=HERE) for user in (olga, mona)]
    rename: LiteralString = "UPDATE auth.users SET username = %s WHERE id = %s RETURNING id"
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await admin.scope.one(rename, ("gone", olga))
    for attempt in (
        admin.sessions.revoke_all(olga),
        admin.sessions.revoke(tokens[0].session_id),
    ):
        with pytest.raises(EscalationRefused):
            await attempt
    refused = [entry for entry in await company.audited("session") if entry[1] is False]
    assert len(refused) == 2
    await company.sessions.check(tokens[0].access_token)
    assert await admin.sessions.revoke_all(mona) == 1
    await admin.scope.one(rename, ("monica", mona))
    await company.acting_as(Principal.user(olga)).scope.one(rename, ("olivia", olga))
    another = await _as(company, "oscar", "owner")
    assert await another.sessions.revoke_all(olga) == 1


async def test_E10_a_grant_that_ends_in_a_cached_answer_ends_it(
    company: Company, access_core: CoreDatabase
) -> None:
    """The answer is not used beyond the first end of a grant it rests on."""
    ann = await company.user()
    cache = AccessCache(access_core, lifetime_s=3600, clock=company.clock)
    until = datetime.now(UTC) + timedelta(minutes=1)
    await company.roles.grant("signer", to=Principal.user(ann), expires_at=until)
    tokens = await company.sessions.start(ann, ip_address=HERE)
    assert (await cache.check(tokens.access_token)).allows("wallets:sign")
    await company.scope.one("DELETE FROM auth.user_roles WHERE user_id = %s RETURNING 1", (ann,))
    assert (await cache.check(tokens.access_token)).allows("wallets:sign")  # from the cache
    company.clock.now += 60
    assert not (await cache.check(tokens.access_token)).allows("wallets:sign")


async def test_E10_suspended_granters_give_nothing(company: Company) -> None:
    """A transaction begun before the suspension does not help either."""
    await company.user("olga", "owner")
    admin = await _as(company, "adam", "admin")
    ann = Principal.user(await company.user("ann"))
    await company.scope.one(
        "UPDATE auth.users SET status = 'suspended' WHERE username = 'adam' RETURNING id"
    )
    with pytest.raises(EscalationRefused):
        await admin.roles.grant("member", to=ann)


async def test_E10_who_cannot_give_cannot_take_away(company: Company) -> None:
    """An admin does not unseat an owner, and that is audited; one may lay down what one holds."""
    await company.user("olga", "owner")
    paul = Principal.user(await company.user("paul", "owner"))
    admin = await _as(company, "adam", "admin")
    with pytest.raises(EscalationRefused):
        await admin.roles.revoke("owner", of=paul)
    assert (await company.audited("grant"))[-1] == ("DELETE", False)
    mona = await _as(company, "mona", "member")
    assert await mona.roles.revoke("member", of=mona.scope.by)
    assert await company.acting_as(paul).roles.revoke("owner", of=paul)


async def test_E10_the_verbs_ask_for_what_taking_away_needs(company: Company) -> None:
    """Who may not change roles and services does not through the verbs either, and who may takes
    away no more than they hold: a role's name, a role, a service, its keys."""
    mona, admin = await _as(company, "mona", "member"), await _as(company, "adam", "admin")
    strong, weak = await company.services.create("strong"), await company.services.create("weak")
    await company.roles.create("signers", ["wallets:sign", "chain:read"])
    await company.roles.create("readers", ["chain:read"])
    await company.roles.grant("signers", to=Principal.service(strong.id))
    await company.roles.grant("readers", to=Principal.service(weak.id))
    keys = {at.id: (await company.services.make_key(at.id)).id for at in (strong, weak)}
    for attempt, missing in (
        (mona.roles.delete("readers"), "roles:delete"),
        (mona.roles.update("readers", []), "roles:update"),
        (mona.roles.revoke("readers", of=Principal.service(weak.id)), "roles:grant"),
        (mona.services.disable(weak.id), "services:update"),
        (mona.services.revoke_key(keys[weak.id]), "services:update"),
        (mona.services.delete(weak.id), "services:delete"),
        (admin.roles.delete("signers"), "wallets:sign"),
        (admin.roles.update("signers", ["chain:read"]), "wallets:sign"),
        (admin.services.disable(strong.id), "wallets:sign"),
        (admin.services.revoke_key(keys[strong.id]), "wallets:sign"),
        (admin.services.delete(strong.id), "wallets:sign"),
    ):
        with pytest.raises(EscalationRefused) as refused:
            await attempt
        assert refused.value.permission == missing
    await admin.services.revoke_key(keys[weak.id])
    await admin.services.disable(weak.id)
    await admin.services.delete(weak.id)
    await admin.roles.update("readers", [])
    await admin.roles.delete("readers")


async def test_E10_what_goes_along_is_not_asked_again(company: Company) -> None:
    """Grants go with their role, their grantee and who granted them, keys with their service; who
    narrows the role they act by is judged by what they held before."""
    admin = await _as(company, "adam", "admin")
    robot, ann = await company.services.create("robot"), await company.user("ann")
    await company.roles.create("boss", ["chain:read", "roles:update", "roles:delete"])
    for to in (Principal.user(ann), Principal.service(robot.id)):
        await admin.roles.grant("member", to=to)
    await company.roles.grant("boss", to=Principal.user(ann))
    await admin.services.make_key(robot.id)
    boss = company.acting_as(Principal.user(ann))
    assert (await boss.roles.update("boss", ["roles:delete"])).permissions == ("roles:delete",)
    await boss.roles.delete("boss")
    assert [grant.role for grant in await company.roles.grants(Principal.user(ann))] == ["member"]
    await company.scope.one(
        "UPDATE auth.users SET deleted_at = now(), status = 'inactive' WHERE id = %s RETURNING id",
        (ann,),
    )
    for leaves in (admin.scope.by.user_id, ann):
        await company.scope.one("DELETE FROM auth.users WHERE id = %s RETURNING id", (leaves,))
    [grant] = await company.roles.grants(Principal.service(robot.id))
    assert grant.granted_by is None
    other = await _as(company, "alan", "admin")
    await other.services.delete(robot.id)


async def test_E10_nobody_comes_in_as_somebody_stronger(company: Company) -> None:
    """By setting their password, address or second factor, or by starting a session for them."""
    olga = await company.user("olga", "owner")
    admin = await _as(company, "adam", "admin")
    mona = await company.user("mona", "member")
    robot = await company.services.create("robot")
    await company.roles.grant("service", to=Principal.service(robot.id))
    changes: list[LiteralString] = [
        "UPDATE auth.users SET password_hash = 'y' WHERE id = %s RETURNING id",
        "UPDATE auth.users SET email = 'adam@evil.example' WHERE id = %s RETURNING id",
        "UPDATE auth.users SET mfa_secret = 'x', mfa_key_id = 'k' WHERE id = %s RETURNING id",
    ]
    weak = company.acting_as(Principal.service(robot.id))
    for change in changes:
        for by in (admin, weak):
            with pytest.raises(psycopg.errors.InsufficientPrivilege) as refused:
                await by.scope.fetch(change, (olga,))
            assert refused.value.diag.constraint_name == "no_escalation"
        for by in (company.acting_as(Principal.user(olga)), company):
            async with by.scope.transaction() as tx:
                assert await tx.fetch(change, (olga,))
    assert await admin.scope.fetch(changes[0], (mona,))
    for by in (admin, weak):
        with pytest.raises(AccessDenied):
            await by.sessions.start(olga, ip_address=HERE)
    await company.acting_as(Principal.user(olga)).sessions.start(olga, ip_address=HERE)


NEW_HASH = "repeat(md5(random()::text), 2)"
LATER = "now() + interval '1 hour'"
ON_PROOFS: dict[str, str] = {
    "start a session": "INSERT INTO auth.sessions (tenant_id, user_id, token_hash, ip_address,"
    f" access_expires_at, expires_at) SELECT tenant_id, id, {NEW_HASH}, '192.0.2.1', {LATER},"
    f" {LATER} FROM auth.users WHERE id = %(user_id)s",
    "hand over a session": "UPDATE auth.sessions SET user_id = %(user_id)s WHERE user_id = %(me)s",
    "take a session": "UPDATE auth.sessions SET user_id = %(me)s WHERE user_id = %(user_id)s",
    "another access token": f"UPDATE auth.sessions SET token_hash = {NEW_HASH}"
    " WHERE user_id = %(user_id)s",
    "end a session": "UPDATE auth.sessions SET expires_at = now() WHERE user_id = %(user_id)s",
    "end access": "UPDATE auth.sessions SET access_expires_at = now() WHERE user_id = %(user_id)s",
    "idle too long": "UPDATE auth.sessions SET idle_timeout = '0' WHERE user_id = %(user_id)s",
    "last seen long ago": "UPDATE auth.sessions SET last_seen_at = '-infinity'"
    " WHERE user_id = %(user_id)s",
    "revive a session": "UPDATE auth.sessions SET revoked_at = NULL WHERE user_id = %(user_id)s",
    "delete a session": "DELETE FROM auth.sessions WHERE user_id = %(user_id)s",
    "add a refresh token": "INSERT INTO auth.refresh_tokens (tenant_id, session_id, token_hash,"
    f" expires_at) SELECT tenant_id, id, {NEW_HASH}, {LATER} FROM auth.sessions"
    " WHERE user_id = %(user_id)s",
    "another refresh token": f"UPDATE auth.refresh_tokens SET token_hash = {NEW_HASH}"
    " WHERE session_id IN (SELECT id FROM auth.sessions WHERE user_id = %(user_id)s)",
    "hand over a refresh token": "UPDATE auth.refresh_tokens SET session_id ="
    " (SELECT id FROM auth.sessions WHERE user_id = %(user_id)s) WHERE session_id IN"
    " (SELECT id FROM auth.sessions WHERE user_id = %(me)s)",
    "delete refresh tokens": "DELETE FROM auth.refresh_tokens WHERE session_id IN"
    " (SELECT id FROM auth.sessions WHERE user_id = %(user_id)s)",
    "a letter": "INSERT INTO auth.one_time_tokens (tenant_id, user_id, purpose, email, token_hash,"
    f" expires_at) SELECT tenant_id, id, 'password_reset', email, {NEW_HASH}, {LATER}"
    " FROM auth.users WHERE id = %(user_id)s",
    "hand over a letter": "UPDATE auth.one_time_tokens SET user_id = %(user_id)s"
    " WHERE user_id = %(me)s",
    "a letter's token": f"UPDATE auth.one_time_tokens SET token_hash = {NEW_HASH}"
    " WHERE user_id = %(user_id)s",
    "recovery codes": "INSERT INTO auth.recovery_codes (tenant_id, user_id, code_hash)"
    " SELECT tenant_id, id, 'x' FROM auth.users WHERE id = %(user_id)s",
    "used codes": "UPDATE auth.recovery_codes SET used_at = NULL, code_hash = 'y'"
    " WHERE user_id = %(user_id)s",
    "no codes": "DELETE FROM auth.recovery_codes WHERE user_id = %(user_id)s",
    "a device": "INSERT INTO auth.known_devices (tenant_id, user_id, token_hash, expires_at)"
    f" SELECT tenant_id, id, {NEW_HASH}, {LATER} FROM auth.users WHERE id = %(user_id)s",
    "no devices": "DELETE FROM auth.known_devices WHERE user_id = %(user_id)s",
    "unverified": "UPDATE auth.users SET email_verified = NOT email_verified"
    " WHERE id = %(user_id)s",
    "locked": "UPDATE auth.users SET locked_until = now() WHERE id = %(user_id)s",
    "a code again": "UPDATE auth.users SET mfa_last_step = 1 WHERE id = %(user_id)s",
    "erased": "DELETE FROM auth.users WHERE id = %(user_id)s",
}
_PROOFS = ("start a session", "a letter", "recovery codes", "a device")


async def _with_proofs(company: Company, name: str, *roles: str) -> UUID:
    """A person with a row in every table of what proves who somebody is."""
    user_id = await company.user(name, *roles)
    async with company.scope.transaction() as tx:
        for what in (*_PROOFS, "add a refresh token"):
            await tx.execute(ON_PROOFS[what], {"user_id": user_id})  # type: ignore[arg-type]
        await tx.execute("UPDATE auth.recovery_codes SET code_hash = id::text")
    return user_id


async def _refused(scope: Scope, what: str, params: dict[str, UUID]) -> bool:
    """Whether the rule refused it; done or not, it is undone. It concerns one row."""
    try:
        async with scope.transaction() as tx:
            done = await tx.fetch(f"{ON_PROOFS[what]} RETURNING 1", params)  # type: ignore[arg-type]
            assert len(done) == 1, what
            raise _Undone
    except _Undone:
        return False
    except psycopg.errors.InsufficientPrivilege as exc:
        return exc.diag.constraint_name == "no_escalation"


class _Undone(Exception):
    """Takes a transaction back."""


async def test_E10_what_proves_who_an_owner_is_is_theirs(company: Company) -> None:
    """No row and no column of it moves by SQL of a member or a service: 42501. The same goes
    through as another owner, who holds as much, and as the person."""
    olga = await _with_proofs(company, "olga", "owner")
    mona = await _with_proofs(company, "mona", "member")
    oscar = await _with_proofs(company, "oscar", "owner")
    robot = await company.services.create("robot")
    await company.roles.grant("service", to=Principal.service(robot.id))
    params = {"user_id": olga, "me": mona}
    for by in (Principal.user(mona), Principal.service(robot.id)):
        scope = company.scope.acting_as(by)
        assert [what for what in ON_PROOFS if not await _refused(scope, what, params)] == []
    for owner in (olga, oscar):
        scope = company.scope.acting_as(Principal.user(owner))
        assert [what for what in ON_PROOFS if await _refused(scope, what, params)] == []


async def test_E10_a_members_own_proofs_are_theirs(company: Company) -> None:
    """As the person, and as an admin who holds all that they hold."""
    mona = await _with_proofs(company, "mona", "member")
    adam = await _with_proofs(company, "adam", "admin")
    for by, other in ((mona, mona), (adam, adam), (adam, mona)):
        scope = company.scope.acting_as(Principal.user(by))
        params = {"user_id": other, "me": by}
        assert [what for what in ON_PROOFS if await _refused(scope, what, params)] == []


async def test_E10_nobody_puts_a_token_of_theirs_on_an_owners_session(company: Company) -> None:
    """A member whose token became the owner's would be the owner; it opens nothing."""
    olga, mona = await company.user("olga", "owner"), await company.user("mona", "member")
    tokens = await company.sessions.start(olga, ip_address=HERE)
    assert company.scope.tenant is not None
    token = new_token(Kind.ACCESS, company.scope.tenant)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await company.acting_as(Principal.user(mona)).scope.fetch(
            "UPDATE auth.sessions SET token_hash = %s WHERE user_id = %s RETURNING id",
            (token.hash, olga),
        )
    with pytest.raises(UnknownToken):
        await company.sessions.check(token.text)
    assert (await company.sessions.check(tokens.access_token)).principal == Principal.user(olga)


async def test_E10_a_role_of_another_tenant_is_never_granted(new_company: NewCompany) -> None:
    """By every spelling of the reference, to people and services: refused by key or check."""
    ours, theirs = await new_company(), await new_company()
    role = await theirs.roles.create("clerk", ["*"])
    ann, robot = await ours.user(), await ours.services.create("robot")
    for table, column, grantee in (
        ("user_roles", "user_id", ann),
        ("service_roles", "service_id", robot.id),
    ):
        statement = (
            f"INSERT INTO auth.{table} (tenant_id, {column}, role_id, role_scope_id)"
            " VALUES (%s, %s, %s, %s) RETURNING role_id"
        )
        for scope_id in (theirs.scope.tenant, ours.scope.tenant, PLATFORM):
            with pytest.raises(psycopg.errors.IntegrityError):
                await ours.scope.fetch(
                    statement,  # type: ignore[arg-type]
                    (ours.scope.tenant, grantee, role.id, scope_id),
                )


async def test_E9_the_platforms_roles_and_catalogue_are_read_only(company: Company) -> None:
    """By the verbs as if they were not there, by SQL nothing changes: is_system is not settable."""
    await company.roles.create("clerk", [])
    owner = await _as(company, "olga", "owner")
    changes: list[LiteralString] = [
        "UPDATE auth.roles SET name = 'x' WHERE is_system RETURNING id",
        "DELETE FROM auth.roles WHERE is_system RETURNING id",
        "DELETE FROM auth.role_permissions WHERE tenant_id IS NULL RETURNING role_id",
    ]
    for change in changes:
        assert await owner.scope.fetch(change) == []
    refused: list[LiteralString] = [
        "INSERT INTO auth.roles (tenant_id, name, is_system) VALUES (NULL, 'root', true)"
        " RETURNING id",
        "UPDATE auth.roles SET is_system = true WHERE name = 'clerk' RETURNING id",
        "UPDATE auth.roles SET tenant_id = NULL, is_system = true WHERE name = 'clerk'"
        " RETURNING id",
        "INSERT INTO auth.permissions (name, resource, action) VALUES ('a:b', 'a', 'b')"
        " RETURNING id",
        "UPDATE auth.permissions SET action = '*' RETURNING id",
    ]
    for change in refused:
        with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.CheckViolation)):
            await owner.scope.fetch(change)


# The last owner


async def _remove(scope: Scope, how: str, user_id: UUID) -> None:
    statements: dict[str, LiteralString] = {
        "revoke": "DELETE FROM auth.user_roles WHERE user_id = %s RETURNING user_id",
        "expire": "UPDATE auth.user_roles SET expires_at = now() WHERE user_id = %s"
        " RETURNING user_id",
        "suspend": "UPDATE auth.users SET status = 'suspended' WHERE id = %s RETURNING id",
        "leave": "UPDATE auth.users SET deleted_at = now() WHERE id = %s RETURNING id",
        "erase": "DELETE FROM auth.users WHERE id = %s RETURNING id",
    }
    assert await scope.fetch(statements[how], (user_id,))


WAYS = ("revoke", "expire", "suspend", "leave", "erase")


@pytest.mark.parametrize("how", WAYS)
async def test_E10_the_last_owner_stays(company: Company, how: str) -> None:
    """Not taken back, not given an end, not suspended, deleted or erased; one of two may go."""
    olga, paul = await company.user("olga", "owner"), await company.user("paul", "owner")
    await _remove(company.scope, how, paul)
    with pytest.raises(psycopg.errors.RestrictViolation) as refused:
        await _remove(company.scope, how, olga)
    assert refused.value.diag.constraint_name == "last_owner"
    with pytest.raises(LastOwner):
        await company.roles.revoke("owner", of=Principal.user(olga))
    with pytest.raises(LastOwner):
        await company.roles.grant(
            "owner", to=Principal.user(olga), expires_at=datetime.now(UTC) + timedelta(days=1)
        )


@pytest.mark.parametrize("how", WAYS)
async def test_E10_two_owners_who_leave_at_once_do_not_both(company: Company, how: str) -> None:
    """Both begin before either commits; the database lets one go."""
    owners = [await company.user(name, "owner") for name in ("olga", "paul")]
    both = asyncio.Barrier(2)

    async def go(owner: UUID) -> bool:
        try:
            async with company.scope.transaction() as tx:
                await tx.one("SELECT 1")
                await both.wait()
                statement: dict[str, LiteralString] = {
                    "revoke": "DELETE FROM auth.user_roles WHERE user_id = %s",
                    "expire": "UPDATE auth.user_roles SET expires_at = now() WHERE user_id = %s",
                    "suspend": "UPDATE auth.users SET status = 'suspended' WHERE id = %s",
                    "leave": "UPDATE auth.users SET deleted_at = now() WHERE id = %s",
                    "erase": "DELETE FROM auth.users WHERE id = %s",
                }
                await tx.execute(statement[how], (owner,))
        except psycopg.errors.RestrictViolation:
            return False
        return True

    assert sorted(await asyncio.gather(*map(go, owners))) == [False, True]


async def test_E10_owners_are_not_removed_where_others_cannot_be_seen(company: Company) -> None:
    """Under REPEATABLE READ the second one would not see that the first has gone."""
    olga = await company.user("olga", "owner")
    await company.user("paul", "owner")
    with pytest.raises(psycopg.errors.InvalidTransactionState):
        async with company.scope.transaction() as tx:
            await tx.execute("SET LOCAL statement_timeout = '10s'")
            await tx.execute("COMMIT")
            await tx.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            context = company.scope.core.signer.sign(company.scope.tenant, company.scope.by)
            await tx.execute("SELECT set_config('neolayer.context', %s, true)", (context,))
            await tx.execute("DELETE FROM auth.user_roles WHERE user_id = %s", (olga,))


async def test_a_deleted_tenant_may_lose_its_owners(company: Company) -> None:
    """Erasure goes all the way."""
    olga = await company.user("olga", "owner")
    await company.scope.one("UPDATE core.tenants SET deleted_at = now() RETURNING id")
    await _remove(company.scope, "erase", olga)
