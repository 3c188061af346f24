"""The page about event sourcing says what is so."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.fixtures.shared_data import REPOSITORY

from neolayer.engines.endpoints import Endpoints, RedisEndpoint
from neolayer.errors import Conflict
from neolayer.events import Erased
from neolayer.events.tasks import tasks
from neolayer.face import Platform, open_at
from neolayer.settings import Settings, load_settings

PAGE = (REPOSITORY / "docs" / "how-to" / "event-sourcing.md").read_text(encoding="utf-8")


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Those of the page, in a folder that holds its module."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (toml,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 60
    (tmp_path / "bank.py").write_text(code)
    (tmp_path / "neolayer.toml").write_text(toml)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "bank", raising=False)
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


async def new_tenant(platform: Platform) -> Any:
    tenant = await platform.tenants.create(name="Acme", identifier=f"t-{uuid4()}", tier="pro")
    return platform.view(tenant.id, by=platform.tenants.scope.by)


def test_a_worker_without_modules_has_nothing_to_do(module_databases: Endpoints) -> None:
    """No connection is held for a layer that uses no projections."""

    async def count() -> int:
        async with tasks(module_databases, Settings().events) as found:
            return len(found)

    assert asyncio.run(count()) == 0
