"""Fixtures for every suite; each engine's lie in `fixtures/fix_<engine>.py`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from neolayer.wallets.recursion_limit import recursion_limit_kept

with recursion_limit_kept():  # tests import it as it is
    import eth_account
    import eth_keyfile

__all__ = ["eth_account", "eth_keyfile"]

# How long an example takes says how busy the machine is, and nothing of what is tested.
settings.register_profile("neolayer", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("neolayer")

# A file named fix_*.py is loaded by being there: adding an engine touches nothing else.
pytest_plugins = [
    f"tests.fixtures.{file.stem}"
    for file in sorted((Path(__file__).parent / "fixtures").glob("fix_*.py"))
    if find_spec(f"tests.fixtures.{file.stem}") is not None
]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What simulations came to, also where they passed and whoever ran them."""
    for report in terminalreporter.getreports("passed"):
        for name, figures in report.user_properties:
            if name.endswith("simulated"):
                terminalreporter.write_line(f"{name}: {figures}")
