"""E9, E14: a writer says what was done; who, when and where in the chain are not its to say."""

from __future__ import annotations

import contextlib
from time import time
from typing import LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest

from neolayer import audit
from neolayer.tenancy import Principal, Scope
from tests.fixtures.fix_audit import Trail

OWN: LiteralString = (
    "INSERT INTO audit.entries (tenant_id, principal, action, resource, success{0})"
    " VALUES (%(tenant)s, %(principal)s, 'LOGIN', 'user', true{1})"
)
REFUSED = (psycopg.errors.InsufficientPrivilege,)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("occurred_at", "'2020-01-01'"),
        ("transaction_id", "'1'"),
        ("chain_number", "1"),
        ("previous_hash", "sha256('')"),
        ("entry_hash", "sha256('')"),
        ("sealed_at", "now()"),
        ("id", "gen_random_uuid()"),
    ],
)
async def test_E9_what_is_the_servers_to_say_cannot_be_given(
    trail: Trail, column: LiteralString, value: LiteralString
) -> None:
    """No entry of yesterday, of another transaction, or with a seal of its own."""
    values = {"tenant": trail.scope.tenant, "principal": str(trail.scope.by)}
    query: LiteralString = OWN.replace("{0}", ", " + column).replace("{1}", ", " + value)
    with pytest.raises(REFUSED):
        await trail.scope.fetch(query, values)


async def insert(scope: Scope, values: dict[str, object]) -> None:
    """An entry in SQL, as a program that goes round our own would write it."""
    async with scope.transaction() as tx:
        await tx.execute(OWN.replace("{0}", "").replace("{1}", ""), values)


async def test_E14_an_entry_bears_the_tenant_and_principal_of_its_transaction(trail: Trail) -> None:
    """Another tenant's, another person's, nobody's: refused, and no tenant spelled as the nil
    UUID. The own: stored."""
    own = {"tenant": trail.scope.tenant, "principal": str(trail.scope.by)}
    other = (await trail.new_tenant()).tenant
    for wrong in (
        {"principal": "operator:somebody"},
        {"principal": f"user:{uuid4()}"},
        {"principal": f"{trail.scope.by}.{int(time())}"},
        {"principal": f"{trail.scope.by}."},
        {"principal": str(trail.scope.by)[:-1]},
        {"tenant": other},
        {"tenant": None},
        {"tenant": None, "principal": "anonymous:-"},
    ):
        with pytest.raises(REFUSED):
            await insert(trail.scope, {**own, **wrong})
    platform = trail.core.platform(by=Principal.anonymous())
    nobody = {"tenant": None, "principal": "anonymous:-"}
    for stray in (own, {**nobody, "tenant": own["tenant"]}, {**nobody, "tenant": UUID(int=0)}):
        with pytest.raises(REFUSED):
            await insert(platform, stray)
    await insert(trail.scope, own)
    await insert(platform, nobody)
    assert await trail.rows("SELECT count(*) FROM audit.entries") == [(2,)]


async def test_E14_without_a_context_nothing_is_written(trail: Trail) -> None:
    """A stray client of the application's role adds no entry, of no tenant either."""
    query: LiteralString = OWN.replace("{0}", "").replace("{1}", "")
    async with trail.core.connection() as connection:
        for tenant in (None, trail.scope.tenant):
            with pytest.raises(REFUSED):
                await connection.execute(query, {"tenant": tenant, "principal": "anonymous:-"})


async def test_E9_the_user_is_the_one_who_acts(trail: Trail) -> None:
    """A user_id that is not the principal's is refused, and an action that is none."""
    query: LiteralString = (
        "INSERT INTO audit.entries (tenant_id, principal, user_id, action, resource, success)"
        " VALUES (%(tenant)s, %(principal)s, %(user)s, %(action)s, 'x', true)"
    )
    user = uuid4()
    scope = trail.scope.acting_as(Principal.user(user))
    good = {"tenant": scope.tenant, "principal": f"user:{user}", "user": user, "action": "READ"}
    for wrong in ({"user": uuid4()}, {"action": "HACK"}, {"action": "read"}):
        with pytest.raises(REFUSED):
            await scope.fetch(query, {**good, **wrong})
    await scope.fetch(query, good)
    assert await trail.rows("SELECT user_id FROM audit.entries") == [(user,)]


