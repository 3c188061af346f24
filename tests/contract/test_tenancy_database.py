"""The tenant-bound transaction: what it sees, stores and leaves behind."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import psycopg
import pytest
from tests.fixtures.fix_tenancy import NewTenant

from neolayer import audit
from neolayer.engines.endpoints import Endpoints
from neolayer.position import Position
from neolayer.tenancy import CoreDatabase, Principal, Scope

COUNT = "SELECT count(*) FROM core.tenant_data"
SINCE = "SELECT principal, user_id, action, changes FROM audit.entries WHERE action <> 'CREATE'"
ADD = "INSERT INTO core.tenant_data (tenant_id, data_id, data) VALUES (%s, %s, '{}')"


@pytest.fixture(scope="module")
def layer_databases(module_databases: Endpoints) -> Endpoints:
    """One set of databases: every test makes tenants of its own."""
    return module_databases


async def rows(scope: Scope) -> int:
    found = await scope.one(COUNT)
    assert found is not None
    return found[0]


async def test_G_a_scope_sees_its_own_tenant_only(new_tenant: NewTenant) -> None:
    """Rows of one scope are invisible in another, in one statement and in a transaction."""
    ann, bob = await new_tenant(), await new_tenant()
    async with ann.transaction() as tx:
        await tx.execute(ADD, (tx.tenant, uuid4()))
        assert await tx.one(COUNT) == (1,)
    assert (await rows(ann), await rows(bob)) == (1, 0)


async def test_a_failed_block_stores_nothing(new_tenant: NewTenant) -> None:
    """An error in the block, in a statement and in what was deferred: all of it is undone."""
    scope = await new_tenant()
    with pytest.raises(RuntimeError):
        async with scope.transaction() as tx:
            await tx.execute(ADD, (tx.tenant, uuid4()))
            raise RuntimeError
    with pytest.raises(psycopg.errors.UndefinedTable):
        async with scope.transaction() as tx:
            await tx.execute(ADD, (tx.tenant, uuid4()))
            await tx.execute("SELECT * FROM nowhere")
    with pytest.raises(psycopg.errors.UndefinedTable):
        async with scope.transaction() as tx:
            await tx.execute(ADD, (tx.tenant, uuid4()))
            tx.defer("SELECT * FROM nowhere")
    assert await rows(scope) == 0


async def test_E13_a_cancelled_transaction_leaves_nothing_open(new_tenant: NewTenant) -> None:
    """Cancelled in mid-statement: nothing is stored, and the next one starts afresh."""
    scope = await new_tenant()
    began = asyncio.Event()

    async def work() -> None:
        async with scope.transaction() as tx:
            await tx.execute(ADD, (tx.tenant, uuid4()))
            began.set()
            await tx.execute("SELECT pg_sleep(60)")

    task = asyncio.create_task(work())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await rows(scope) == 0


async def test_copy_in_is_bound_to_the_tenant(new_tenant: NewTenant) -> None:
    """Bulk rows of the own tenant are stored; of another they are refused as a whole."""
    scope, other = await new_tenant(), await new_tenant()
    columns, types = ("tenant_id", "data_id", "data"), ("uuid", "uuid", "jsonb")

    async def load(tenant: UUID | None) -> int:
        async with scope.transaction() as tx:
            many = [(tenant, uuid4(), psycopg.types.json.Jsonb({"n": n})) for n in range(100)]
            return await tx.copy_in("core.tenant_data", columns, types, many)

    assert await load(scope.tenant) == 100
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await load(other.tenant)
    assert (await rows(scope), await rows(other)) == (100, 0)


async def test_an_audit_entry_is_stored_with_the_change(
    new_tenant: NewTenant, core: CoreDatabase
) -> None:
    """With the change, never without it, under the principal; without a tenant too."""
    scope = (await new_tenant()).acting_as(Principal.user(uuid4()))
    async with scope.transaction() as tx:
        audit.append(tx, audit.Entry("UPDATE", "tenant", str(tx.tenant), {"name": "x"}))
    with pytest.raises(RuntimeError):
        async with scope.transaction() as tx:
            audit.append(tx, audit.Entry("DELETE", "tenant"))
            raise RuntimeError
    found = await scope.fetch(SINCE)
    assert found == [(str(scope.by), scope.by.user_id, "UPDATE", {"name": "x"})]
    async with core.platform(by=Principal.anonymous()).transaction() as tx:
        audit.append(tx, audit.Entry("LOGIN", "user", success=False))


async def test_a_scope_knows_how_far_it_has_written(new_tenant: NewTenant) -> None:
    """The position comes with COMMIT where it is wanted, and is asked for where it is not; either
    way it is at or above the commit and below the next one."""
    scope = await new_tenant()
    assert scope.written.position is None
    positions: list[Position] = []
    for is_wanted in (False, True, True, False):
        scope.written.is_wanted = is_wanted
        before = await log_end(scope)
        async with scope.transaction() as tx:
            await tx.execute(ADD, (tx.tenant, uuid4()))
        assert (scope.written.position is not None) == is_wanted
        positions.append(await scope.acting_as(Principal.operator("other")).position())
        assert before < positions[-1] <= await log_end(scope)
    assert positions == sorted(positions)
    scope.written.is_wanted = True
    await scope.one(
        "INSERT INTO core.tenant_data (tenant_id, data_id, data) VALUES (%s, %s, '{}') RETURNING 1",
        (scope.tenant, uuid4()),
    )
    assert scope.written.position is not None and scope.written.position > positions[-1]


async def log_end(scope: Scope) -> Position:
    row = await scope.core.platform(by=scope.by).one(
        "SELECT (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint"
    )
    assert row is not None
    return Position(1, row[0])
