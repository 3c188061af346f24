"""Searching under row security: the index is used, and nobody finds what is another's."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from tests.fixtures.fix_tenancy import NewTenant

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.errors import InvalidInput
from neolayer.tenancy import CoreDatabase, Principal, Scope, Search

ROWS = 50_000  # of each of two tenants
USERS = """
    INSERT INTO auth.users (tenant_id, email, username, password_hash)
    SELECT %s, 'person' || n || '@' || %s || '.example', %s || n, 'x'
    FROM generate_series(1, %s) AS n
"""
DOCUMENTS = """
    INSERT INTO core.tenant_data (tenant_id, data_id, data)
    SELECT %s, gen_random_uuid(), jsonb_build_object('n', n, 'kind', n %% 5, 'of', %s::text)
    FROM generate_series(1, %s) AS n
"""


@pytest.fixture(scope="module")
def layer_databases(module_databases: Endpoints) -> Endpoints:
    return module_databases


@pytest.fixture(scope="module")
def admin(module_databases: Endpoints) -> Any:
    dsn = module_databases.postgres.dsn(Role.ADMIN, Database.CORE)
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def full(admin: psycopg.Connection) -> tuple[UUID, UUID]:
    """Two tenants with 50,000 users and as many documents each."""
    found: list[UUID] = []
    for name in ("acme", "other"):
        row = admin.execute(
            "INSERT INTO core.tenants (name, identifier, subscription_tier)"
            " VALUES (%s, %s, 'enterprise') RETURNING id",
            (name, name),
        ).fetchone()
        assert row is not None
        found.append(row[0])
        admin.execute(USERS, (row[0], name, name, ROWS))
        admin.execute(DOCUMENTS, (row[0], name, ROWS))
    admin.execute("VACUUM ANALYZE auth.users, core.tenant_data")
    return found[0], found[1]


@pytest.fixture
def acme(core: CoreDatabase, full: tuple[UUID, UUID]) -> Scope:
    return core.scope(full[0], by=Principal.user(uuid4()))


async def plans_of(core: CoreDatabase, scope: Scope, admin: Any, call: str) -> list[str]:
    """The plans of the statements inside a function, as the server logs them for this session."""
    notices: list[str] = []
    dsn = admin.info.dsn
    with psycopg.connect(dsn, password=admin.info.password, autocommit=True) as session:
        session.add_notice_handler(lambda said: notices.append(said.message_primary or ""))
        session.execute("LOAD 'auto_explain'")
        session.execute("SET auto_explain.log_min_duration = 0")
        session.execute("SET auto_explain.log_nested_statements = on")
        session.execute("SET client_min_messages = log")
        session.execute("SET SESSION AUTHORIZATION neolayer_app")
        with session.transaction():
            context = core.signer.sign(scope.tenant, scope.by)
            session.execute("SELECT set_config('neolayer.context', %s, true)", (context,))
            session.execute(call)  # type: ignore[arg-type]
    return [notice for notice in notices if "Bitmap" in notice or "Scan" in notice]


async def test_G_a_user_search_uses_its_index(
    acme: Scope, core: CoreDatabase, admin: psycopg.Connection
) -> None:
    """Under the policy an index on LIKE or trigrams is dead; here it is read, also for prefixes."""
    for term in ("rson4999", "acme4999", "ac"):
        plans = await plans_of(core, acme, admin, f"SELECT auth.search_users('{term}', 10)")
        assert any("idx_users_search" in plan for plan in plans), plans
        assert not any("Seq Scan on users" in plan for plan in plans)


async def test_G_a_document_search_uses_its_index(
    acme: Scope, core: CoreDatabase, admin: psycopg.Connection
) -> None:
    """Of the four partitions only the tenant's, and there the index over containment."""
    call = """SELECT core.search_documents('{"n": 4999}', NULL, 10)"""
    plans = await plans_of(core, acme, admin, call)
    assert any("below_tenant" in plan and "Bitmap Index Scan" in plan for plan in plans), plans
    assert not any("Seq Scan on tenant_data" in plan for plan in plans)


