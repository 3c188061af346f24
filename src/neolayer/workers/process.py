"""What every worker's process does: read the settings, log, run until told to stop.

A supervisor starts workers early, so that they load and prepare while its engines start, and writes
a line to their stdin when they may begin (`--wait`). No line means that it is gone.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from neolayer.errors import NeolayerError
from neolayer.settings import Settings, forget_libpq_variables, load_settings
from neolayer.telemetry import configure_logging, mask

Work = Callable[[asyncio.Event], Awaitable[None]]


def run_worker(prepare: Callable[[Settings], Work], about: str) -> int:
    """Run the work until SIGTERM or SIGINT sets its event; the exit code.

    `prepare` makes the work from the settings: everything that needs no engine belongs there.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, help="the layer's data directory")
    parser.add_argument("--wait", action="store_true", help="begin after a line on stdin")
    arguments = parser.parse_args()
    configure_logging()
    forget_libpq_variables()
    try:
        work = prepare(load_settings(data_dir=arguments.data_dir))
        if arguments.wait and not sys.stdin.readline():
            return 1
        gc.freeze()
        gc.enable()
        asyncio.run(_until_told(work))
    except NeolayerError as exc:
        print(f"error: {mask(exc.message)}", file=sys.stderr)  # noqa: T201
        return exc.exit_code
    return 0


async def _until_told(work: Work) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await work(stop)
