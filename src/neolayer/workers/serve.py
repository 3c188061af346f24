"""The HTTP server as a process: `python -m neolayer.workers.serve --data-dir DIR`.

Granian runs inside this process: its usual form forks a second one for a single worker, which
doubles the memory and puts a stranger between the supervisor and the work.
"""

from __future__ import annotations

import asyncio
import logging

from granian.constants import Interfaces
from granian.server.embed import Server

from neolayer.api.app import make_app
from neolayer.insight.tasks import tasks_path
from neolayer.platform import endpoints
from neolayer.relay.status import state_path
from neolayer.settings import Settings
from neolayer.workers.process import run_worker


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Answer HTTP on the settings' address until told to stop, then end what is under way."""
    logging.getLogger("_granian").setLevel(logging.WARNING)
    server = Server(
        make_app(
            settings,
            endpoints(settings),
            relay_state=state_path(settings.data_dir),
            tasks_state=tasks_path(settings.data_dir),
        ),
        address=settings.serve.host,
        port=settings.serve.port,
        interface=Interfaces.ASGI,
        log_enabled=False,
    )
    serving = asyncio.create_task(server.serve())
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait((serving, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    server.stop()
    await serving


if __name__ == "__main__":
    raise SystemExit(run_worker(serve, __doc__ or ""))
