"""A layer that lives as long as one command."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from neolayer import __version__
from neolayer.cli.output import say
from neolayer.cli.progress import StartDisplay
from neolayer.cli.root import Invocation
from neolayer.engines.embedded.supervisor import Supervisor
from neolayer.supervision import plan, prepare


@asynccontextmanager
async def layer_while(called: Invocation) -> AsyncGenerator[None]:
    """Start everything, yield once it is healthy, and stop everything, also after an error."""
    directory, moved = prepare(called.settings, chosen=called.chosen)
    if moved:
        say(moved)
    os.umask(0o077)  # what is written below the data directory is ours alone
    stop, healthy = asyncio.Event(), asyncio.Event()
    with directory.lock():
        with StartDisplay() as display:
            planned = plan(called.settings, directory)
            supervisor = Supervisor(
                planned.parts,
                directory,
                ports=planned.ports,
                version=__version__,
                on_progress=display.show,
            )
            running = asyncio.create_task(supervisor.run(stop, on_healthy=healthy.set))
            await _first_of(healthy, running)
            display.healthy(dict(planned.ports))
        try:
            yield
        finally:
            stop.set()
            await running


async def _first_of(healthy: asyncio.Event, running: asyncio.Task[None]) -> None:
    """Wait until the layer is healthy. Raises what ended it before."""
    waiting = asyncio.create_task(healthy.wait())
    await asyncio.wait((waiting, running), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if running.done():
        await running
