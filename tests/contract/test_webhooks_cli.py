"""`neolayer webhooks` as a person types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from neolayer.cli import main, within_tenant
from neolayer.engines.endpoints import Endpoints, Role

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def tenant(module_databases: Endpoints) -> str:
    identifier = f"t{uuid4()}"
    with psycopg.connect(module_databases.postgres.dsn(Role.ADMIN, "neolayer")) as admin:
        admin.execute(
            "INSERT INTO core.tenants (name, identifier, subscription_tier)"
            " VALUES ('Acme', %s, 'enterprise')",
            (identifier,),
        )
    return identifier


@pytest.fixture
def run(
    tenant: str,
    module_databases: Endpoints,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    monkeypatch.setattr(within_tenant, "endpoints", lambda settings: module_databases)
    monkeypatch.chdir(tmp_path)

    def called(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(("webhooks", *arguments, "--tenant", tenant, "--data-dir", str(tmp_path / "d")))
        shown = capsys.readouterr()
        return int(stopped.value.code or 0), shown.out, shown.err

    return called


def answer(run: Run, *arguments: str) -> Any:
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def test_a_webhook_from_its_making_to_its_end(run: Run) -> None:
    """Every verb; the secret goes to stdout once, JSON is JSON alone, an absent name is told."""
    made = answer(run, "create", "billing", "https://acme.example/hooks", "--event", "wallet.*")
    assert made["secret"].startswith("whsec_")
    code, out, err = run("rotate", "billing", "--overlap-hours", "1")
    assert (code, out.startswith("whsec_")) == (0, True) and "not shown again" in err
    assert answer(run, "disable", "billing")["status"] == "disabled"
    assert answer(run, "enable", "billing")["status"] == "active"
    event_id = answer(run, "trial", "billing")["event_id"]
    (told,) = answer(run, "deliveries", "billing")
    assert (told["event_id"], told["status"]) == (event_id, "pending")
    assert answer(run, "replay", "billing", "--number", str(told["number"]))["replayed"] == 0
    (listed,) = answer(run, "list")
    assert (listed["event_types"], listed["pending"]) == (["wallet.*"], 1)
    code, out, _ = run("list")
    assert code == 0 and "billing: https://acme.example/hooks" in out  # whole, to be copied
    code, _, err = run("deliveries", "billing", "--status", "nosuch")
    assert code == 2 and "parked" in err
    assert "pending" in run("deliveries", "billing")[1]
    assert answer(run, "delete", "billing")["deleted"] is True
    code, out, err = run("trial", "billing")
    assert (code, out) == (1, "") and "no such webhook" in err.lower()
