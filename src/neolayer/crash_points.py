"""Places where a test may kill the process: before and after each durable step.

`NEOLAYER_CRASH_AT=relay.after_segment_fsync` ends the process with SIGKILL when it passes that
point, `relay.after_segment_fsync:3` when it passes it for the third time. Without the variable a
point does nothing.
"""

from __future__ import annotations

import os
import signal
from typing import Final

VARIABLE: Final = "NEOLAYER_CRASH_AT"


class _Armed:
    """The point that is named, and how often it has yet to be passed."""

    def __init__(self, text: str) -> None:
        self.name, _, passes = text.partition(":")
        self.left = int(passes or 1)

    def passed(self, name: str) -> None:
        if name != self.name:
            return
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


_armed = _Armed(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None


def crash_point(name: str) -> None:
    """Die here, by SIGKILL, if this is the named point."""
    if _armed is not None:
        _armed.passed(name)
