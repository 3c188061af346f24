"""Runs periodic tasks side by side and writes down how each fares.

A task's runs begin at whole multiples of its interval after the start; one that takes longer than
its interval leaves out the beginnings it missed. An error is logged, shown in `status`, and tried
again after a pause that doubles up to ten seconds (or the interval, where that is longer): an
engine that is restarted costs a task some seconds, a defect costs the log a line now and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

import structlog

from neolayer.errors import NeolayerError
from neolayer.insight.tasks import TasksState, TaskState
from neolayer.periodic import BoundTask
from neolayer.telemetry import mask
from neolayer.waiting import answered

_FIRST_PAUSE_S: Final = 0.25
_LAST_PAUSE_S: Final = 10.0
_WRITE_EVERY_S: Final = 1.0
_FAREWELL_S: Final = 5.0

_log = structlog.get_logger()


async def run_tasks(
    tasks: Sequence[BoundTask],
    stop: asyncio.Event,
    *,
    state_file: Path,
    farewell_s: float = _FAREWELL_S,
) -> None:
    """Run every task until `stop` is set; then what is under way has a moment to end."""
    state = TasksState(os.getpid(), time.time(), time.time())
    state.tasks = {task.name: TaskState(task.every.total_seconds()) for task in tasks}
    loops = [asyncio.create_task(repeat(task, state.tasks[task.name], stop)) for task in tasks]
    writer = asyncio.create_task(_write(state, state_file))
    try:
        await stop.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(farewell_s):
                await asyncio.gather(*loops)
    finally:
        for each in (writer, *loops):
            each.cancel()
        await asyncio.gather(writer, *loops, return_exceptions=True)


async def repeat(task: BoundTask, state: TaskState, stop: asyncio.Event) -> None:
    """One task, again and again until `stop` is set."""
    began = time.monotonic()
    every_s = task.every.total_seconds()
    while not stop.is_set():
        if await _run_once(task, state):
            elapsed = time.monotonic() - began
            pause_s = every_s - elapsed % every_s
        else:
            pause_s = pause_after(state.failures_in_a_row, task.every)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await stop.wait()


def pause_after(failures: int, every: timedelta) -> float:
    """Seconds to wait after so many failures in a row; at least one."""
    longest = max(_LAST_PAUSE_S, every.total_seconds())
    return float(min(longest, _FIRST_PAUSE_S * 2 ** min(failures - 1, 40)))


async def _run_once(task: BoundTask, state: TaskState) -> bool:
    state.started_at = time.time()
    try:
        with answered(task.name):
            await task.run()
    except Exception as exc:
        text = exc.message if isinstance(exc, NeolayerError) else f"{type(exc).__name__}: {exc}"
        state.failed(mask(text))
        _log.warning("a task failed, will be tried again", task=task.name, error=text)
        return False
    state.succeeded()
    return True


async def _write(state: TasksState, path: Path) -> None:
    while True:
        try:
            state.write(path)
        except OSError as exc:  # a full disk must not stop the work
            _log.warning("cannot write the state file", error=str(exc))
        await asyncio.sleep(_WRITE_EVERY_S)
