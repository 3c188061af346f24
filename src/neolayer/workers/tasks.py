"""Periodic work as a process: `python -m neolayer.workers.tasks --data-dir DIR`."""

from __future__ import annotations

import asyncio

from neolayer.insight.tasks import tasks_path
from neolayer.platform import endpoints
from neolayer.platform import tasks as tasks_of_all_rooms
from neolayer.settings import Settings
from neolayer.workers.process import run_worker
from neolayer.workers.schedule import run_tasks


async def tasks(settings: Settings, stop: asyncio.Event) -> None:
    """Do every room's periodic work until told to stop."""
    async with tasks_of_all_rooms(settings, endpoints(settings)) as bound:
        await run_tasks(bound, stop, state_file=tasks_path(settings.data_dir))


if __name__ == "__main__":
    raise SystemExit(run_worker(tasks, __doc__ or ""))
