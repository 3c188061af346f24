"""Services and their keys."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from tests.fixtures.fix_access import HERE, Company, NewCompany

from neolayer.engines.endpoints import Endpoints
from neolayer.errors import Conflict, InvalidInput, NotFound, Unauthenticated
from neolayer.identity.sweeping import AccessSweeper
from neolayer.tenancy import CoreDatabase, Principal


async def test_a_key_proves_a_service_and_what_it_may(company: Company) -> None:
    """Its roles are its permissions; the key is shown once and only its hash is stored."""
    robot = await company.services.create("robot", description="Feeds prices")
    await company.roles.grant("service", to=Principal.service(robot.id))
    key = await company.services.make_key(robot.id)
    access = await company.services.check(key.key, ip_address=HERE)
    assert (access.principal, access.session_id) == (Principal.service(robot.id), None)
    assert access.allows("metrics:create")
    assert not access.allows("wallets:sign")
    assert key.key not in repr(key)
    stored = await company.scope.fetch("SELECT row_to_json(k)::text FROM auth.api_keys k")
    assert key.key[5:] not in str(stored)
    (shown,) = await company.services.keys(robot.id)
    assert (shown.id, shown.has_ended, shown.last_ip_address) == (key.id, False, HERE)
    assert shown.last_used_at is not None


async def test_use_of_a_key_is_noted_once_a_minute(company: Company) -> None:
    """Many checks are one write."""
    robot = await company.services.create("robot")
    key = await company.services.make_key(robot.id)
    await company.services.check(key.key)
    version = "SELECT xmin::text FROM auth.api_keys"
    first = await company.scope.one(version)
    for _ in range(5):
        company.a_second_later()
        await company.services.check(key.key)
    assert await company.scope.one(version) == first


async def test_rotation_lets_the_old_keys_live_for_an_overlap(company: Company) -> None:
    """Both are good meanwhile; then the old one is not. A second rotation does not prolong it."""
    robot = await company.services.create("robot")
    old = await company.services.make_key(robot.id)
    new = await company.services.rotate_key(robot.id, overlap=timedelta(hours=1))
    for key in (old, new):
        await company.services.check(key.key)
    newest = await company.services.rotate_key(robot.id, overlap=timedelta(hours=2))
    ends = {k.id: k.expires_at for k in await company.services.keys(robot.id)}
    assert ends[old.id] < ends[new.id] < ends[newest.id]
    last = await company.services.rotate_key(robot.id, overlap=timedelta(0))
    for key in (old, new, newest):
        with pytest.raises(Unauthenticated):
            await company.services.check(key.key)
    await company.services.check(last.key)


async def test_keys_end_by_time_by_hand_and_with_the_service(company: Company) -> None:
    """Expiry, revocation, a disabled service and a deleted one; an enabled one works again."""
    robot = await company.services.create("robot")
    key = await company.services.make_key(robot.id)
    other = await company.services.make_key(robot.id)
    await company.services.disable(robot.id)
    with pytest.raises(Unauthenticated):
        await company.services.check(key.key)
    with pytest.raises(NotFound):
        await company.services.make_key(robot.id)
    await company.services.enable(robot.id)
    await company.services.check(key.key)
    await company.services.revoke_key(key.id)
    with pytest.raises(Unauthenticated):
        await company.services.check(key.key)
    await company.services.check(other.key)
    await company.scope.fetch("UPDATE auth.api_keys SET expires_at = now() RETURNING id")
    company.a_second_later()
    with pytest.raises(Unauthenticated):
        await company.services.check(other.key)
    await company.services.delete(robot.id)
    assert await company.services.list() == []
    assert await company.services.keys(robot.id) == []
    assert await company.audited("api_key") == [
        *(("CREATE", True), ("CREATE", True), ("DELETE", True))
    ]


async def test_odd_names_and_times_are_refused(company: Company) -> None:
    """Names of one form, once a tenant; lifetimes between now and a year."""
    robot = await company.services.create("robot")
    with pytest.raises(Conflict):
        await company.services.create("robot")
    for name in ("", "Robot", "a b", "x" * 101, "-x", "röbot"):
        with pytest.raises(InvalidInput):
            await company.services.create(name)
    with pytest.raises(InvalidInput, match="description has 2001 characters; at most 2000"):
        await company.services.create("talker", description="x" * 2001)
    for lifetime in (timedelta(0), timedelta(days=-1), timedelta(days=10_000)):
        with pytest.raises(InvalidInput):
            await company.services.make_key(robot.id, lifetime=lifetime)
    with pytest.raises(InvalidInput):
        await company.services.rotate_key(robot.id, overlap=timedelta(seconds=-1))


async def test_E2_services_of_another_tenant_are_absent(new_company: NewCompany) -> None:
    """By name, by id, by key."""
    ours, theirs = await new_company(), await new_company()
    robot = await theirs.services.create("robot")
    key = await theirs.services.make_key(robot.id)
    assert await ours.services.list() == []
    assert await ours.services.keys(robot.id) == []
    messages: set[str] = set()
    for service_id, key_id in ((robot.id, key.id), (uuid4(), uuid4())):
        for attempt in (
            ours.services.disable(service_id),
            ours.services.delete(service_id),
            ours.services.make_key(service_id),
            ours.services.revoke_key(key_id),
            ours.services.get("robot"),
        ):
            with pytest.raises(NotFound) as refused:
                await attempt
            messages.add(refused.value.message)
    assert messages == {"There is no such service or key."}
    with pytest.raises(Unauthenticated):
        await ours.services.check(key.key)
    await theirs.services.check(key.key)


async def test_what_ended_long_ago_is_swept(
    new_company: NewCompany, module_databases: Endpoints, access_core: CoreDatabase
) -> None:
    """Sessions with their refresh tokens, and keys, in every tenant; the rest stays."""
    companies = [await new_company(), await new_company()]
    for company in companies:
        ann = await company.user()
        robot = await company.services.create("robot")
        for _ in range(3):
            await company.sessions.start(ann, ip_address=HERE)
            await company.services.make_key(robot.id)
        for table in ("sessions", "api_keys"):
            await company.scope.fetch(
                f"UPDATE auth.{table} SET expires_at = now() - interval '31 days'"  # type: ignore[arg-type]
                f" WHERE id = (SELECT min(id::text)::uuid FROM auth.{table}) RETURNING id"
            )
            await company.scope.fetch(
                f"UPDATE auth.{table} SET revoked_at = now() - interval '29 days'"  # type: ignore[arg-type]
                f" WHERE id = (SELECT max(id::text)::uuid FROM auth.{table}) RETURNING id"
            )
    swept = await AccessSweeper(module_databases, access_core).sweep()
    assert (swept.sessions, swept.keys) == (2, 2)
    for company in companies:
        for table in ("sessions", "refresh_tokens", "api_keys"):
            left = await company.scope.one(f"SELECT count(*) FROM auth.{table}")  # type: ignore[arg-type]
            assert left == (2,)


async def test_a_tenant_that_cannot_be_swept_stops_no_other(
    new_company: NewCompany,
    module_databases: Endpoints,
    access_core: CoreDatabase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The others are swept, and then what went wrong is raised."""
    for company in [await new_company(), await new_company()]:
        await company.sessions.start(await company.user(), ip_address=HERE)
        await company.scope.fetch(
            "UPDATE auth.sessions SET expires_at = now() - interval '31 days' RETURNING id"
        )
    sweeper = AccessSweeper(module_databases, access_core)
    before = datetime.now(UTC) - sweeper.keep
    broken, *others = await sweeper._tenants(before)
    assert others
    drain = AccessSweeper._drain

    async def failing(self: AccessSweeper, tenant: UUID, *rest: Any) -> int:
        if tenant == broken:
            raise psycopg.DataError("timestamp too large")
        return await drain(self, tenant, *rest)

    monkeypatch.setattr(AccessSweeper, "_drain", failing)
    with pytest.raises(psycopg.DataError):
        await sweeper.sweep()
    assert await sweeper._tenants(before) == [broken]
