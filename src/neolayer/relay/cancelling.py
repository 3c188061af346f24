"""Cancellations: whose end was wished, that of the running task or of what it waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

from neolayer.errors import RelayError


@contextmanager
def answered(who: str) -> Generator[None]:
    """Make a failure of a cancellation that nobody wished. Raises RelayError.

    A client may cancel what it was asked for, as some do with what is under way when they lose
    their connection. The task that waited would end like one that was told to, and its group would
    take it for that and say nothing.
    """
    try:
        yield
    except asyncio.CancelledError as exc:
        if _is_cancelled():
            raise
        raise RelayError(f"{who} was left without an answer") from exc


def honour_cancellation() -> None:
    """Raise CancelledError where it was lost.

    In Python 3.11 `asyncio.wait_for`, which redis-py uses, swallows a cancellation that arrives in
    the moment its work ends, and a group of tasks tells of what failed in it rather than of that; a
    lane that missed it would keep the whole relay from starting again.
    """
    if _is_cancelled():
        raise asyncio.CancelledError


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
