"""Migrators that kill themselves: one process that forks one migrator a request.

Reads pickled endpoints, a folder of migrations (None: the package's own) and lines, then one number
a line: the boundary at which the next migrator is to die. Answers `killed` or `done`. A fork costs
milliseconds where a fresh interpreter would cost a second.
"""

from __future__ import annotations

import asyncio
import base64
import os
import pickle
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from neolayer.engines.endpoints import Endpoints
from neolayer.schema.files import Migration, load_migrations
from neolayer.schema.lines import Line
from neolayer.schema.runner import migrate_up


def migrate_and_die(
    endpoints: Endpoints, folder: Path | None, lines: Sequence[Line], boundary: int
) -> None:
    passed = 0

    def die_at_boundary(_: Migration, __: int) -> None:
        nonlocal passed
        if passed == boundary:
            os.kill(os.getpid(), signal.SIGKILL)
        passed += 1

    asyncio.run(
        migrate_up(
            endpoints,
            lines=lines,
            migrations=load_migrations(folder),
            on_statement=die_at_boundary,
        )
    )


def main() -> None:
    endpoints, folder, lines = pickle.loads(base64.b64decode(sys.stdin.readline()))
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            migrate_and_die(endpoints, folder, lines, int(line))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print("killed" if os.WIFSIGNALED(status) else f"done {status}", flush=True)


if __name__ == "__main__":
    main()
