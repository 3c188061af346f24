"""Tenants: who may make, change and end one, and what their limits do, raw SQL included."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from tests.fixtures.fix_tenancy import NewTenant
from tests.fixtures.owners import new_owner
from tests.fixtures.patience import PATIENCE_S

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.errors import AccessDenied, InvalidInput, LimitExceeded, NotFound
from neolayer.tenancy import (
    CoreDatabase,
    IdentifierTaken,
    Limit,
    Principal,
    Scope,
    TenantLimitExceeded,
    TenantNotFound,
    Tenants,
    Tier,
)
from neolayer.tenancy.directory import open_directory

ADD = "INSERT INTO core.tenant_data (tenant_id, data_id, data) VALUES (%s, %s, '{}')"
ADD_USER = (
    "INSERT INTO auth.users (tenant_id, email, username, password_hash)"
    " VALUES (%s, %s, %s, 'x') RETURNING id"
)
SET_TIER = "UPDATE core.tenants SET subscription_tier = 'enterprise' RETURNING id"
SET_LIMITS = "UPDATE core.tenants SET limits = '{\"users\": null}' RETURNING id"
DELETE = "UPDATE core.tenants SET deleted_at = now() RETURNING id"
RESERVE = "UPDATE core.tenants SET identifier = 'somebody-else' RETURNING id"


@pytest.fixture(scope="module")
def layer_databases(module_databases: Endpoints) -> Endpoints:
    """One set of databases: every test makes tenants of its own."""
    return module_databases


@pytest.fixture
def tenants(core: CoreDatabase) -> Tenants:
    return Tenants(core.platform(by=Principal.operator("ann")))


def fresh() -> str:
    """An identifier that nobody bears."""
    return f"t-{uuid4()}"


def acts_as_user(scope: Scope) -> Scope:
    return scope.acting_as(Principal.user(uuid4()))


async def add_user(scope: Scope, name: str) -> UUID:
    row = await scope.one(ADD_USER, (scope.tenant, f"{name}@example.com", name))
    assert row is not None
    return row[0]


async def add_documents(scope: Scope, count: int) -> None:
    await scope.fetch(
        "INSERT INTO core.tenant_data (tenant_id, data_id, data)"
        " SELECT %s, gen_random_uuid(), '{}' FROM generate_series(1, %s) RETURNING data_id",
        (scope.tenant, count),
    )


async def used(scope: Scope, limit: str) -> int:
    assert scope.tenant is not None
    allowances = await Tenants(scope).allowances(scope.tenant)
    return next(each.used for each in allowances if each.limit == limit)


async def outcome(work: Awaitable[Any]) -> bool:
    """Whether it was let through; only a limit may stop it."""
    try:
        await work
    except TenantLimitExceeded:
        return False
    return True


async def test_a_tenant_from_its_making_to_its_end(tenants: Tenants, core: CoreDatabase) -> None:
    """Create, find by id and by identifier, rename, set, delete, restore; each in the audit."""
    name = fresh()
    acme = await tenants.create(name="Acme", identifier=name, tier="basic", settings={"a": 1})
    assert (acme.name, acme.identifier, acme.tier) == ("Acme", name, Tier.BASIC)
    assert await tenants.get(name) == await tenants.get(str(acme.id)) == acme
    assert (await tenants.rename(acme.id, "Acme & Söhne")).name == "Acme & Söhne"
    changed = await tenants.change_settings(acme.id, {"b": {"c": None}, "a": None})
    assert changed.settings == {"b": {"c": None}}
    assert changed.updated_at > acme.updated_at
    assert (await tenants.change_tier(acme.id, "pro")).tier is Tier.PRO
    assert (await tenants.set_limits(acme.id, {"users": 7})).limits == {"users": 7}
    assert (await tenants.delete(acme.id)).is_deleted
    assert not (await tenants.restore(acme.id)).is_deleted
    entries = await core.scope(acme.id, by=tenants.scope.by).fetch(
        "SELECT action, principal, resource_id, changes FROM audit.entries ORDER BY occurred_at"
    )
    assert [(action, changes) for action, _, _, changes in entries] == [
        ("CREATE", {"name": "Acme", "identifier": name, "tier": "basic", "limits": {}}),
        ("UPDATE", {"name": "Acme & Söhne"}),
        ("UPDATE", {"settings": ["a", "b"]}),
        ("UPDATE", {"tier": "pro"}),
        ("UPDATE", {"limits": {"users": 7}}),
        ("DELETE", None),
        ("UPDATE", {"restored": True}),
    ]
    assert {entry[1:3] for entry in entries} == {("operator:ann", str(acme.id))}


async def test_E1_foreign_and_absent_tenants_answer_alike(new_tenant: NewTenant) -> None:
    """To a user another tenant is as absent as one that never was, by id and by name."""
    mine, other = acts_as_user(await new_tenant()), await new_tenant(name := fresh())
    assert mine.tenant is not None and other.tenant is not None
    assert (await Tenants(mine).get(mine.tenant)).id == mine.tenant
    answers = set[tuple[type, str]]()
    for absent in (other.tenant, name, uuid4(), "nobody", "no/body", "", "\0"):
        with pytest.raises(NotFound) as caught:
            await Tenants(mine).get(absent)
        answers.add((caught.type, str(caught.value)))
    for verb in (Tenants(mine).rename(other.tenant, "x"), Tenants(mine).allowances(other.tenant)):
        with pytest.raises(NotFound) as caught:
            await verb
        answers.add((caught.type, str(caught.value)))
    assert len(answers) == 1


async def test_E9_only_operators_make_tenants_and_change_what_they_may(
    new_tenant: NewTenant, core: CoreDatabase
) -> None:
    """The verbs refuse, and so does the database where somebody comes to run SQL of his own."""
    scope = await new_owner(await new_tenant(tier="free"))
    assert scope.tenant is not None
    verbs = Tenants(scope)
    for attempt in (
        verbs.create(name="x", identifier="x"),
        verbs.change_tier(scope.tenant, "enterprise"),
        verbs.set_limits(scope.tenant, {"users": None}),
        verbs.delete(scope.tenant),
        verbs.restore(scope.tenant),
    ):
        with pytest.raises(AccessDenied):
            await attempt
    service = scope.acting_as(Principal.service(uuid4()))
    for somebody in (scope, service, scope.acting_as(Principal.anonymous())):
        for statement in (SET_TIER, SET_LIMITS, DELETE, RESERVE):
            with pytest.raises((psycopg.errors.InsufficientPrivilege, AccessDenied)):
                await somebody.fetch(statement)
        unborn = core.scope(uuid4(), by=somebody.by)
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="refused"):
            await unborn.fetch(
                "INSERT INTO core.tenants (id, name, identifier) VALUES (%s, 'x', 'x') RETURNING 1",
                (unborn.tenant,),
            )
    assert (await verbs.rename(scope.tenant, "Ours")).name == "Ours"
    with pytest.raises(AccessDenied, match="permission"):
        await acts_as_user(scope).fetch("UPDATE core.tenants SET name = 'Mine' RETURNING id")


@pytest.mark.parametrize(
    "identifier", ["", "Acme", "a_b", "-a", "a-", "a" * 101, "ä", "a\n", "a.b"]
)
async def test_D_an_identifier_is_plain(tenants: Tenants, identifier: str) -> None:
    with pytest.raises(InvalidInput, match="identifier"):
        await tenants.create(name="x", identifier=identifier)
    with pytest.raises(InvalidInput, match="identifier"):
        await tenants.create(name="x", identifier=str(uuid4()))


@pytest.mark.parametrize("name", ["", " x", "x\n", "x\0", "\u202ex", "x" * 256, "\ud800"])
async def test_D_a_name_is_printable(tenants: Tenants, name: str) -> None:
    with pytest.raises(InvalidInput, match="named"):
        await tenants.create(name=name, identifier="x")


@pytest.mark.parametrize(
    "settings",
    [{"a": "\0"}, {"a": "\ud800"}, {"a": 2**64}, {"a": b""}, {"a": "x" * 70_000}, {1: "x"}],
)
async def test_D_settings_are_json_that_every_reader_takes(tenants: Tenants, settings: Any) -> None:
    with pytest.raises(InvalidInput):
        await tenants.create(name="x", identifier="x", settings=settings)


async def test_D_settings_do_not_grow_without_end(tenants: Tenants) -> None:
    """Piece by piece is no way round the size."""
    acme = await tenants.create(name="x", identifier=fresh(), settings={"a": "x" * 40_000})
    with pytest.raises(InvalidInput, match="bytes"):
        await tenants.change_settings(acme.id, {"b": "x" * 40_000})


@pytest.mark.parametrize("limits", [{"users": -1}, {"users": True}, {"users": 10**12}, {"cars": 1}])
async def test_D_limits_are_known_and_whole(
    tenants: Tenants, core: CoreDatabase, limits: dict[str, int | None]
) -> None:
    """Refused by the verb, and by the table."""
    acme = await tenants.create(name="x", identifier=fresh())
    with pytest.raises(InvalidInput):
        await tenants.set_limits(acme.id, limits)
    with pytest.raises(psycopg.errors.CheckViolation):
        await core.scope(acme.id, by=tenants.scope.by).fetch(
            "UPDATE core.tenants SET limits = %s RETURNING id",
            (psycopg.types.json.Jsonb(limits),),
        )


async def test_an_identifier_stays_reserved(tenants: Tenants) -> None:
    """Nobody steps into the addresses of a tenant that is gone."""
    acme = await tenants.create(name="Acme", identifier=fresh())
    await tenants.delete(acme.id)
    with pytest.raises(IdentifierTaken, match=acme.identifier):
        await tenants.create(name="Acme", identifier=acme.identifier)
    with pytest.raises(TenantNotFound):
        await tenants.get(acme.identifier)


async def test_E5_a_deleted_tenant_is_nobody_at_once(
    tenants: Tenants, new_tenant: NewTenant
) -> None:
    """Its users see and write nothing, in an open transaction too; an operator still sees it."""
    operator = await new_tenant()
    assert operator.tenant is not None
    user = acts_as_user(operator)
    await add_documents(user, 3)
    count = "SELECT count(*) FROM core.tenant_data"
    async with user.transaction() as tx:
        assert await tx.one(count) == (3,)
        await tenants.delete(operator.tenant)
        assert await tx.one(count) == (0,)
    assert await user.one("SELECT core.current_tenant()") == (None,)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await add_documents(user, 1)
    with pytest.raises(TenantNotFound):
        await Tenants(user).get(operator.tenant)
    with pytest.raises(TenantNotFound):
        await tenants.delete(operator.tenant)
    assert await operator.one(count) == (3,)
    assert (await tenants.get(operator.tenant)).is_deleted
    await tenants.restore(operator.tenant)
    assert await user.one(count) == (3,)


async def test_the_directory_shows_all_tenants_and_changes_none(
    tenants: Tenants, layer_databases: Endpoints
) -> None:
    """By identifier, page by page, deleted ones where asked for."""
    a, b, c, gone = (f"zz-{name}" for name in ("a", "b", "c", "gone"))
    for name in (c, a, b, gone):
        await tenants.create(name=name, identifier=name, tier="pro" if name == b else "free")
    ended = await tenants.delete((await tenants.get(gone)).id)
    async with open_directory(layer_databases) as directory:

        async def listed(**choice: Any) -> list[str]:
            return [each.identifier for each in await directory.list(**{"after": "zz", **choice})]

        assert await listed() == [a, b, c]
        assert await listed(after=a, limit=1) == [b]
        assert await listed(tier="pro") == [b]
        assert await listed(deleted=True) == [a, b, c, gone]
        assert await directory.find(gone) == await directory.find(ended.id) == ended
        for absent in ("nobody", uuid4(), "%", "\0"):
            with pytest.raises(TenantNotFound):
                await directory.find(absent)
    dsn = layer_databases.postgres.dsn(Role.OPERATOR, Database.CORE)
    with (
        psycopg.connect(dsn) as session,
        pytest.raises(psycopg.errors.ReadOnlySqlTransaction),
    ):
        session.execute("UPDATE core.tenants SET name = 'x'")


async def test_limits_hold_to_the_row_under_concurrency(new_tenant: NewTenant) -> None:
    """Forty writers at once, twenty-five places: twenty-five get one, whichever way they write."""
    scope = await new_tenant(tier="basic")
    results = await asyncio.gather(*(outcome(add_user(scope, f"u{n}")) for n in range(40)))
    assert (sum(results), await used(scope, "users")) == (25, 25)
    assert await scope.one("SELECT count(*) FROM auth.users") == (25,)


async def test_a_limit_says_what_it_is_and_the_way_out(new_tenant: NewTenant) -> None:
    scope = acts_as_user(await new_tenant(tier="free"))
    with pytest.raises(LimitExceeded) as caught:
        await add_documents(scope, 1001)
    refused = caught.value
    assert isinstance(refused, TenantLimitExceeded)
    assert (refused.limit, refused.allowed) == ("documents", 1000)
    assert str(refused) == "this tenant may have 1000 documents and no more"
    assert "neolayer tenants limits" in str(refused.hint)
    assert await used(scope, "documents") == 0


async def test_bulk_and_single_rows_and_rollbacks_are_counted_alike(new_tenant: NewTenant) -> None:
    """What was refused or rolled back does not count; what was deleted makes room."""
    scope = acts_as_user(await new_tenant(tier="free"))
    await add_documents(scope, 600)
    assert not await outcome(add_documents(scope, 401))
    with pytest.raises(RuntimeError):
        async with scope.transaction() as tx:
            await tx.execute(ADD, (tx.tenant, uuid4()))
            raise RuntimeError
    await add_documents(scope, 400)
    assert not await outcome(scope.fetch(ADD + " RETURNING 1", (scope.tenant, uuid4())))
    delete = "DELETE FROM core.tenant_data WHERE data_id IN (SELECT data_id FROM core.tenant_data"
    assert len(await scope.fetch(f"{delete} LIMIT 10) RETURNING 1")) == 10
    await add_documents(scope, 10)
    assert await used(scope, "documents") == 1000
    many = [(scope.tenant, uuid4(), psycopg.types.json.Jsonb({})) for _ in range(5)]
    with pytest.raises(TenantLimitExceeded):
        async with scope.transaction() as tx:
            await tx.copy_in(
                "core.tenant_data",
                ("tenant_id", "data_id", "data"),
                ("uuid", "uuid", "jsonb"),
                many,
            )


async def test_only_the_living_count(new_tenant: NewTenant) -> None:
    """Who left makes room, and needs room to come back; an upsert that adds nobody needs none."""
    scope = await new_tenant(tier="free")
    people = [await add_user(scope, f"u{n}") for n in range(5)]
    upsert = ADD_USER.replace(
        "RETURNING", "ON CONFLICT (tenant_id, email) WHERE deleted_at IS NULL DO NOTHING RETURNING"
    )
    assert await scope.one(upsert, (scope.tenant, "u0@example.com", "u0")) is None
    leave = "UPDATE auth.users SET deleted_at = %s WHERE id = %s RETURNING id"
    await scope.fetch(leave, ("2026-01-01", people[0]))
    await scope.fetch(leave, ("2026-01-02", people[0]))
    assert await used(scope, "users") == 4
    await add_user(scope, "u6")
    assert not await outcome(scope.fetch(leave, (None, people[0])))
    await scope.fetch(leave, ("2026-01-01", people[1]))
    await scope.fetch(leave, (None, people[0]))
    assert await used(scope, "users") == 5


async def test_wallets_are_counted(new_tenant: NewTenant, layer_databases: Endpoints) -> None:
    """Ten for the free tier."""
    scope = await new_owner(await new_tenant(tier="free"))
    with psycopg.connect(layer_databases.postgres.dsn(Role.ADMIN)) as admin:
        row = admin.execute(
            "INSERT INTO blockchain.networks (name, chain_id, network_type, rpc_endpoint)"
            " VALUES ('n', 1, 'evm', 'http://n.example') RETURNING id"
        ).fetchone()
    assert row is not None
    add = (
        "INSERT INTO blockchain.wallets (tenant_id, network_id, address, wallet_type)"
        " VALUES (%s, %s, %s, 'watch') RETURNING 1"
    )
    work = (scope.fetch(add, (scope.tenant, row[0], f"0x{n:040x}")) for n in range(12))
    assert sum(await asyncio.gather(*map(outcome, work))) == 10


async def test_changed_limits_are_in_force_at_once(new_tenant: NewTenant, tenants: Tenants) -> None:
    """Up and down, by limits and by tier; what is there already stays."""
    scope = acts_as_user(await new_tenant(tier="free"))
    assert scope.tenant is not None
    await add_documents(scope, 1000)
    await tenants.set_limits(scope.tenant, {"documents": 1003})
    results = await asyncio.gather(*(outcome(add_documents(scope, 1)) for _ in range(6)))
    assert sum(results) == 3
    await tenants.set_limits(scope.tenant, {"documents": 5})
    assert not await outcome(add_documents(scope, 1))
    await tenants.set_limits(scope.tenant, {"documents": None})
    await add_documents(scope, 100)
    await tenants.set_limits(scope.tenant, {})
    assert not await outcome(add_documents(scope, 1))
    await tenants.change_tier(scope.tenant, "basic")
    await add_documents(scope, 1)
    assert await used(scope, "documents") == 1104


async def test_writers_of_one_tenant_do_not_wait_for_each_other(new_tenant: NewTenant) -> None:
    """Far from the limit: three open transactions have written, and a fourth writes and commits."""
    scope = acts_as_user(await new_tenant(tier="basic"))
    await add_documents(scope, 1)
    async with scope.transaction() as a, scope.transaction() as b, scope.transaction() as c:
        for tx in (a, b, c):
            await tx.execute(ADD, (tx.tenant, uuid4()))
        await asyncio.wait_for(add_documents(scope, 1), PATIENCE_S)
    assert await used(scope, "documents") == 5


async def test_near_the_limit_the_last_place_goes_to_one_that_commits(
    new_tenant: NewTenant, layer_databases: Endpoints
) -> None:
    """A second writer waits for the first; it gets the place where that one rolls back."""
    scope = acts_as_user(await new_tenant(tier="free"))
    await add_documents(scope, 999)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with (
        psycopg.connect(layer_databases.postgres.dsn(Role.ADMIN), autocommit=True) as admin,
        pytest.raises(RuntimeError),
    ):
        async with scope.transaction() as tx:
            await tx.execute(ADD, (tx.tenant, uuid4()))
            second = asyncio.create_task(add_documents(scope, 1))
            async with asyncio.timeout(PATIENCE_S):
                while admin.execute(waiting).fetchone() == (0,):
                    await asyncio.sleep(0.01)
            raise RuntimeError
    await second
    assert await used(scope, "documents") == 1000


async def test_E1_the_books_are_out_of_the_applications_reach(new_tenant: NewTenant) -> None:
    """Neither usage nor standing can be read or written, nor the counting called, by the app."""
    scope = await new_tenant()
    for statement in (
        "SELECT * FROM core.usage_slots",
        "DELETE FROM core.usage_slots",
        "SELECT * FROM core.tenant_standing",
        "UPDATE core.tenant_standing SET is_closed = false",
        "UPDATE core.tiers SET limits = '{}'",
        "SELECT core.count_usage(gen_random_uuid(), 'users', -1000)",
        "SELECT core.deal_quotas(gen_random_uuid(), 'users', 0, -1000)",
        "SELECT core.limit_of(gen_random_uuid(), 'users')",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await scope.fetch(statement)
    assert await scope.core.platform(by=scope.by).fetch("SELECT * FROM core.my_limits()") == []


async def test_E4_the_guard_of_tenants_is_what_refuses(
    new_tenant: NewTenant, layer_databases: Endpoints
) -> None:
    """Without the trigger a user could raise the tenant's tier: the test above sees the trigger."""
    scope = await new_owner(await new_tenant(tier="free"))
    with psycopg.connect(layer_databases.postgres.dsn(Role.ADMIN), autocommit=True) as admin:
        admin.execute("ALTER TABLE core.tenants DISABLE TRIGGER keep_to_operators")
        try:
            assert await scope.fetch(SET_TIER) == [(scope.tenant,)]
        finally:
            admin.execute("ALTER TABLE core.tenants ENABLE TRIGGER keep_to_operators")


