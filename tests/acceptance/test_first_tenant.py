"""docs/how-to/first-tenant.md, run as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fixtures.layer_commands import Layer, running_layer
from tests.fixtures.shared_data import REPOSITORY, shared_data

PAGE = REPOSITORY / "docs" / "how-to" / "first-tenant.md"


@pytest.fixture
def layer() -> Iterator[Layer]:
    with running_layer() as started:
        yield started


def test_the_how_to_runs(layer: Layer, tmp_path: Path) -> None:
    """Forty lines from nothing to a signed message and a judged quote."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 40
    block = shared_data("data", "chain", "mainnet-eras", "12965000.json")
    ingested = layer.run("ingest", str(block), "--network", "ethereum")
    assert ingested.returncode == 0, ingested.stderr
    script = tmp_path / "first_tenant.py"
    script.write_text(code, encoding="utf-8")
    samples = shared_data("data", "sgx", "phala")
    done = subprocess.run(
        [
            *(sys.executable, script, layer.data_dir),
            *(samples / "sgx_quote", samples / "sgx_quote_collateral.json"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    signed, judged = done.stdout.splitlines()
    assert re.fullmatch(r"0x[0-9a-fA-F]{40} signed 0x[0-9a-f]{64}", signed)
    assert judged == "rejected: tcb_not_accepted, TCB ConfigurationAndSWHardeningNeeded"
