"""The command line: parse, call one thing, answer.

Data goes to stdout, words to stderr. `--data-dir` and `--config` may stand before or after the
verb. This is the one place where an error becomes a message and an exit code.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from neolayer.cli.root import run

__all__ = ["main"]


def main(
    arguments: Sequence[str] | None = None, *, on_loaded: Callable[[], None] = lambda: None
) -> None:
    """Run one command and exit with its code; see `run`."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    raise SystemExit(run(given, on_loaded=on_loaded))
