"""Roles, grants and explanations."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from tests.fixtures.fix_access import HERE, Company, NewCompany

from neolayer.errors import Conflict, InvalidInput, NotFound
from neolayer.tenancy import Principal

SOON = timedelta(hours=1)


async def test_the_platform_has_roles_that_no_tenant_copies(new_company: NewCompany) -> None:
    """The same six, by the same ids, in a tenant that has none of its own."""
    ours, theirs = await new_company(), await new_company()
    roles = await ours.roles.list()
    assert [role.name for role in roles] == [
        *("admin", "auditor", "member", "owner", "service", "signer")
    ]
    assert all(role.is_system and role.permissions for role in roles)
    assert roles == await theirs.roles.list()
    assert (await ours.roles.get("owner")).permissions == ("*",)


async def test_the_catalogue_has_every_wildcard(company: Company) -> None:
    """For each resource and for each action, and one for everything."""
    names = {name for name, _ in await company.roles.permissions()}
    single = {name for name in names if "*" not in name}
    wildcards = {f"{name.split(':')[0]}:*" for name in single}
    wildcards |= {f"*:{name.split(':')[1]}" for name in single}
    assert names - single == wildcards | {"*"}
    held = {name for role in await company.roles.list() for name in role.permissions}
    assert held <= names


async def test_a_tenant_makes_changes_and_deletes_roles_of_its_own(company: Company) -> None:
    """What it allows is what whoever has it may, from the next check on; deleted, nobody has it."""
    ann = await company.user()
    await company.roles.create("clerk", ["wallets:read", "documents:*"], description="Papers")
    await company.roles.grant("clerk", to=Principal.user(ann))
    tokens = await company.sessions.start(ann, ip_address=HERE)

    async def held() -> frozenset[str]:
        company.a_second_later()
        return (await company.sessions.check(tokens.access_token)).permissions

    assert await held() == {"wallets:read", "documents:*"}
    role = await company.roles.update("clerk", ["wallets:sign", "documents:*"])
    assert (role.permissions, role.description) == (("documents:*", "wallets:sign"), "Papers")
    assert await held() == {"wallets:sign", "documents:*"}
    await company.roles.delete("clerk")
    assert await held() == frozenset()
    assert await company.audited("role") == [
        *(("CREATE", True), ("UPDATE", True), ("DELETE", True))
    ]


async def test_names_are_bounded_and_taken_once(company: Company) -> None:
    """Odd names, unknown permissions, a second role of the name, and the platform's names."""
    for name in ("", "Clerk", "a b", "x" * 101, "1st", "clerk\n"):
        with pytest.raises(InvalidInput):
            await company.roles.create(name, [])
    for permissions in (["wallets:fly"], ["'; DROP TABLE auth.roles; --"], [""]):
        with pytest.raises(InvalidInput):
            await company.roles.create("clerk", permissions)
    with pytest.raises(InvalidInput, match="description has 2001 characters; at most 2000"):
        await company.roles.create("clerk", [], description="x" * 2001)
    await company.roles.create("clerk", [], description="x" * 2000)
    with pytest.raises(InvalidInput, match="at most 2000"):
        await company.roles.update("clerk", [], description="x" * 2001)
    for taken in ("clerk", "owner", "admin"):
        with pytest.raises(Conflict):
            await company.roles.create(taken, [])


async def test_grants_are_listed_extended_and_taken_back(company: Company) -> None:
    """Once a role and person; granting again moves its end; taking back twice is no error."""
    olga, ann = await company.user("olga", "owner"), await company.user("ann")
    by_olga = company.acting_as(Principal.user(olga))
    until = datetime.now(UTC) + SOON
    await by_olga.roles.grant("member", to=Principal.user(ann), expires_at=until)
    await by_olga.roles.grant("member", to=Principal.user(ann), expires_at=until + SOON)
    (grant,) = await company.roles.grants(Principal.user(ann))
    assert (grant.role, grant.granted_by, grant.expires_at) == ("member", olga, until + SOON)
    assert await by_olga.roles.revoke("member", of=Principal.user(ann)) is True
    assert await by_olga.roles.revoke("member", of=Principal.user(ann)) is False
    taken = await by_olga.scope.fetch(
        "SELECT resource_id FROM audit.entries WHERE (action, resource) = ('DELETE', 'grant')"
    )
    assert taken == [(f"user:{ann}",)]  # what was not there was not taken
    with pytest.raises(InvalidInput):
        await by_olga.roles.grant(
            "member",
            to=Principal.user(ann),
            expires_at=datetime(2030, 1, 1),
        )
    with pytest.raises(InvalidInput):
        await by_olga.roles.grant("member", to=Principal.operator("root"))


