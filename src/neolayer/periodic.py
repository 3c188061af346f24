"""Work that is done again and again: what a room declares and the worker `tasks` carries out.

A room's `tasks.py` lists its own, each with what it needs as its one parameter:

    TASKS = (Task("identity: end old sessions", timedelta(minutes=5), end_old_sessions),)

`platform.py` gives each what it needs (`task.given(core)`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Generic, TypeVar

Need = TypeVar("Need")


@dataclass(frozen=True, slots=True)
class Task(Generic[Need]):
    """One piece of work, done every `every`, never twice at a time; an error is tried again."""

    name: str
    every: timedelta
    run: Callable[[Need], Awaitable[object]]

    def given(self, need: Need) -> BoundTask:
        """The task with what it needs."""
        return BoundTask(self.name, self.every, partial(self.run, need))


@dataclass(frozen=True, slots=True)
class BoundTask:
    """A task that can run."""

    name: str
    every: timedelta
    run: Callable[[], Awaitable[object]]
