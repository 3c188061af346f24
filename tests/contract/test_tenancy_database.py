"""The tenant-bound transaction: what it sees, stores and leaves behind."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import psycopg
import pytest
from tests.fixtures.fix_tenancy import NewTenant

from neolayer import audit
from neolayer.engines.endpoints import Endpoints
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
