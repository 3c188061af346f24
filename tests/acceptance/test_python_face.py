"""The Python that a user of the finished product writes (DESIGN.md, section 11), word by word.

What later steps bring is left out by its name; once it has come, the test says that it may not be
left out any more. What the snippet takes for granted stands before the line that needs it.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.fixtures.folders import traversable_folder
from tests.fixtures.layer_commands import Layer
from tests.fixtures.patience import PATIENCE
from tests.fixtures.shared_data import REPOSITORY, shared_data

import neolayer
from neolayer.chain.reading import Transaction
from neolayer.errors import InvalidInput, SettingsError
from neolayer.freshness import Store
from neolayer.identity import User
from neolayer.relay.where import State

SNIPPET = """
async with neolayer.open("neolayer.toml") as platform:                  # or open(data_dir=".neolayer")
    tenant = await platform.tenants.create(name="Acme", identifier="acme", tier="pro")
    async with platform.as_tenant(tenant.id) as acme:                    # every store below is bound to Acme
        user = await acme.users.create(email="ann@example.com", username="ann", password=password)
        written = await acme.events.append(account_id, [Deposited(amount=5)], expected_version=3)
        await acme.documents.put("invoices", invoice_id, invoice)
        cid = await acme.files.put(open_stream)
        hits = await acme.logs.search("level:error AND oracle", since=yesterday)
        usage = await acme.analytics.ask("gas_by_hour", since=yesterday, at_least=written.position)
    await platform.metrics.write(samples)
    transaction = await platform.chain.transaction("ethereum", transaction_hash)
"""  # noqa: E501
LATER = {
    "acme.documents": "documents",
    "acme.files": "files",
    "acme.logs": "log records",
    "acme.analytics": "questions by name to ClickHouse",
    "platform.metrics": "metrics",
}
# The account has three events when the fourth comes.
BEFORE = {
    "written": "await acme.events.append(account_id, [Opened(customer_id, 'Ann'), *two_deposits])"
}
# What was written is everywhere: the verbs below then wait as long as they do by themselves.
ARRIVES = """
async with neolayer.open("neolayer.toml") as platform, platform.as_tenant(tenant.id) as acme:
    await platform.wait_for(await acme.position(), timeout=patience)
    await acme.read_models.get(BALANCES, account_id, at_least=written.position, within=patience)
"""
# The same verbs as the command line's, which the snippet does not show.
VERBS = """
async with neolayer.open("neolayer.toml") as platform:
    async with platform.as_tenant(tenant.id) as acme:
        reached = await platform.wait_for(await acme.position())
        balance = await acme.read_models.get(BALANCES, account_id, at_least=written.position)
        stored = [event async for event, _ in acme.events.read_stream(account_id, from_version=4)]
    as_of = await platform.chain.transaction_as_of("ethereum", transaction_hash)
    standing = await platform.projections.list()
    reports = [report async for report in platform.reconcile()]
    repaired = [report async for report in platform.reconcile("blocks", repair=True)]
    located = await platform.where("transaction", transaction_hash)
    of_stream = await platform.where("event", account_id, tenant=tenant.id)
"""
BLOCK = ("data", "chain", "mainnet-eras", "12965000.json")
CONFIGURATION = 'data_dir = "data"\n[events]\nmodules = ["bank"]\n'


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A configuration, the program's module, and a layer that runs by them with a block in it."""
    page = (REPOSITORY / "docs" / "how-to" / "event-sourcing.md").read_text(encoding="utf-8")
    bank, *_ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    with traversable_folder() as folder:
        (folder / "bank.py").write_text(bank)
        (folder / "neolayer.toml").write_text(CONFIGURATION)
        layer = Layer(folder / "data", {"PYTHONPATH": ":".join([str(folder), *sys.path])})
        up = layer.run("up", "--detach")
        try:
            assert up.returncode == 0, up.stderr
            ingested = layer.run("ingest", str(shared_data(*BLOCK)), "--network", "ethereum")
            assert ingested.returncode == 0, ingested.stderr
            layer.await_first_copies()
            yield folder
        finally:
            layer.run("down")


