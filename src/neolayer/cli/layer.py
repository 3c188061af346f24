"""`neolayer up`, `down`: the whole layer started, kept alive and stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Annotated

from cyclopts import Parameter

from neolayer import __version__
from neolayer.cli.output import say
from neolayer.cli.progress import StartDisplay
from neolayer.cli.root import app, fail, invocation
from neolayer.engines.embedded.control import Found, start_detached, stop_layer
from neolayer.engines.embedded.data_directory import DataDirectory
from neolayer.engines.embedded.supervisor import Supervisor
from neolayer.errors import NeolayerError
from neolayer.settings import Settings
from neolayer.supervision import plan, prepare

_DOWN = {
    Found.RUNNING: "The layer is stopped.",
    Found.ORPHANED: "The layer's supervisor had been killed; what it left running is stopped.",
    Found.DEAD: "The layer on {path} had died, all of it; what it left behind is cleared away.",
    Found.NOTHING: "No layer was running on {path}.",
}


@app.command
def up(
    *,
    detach: Annotated[bool, Parameter(help="Return when healthy and leave it running.")] = False,
) -> None:
    """Start every engine, migrate, and keep it all running until Ctrl-C.

    Example: neolayer up --detach
    """
    called = invocation()
    _require_modules(called.settings)
    directory, moved = prepare(called.settings, chosen=called.chosen)
    if moved:
        say(moved)
    if detach:
        _start_in_background(called.settings, directory)
    else:
        asyncio.run(run_layer(called.settings, directory))
        say("The layer is stopped.")


@app.command
def down() -> None:
    """Stop the layer, and whatever a killed one left behind; returns when nothing runs.

    Example: neolayer down
    """
    directory = DataDirectory(invocation().settings.data_dir)
    say(_DOWN[stop_layer(directory)].format(path=directory.path))


def _require_modules(settings: Settings) -> None:
    """Raise SettingsError where the settings name a module that is not there."""
    if settings.events.modules:
        from neolayer.events.projections.domain import require_module

        for name in settings.events.modules:
            require_module(name)


async def run_layer(settings: Settings, directory: DataDirectory) -> None:
    """Be the supervisor, until SIGINT, SIGTERM or (but under `nohup`) SIGHUP."""
    os.umask(0o077)  # what is written below the data directory is ours alone
    stop = asyncio.Event()
    hangs_up = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    for number in (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hangs_up else [])):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with directory.lock(), StartDisplay() as display:
        planned = plan(settings, directory)
        supervisor = Supervisor(
            planned.parts,
            directory,
            ports=planned.ports,
            version=__version__,
            on_progress=display.show,
        )
        await supervisor.run(stop, on_healthy=lambda: display.healthy(dict(planned.ports)))


def _start_in_background(settings: Settings, directory: DataDirectory) -> None:
    directory.require_unused()
    for number in (signal.SIGTERM, signal.SIGHUP):  # what starts goes with who waits for it
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _give_up)
    started = time.monotonic()

    def supervise() -> int:
        try:
            asyncio.run(run_layer(settings, directory))
        except NeolayerError as exc:
            return fail(exc.message, hint=exc.hint, code=exc.exit_code)
        return 0

    with StartDisplay() as display:
        state = start_detached(supervise, directory, on_state=display.show_state)
        display.healthy(state.ports, seconds=time.monotonic() - started)


def _give_up(number: int, _: object) -> None:
    raise KeyboardInterrupt(number)