async def test_every_tier_says_what_it_allows(core: CoreDatabase) -> None:
    """The tiers of the table and of the code are the same, each with every limit."""
    rows = await core.platform(by=Principal.system("tests")).fetch(
        "SELECT tier, ARRAY(SELECT jsonb_object_keys(limits)) FROM core.tiers"
    )
    assert {tier: set(limits) for tier, limits in rows} == {tier: set(Limit) for tier in Tier}


async def test_E1_no_settings_that_a_tenant_writes_hide_the_others(
    new_tenant: NewTenant, layer_databases: Endpoints
) -> None:
    """A number of thousands of digits and lists without end, by SQL: an operator sees all tenants
    all the same."""
    acme, odd, deep = await new_tenant(), await new_tenant(), await new_tenant()
    for scope, settings in (
        (odd, '{"a": 1' + "0" * 5000 + "}"),
        (deep, '{"a": ' + "[" * 3000 + "]" * 3000 + "}"),
    ):
        await scope.fetch(
            "UPDATE core.tenants SET settings = %s::jsonb WHERE id = %s RETURNING id",
            (settings, scope.tenant),
        )
    async with open_directory(layer_databases) as directory:
        found = {tenant.id: tenant.settings for tenant in await directory.list()}
    assert {acme.tenant, odd.tenant, deep.tenant} <= found.keys()
    assert list(found[odd.tenant]) == list(found[deep.tenant]) == ["unreadable"]