async def test_who_granted_may_leave(company: Company) -> None:
    """Errata 22: the grant stays, without a name."""
    await company.user("olga", "owner")
    paul, ann = await company.user("paul", "owner"), await company.user("ann")
    await company.acting_as(Principal.user(paul)).roles.grant("member", to=Principal.user(ann))
    await company.scope.one("DELETE FROM auth.users WHERE id = %s RETURNING id", (paul,))
    (grant,) = await company.roles.grants(Principal.user(ann))
    assert grant.granted_by is None


async def test_absent_and_foreign_ids_answer_alike(new_company: NewCompany) -> None:
    """Of roles, of whoever is granted one, and of whoever is explained."""
    ours, theirs = await new_company(), await new_company()
    stranger = await theirs.user()
    await theirs.roles.create("clerk", [])
    ann = Principal.user(await ours.user())
    messages: set[str] = set()
    for attempt in (
        lambda: ours.roles.grant("clerk", to=ann),
        lambda: ours.roles.grant("nothing", to=ann),
        lambda: ours.roles.delete("clerk"),
        lambda: ours.roles.revoke("clerk", of=ann),
        lambda: ours.roles.update("nothing", []),
    ):
        with pytest.raises(NotFound) as refused:
            await attempt()
        messages.add(refused.value.message)
    assert messages == {"There is no such role."}
    messages.clear()
    for nobody in (stranger, uuid4()):
        for kind in (Principal.user, Principal.service):
            for attempt in (
                ours.roles.grant("member", to=kind(nobody)),
                ours.roles.explain(kind(nobody), "wallets:sign"),
            ):
                with pytest.raises(NotFound) as refused:
                    await attempt
                messages.add(refused.value.message)
    assert messages == {"There is no such user or service."}


async def test_an_explanation_names_what_gave_access_or_would(company: Company) -> None:
    """Role, wildcard, who granted it and until when; ended grants; what helps; who is barred."""
    ann = Principal.user(await company.user())
    nothing = await company.roles.explain(ann, "wallets:sign")
    assert not nothing.is_allowed
    assert nothing.would_give == ("owner", "signer")
    await company.roles.create("clerk", ["wallets:*"])
    await company.roles.grant("clerk", to=ann, expires_at=datetime.now(UTC) + SOON)
    allowed = await company.roles.explain(ann, "wallets:sign")
    assert allowed.is_allowed
    ((grant, pattern),) = allowed.given_by
    assert (grant.role, pattern) == ("clerk", "wallets:*")
    told = "\n".join(allowed.sentences())
    assert f"wallets:sign is allowed for {ann}" in told
    assert "role clerk has wallets:* (granted" in told
    assert "by an operator, until" in told
    await company.scope.one(
        "UPDATE auth.user_roles SET expires_at = now() - interval '1 s' RETURNING user_id"
    )
    ended = await company.roles.explain(ann, "wallets:sign")
    assert not ended.is_allowed
    assert "no longer: role clerk" in "\n".join(ended.sentences())
    await company.roles.grant("clerk", to=ann)
    await company.scope.one("UPDATE auth.users SET status = 'suspended' RETURNING id")
    barred = await company.roles.explain(ann, "wallets:sign")
    assert (barred.is_allowed, barred.barred) == (False, "the user is suspended")
    assert "refused whatever is granted: the user is suspended" in barred.sentences()
