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
from neolayer.workers.process import Work, run_worker


def prepare(settings: Settings) -> Work:
    """Every route, ready to answer on the settings' address; ends what is under way when told."""
    logging.getLogger("_granian").setLevel(logging.WARNING)
    app = make_app(
        settings,
        endpoints(settings),
        relay_state=state_path(settings.data_dir),
        tasks_state=tasks_path(settings.data_dir),
    )

    async def serve(stop: asyncio.Event) -> None:
        server = Server(
            app,
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

    return serve


if __name__ == "__main__":
    raise SystemExit(run_worker(prepare, __doc__ or ""))
