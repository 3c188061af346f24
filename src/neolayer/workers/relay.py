"""The relay as a process: `python -m neolayer.workers.relay --data-dir DIR`."""

from __future__ import annotations

import asyncio

from neolayer.platform import data_classes, endpoints, webhook_sinks
from neolayer.relay.run import run
from neolayer.relay.state import relay_folder
from neolayer.settings import Settings
from neolayer.workers.process import Work, run_worker


def prepare(settings: Settings) -> Work:
    """Carries the commit log into every store the catalogue names."""
    at, classes = endpoints(settings), data_classes()

    async def relay(stop: asyncio.Event) -> None:
        async with webhook_sinks(settings, at, classes) as more:
            await run(
                at,
                settings.relay,
                stop,
                classes=classes,
                more=more,
                folder=relay_folder(settings.data_dir),
            )

    return relay


if __name__ == "__main__":
    raise SystemExit(run_worker(prepare, __doc__ or ""))
