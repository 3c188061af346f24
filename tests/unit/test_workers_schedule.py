"""The loop that does periodic work: steady, patient with failures, and honest about both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from neolayer.errors import EngineUnavailable
from neolayer.insight.tasks import TasksState, TaskState, read_tasks
from neolayer.periodic import BoundTask, Task
from neolayer.workers.schedule import pause_after, repeat, run_tasks

SOON = timedelta(milliseconds=1)


class Work:
    """Fails on the runs it was told to, and sets an event after so many runs."""

    def __init__(self, *, until: int, fails: Callable[[int], BaseException | None]) -> None:
        self.runs = 0
        self.at_once = 0
        self.most_at_once = 0
        self.done = asyncio.Event()
        self._until, self._fails = until, fails

    async def run(self) -> None:
        self.runs += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if self.runs >= self._until:
            self.done.set()
        if (error := self._fails(self.runs)) is not None:
            raise error


async def test_a_failure_is_told_and_tried_again() -> None:
    """An error does not end the loop; it stands in the state until a run ends well."""
    error = EngineUnavailable("postgres", "db:5432 refuses the connection")
    work = Work(until=3, fails=lambda run: error if run < 2 else None)
    state = TaskState(SOON.total_seconds())
    seen: list[str | None] = []

    async def watched() -> None:
        seen.append(state.error)
        await work.run()

    await repeat(BoundTask("t", SOON, watched), state, work.done)
    assert seen == [None, error.message, None]
    assert (state.runs, state.failures, state.failures_in_a_row, state.error) == (2, 1, 0, None)
    assert work.most_at_once == 1


async def test_work_that_is_given_up_by_itself_is_tried_again() -> None:
    """A client of its own cancels what it waits for; nobody wished that the work ends."""
    work = Work(until=2, fails=lambda run: asyncio.CancelledError() if run < 2 else None)
    state = TaskState(SOON.total_seconds())
    await repeat(BoundTask("t", SOON, work.run), state, work.done)
    assert (state.runs, state.failures, state.failures_in_a_row) == (1, 1, 0)


async def test_E12_an_error_is_told_without_its_secrets() -> None:
    """Whatever an exception says goes through the mask before it is kept."""
    stop = asyncio.Event()

    async def fails() -> None:
        stop.set()
        raise RuntimeError("password=canary-5b21")

    state = TaskState(1.0)
    await repeat(BoundTask("t", SOON, fails), state, stop)
    assert state.error == "RuntimeError: password=***"


def test_pauses_grow_and_end() -> None:
    """Double from a quarter of a second to ten, or to the interval where that is longer."""
    short, long = timedelta(seconds=0.25), timedelta(minutes=5)
    assert [pause_after(n, short) for n in (1, 2, 3, 10, 10_000)] == [0.25, 0.5, 1, 10, 10]
    assert pause_after(10_000, long) == 300


async def test_tasks_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """One that hangs holds up no other, and is given up at the end; the state is in the file."""
    work = Work(until=3, fails=lambda _: None)
    began, given_up = asyncio.Event(), asyncio.Event()

    async def hang(_: None) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()

    tasks = [Task("hang", SOON, hang).given(None), BoundTask("work", SOON, work.run)]
    file, stop = tmp_path / "tasks" / "state.json", asyncio.Event()
    running = asyncio.create_task(run_tasks(tasks, stop, state_file=file, farewell_s=0.01))
    await asyncio.gather(began.wait(), work.done.wait())
    state = read_tasks(file)
    assert state is not None and state.is_running and set(state.tasks) == {"hang", "work"}
    stop.set()
    await running
    assert given_up.is_set()


def test_a_stale_or_broken_state_is_not_taken_for_a_running_worker(tmp_path: Path) -> None:
    """A file of a dead process, an old one, half a one, none."""
    file = tmp_path / "state.json"
    assert read_tasks(file) is None
    file.write_text("{")
    assert read_tasks(file) is None
    TasksState(pid=2**22 + 1, started_at=0, updated_at=0).write(file)
    state = read_tasks(file)
    assert state is not None and not state.is_running
    state.pid, state.updated_at = 1, 0
    assert not state.is_running