def taken(snippet: str) -> str:
    """The snippet without the lines of what is still to come, and with what must be before."""
    lines: list[str] = []
    for line in snippet.strip().splitlines():
        verbs = re.findall(r"\b(?:acme|platform)\.\w+", line)
        if not LATER.keys() & set(verbs):
            room = line[: len(line) - len(line.lstrip())]
            lines += [room + BEFORE[name] for name in BEFORE if f" {name} = " in line]
            lines.append(line)
    return "\n".join(lines)


async def run(snippet: str, names: dict[str, Any]) -> dict[str, Any]:
    """What the snippet leaves behind in its names."""
    body = textwrap.indent(taken(snippet), "    ")
    exec(f"async def written_by_a_user():\n{body}\n    return locals()", names)
    return await names["written_by_a_user"]()


def test_only_what_is_to_come_is_left_out() -> None:
    """Five lines of eleven; each that is not there is named."""
    assert len(SNIPPET.strip().splitlines()) - len(taken(SNIPPET).splitlines()) == 5 - len(BEFORE)
    for name in LATER:
        assert name in SNIPPET and name not in taken(SNIPPET)


async def test_the_snippet_runs_as_it_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a running layer, by its configuration file; then the verbs of the command line, each
    under the name that it has there."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
    monkeypatch.delitem(sys.modules, "bank", raising=False)
    given: dict[str, Any] = {
        "neolayer": neolayer,
        "password": "a long pass phrase",
        "patience": PATIENCE,
        "account_id": uuid4(),
        "customer_id": uuid4(),
        "transaction_hash": known_transaction(),
    }
    __import__("bank")
    bank: Any = sys.modules["bank"]
    given |= {name: getattr(bank, name) for name in ("Opened", "Deposited", "BALANCES")}
    given["two_deposits"] = [bank.Deposited(amount=1), bank.Deposited(amount=1)]
    left = await run(SNIPPET, dict(given))
    assert isinstance(left["user"], User) and isinstance(left["transaction"], Transaction)
    assert left["written"].version == 4
    for name in LATER:
        room, _, verb = name.partition(".")
        assert not hasattr(left[room], verb), f"{name} has come: leave it out no longer"
    await run(ARRIVES, given | left)
    told = await run(VERBS, given | left)
    assert {Store.CLICKHOUSE, Store.REDIS} <= set(told["reached"])
    assert told["balance"] == bank.Balance(given["account_id"], 7, "Ann")
    assert told["stored"] == [bank.Deposited(5)]
    assert told["as_of"].value == left["transaction"]
    assert [one.name for one in told["standing"]] == ["balances"]
    assert {"blockchain.blocks", "blockchain.transactions"} <= {r.table for r in told["reports"]}
    assert all(report.agrees for report in told["reports"] + told["repaired"])
    assert {report.table for report in told["repaired"]} == {"blockchain.blocks"}
    (located,) = told["located"]
    assert [copy.state for copy in located.copies if copy.engine == "clickhouse"] == [State.SAME]
    assert len(told["of_stream"]) == 4


async def test_a_table_that_is_copied_nowhere_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By name, with the names there are; and a store that is not configured."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
    async with neolayer.open("neolayer.toml") as platform:
        with pytest.raises(InvalidInput, match="nosuch") as refused:
            [report async for report in platform.reconcile("nosuch")]
        assert refused.value.hint is not None and "blocks" in refused.value.hint
        with pytest.raises(SettingsError, match="no mongodb"):
            [report async for report in platform.reconcile(store=Store.MONGODB)]
        with pytest.raises(InvalidInput, match="no kind"):
            await platform.where("nosuch", 5)


def known_transaction() -> str:
    """Of the block that was taken in."""
    block = json.loads(shared_data(*BLOCK).read_text(encoding="utf-8"))
    return block["transactions"][0]["hash"]
