"""E14: whatever a superuser does to sealed entries is found, and the row is named.

Every attack is made with triggers and foreign keys switched off, by somebody who knows the format.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest

from neolayer import audit
from neolayer.audit.anchors import Anchorer, AnchorStore, key_of
from neolayer.audit.findings import Kind
from neolayer.audit.sealer import Sealer
from neolayer.audit.verify import EveryChain, Report, verify
from neolayer.engines.endpoints import Endpoints, ObjectsEndpoint, Role
from neolayer.engines.engine import Level
from neolayer.tenancy import Principal, Scope, open_core
from tests.fixtures.fix_audit import Trail

COUNT = 8  # entries in each of two tenants' chains, anchored at 4 and at the end

# The chain from its second entry on, sealed anew by whoever can compute seals.
RESEAL: LiteralString = """
DO $$
DECLARE
    r audit.entries;
    previous bytea;
BEGIN
    FOR r IN SELECT * FROM audit.entries WHERE tenant_id = '<tenant>' ORDER BY chain_number LOOP
        r.previous_hash := coalesce(previous, r.previous_hash);
        r.entry_hash := audit.entry_digest(r);
        UPDATE audit.entries SET previous_hash = r.previous_hash, entry_hash = r.entry_hash
        WHERE id = r.id;
        previous := r.entry_hash;
    END LOOP;
    UPDATE audit.heads SET entry_hash = previous WHERE tenant_id = '<tenant>';
