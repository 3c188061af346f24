"""C11: a transaction that has to give way is done again as a whole, and not for ever."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from stamina.instrumentation import set_on_retry_hooks
from tests.fixtures.fix_tenancy import NewTenant

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.identity import Roles
from neolayer.tenancy import CoreDatabase, Principal, Tenants, Transaction
from neolayer.tenancy.retrying import ATTEMPTS, done_again

ADD = (
    "INSERT INTO core.tenant_data (tenant_id, data_id, data)"
    " SELECT %s, gen_random_uuid(), '{}' FROM generate_series(1, %s) RETURNING data_id"
)


@pytest.fixture(scope="module")
def layer_databases(module_databases: Endpoints) -> Endpoints:
    return module_databases


async def test_C11_writers_who_meet_near_a_limit_both_get_through(
    core: CoreDatabase, new_tenant: NewTenant
) -> None:
    """Two transactions hold a slot of the tenant's each and need room that no slot has, so they
    wait for each other; the server ends one, which is done again. Every row is counted once."""
    scope = await new_tenant()
    assert scope.tenant is not None
    tenants = Tenants(core.platform(by=scope.by))
    await tenants.set_limits(scope.tenant, {"documents": 64})
    await scope.fetch(ADD, (scope.tenant, 1))
    both, attempts = asyncio.Barrier(2), 0

    async def work(tx: Transaction) -> None:
        nonlocal attempts
        attempts += 1
        await tx.execute(ADD, (tx.tenant, 1))
        if attempts <= 2:
            await both.wait()
        await tx.execute(ADD, (tx.tenant, 16))

    await asyncio.gather(scope.run(work), scope.run(work))
    assert attempts == 3
    allowances = {str(each.limit): each.used for each in await tenants.allowances(scope.tenant)}
    assert allowances["documents"] == 1 + 2 * 17


@pytest.mark.parametrize("times", (1, ATTEMPTS))
async def test_C11_a_statement_that_stands_alone_is_done_again(
    layer_databases: Endpoints, new_tenant: NewTenant, times: int
) -> None:
    """It is a transaction of its own, so nobody else could do it again. What counts the tries here
    is a sequence, which no transaction takes back."""
    scope, name = await new_tenant(), f"gives_way_{times}"
    dsn = layer_databases.postgres.dsn(Role.ADMIN, Database.CORE)
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(f"CREATE SEQUENCE core.{name}")  # type: ignore[arg-type]
        admin.execute(
            f"CREATE FUNCTION core.{name}() RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER AS $$"
            f" BEGIN IF nextval('core.{name}') <= {times} THEN"
            " RAISE EXCEPTION 'gives way' USING ERRCODE = 'deadlock_detected'; END IF;"
            f" RETURN currval('core.{name}'); END $$"  # type: ignore[arg-type]
        )
        try:
            admin.execute(f"GRANT EXECUTE ON FUNCTION core.{name} TO neolayer_app")  # type: ignore[arg-type]
            assert await scope.one(f"SELECT core.{name}()") == (times + 1,)  # type: ignore[arg-type]
        finally:
            admin.execute(f"DROP FUNCTION core.{name}")  # type: ignore[arg-type]
            admin.execute(f"DROP SEQUENCE core.{name}")  # type: ignore[arg-type]


async def test_C11_a_verb_is_done_again_from_its_beginning(
    core: CoreDatabase, new_tenant: NewTenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first attempt did is rolled back: one change, one audit entry."""
    scope = await new_tenant()
    commit, failures = Transaction.commit, [psycopg.errors.SerializationFailure()]

    async def fail_once(tx: Transaction) -> None:
        if failures:
            raise failures.pop()
        await commit(tx)

    monkeypatch.setattr(Transaction, "commit", fail_once)
    service = await scope.one(
        "INSERT INTO auth.service_principals (tenant_id, name) VALUES (%s, 'robot') RETURNING id",
        (scope.tenant,),
    )
    assert service is not None
    to = Principal.service(service[0])
    await Roles(scope).grant("member", to=to)
    assert [grant.role for grant in await Roles(scope).grants(to)] == ["member"]
    noted = await scope.fetch("SELECT id FROM audit.entries WHERE resource = 'grant'")
    assert (len(noted), failures) == (1, [])


async def test_C11_nothing_is_tried_for_ever(capsys: pytest.CaptureFixture[str]) -> None:
    """Five times, then the error passes; other errors pass at once. What a verb was given is not
    logged: it may be a password (E12)."""
    set_on_retry_hooks(None)  # a command run in this process may have set its own
    tried: list[type[psycopg.Error]] = []

    @done_again
    async def never(error: type[psycopg.Error], *, password: str = "canary-3141") -> None:
        tried.append(error)
        raise error

    with pytest.raises(psycopg.errors.DeadlockDetected):
        await never(psycopg.errors.DeadlockDetected, password="canary-2718")
    assert len(tried) == ATTEMPTS
    logged = "".join(capsys.readouterr())
    assert "retry" in logged
    assert "canary" not in logged
    with pytest.raises(psycopg.errors.UniqueViolation):
        await never(psycopg.errors.UniqueViolation)
    assert len(tried) == ATTEMPTS + 1
