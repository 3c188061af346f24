"""A deleted tenant is nobody in the event store too, and there again when it is restored."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import psycopg
import pytest
from tests.fixtures.fix_tenancy import NewTenant

from neolayer.engines.endpoints import Endpoints
from neolayer.errors import AccessDenied
from neolayer.events import NewEvent, open_event_store
from neolayer.tenancy import CoreDatabase, Principal, Tenants
from neolayer.tenancy.standing import StandingTeller


@pytest.fixture(scope="module")
def layer_databases(module_databases: Endpoints) -> Endpoints:
    return module_databases


async def test_E1_a_deleted_tenant_neither_reads_nor_appends(
    core: CoreDatabase, new_tenant: NewTenant, layer_databases: Endpoints
) -> None:
    """Operators still do; a neighbour in the same group does not notice."""
    acme, other = await new_tenant(), await new_tenant()
    assert acme.tenant is not None and other.tenant is not None
    tenants = Tenants(core.platform(by=Principal.operator("tests")))
    async with open_event_store(layer_databases, size=2) as store:
        teller = StandingTeller(layer_databases, store.database)
        people = [store.events(t.tenant, by=Principal.user(uuid4())) for t in (acme, other)]

        def put(number: int) -> asyncio.Task[object]:
            append = people[number].append(uuid4(), [NewEvent("Opened", {})], category="account")
            return asyncio.create_task(append)  # type: ignore[arg-type]

        await asyncio.gather(put(0), put(1))
        await tenants.delete(acme.tenant)
        assert await teller.tell() == 1
        assert await teller.tell() == 0
        results = await asyncio.gather(put(0), put(1), return_exceptions=True)
        assert isinstance(results[0], AccessDenied) and not isinstance(results[1], Exception)
        assert await people[0].read_all() == []
        operator = store.events(acme.tenant, by=Principal.operator("tests"))
        assert len(await operator.read_all()) == 1
        await tenants.restore(acme.tenant)
        assert await teller.tell() == 1
        await put(0)
        assert len(await people[0].read_all()) == 2


async def test_only_the_layer_itself_says_who_is_deleted(
    new_tenant: NewTenant, layer_databases: Endpoints
) -> None:
    """Neither a tenant's people nor operators close a tenant here."""
    acme = await new_tenant()
    assert acme.tenant is not None
    async with open_event_store(layer_databases, size=1) as store:
        for by in (Principal.user(uuid4()), Principal.operator("tests")):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await store.events(acme.tenant, by=by).scope.fetch(
                    "SELECT core.note_standing(ARRAY[%s::uuid])", (acme.tenant,)
                )