END $$
"""
RESTORE: LiteralString = """
DROP INDEX IF EXISTS audit.entries_chain_unique;
TRUNCATE audit.entries, audit.heads;
INSERT INTO audit.entries SELECT * FROM entries_before;
INSERT INTO audit.heads SELECT * FROM heads_before;
CREATE UNIQUE INDEX entries_chain_unique ON audit.entries (tenant_id, chain_number)
NULLS NOT DISTINCT WHERE chain_number IS NOT NULL;
"""


@dataclass(frozen=True)
class Attack:
    """SQL with `<n>` for the id of entry n, and where the findings must be: (kind, number)."""

    sql: str
    found: tuple[tuple[Kind, int], ...]


EDITS = {
    "principal": "'operator:nobody'",
    "occurred_at": "occurred_at - interval '1 microsecond'",
    "action": "'READ'",
    "resource": "resource || 's'",
    "resource_id": "NULL",
    "changes": """changes || '{"a": 2}'""",
    "ip_address": "'10.0.0.0/31'",
    "user_agent": "''",
    "success": "NOT success",
    "error_message": "'none'",
    "transaction_id": "'1'::xid8",
    "sealed_at": "sealed_at + interval '1 microsecond'",
    "previous_hash": "sha256('')",
    "id": "gen_random_uuid()",
    "(principal, user_id)": "('user:' || id, id)",
}
CHAIN = ("chain_number", "previous_hash", "entry_hash", "sealed_at")
CONTENT = ("principal", "resource_id", "changes", "transaction_id", "occurred_at")
DROP_UNIQUE = "DROP INDEX audit.entries_chain_unique;"
FLIP = "UPDATE audit.entries SET success = NOT success WHERE id = '<{0}>';"
SEAL = "UPDATE audit.entries e SET entry_hash = audit.entry_digest(e) WHERE id = '<{0}>';"


def swap(columns: tuple[str, ...]) -> str:
    """Exchange these columns between entries 3 and 6."""
    exchanged = ", ".join(f"{column} = o.{column}" for column in columns)
    return (
        f"UPDATE audit.entries e SET {exchanged} FROM audit.entries o"
        " WHERE (e.id, o.id) IN (('<3>', '<6>'), ('<6>', '<3>'))"
    )


def insert(number: int) -> str:
    """A copy of entry 5 as that number."""
    copied = "tenant_id, principal, action, resource, success, previous_hash, entry_hash, sealed_at"
    return (
        f"INSERT INTO audit.entries ({copied}, chain_number)"
        f" SELECT {copied}, {number} FROM audit.entries WHERE id = '<5>'"
    )


ATTACKS: dict[str, Attack] = {
    **{
        f"edit {column}": Attack(
            f"UPDATE audit.entries SET {column} = {value} WHERE id = '<5>'", ((Kind.EDITED, 5),)
        )
        for column, value in EDITS.items()
    },
    "edit and seal again": Attack(FLIP.format(5) + SEAL.format(5), ((Kind.RESEALED, 5),)),
    "edit and seal the last again": Attack(
        FLIP.format(8) + SEAL.format(8), ((Kind.RESEALED, 8), (Kind.REWRITTEN, 8))
    ),
    "delete": Attack("DELETE FROM audit.entries WHERE id = '<5>'", ((Kind.REMOVED, 5),)),
    "delete the first": Attack("DELETE FROM audit.entries WHERE id = '<1>'", ((Kind.REMOVED, 1),)),
    "delete two": Attack(
        "DELETE FROM audit.entries WHERE id IN ('<5>', '<6>')", ((Kind.REMOVED, 5),)
    ),
    "delete and close the gap": Attack(
        "DELETE FROM audit.entries WHERE id = '<6>';"
        " UPDATE audit.entries SET chain_number = 6 WHERE id = '<7>';"
        " UPDATE audit.entries SET chain_number = 7 WHERE id = '<8>'",
        ((Kind.REORDERED, 6), (Kind.REORDERED, 7), (Kind.TRUNCATED, 8), (Kind.REMOVED, 8)),
    ),
    "swap numbers": Attack(
        DROP_UNIQUE + swap(("chain_number",)), ((Kind.REORDERED, 3), (Kind.REORDERED, 6))
    ),
    "swap places": Attack(DROP_UNIQUE + swap(CHAIN), ((Kind.REORDERED, 3), (Kind.REORDERED, 6))),
    "swap contents": Attack(swap(CONTENT), ((Kind.EDITED, 3), (Kind.EDITED, 6))),
    "insert in between": Attack(DROP_UNIQUE + insert(5), ((Kind.INSERTED, 5),)),
    "insert at the end": Attack(insert(9), ((Kind.EDITED, 9), (Kind.INSERTED, 9))),
    "cut the tail": Attack(
        "DELETE FROM audit.entries WHERE id IN ('<7>', '<8>')",
        ((Kind.TRUNCATED, 7), (Kind.REMOVED, 7)),
    ),
    "unseal the tail": Attack(
        "UPDATE audit.entries SET chain_number = NULL, previous_hash = NULL, entry_hash = NULL,"
        " sealed_at = NULL WHERE id = '<8>'",
        ((Kind.TRUNCATED, 8), (Kind.REMOVED, 8)),
    ),
    "cut the tail and move the head": Attack(
        "DELETE FROM audit.entries WHERE id IN ('<7>', '<8>');"
        " UPDATE audit.heads SET chain_number = 6, anchored_number = 0,"
        " entry_hash = (SELECT entry_hash FROM audit.entries WHERE id = '<6>')"
        " WHERE tenant_id = '<tenant>'",
        ((Kind.REMOVED, 7),),
    ),
    "remove the head": Attack(
        "DELETE FROM audit.heads WHERE tenant_id = '<tenant>'", ((Kind.TRUNCATED, 8),)
    ),
    "remove the whole chain": Attack(
        "DELETE FROM audit.entries WHERE tenant_id = '<tenant>';"
        " DELETE FROM audit.heads WHERE tenant_id = '<tenant>'",
        ((Kind.REMOVED, 1),),
    ),
    "edit and seal the whole chain anew": Attack(FLIP.format(1) + RESEAL, ((Kind.REWRITTEN, 4),)),
    "edit the newest and seal the chain anew": Attack(
        FLIP.format(7) + RESEAL, ((Kind.REWRITTEN, 8),)
    ),
    "hand an entry to another tenant": Attack(
        f"{DROP_UNIQUE} UPDATE audit.entries SET tenant_id = '<other>' WHERE id = '<5>'",
        ((Kind.INSERTED, 5), (Kind.REMOVED, 5)),
    ),
}


@dataclass
class Scene:
    """Three chains that are sealed and anchored, and a superuser without triggers."""

    superuser: psycopg.Connection[tuple[Any, ...]]
    dsn: str
    store: AnchorStore
    tenant: UUID = field(default_factory=uuid4)
    other: UUID = field(default_factory=uuid4)

    def verify(self, tenant: UUID | EveryChain | None = EveryChain.EVERY) -> Report:
        return asyncio.run(verify(self.dsn, self.store, tenant=tenant))

    def run(self, attack: str) -> None:
        """Run SQL in which ids stand by their places."""
        found = self.superuser.execute(
            "SELECT chain_number, id FROM audit.entries WHERE tenant_id = %s", (self.tenant,)
        )
        names = {str(number): entry for number, entry in found.fetchall()}
        for name, value in {**names, "tenant": self.tenant, "other": self.other}.items():
            attack = attack.replace(f"<{name}>", str(value))
        self.superuser.execute(attack)  # type: ignore[arg-type]

    async def build(self, endpoints: Endpoints) -> None:
        dsn = endpoints.postgres.dsn(Role.AUDITOR)
        sealer, anchorer = Sealer(dsn), Anchorer(dsn, self.store)
        async with open_core(endpoints, application_name="tests") as core:
            scopes = [
                core.scope(t, by=Principal.operator("ann")) for t in (self.tenant, self.other)
            ]
            scopes.append(core.platform(by=Principal.anonymous()))
            for _ in range(2):
                for scope in scopes:
                    await append_some(scope, COUNT // 2)
                assert await sealer.seal_waiting() == len(scopes) * COUNT // 2
                assert await anchorer.write_anchor() is not None
        await sealer.close()


async def append_some(scope: Scope, count: int) -> None:
    for number in range(count):
        async with scope.transaction() as tx:
            entry = audit.Entry(
                "UPDATE", "user", str(number), {"a": 1}, ip_address="10.0.0.1", user_agent="x"
            )
            audit.append(tx, entry)


@pytest.fixture(scope="module")
def scene(module_databases: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder: Path = tmp_path_factory.mktemp("objects")
    store = AnchorStore(ObjectsEndpoint(Level.EMBEDDED, folder.as_uri(), folder))
    cluster = module_databases.postgres
    with psycopg.connect(cluster.dsn(Role.ADMIN, "neolayer"), autocommit=True) as superuser:
        scene = Scene(superuser, cluster.dsn(Role.OPERATOR), store)
        for tenant in (scene.tenant, scene.other):
            superuser.execute(
                "INSERT INTO core.tenants (id, name, identifier, subscription_tier)"
                " VALUES (%s, 't', %s, 'pro')",
                (tenant, f"t{tenant}"),
            )
        asyncio.run(scene.build(module_databases))
        superuser.execute("SET session_replication_role = replica")
        superuser.execute("CREATE TEMPORARY TABLE entries_before AS TABLE audit.entries")
        superuser.execute("CREATE TEMPORARY TABLE heads_before AS TABLE audit.heads")
        yield scene


@pytest.mark.parametrize("name", ATTACKS)
def test_E14_tampering_is_found_and_named(name: str, scene: Scene) -> None:
    """Every attack is found at its row, and in no other tenant's chain; before it nothing is."""
    scene.superuser.execute(RESTORE)
    before = scene.verify()
    assert (before.findings, before.chains, before.entries, before.anchors) == ([], 3, 24, 2)
    attack = ATTACKS[name]
    scene.run(attack.sql)
    report = scene.verify()
    assert sorted((each.kind, each.number) for each in report.findings) == sorted(attack.found)
    assert not report.is_intact
    if "<other>" not in attack.sql:
        assert {each.tenant for each in report.findings} == {scene.tenant}
        assert scene.verify(scene.tenant).findings == report.findings
    for finding in report.findings:
        if finding.entry is not None:
            found = "SELECT chain_number FROM audit.entries WHERE id = %s"
            rows = scene.superuser.execute(found, (finding.entry,)).fetchall()
            assert rows == [(finding.number,)]


