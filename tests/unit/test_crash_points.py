"""A process dies where its variable says, and nowhere without it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from neolayer.crash_points import VARIABLE

STEPS = """
from neolayer.crash_points import crash_point
for _ in range(3):
    crash_point("here")
    print("passed", flush=True)
    crash_point("there")
"""


@pytest.mark.parametrize(
    ("named", "passes"), [(None, 3), ("elsewhere", 3), ("here", 0), ("there", 1), ("here:3", 2)]
)
def test_a_process_dies_at_its_point(named: str | None, passes: int) -> None:
    """SIGKILL at the named point, at the pass that is named; nothing is cleaned up."""
    variables = {name: value for name, value in os.environ.items() if name != VARIABLE}
    if named is not None:
        variables[VARIABLE] = named
    done = subprocess.run(
        [sys.executable, "-c", STEPS], env=variables, capture_output=True, text=True, check=False
    )
    assert done.stdout.count("passed") == passes
    assert done.returncode == (0 if passes == 3 else -signal.SIGKILL)
