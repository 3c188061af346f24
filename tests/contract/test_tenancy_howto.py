"""The page about tenants says what is so."""

from __future__ import annotations

import re

import pytest
from tests.fixtures.shared_data import REPOSITORY

from neolayer.engines.endpoints import Endpoints
from neolayer.tenancy import CoreDatabase, Principal

PAGE = (REPOSITORY / "docs" / "how-to" / "tenants.md").read_text(encoding="utf-8")


async def test_the_python_of_the_page_runs(
    layer_databases: Endpoints, capsys: pytest.CaptureFixture[str]
) -> None:
    """The invoice is found, and the third document refused with the way out."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)
    found = await names["first_documents"](layer_databases)  # type: ignore[operator]
    assert [each.data for each in found] == [{"kind": "invoice", "total": 5}]
    assert "may have 2 documents and no more" in capsys.readouterr().out


async def test_the_tiers_of_the_page_are_the_tables(core: CoreDatabase) -> None:
    """The page's numbers are those in force."""
    rows = await core.platform(by=Principal.system("tests")).fetch(
        "SELECT tier, limits FROM core.tiers"
    )
    names = (
        *("users", "wallets", "documents", "webhooks", "announcements"),
        "requests_per_minute",
    )
    for tier, limits in rows:
        cells = [f"{limits[n]:,}" if limits[n] is not None else "no limit" for n in names]
        assert f"| {' | '.join([tier, *cells])} |" in PAGE
