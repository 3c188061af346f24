"""Sealing: everything committed is sealed once, in order, whatever happens to the sealer."""

from __future__ import annotations

import asyncio
from uuid import UUID

import psycopg
import pytest
from tests.fixtures.fix_audit import Trail

from neolayer import audit
from neolayer.audit.encoding import FIRST_PREVIOUS
from neolayer.audit.sealer import Sealer
from neolayer.errors import EngineUnavailable

CHAIN = """
SELECT chain_number, previous_hash, entry_hash, resource_id FROM audit.entries
WHERE tenant_id IS NOT DISTINCT FROM %s AND chain_number IS NOT NULL ORDER BY chain_number
"""


async def check_chain(trail: Trail, tenant: UUID | None, length: int) -> list[str]:
    """The chain has so many links, each on the one before; what the entries are about, in order."""
    rows = await trail.rows(CHAIN, tenant)
    assert [row[0] for row in rows] == list(range(1, length + 1))
    previous = [FIRST_PREVIOUS, *(row[2] for row in rows)]
    assert [row[1] for row in rows] == previous[: len(rows)]
    head = await trail.rows(
        "SELECT chain_number, entry_hash FROM audit.heads WHERE tenant_id IS NOT DISTINCT FROM %s",
        tenant,
    )
    assert head == [(row[0], row[2]) for row in rows[-1:]]
    return [row[3] for row in rows]


async def test_E14_every_tenant_has_a_chain_of_its_own(trail: Trail) -> None:
    """Two tenants and the entries of none: three chains, numbered from 1, across passes."""
    other = await trail.new_tenant()
    for _ in range(2):
        await trail.write(3)
        await trail.write(2, scope=other)
        await trail.write_without_tenant()
        assert await trail.sealer.seal_waiting() == 6
    await check_chain(trail, trail.scope.tenant, 6)
    await check_chain(trail, other.tenant, 4)
    await check_chain(trail, None, 2)
    assert await trail.sealer.seal_waiting() == 0


async def test_the_database_computes_the_same_hash(trail: Trail) -> None:
    """`audit.entry_digest` agrees with the sealer for every column, empty, NULL or strange."""
    await trail.write(
        changes={"name": {"from": "ä\"'\\", "to": None}, "n": [1, 2.5, True]},
        ip_address="2001:db8::1",
        user_agent="Mozilla/5.0 (\u2603)",
        success=False,
        error_message="",
        resource_id=None,
    )
    await trail.write_without_tenant()
    assert await trail.sealer.seal_waiting() == 2
    rows = await trail.rows("SELECT audit.entry_digest(e) = e.entry_hash FROM audit.entries e")
    assert rows == [(True,), (True,)]


async def test_E14_a_late_commit_is_sealed_and_delays_nobody(trail: Trail) -> None:
    """The chain follows commits: the transaction that began first and ended last stands last."""
    async with trail.scope.transaction() as late:
        await late.execute("SELECT pg_current_xact_id()")
        await trail.write(resource_id="early")
        assert await trail.sealer.seal_waiting() == 1
        audit.append(late, audit.Entry("UPDATE", "user", "late"))
    await trail.write(resource_id="after")
    with pytest.raises(RuntimeError):
        async with trail.scope.transaction() as gone:
            audit.append(gone, audit.Entry("UPDATE", "user", "gone"))
            raise RuntimeError
    assert await trail.sealer.seal_waiting() == 2
    assert await check_chain(trail, trail.scope.tenant, 3) == ["early", "late", "after"]


async def test_a_backlog_is_sealed_in_batches(trail: Trail) -> None:
    """More than a batch at once: several passes, one chain without gaps."""
    await trail.write(7)
    trail.sealer.batch = 3
    assert await trail.sealer.seal_waiting() == 7
    await check_chain(trail, trail.scope.tenant, 7)


async def test_two_sealers_at_once_make_one_chain(trail: Trail) -> None:
    """While one works the other stands by; together they seal every entry once."""
    rival = Sealer(trail.sealer.dsn)
    await trail.write(1)

    async def seal_until_done(sealer: Sealer, done: asyncio.Event) -> int:
        total = 0
        while not done.is_set():
            total += await sealer.seal_waiting()
        return total + await sealer.seal_waiting()

    done = asyncio.Event()
    sealing = [asyncio.create_task(seal_until_done(s, done)) for s in (trail.sealer, rival)]
    await asyncio.gather(*(trail.write(10) for _ in range(3)))
    done.set()
    counts = await asyncio.gather(*sealing)
    await rival.close()
    assert sum(counts) + await trail.sealer.seal_waiting() == 31
    await check_chain(trail, trail.scope.tenant, 31)


async def test_a_sealer_that_dies_in_mid_way_leaves_nothing_behind(trail: Trail) -> None:
    """Its backend killed between the seals and the commit: nothing is sealed; the next goes on."""
    await trail.write(3)
    await trail.admin.execute(
        """
        CREATE FUNCTION pg_temp_die() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
        BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(10); RETURN NEW; END
        $$;
        CREATE TRIGGER die AFTER INSERT ON audit.heads
        FOR EACH ROW EXECUTE FUNCTION pg_temp_die();
        """
    )
    with pytest.raises(EngineUnavailable):
        await trail.sealer.seal_waiting()
    sealed = "SELECT count(*) FROM audit.entries WHERE chain_number IS NOT NULL"
    assert await trail.rows(sealed) == [(0,)]
    await trail.admin.execute("DROP TRIGGER die ON audit.heads")
    assert await trail.sealer.seal_waiting() == 3
    await check_chain(trail, trail.scope.tenant, 3)


async def test_E14_the_sealer_can_do_nothing_but_seal(trail: Trail) -> None:
    """Its role changes no content, seals nothing twice, deletes nothing, sees no other table."""
    await trail.write(1)
    await trail.sealer.seal_waiting()
    async with await psycopg.AsyncConnection.connect(trail.sealer.dsn, autocommit=True) as auditor:
        for statement in (
            "UPDATE audit.entries SET success = false",
            "UPDATE audit.entries SET sealed_at = now()",
            "UPDATE audit.entries SET chain_number = NULL, previous_hash = NULL,"
            " entry_hash = NULL, sealed_at = NULL",
            "DELETE FROM audit.entries",
            "TRUNCATE audit.entries",
            "INSERT INTO audit.entries (principal, action, resource, success)"
            " VALUES ('operator:x', 'READ', 'x', true)",
            "UPDATE audit.heads SET chain_number = 0",
            "UPDATE audit.heads SET entry_hash = sha256('')",
            "DELETE FROM audit.heads",
            "SELECT * FROM core.tenants",
            "SELECT * FROM auth.users",
        ):
            with pytest.raises(
                (psycopg.errors.InsufficientPrivilege, psycopg.errors.CheckViolation)
            ):
                await auditor.execute(statement)  # type: ignore[arg-type]
