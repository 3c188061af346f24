"""The how-to's Python runs as it is printed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from tests.fixtures.fix_wallets import NewWallets

from neolayer.wallets import Wallets

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "wallets.md"


@dataclass
class View:
    wallets: Wallets


async def test_the_code_of_the_how_to_runs(new_wallets: NewWallets) -> None:
    """Create, sign, export, watch, page and add up, word for word."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)
    use = names["use_wallets"]
    digest, backup, amount = await use(View(await new_wallets()))  # type: ignore[operator]
    assert digest.startswith("0x") and json.loads(backup)["version"] == 3
    assert amount == 0