async def test_E14_an_entry_of_a_tenant_that_is_not_there_stops_nobody(trail: Trail) -> None:
    """It has a chain of its own; the sealer goes on with everybody's."""
    await audit_in(trail.core.scope(uuid4(), by=trail.scope.by))
    await trail.write(1)
    assert await trail.sealer.seal_waiting() == 2
    assert await trail.rows("SELECT chain_number FROM audit.heads") == [(1,), (1,)]


async def audit_in(scope: Scope) -> None:
    async with scope.transaction() as tx:
        audit.append(tx, audit.Entry("READ", "x"))


async def test_E14_nobody_takes_an_entry_back(trail: Trail) -> None:
    """Application, owner and superuser alike, sealed or not; TRUNCATE too."""
    await trail.write(2)
    trail.sealer.batch = 1
    await trail.sealer.seal_waiting()
    await trail.write(1)
    statements: tuple[LiteralString, ...] = (
        "DELETE FROM audit.entries",
        "TRUNCATE audit.entries",
        "TRUNCATE audit.entries CASCADE",
        "UPDATE audit.entries SET success = false",
        "UPDATE audit.entries SET chain_number = 9, previous_hash = sha256(''),"
        " entry_hash = sha256(''), sealed_at = now() WHERE chain_number IS NULL",
        "UPDATE audit.entries SET chain_number = NULL, previous_hash = NULL, entry_hash = NULL,"
        " sealed_at = NULL WHERE chain_number IS NOT NULL",
        "DELETE FROM audit.heads",
        "UPDATE audit.heads SET chain_number = chain_number - 1",
    )
    for statement in statements:
        with pytest.raises(REFUSED):
            await trail.scope.fetch(statement)
        with pytest.raises(REFUSED):
            await trail.rows(statement)
    await trail.admin.execute("SET ROLE neolayer_owner")
    for statement in statements:
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
            await trail.rows(statement)
    await trail.admin.execute("RESET ROLE")
    assert await trail.rows("SELECT count(*) FROM audit.entries WHERE success") == [(3,)]
    assert await trail.rows("SELECT chain_number FROM audit.heads") == [(2,)]


async def test_E14_a_tenant_reads_its_own_trail_only(trail: Trail) -> None:
    """Entries and heads of another tenant, and those of none, are not there for it."""
    other = await trail.new_tenant()
    await trail.write(2)
    await trail.write(1, scope=other)
    await trail.write_without_tenant(1)
    await trail.sealer.seal_waiting()
    for scope, count in ((trail.scope, 2), (other, 1)):
        entries = await audit.AuditTrail(scope).list()
        assert [entry.tenant for entry in entries] == [scope.tenant] * count
        heads = await scope.fetch("SELECT tenant_id, chain_number FROM audit.heads")
        assert heads == [(scope.tenant, count)]
    platform = trail.core.platform(by=Principal.anonymous())
    assert await audit.AuditTrail(platform).list() == []


async def test_a_trail_is_read_page_by_page(trail: Trail) -> None:
    """`before` goes on where the last page ended; no entry twice, none left out."""
    await trail.write(5)
    log = audit.AuditTrail(trail.scope)
    first = await log.list(limit=2)
    rest = await log.list(before=first[-1].place)
    assert [entry.resource_id for entry in (*first, *rest)] == ["4", "3", "2", "1", "0"]
    assert await log.list(success=False) == []
    assert await log.list(since=first[-1].occurred_at) == first


async def test_E12_a_refused_entry_takes_its_change_with_it(trail: Trail) -> None:
    """What cannot be told is not done: the transaction fails and stores neither."""
    add = "INSERT INTO core.tenant_data (tenant_id, data_id, data) VALUES (%s, %s, '{}')"
    with pytest.raises(audit.NotAuditable):
        async with trail.scope.transaction() as tx:
            await tx.execute(add, (tx.tenant, uuid4()))
            audit.append(tx, audit.Entry("UPDATE", "user", changes={"password": "canary-77"}))
    assert await trail.rows("SELECT count(*) FROM core.tenant_data") == [(0,)]
    assert await trail.rows("SELECT count(*) FROM audit.entries") == [(0,)]
