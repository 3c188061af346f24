"""docs/security.md says what the tests cover, no more and no less."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_the_table_is_that_of_the_tests() -> None:
    """A test that was added, renamed or dropped shows in the page."""
    done = subprocess.run(
        [sys.executable, "tools/security_table.py"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
