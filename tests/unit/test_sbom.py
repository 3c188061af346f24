"""E16: what we deliver is known, package by package, and every one by its hash."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tools.sbom import bill, pinned

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")


def test_E16_the_bill_of_materials_is_complete() -> None:
    """Every package and every hash of the lock stand in it, and nothing else does."""
    program = [sys.executable, str(ROOT / "tools" / "sbom.py")]
    written = subprocess.run(program, capture_output=True, check=True, text=True).stdout
    made = json.loads(written)
    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.6")
    in_lock = re.findall(r"^([\w.-]+)(?:\[[^]]*\])?==(\S+)", LOCK, re.MULTILINE)
    listed = [(one["name"], one["version"]) for one in made["components"]]
    assert sorted(listed) == sorted(in_lock) and len(listed) > 50
    assert len({one["bom-ref"] for one in made["components"]}) == len(listed)
    hashes = [
        hashed["content"]
        for one in made["components"]
        for place in one["externalReferences"]
        for hashed in place["hashes"]
    ]
    assert sorted(hashes) == sorted(re.findall(r"sha256:([0-9a-f]{64})", LOCK))


def test_E16_licences_are_those_the_packages_state() -> None:
    """Nearly every package that is installed here states one."""
    components = bill(LOCK, {"name": "neolayer"})["components"]
    licensed = {one["name"]: one["licenses"] for one in components if "licenses" in one}
    assert licensed["zxcvbn"] == [{"license": {"name": "MIT License"}}]
    assert len(licensed) > 50


@pytest.mark.parametrize("line", ["requests>=2", "requests==2.0", "git+https://x.example/y"])
def test_E16_what_is_not_pinned_by_a_hash_has_no_place(line: str) -> None:
    """Such a requirement is not passed over in silence."""
    with pytest.raises(ValueError, match="not pinned"):
        list(pinned(line))
