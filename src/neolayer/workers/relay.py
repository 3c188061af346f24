"""The relay as a process: `python -m neolayer.workers.relay --data-dir DIR`."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from neolayer.errors import NeolayerError
from neolayer.platform import data_classes, endpoints
from neolayer.relay.run import run
from neolayer.relay.status import state_path
from neolayer.settings import Settings, load_settings
from neolayer.telemetry import configure_logging, mask


async def relay(settings: Settings) -> None:
    """Relay until SIGTERM or SIGINT, then let the sinks finish what waits."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await run(
        endpoints(settings),
        settings.relay,
        stop,
        classes=data_classes(),
        state_file=state_path(settings.data_dir),
    )


def main() -> int:
    """Run until told to stop; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-dir", type=Path, help="the layer's data directory")
    arguments = parser.parse_args()
    configure_logging()
    try:
        asyncio.run(relay(load_settings(data_dir=arguments.data_dir)))
    except NeolayerError as exc:
        print(f"error: {mask(exc.message)}", file=sys.stderr)  # noqa: T201
        return exc.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
