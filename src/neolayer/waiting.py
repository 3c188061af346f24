"""Waiting and cancellation: whose end was wished, and what no cancellation stops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator
from contextlib import contextmanager
from typing import TypeVar

from neolayer.errors import Unanswered

T = TypeVar("T")


@contextmanager
def answered(who: str) -> Generator[None]:
    """Make a failure of a cancellation that nobody wished. Raises Unanswered.

    A client may cancel what it was asked for, as some do with what is under way when they lose
    their connection. The task that waited would end like one that was told to, and its group would
    take it for that and say nothing.
    """
    try:
        yield
    except asyncio.CancelledError as exc:
        if _is_cancelled():
            raise
        raise Unanswered(f"{who} was left without an answer") from exc


def honour_cancellation() -> None:
    """Raise CancelledError where it was lost.

    In Python 3.11 `asyncio.wait_for`, which redis-py uses, swallows a cancellation that arrives in
    the moment its work ends, and a group of tasks tells of what failed in it rather than of that; a
    loop that missed it would go on for ever.
    """
    if _is_cancelled():
        raise asyncio.CancelledError


def _is_cancelled() -> bool:
    """Whether the running task is to end. In Python 3.11 also, and for ever, where a group of tasks
    failed while it waited for that group's end: such a group needs a task of its own."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def to_its_end(work: Awaitable[T]) -> T:
    """What it comes to, as of a thread, waited for however often the waiter is cancelled.

    Such a cancellation is raised once the work has ended, whatever that came to: hand in a future
    and look at it where its failure matters more.
    """
    ending = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not ending.done():
        try:
            await asyncio.wait([ending])
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        if not ending.cancelled():
            ending.exception()  # looked at, so that nobody is told of it at the very end
        try:
            raise cancelled
        finally:
            del cancelled  # which holds this frame
    return ending.result()
