"""`neolayer up`, `down`: the whole layer started, kept alive and stopped."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from typing import Annotated

from cyclopts import Parameter

from neolayer.cli.output import say
from neolayer.cli.progress import StartDisplay
from neolayer.cli.root import Invocation, app, invocation
from neolayer.engines.embedded.control import start_detached, stop_layer
from neolayer.engines.embedded.data_directory import DataDirectory
from neolayer.engines.embedded.supervisor import Supervisor
from neolayer.errors import AlreadyRunning
from neolayer.platform import plan, prepare


@app.command
async def up(
    *,
    detach: Annotated[bool, Parameter(help="Return when healthy and leave it running.")] = False,
) -> None:
    """Start every engine, migrate, and keep it all running until Ctrl-C.

    Example: neolayer up --detach
    """
    called = invocation()
    directory, moved = prepare(called.settings, chosen=called.chosen)
    if moved:
        say(moved)
    if detach:
        await asyncio.to_thread(_start_in_background, called, directory)
    else:
        await run_layer(called, directory)


@app.command
async def down() -> None:
    """Stop the layer, and whatever a killed one left behind; returns when nothing runs.

    Example: neolayer down
    """
    directory = DataDirectory(invocation().settings.data_dir)
    stopped = await asyncio.to_thread(stop_layer, directory)
    say("The layer is stopped." if stopped else f"No layer was running on {directory.path}.")


async def run_layer(called: Invocation, directory: DataDirectory) -> None:
    """Be the supervisor, until SIGINT, SIGTERM or SIGHUP."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with directory.lock(), StartDisplay() as display:
        planned = plan(called.settings, directory)
        supervisor = Supervisor(
            planned.parts, directory, ports=planned.ports, on_progress=display.show
        )
        await supervisor.run(stop, on_healthy=lambda: display.healthy(dict(planned.ports)))
    say("The layer is stopped.")


def _start_in_background(called: Invocation, directory: DataDirectory) -> None:
    holder = directory.holder()
    if holder is not None:
        raise AlreadyRunning(
            f"a layer is already running on {directory.path} (process {holder.pid})",
            hint="look at it with: neolayer status; stop it with: neolayer down",
        )
    argv = [sys.executable, "-m", "neolayer", "up", "--data-dir", str(directory.path)]
    if called.config is not None:
        argv += ["--config", str(called.config.absolute())]
    started = time.monotonic()
    with StartDisplay() as display:
        state = start_detached(argv, directory, on_state=display.show_state)
        display.healthy(state.ports, seconds=time.monotonic() - started)
