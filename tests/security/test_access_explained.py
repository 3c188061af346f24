"""E10: what is said of access is done: the explanation against the check of each request."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest

from neolayer.identity import UnknownToken
from neolayer.tenancy import Principal
from tests.fixtures.fix_access import HERE, Company

NOW = datetime.now(UTC)
PATTERNS = ("*", "*:read", "wallets:*", "wallets:sign", "wallets:read", "users:*", "users:read")
ASKED = ("wallets:sign", "wallets:read", "users:read", "users:delete", "audit:verify")
STANDINGS = (
    *("status = 'active'",) * 4,
    "status = 'suspended'",
    "status = 'inactive'",
    "status = 'locked', locked_until = now() + interval '1 hour'",
    "status = 'locked', locked_until = now() - interval '1 hour'",
    "status = 'active', deleted_at = now()",
)
ENDS = (None, NOW + timedelta(hours=1), NOW + timedelta(hours=2))


async def granted(company: Company, to: Principal, dice: random.Random) -> None:
    """Some of the roles, some for a time, some of which has passed."""
    for role in dice.sample([f"r{n}" for n in range(len(PATTERNS))], dice.randrange(4)):
        await company.roles.grant(role, to=to, expires_at=dice.choice(ENDS))
    table = "user_roles" if to.user_id else "service_roles"
    await company.scope.fetch(
        f"UPDATE auth.{table} SET expires_at = now() - interval '1 s'"  # type: ignore[arg-type]
        f" WHERE expires_at = %s RETURNING role_id",
        (ENDS[1],),
    )


@pytest.mark.parametrize("seed", range(2))
async def test_E10_people_may_what_the_explanation_says(company: Company, seed: int) -> None:
    """Whatever is granted to whoever in whatever state: both say yes, or both say no."""
    dice, allowed = random.Random(seed), 0
    for number, pattern in enumerate(PATTERNS):
        await company.roles.create(f"r{number}", [pattern])
    for standing in STANDINGS:
        user = await company.user(f"u{dice.randrange(10**9)}")
        token = (await company.sessions.start(user, ip_address=HERE)).access_token
        await granted(company, Principal.user(user), dice)
        await company.scope.fetch(
            f"UPDATE auth.users SET {standing} WHERE id = %s RETURNING id",  # type: ignore[arg-type]
            (user,),
        )
        company.a_second_later()
        allowed += await agree(company, Principal.user(user), token)
    assert allowed


@pytest.mark.parametrize("seed", range(2))
async def test_E10_services_may_what_the_explanation_says(company: Company, seed: int) -> None:
    """Also where the key is older than the grant, and where the service is disabled."""
    dice, allowed = random.Random(seed), 0
    for number, pattern in enumerate(PATTERNS):
        await company.roles.create(f"r{number}", [pattern])
    for turn in range(4):
        service = await company.services.create(f"s{turn}")
        to = Principal.service(service.id)
        await granted(company, to, dice)
        key = await company.services.make_key(service.id)
        if dice.random() < 0.5:
            await granted(company, to, dice)
        if turn == 3:
            await company.services.disable(service.id)
        company.a_second_later()
        allowed += await agree(company, to, key.key)
    assert allowed


async def agree(company: Company, who: Principal, token: str) -> int:
    """How many of the permissions are held, by both accounts."""
    held = 0
    try:
        access = await company.cache.check(token)
    except UnknownToken:
        access = None
    for permission in ASKED:
        done = access is not None and access.allows(permission)
        said = await company.roles.explain(who, permission)
        held_back = said.keys_without if who.user_id is None else 0
        assert done == (said.is_allowed and not held_back), "\n".join(said.sentences())
        held += done
    return held
