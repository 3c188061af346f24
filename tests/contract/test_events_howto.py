"""The page about event sourcing says what is so."""

from __future__ import annotations

import asyncio
import importlib
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.fixtures.patience import PATIENCE_S
from tests.fixtures.shared_data import REPOSITORY

from neolayer.engines.endpoints import Endpoints, RedisEndpoint
from neolayer.errors import Conflict
from neolayer.events import Domain, Erased, Loaded
from neolayer.events.projections.newer import fold_newer
from neolayer.events.tasks import tasks
from neolayer.face import Platform, open_at
from neolayer.settings import Settings, load_settings

PAGE = (REPOSITORY / "docs" / "how-to" / "event-sourcing.md").read_text(encoding="utf-8")
BANK, PROGRAM, PAY, CHANGE, SEND, KEPT = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Those of the page, in a folder that holds its module."""
    (toml,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert sum(bool(line.strip()) for line in BANK.splitlines()) <= 60
    for name, code in {
        "bank": BANK + SEND,
        "program": PROGRAM,
        "paying": PAY,
        "kept": KEPT,
    }.items():
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "neolayer.toml").write_text(toml)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    return load_settings()


@asynccontextmanager
async def worker(at: Endpoints, settings: Settings) -> AsyncIterator[None]:
    """The task that `neolayer up` runs, as often as it can."""

    async def keep_running() -> None:
        while True:
            await task.run()
            await asyncio.sleep(0.01)

    async with tasks(at, settings.events) as (task,):
        running = asyncio.create_task(keep_running())
        yield
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_the_python_of_the_page_runs(
    module_databases: Endpoints, redis_server: RedisEndpoint, settings: Settings
) -> None:
    """Within 60 lines; the row is there, the overdraft is not, and Ann can be forgotten."""
    at = replace(module_databases, redis=redis_server)
    async with open_at(settings, at) as platform, worker(at, settings):
        acme = await new_tenant(platform)
        bank: Any = sys.modules["bank"]
        account, customer = uuid4(), uuid4()
        row = await bank.spend(acme, account, customer)
        assert row == bank.Balance(account, 2, "Ann")
        with pytest.raises(Conflict, match="holds 2, not 3"):
            await acme.aggregates.execute(bank.ACCOUNT, account, bank.Withdraw(3))
        (standing,) = await platform.projections.list()
        assert (standing.name, standing.waiting) == ("balances", 0)
        assert (await platform.projections.rebuild("balances")).certificate.holds
        await platform.projections.switch("balances")
        await platform.projections.switch_back("balances")
        assert await platform.projections.parked() == []
        assert (await platform.projections.replay("balances")).flowing == 0
        await acme.subjects.erase(customer)
        row = await acme.read_models.get(bank.BALANCES, account)
        assert row == bank.Balance(account, 2, Erased())


async def test_the_program_of_the_page_runs(
    module_databases: Endpoints,
    redis_server: RedisEndpoint,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As it stands there, from opening the layer to the row."""
    at = replace(module_databases, redis=redis_server)
    monkeypatch.setattr("neolayer.open", lambda file: open_at(load_settings(Path(file)), at))
    async with worker(at, settings):
        await importlib.import_module("program").main()
    assert "balance=2, owner='Ann'" in capsys.readouterr().out


async def test_what_is_given_twice_counts_once_and_letters_are_sent(
    module_databases: Endpoints,
    redis_server: RedisEndpoint,
    settings: Settings,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Payments by their id, `send` as a subscription calls it, and a state that is kept."""
    at = replace(module_databases, redis=redis_server)
    async with open_at(settings, at) as platform:
        acme = await new_tenant(platform)
        bank: Any = sys.modules["bank"]
        paying, kept = importlib.import_module("paying"), importlib.import_module("kept")
        account, payment, stop = uuid4(), uuid4(), asyncio.Event()
        await paying.pay(acme, account, payment)
        await paying.pay(acme, account, payment)
        assert await acme.aggregates.load(kept.ACCOUNT, account) == Loaded(bank.Account(4), 2)
        sending = asyncio.create_task(bank.send_letters(acme, stop))
        async with asyncio.timeout(PATIENCE_S):
            while [one.lag_events for one in await acme.events.subscriptions.list()] != [0]:
                await asyncio.sleep(0.01)
        stop.set()
        await sending
        assert capsys.readouterr().out.count("Withdrawn(amount=1)") == 1
        assert await acme.aggregates.delete_snapshots(account) == 0


async def test_an_event_changes_as_the_page_says(
    module_databases: Endpoints, redis_server: RedisEndpoint, settings: Settings, tmp_path: Path
) -> None:
    """Old data reads as new. What a projector of before puts aside, because it is newer than its
    modules, is folded on by the next one without anybody's doing."""
    at = replace(module_databases, redis=redis_server)
    async with open_at(settings, at) as platform, tasks(at, settings.events) as (before,):
        acme, account = await new_tenant(platform), uuid4()
        old: Any = sys.modules["bank"]
        await acme.events.append(account, [old.Deposited(5)])
        await before.run()
        declared = re.compile(r'@accounts.event\("deposited"\).*?(?=@accounts.event)', re.DOTALL)
        (tmp_path / "bank.py").write_text(declared.sub(CHANGE + "\n\n", BANK))
        del sys.modules["bank"]
        async with open_at(settings, at) as later, tasks(at, settings.events) as (after,):
            new: Any = sys.modules["bank"]
            acme = later.view(acme.scope.tenant, by=acme.scope.by)
            await acme.events.append(account, [new.Deposited(7, "CHF")])
            events = [event async for event, _ in acme.events.read_stream(account)]
            assert events == [new.Deposited(5, "EUR"), new.Deposited(7, "CHF")]
            await before.run()
            (standing,) = await later.projections.parked()
            assert "this program knows 1" in standing.cause
            assert await fold_newer(at, load_domain_of(old)) == 0
            await after.run()
            assert await later.projections.parked() == []
            row = await acme.read_models.get(new.BALANCES, account)
            assert row is not None and row.balance == 12


def load_domain_of(module: Any) -> Domain:
    """What a program declares that has imported an earlier state of a module."""
    return Domain.of([module.accounts], [module.BALANCES])


async def new_tenant(platform: Platform) -> Any:
    tenant = await platform.tenants.create(name="Acme", identifier=f"t-{uuid4()}", tier="pro")
    return platform.view(tenant.id, by=platform.tenants.scope.by)


def test_a_worker_without_modules_has_nothing_to_do(module_databases: Endpoints) -> None:
    """No connection is held for a layer that uses no projections."""

    async def count() -> int:
        async with tasks(module_databases, Settings().events) as found:
            return len(found)

    assert asyncio.run(count()) == 0
