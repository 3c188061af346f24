"""`neolayer projections` through the command line: what it prints, and the code it ends with."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from tests.fixtures import bank
from tests.fixtures.bank import Deposited

from neolayer.cli import main
from neolayer.cli import projections as command
from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.events import NewEvent, open_event_rooms, open_event_store
from neolayer.events.projections.domain import load_domain
from neolayer.events.projections.projector import Projector
from neolayer.keys import Keyring
from neolayer.tenancy import Principal, open_core

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    module_databases: Endpoints,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "endpoints", lambda settings: module_databases)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NEOLAYER_EVENTS__MODULES", '["tests.fixtures.bank"]')

    def called(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(("projections", *arguments))
        captured = capfd.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return called


def deposit(at: Endpoints, keyring: Keyring, *amounts: int) -> None:
    """Into an account of some tenant, folded by a projector."""

    async def work() -> None:
        domain = load_domain(["tests.fixtures.bank"])
        async with (
            open_core(at, application_name="tests") as core,
            open_event_rooms(at, domain, keyring, application_name="tests") as rooms,
        ):
            acme = rooms.tenant(core.scope(uuid4(), by=Principal.operator("tests")))
            await acme.events.append(uuid4(), [Deposited(amount) for amount in amounts])
            projector = Projector(at, domain)
            await projector.catch_up()
            await projector.close()

    asyncio.run(work())


def test_read_models_from_the_command_line(
    run: Run, module_databases: Endpoints, keyring: Keyring
) -> None:
    """List, rebuild with a certificate, a difference row by row, switch, and back."""
    deposit(module_databases, keyring, 5, 7)
    code, out, _ = run("list", "--json", "--exit-code")
    listed = {one["name"]: one for one in json.loads(out)}
    assert code == 0 and set(listed) == {
        "balances",
        "totals",
        "inline_balances",
        "inline_totals",
    }
    assert listed["balances"]["status"] == "active"
    assert listed["balances"]["lag_events"] == 0 and ":" in listed["balances"]["place"]

    code, _, err = run("rebuild", "balances")
    assert code == 0 and "the live table is what its events say" in err
    dsn = module_databases.event_store.dsn(Role.ADMIN, Database.EVENT_STORE)
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("UPDATE read_models.balances SET balance = 13")
    code, out, err = run("diff", "balances")
    assert code == 1 and "DIFFERENT" in err
    assert {"balance", "13", "12"} <= set(out.split())
    code, out, _ = run("diff", "balances", "--json")
    (difference,) = json.loads(out)["differences"]
    assert (difference["live"]["balance"], difference["replay"]["balance"]) == (13, 12)

    code, _, err = run("switch", "balances")
    assert code != 0 and "hint: neolayer projections diff balances" in err
    assert run("switch", "balances", "--different")[0] == 0
    assert run("switch", "balances", "--back", "--different")[0] == 2
    code, out, _ = run("list")
    assert "balances:previous" in out and "paused" in out
    code, out, _ = run("switch", "balances", "--back", "--json")
    assert json.loads(out)["back"] is True
    assert run("resume", "balances")[0] == 0


def test_names_and_places_are_whole_on_a_narrow_terminal(
    run: Run, module_databases: Endpoints, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are what one copies into the next command."""
    deposit(module_databases, keyring, 5)
    run("rebuild", "inline_totals")
    dsn = module_databases.event_store.dsn(Role.ADMIN, Database.EVENT_STORE)
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(
            "UPDATE public.projections SET last_processed_transaction = '1',"
            " last_processed_position = 12345678901 WHERE projection_name = 'inline_totals:next'"
        )
    monkeypatch.setenv("COLUMNS", "80")
    listed = json.loads(run("list", "--json")[1])
    _, out, _ = run("list")
    assert max(map(len, out.splitlines())) <= 80
    for one in listed:
        assert one["name"] in out.split()
        assert one["place"] is None or one["place"] in out.split()


def test_what_stands_still_from_the_command_line(
    run: Run, module_databases: Endpoints, keyring: Keyring
) -> None:
    """Listed with its cause, replayed in vain, discarded; a rebuild in between is no success."""
    stream, identifier = uuid4(), f"t-{uuid4()}"
    tenant = uuid4()
    with psycopg.connect(module_databases.postgres.dsn(Role.ADMIN), autocommit=True) as admin:
        admin.execute(
            "INSERT INTO core.tenants (id, name, identifier, subscription_tier)"
            " VALUES (%s, 'Acme', %s, 'enterprise')",
            (tenant, identifier),
        )
    deposit(module_databases, keyring, 5)
    run("rebuild", "balances")
    assert run("switch", "balances", "--different")[0] == 0
    spoil(module_databases, tenant, stream)
    code, out, err = run("list", "--exit-code")
    assert code == 1 and "1 streams" in out
    assert "neolayer projections parked balances" in err
    code, out, _ = run("parked", "balances", "--tenant", identifier, "--json")
    (one,) = json.loads(out)
    assert (one["stream_id"], one["waiting"]) == (str(stream), 0)
    assert "no Deposited" in one["cause"]
    assert str(stream) in run("parked")[1]
    assert run("rebuild", "balances")[0] == 1
    assert "INCOMPLETE" in run("diff", "balances")[2]
    code, _, err = run("replay", "balances")
    assert code == 1 and "0 streams flow again, 1 stand still" in err
    of = ("--tenant", identifier, "--stream", str(stream))
    code, _, err = run("discard", "balances", *of)
    assert code == 0 and "1 streams flow again" in err
    code, _, err = run("discard", "balances", *of)
    assert code == 1 and "does not stand still" in err
    code, out, _ = run("parked", "balances", "--discarded", "--json")
    assert json.loads(out)[0]["discarded_by"].startswith("operator:")
    code, _, err = run("rebuild", "balances")
    assert code == 0 and "1 discarded events count for nothing" in err
    assert run("drop", "balances")[0] == 2
    code, _, err = run("drop", "balances", "--yes")
    assert code == 1 and "take it out of them first" in err
    assert run("discard", "totals", *of)[0] == 0


def spoil(at: Endpoints, tenant: UUID, stream: UUID) -> None:
    """An event that does not fit its type, looked at by a projector."""

    async def work() -> None:
        async with open_event_store(at, application_name="tests") as store:
            event = NewEvent("deposited", {"amount": "five"}, schema_version=3)
            events = store.events(tenant, by=Principal.operator("tests"))
            await events.append(stream, [event], category="account")
        projector = Projector(at, load_domain(["tests.fixtures.bank"]))
        await projector.catch_up()
        await projector.close()

    asyncio.run(work())


def test_refusals_say_the_way_out(run: Run, module_databases: Endpoints, keyring: Keyring) -> None:
    """An unknown name lists the known ones; a switch without a rebuild names the command."""
    deposit(module_databases, keyring, 1)
    code, _, err = run("rebuild", "nothing")
    assert code == 3 and "there are: balances, inline_balances, totals, inline_totals" in err
    code, _, err = run("switch", "totals")
    assert code == 1 and "hint: neolayer projections rebuild totals" in err
    assert bank.TOTALS.name == "totals"
