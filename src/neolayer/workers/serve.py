"""The HTTP server as a process: `python -m neolayer.workers.serve --data-dir DIR`.

Granian runs inside this process: its usual form forks a second one for a single worker, which
doubles the memory and puts a stranger between the supervisor and the work.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Awaitable

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server
from litestar import Litestar

from neolayer.api.app import make_app
from neolayer.insight.tasks import tasks_path
from neolayer.platform import endpoints
from neolayer.relay.state import state_path
from neolayer.settings import ServeSettings, Settings
from neolayer.workers.connections import Bounds, keep_within
from neolayer.workers.process import Work, run_worker

LARGEST_HEAD = 32 * 1024
# A process has other files open: engines' connections, logs.
_OTHER_FILES = 256
# Twice as many connections get in as may stay, and are looked at under a second descriptor.
_FILES_EACH = 4


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
        await serve_until(stop.wait(), app, settings.serve)

    return serve


async def serve_until(ending: Awaitable[object], app: Litestar, settings: ServeSettings) -> None:
    """Serve until something ends; then finish what is under way."""
    bounds = _bounds(settings)
    server = Server(
        app,
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGI,
        # In HTTP/2, and while it is unknown which it is, the server limits no time.
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(
            header_read_timeout=int(settings.header_seconds * 1000), max_buffer_size=LARGEST_HEAD
        ),
        websockets=False,
        backlog=1024,
        # The server accepts no more than so many; the surplus must get in to be closed.
        backpressure=2 * bounds.in_all,
        log_enabled=False,
    )
    serving = asyncio.create_task(server.serve())
    bounding = asyncio.create_task(keep_within(bounds, settings.port))
    ended = asyncio.ensure_future(ending)
    await asyncio.wait((serving, ended), return_when=asyncio.FIRST_COMPLETED)
    ended.cancel()
    bounding.cancel()
    server.stop()
    await serving


def _bounds(settings: ServeSettings) -> Bounds:
    """The settings' bounds, as far as this process may open files."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = _FILES_EACH * settings.connections + _OTHER_FILES
    files = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
    in_all = max(16, (files - _OTHER_FILES) // _FILES_EACH)
    return Bounds(in_all, None if settings.proxy_depth else settings.connections_per_address)


if __name__ == "__main__":
    raise SystemExit(run_worker(prepare, __doc__ or ""))
