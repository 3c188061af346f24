"""The page about keys says what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.fixtures.shared_data import REPOSITORY

from neolayer.settings import load_settings

PAGE = (REPOSITORY / "docs" / "how-to" / "keys.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


async def test_the_python_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a bare machine, with keys in a file."""
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    names: dict[str, object] = {}
    exec(code, names)
    assert await names["seal_and_open"]() == b"a secret"  # type: ignore[operator]


@pytest.mark.parametrize("block", blocks("toml"))
def test_the_settings_of_the_page_are_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: str
) -> None:
    """Each block is a file that is read without a complaint."""
    monkeypatch.chdir(tmp_path)
    Path("neolayer.toml").write_text(block)
    assert load_settings().keys.provider in ("vault-transit", "aws-kms")
