"""What a supervisor plans to run, by the settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from neolayer.engines.embedded.data_directory import DataDirectory
from neolayer.settings import load_settings
from neolayer.supervision import plan


def test_only_what_is_started_here_has_a_port_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers elsewhere are not told of under a port of this machine that nobody listens on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEOLAYER_POSTGRES__DSN", "postgresql://admin@db.example.com/postgres")
    monkeypatch.setenv("NEOLAYER_REDIS__DSN", "redis://cache.example.com:6379/0")
    directory = DataDirectory(tmp_path / "data")
    directory.prepare(None)
    assert set(plan(load_settings(), directory).ports) == {"clickhouse", "serve"}