async def test_G_what_the_policy_alone_would_do(acme: Scope) -> None:
    """The reason for the functions: the same index, asked directly, is not used."""
    plan = await acme.fetch(
        "EXPLAIN SELECT data_id FROM core.tenant_data"
        " WHERE core.below_tenant(tenant_id, data)"
        " @> core.below_tenant(core.current_tenant(), '{\"n\": 4999}')"
    )
    assert not any(
        "Index Cond: (core.below_tenant" in line or "_search" in line for (line,) in plan
    )


async def test_E1_a_search_finds_nothing_of_another_tenant(
    acme: Scope, core: CoreDatabase, full: tuple[UUID, UUID]
) -> None:
    """Not by a term that only others have, not by one that both have, not without a tenant."""
    search = Search(acme)
    assert [user.username for user in await search.users("acme49999")] == ["acme49999"]
    assert await search.users("other49999") == []
    assert {user.email.split("@")[1] for user in await search.users("person4")} == {"acme.example"}
    assert len(await search.documents({"n": 7})) == 1
    assert (await search.documents({"n": 7}))[0].data["of"] == "acme"
    assert await search.documents({"of": "other"}) == []
    nobody = Search(core.platform(by=acme.by))
    assert await nobody.users("acme") == []
    assert await nobody.documents({"n": 7}) == []
    assert await nobody.documents({}) == []


async def test_a_search_by_any_part_of_a_name(new_tenant: NewTenant) -> None:
    """Any part of email and username; short terms are beginnings; there are no wildcards."""
    scope = await new_tenant()
    for email, username in (
        ("ann@example.com", "ann"),
        ("björn@example.com", "björn"),
        ("cy%_@example.com", "percy"),
    ):
        await scope.fetch(
            "INSERT INTO auth.users (tenant_id, email, username, password_hash)"
            " VALUES (%s, %s, %s, 'x') RETURNING id",
            (scope.tenant, email, username),
        )
    search = Search(scope)

    async def named(term: str, limit: int = 50) -> list[str]:
        return [user.username for user in await search.users(term, limit=limit)]

    assert await named("ann") == ["ann"]
    assert await named("NN@EX") == ["ann"]
    assert await named("a") == ["ann"]
    assert await named("bj") == ["björn"]
    assert await named("BJÖ") == ["björn"]
    assert await named("bjo\u0308rn") == ["björn"]
    assert await named("n@") == []
    assert await named("%") == []
    assert await named("y%_") == ["percy"]
    assert await named("example.com", limit=2) == ["ann", "björn"]
    await scope.fetch("UPDATE auth.users SET deleted_at = now() WHERE username = 'ann' RETURNING 1")
    assert await named("ann") == []
    for term in ("", "x" * 101, "a\0b"):
        with pytest.raises(InvalidInput):
            await search.users(term)


async def test_a_search_of_documents_by_what_they_contain(new_tenant: NewTenant) -> None:
    """Nested, in lists, by parts without any value, page by page."""
    scope = await new_tenant()
    documents = [{"a": {"b": [1, 2]}}, {"a": {"b": [2]}}, {"a": {}}, {"c": None}]
    for document in documents:
        await scope.fetch(
            "INSERT INTO core.tenant_data (tenant_id, data_id, data)"
            " VALUES (%s, gen_random_uuid(), %s) RETURNING 1",
            (scope.tenant, psycopg.types.json.Jsonb(document)),
        )
    search = Search(scope)

    async def found(part: dict[str, Any]) -> list[Any]:
        return sorted((each.data for each in await search.documents(part)), key=str)

    assert await found({"a": {"b": [1]}}) == documents[:1]
    assert await found({"a": {"b": [2]}}) == sorted(documents[:2], key=str)
    assert await found({"a": {}}) == sorted(documents[:3], key=str)
    assert await found({"c": None}) == documents[3:]
    assert len(await found({})) == 4
    first = await search.documents({}, limit=3)
    rest = await search.documents({}, after=first[-1].id, limit=3)
    assert len({each.id for each in (*first, *rest)}) == 4
