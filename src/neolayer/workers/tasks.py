"""Periodic work as a process: `python -m neolayer.workers.tasks --data-dir DIR`."""

from __future__ import annotations

import asyncio

from neolayer.insight.tasks import tasks_path
from neolayer.platform import endpoints
from neolayer.platform import tasks as tasks_of_all_rooms
from neolayer.settings import Settings
from neolayer.workers.process import Work, run_worker
from neolayer.workers.schedule import run_tasks


def prepare(settings: Settings) -> Work:
    """Every room's periodic work."""
    at = endpoints(settings)

    async def tasks(stop: asyncio.Event) -> None:
        async with tasks_of_all_rooms(settings, at) as bound:
            await run_tasks(bound, stop, state_file=tasks_path(settings.data_dir))

    return tasks


if __name__ == "__main__":
    raise SystemExit(run_worker(prepare, __doc__ or ""))
