"""The HTTP server as a process: `python -m neolayer.workers.serve --data-dir DIR`.

Granian runs inside this process: its usual form forks a second one for a single worker, which
doubles the memory and puts a stranger between the supervisor and the work.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path

from granian.constants import Interfaces
from granian.server.embed import Server

from neolayer.api.app import make_app
from neolayer.errors import NeolayerError
from neolayer.platform import endpoints
from neolayer.settings import Settings, load_settings
from neolayer.telemetry import configure_logging, mask


async def serve(settings: Settings) -> None:
    """Answer HTTP on the settings' address until SIGTERM or SIGINT, then end what is under way."""
    logging.getLogger("_granian").setLevel(logging.WARNING)
    server = Server(
        make_app(endpoints(settings)),
        address=settings.serve.host,
        port=settings.serve.port,
        interface=Interfaces.ASGI,
        log_enabled=False,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    await server.serve()


def main() -> int:
    """Run until told to stop; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path, help="the layer's data directory")
    arguments = parser.parse_args()
    configure_logging()
    try:
        asyncio.run(serve(load_settings(data_dir=arguments.data_dir)))
    except NeolayerError as exc:
        print(f"error: {mask(exc.message)}", file=sys.stderr)  # noqa: T201
        return exc.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