async def test_E14_every_row_that_was_cut_is_named(trail: Trail) -> None:
    """Also where the head and the database's own list of anchors were rewritten to fit: from the
    last row that is there to the last that an anchor names, over several anchors."""
    for _ in range(3):
        await trail.write(2)
        await trail.sealer.seal_waiting()
        assert await trail.anchorer.write_anchor() is not None
    async with trail.tampering() as superuser:
        await superuser.execute("DELETE FROM audit.entries WHERE chain_number > 3")
        await superuser.execute(
            "UPDATE audit.heads h SET chain_number = 3, anchored_number = 3, entry_hash ="
            " (SELECT e.entry_hash FROM audit.entries e"
            " WHERE e.tenant_id = h.tenant_id AND e.chain_number = 3)"
        )
        await superuser.execute("DELETE FROM audit.anchors WHERE anchor_number > 1")
    report = await verify(trail.operator_dsn, trail.anchorer.store)
    ((kind, number, what),) = ((each.kind, each.number, each.what) for each in report.findings)
    assert (kind, number) == (Kind.REMOVED, 4)
    assert what.startswith("3 entries, 4 to 6, are missing: anchor 3 of "), what


async def test_E14_the_chain_of_no_tenant_is_verified_too(trail: Trail) -> None:
    """A failed login of nobody known cannot be taken back either."""
    await trail.write_without_tenant(3)
    await trail.sealer.seal_waiting()
    async with trail.tampering() as superuser:
        await superuser.execute("DELETE FROM audit.entries WHERE chain_number = 2")
    report = await verify(trail.operator_dsn, trail.anchorer.store, tenant=None)
    assert [(each.kind, each.number) for each in report.findings] == [(Kind.REMOVED, 2)]


