"""`neolayer audit` through the command line: what it prints, and the code it ends with."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from neolayer import audit
from neolayer.audit.sealer import Sealer
from neolayer.cli import audit as command
from neolayer.cli import main, within_tenant
from neolayer.engines.endpoints import Endpoints, ObjectsEndpoint, Role
from neolayer.engines.engine import Level
from neolayer.tenancy import Principal, open_core

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def layer(layer_databases: Endpoints, tmp_path: Path) -> Endpoints:
    folder = tmp_path / "objects"
    objects = ObjectsEndpoint(Level.EMBEDDED, folder.as_uri(), folder)
    return dataclasses.replace(layer_databases, objects=objects)


@pytest.fixture
def superuser(layer: Endpoints) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """Without triggers and foreign keys."""
    dsn = layer.postgres.dsn(Role.ADMIN, "neolayer")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        yield connection


@pytest.fixture
def acme(layer: Endpoints, superuser: psycopg.Connection[tuple[Any, ...]]) -> UUID:
    """A tenant of which three things were done, the last in vain, and a failed login of nobody."""
    tenant = uuid4()
    superuser.execute(
        "INSERT INTO core.tenants (id, name, identifier, subscription_tier)"
        " VALUES (%s, 'Acme', 'acme', 'pro')",
        (tenant,),
    )

    async def write() -> None:
        async with open_core(layer, application_name="tests") as core:
            scope = core.scope(tenant, by=Principal.operator("ann"))
            for number in range(3):
                async with scope.transaction() as tx:
                    entry = audit.Entry("UPDATE", "user", str(number), success=number < 2)
                    audit.append(tx, entry)
            async with core.platform(by=Principal.anonymous()).transaction() as tx:
                audit.append(tx, audit.Entry("LOGIN", "user", success=False))
        sealer = Sealer(layer.postgres.dsn(Role.AUDITOR))
        await sealer.seal_waiting()
        await sealer.close()

    asyncio.run(write())
    return tenant


@pytest.fixture
def run(
    layer: Endpoints, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Run:
    for module in (command, within_tenant):
        monkeypatch.setattr(module, "endpoints", lambda settings: layer)
    monkeypatch.setenv("COLUMNS", "200")

    def called(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(("audit", *arguments))
        return int(stopped.value.code or 0), *capfd.readouterr()

    return called


def test_list_shows_a_tenant_what_was_done(acme: UUID, run: Run) -> None:
    """The newest first, by conditions; without a tenant the entries of none."""
    code, out, _ = run("list", "--tenant", "acme", "--json")
    entries = json.loads(out)
    assert code == 0
    assert [entry["resource_id"] for entry in entries] == ["2", "1", "0"]
    assert [entry["number"] for entry in entries] == [3, 2, 1]
    assert {entry["principal"] for entry in entries} == {"operator:ann"}
    assert {entry["tenant"] for entry in entries} == {str(acme)}
    _, out, _ = run("list", "--tenant", str(acme), "--failed", "--json")
    assert [entry["resource_id"] for entry in json.loads(out)] == ["2"]
    _, out, _ = run("list", "--tenant", "acme", "--id", "1", "--limit", "1", "--json")
    assert [entry["resource_id"] for entry in json.loads(out)] == ["1"]
    _, out, _ = run("list", "--json")
    assert [entry["principal"] for entry in json.loads(out)] == ["anonymous:-"]
    _, out, _ = run("list", "--tenant", "acme")
    assert "operator:ann" in out and "user 2" in out
    code, out, err = run("list", "--tenant", "acme", "--since", "2099-01-01")
    assert (code, out, err) == (0, "", "No such entries.\n")
    assert run("list", "--tenant", "nobody")[0] != 0
    assert run("list", "--limit", "0")[0] == 2


def test_E14_verify_ends_with_1_and_names_the_row(
    acme: UUID, run: Run, superuser: psycopg.Connection[tuple[Any, ...]]
) -> None:
    """0 while all is as it was sealed; then 1 with chain, number, entry and what differs."""
    assert run("anchor")[0] == 0
    code, out, err = run("verify")
    assert (code, out) == (0, "")
    assert err == "2 chains, 4 entries, 1 anchor: intact\n"
    found = superuser.execute(
        "UPDATE audit.entries SET success = true WHERE chain_number = 3 RETURNING id"
    ).fetchone()
    assert found is not None
    code, out, err = run("verify", "--tenant", "acme")
    assert code == 1
    assert out == (
        f"edited: tenant {acme}, number 3, entry {found[0]}: its content is not what was sealed\n"
    )
    assert err.endswith("TAMPERED WITH\n")
    code, out, _ = run("verify", "--json")
    report = json.loads(out)
    assert (code, report["intact"], report["found"]) == (1, False, 1)
    assert report["findings"][0] == {
        "kind": "edited",
        "tenant": str(acme),
        "number": 3,
        "entry": str(found[0]),
        "what": "its content is not what was sealed",
    }


def test_head_and_anchor_say_where_the_chains_end(acme: UUID, run: Run) -> None:
    """Number and hash of each chain, before and after they are anchored."""
    _, out, _ = run("head", "--json")
    none, head = json.loads(out)
    assert (none["tenant"], none["number"], none["anchored_number"]) == (None, 1, 0)
    assert (head["identifier"], head["number"]) == ("acme", 3)
    code, out, err = run("anchor")
    assert (code, err) == (0, "Anchor 1 of 2 chains is written.\n")
    assert out.startswith("audit/anchors/000000000001.json ")
    assert run("anchor") == (0, "", "No chain has grown since the last anchor.\n")
    _, out, _ = run("head", "--tenant", "acme")
    assert "acme" in out and head["hash"] in out and "(no tenant)" not in out
