"""The relay as a process: `python -m neolayer.workers.relay --data-dir DIR`."""

from __future__ import annotations

import asyncio

from neolayer.platform import data_classes, endpoints, webhook_sinks
from neolayer.relay.run import run
from neolayer.relay.status import relay_folder
from neolayer.settings import Settings
from neolayer.workers.process import run_worker


async def relay(settings: Settings, stop: asyncio.Event) -> None:
    """Carry the commit log into every store the catalogue names, until told to stop."""
    at = endpoints(settings)
    async with webhook_sinks(settings, at) as more:
        await run(
            at,
            settings.relay,
            stop,
            classes=data_classes(),
            more=more,
            folder=relay_folder(settings.data_dir),
        )


if __name__ == "__main__":
    raise SystemExit(run_worker(relay, __doc__ or ""))