async def test_E14_a_cut_tail_stays_visible_after_more_entries(trail: Trail) -> None:
    """The sealer goes on from the head, not from the rows: the gap stays for ever."""
    await trail.write(4)
    await trail.sealer.seal_waiting()
    async with trail.tampering() as superuser:
        await superuser.execute("DELETE FROM audit.entries WHERE chain_number > 2")
    await trail.write(2)
    await trail.sealer.seal_waiting()
    report = await verify(trail.operator_dsn, trail.anchorer.store)
    assert [(each.kind, each.number) for each in report.findings] == [(Kind.REMOVED, 3)]


async def test_E14_anchors_are_held_to_account_too(trail: Trail) -> None:
    """An anchor that is gone, replaced, or no anchor at all is found by its number."""
    for number in (1, 2, 3):
        await trail.write(1)
        await trail.sealer.seal_waiting()
        anchor = await trail.anchorer.write_anchor()
        assert anchor is not None and anchor.anchor.anchor == number
    folder = trail.anchorer.store.endpoint.folder
    assert folder is not None
    first, second, last = (folder / key_of(number) for number in (1, 2, 3))
    kept = {path: path.read_bytes() for path in (first, second, last)}

    async def found() -> list[tuple[Kind, int]]:
        report = await verify(trail.operator_dsn, trail.anchorer.store)
        return [(each.kind, each.number) for each in report.findings]

    assert await found() == []
    last.unlink()
    assert await found() == [(Kind.ANCHOR_MISSING, 3)]
    last.write_bytes(kept[last])
    second.unlink()
    assert await found() == [(Kind.ANCHOR_MISSING, 2)]
    second.write_bytes(b"{}")
    assert await found() == [(Kind.ANCHOR_CHANGED, 2)]
    second.write_bytes(kept[second].replace(b'"anchored_at":"2', b'"anchored_at":"1', 1))
    assert await found() == [(Kind.ANCHOR_CHANGED, 2), (Kind.ANCHOR_CHANGED, 3)]
    second.write_bytes(kept[first])
    assert await found() == [(Kind.ANCHOR_CHANGED, 2), (Kind.ANCHOR_CHANGED, 3)]
    second.write_bytes(kept[second])
    assert await found() == []
