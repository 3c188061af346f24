"""Waiting for work that no cancellation can stop, as what runs in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def to_its_end(work: Awaitable[T]) -> T:
    """What it comes to, waited for however often the waiter is cancelled.

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
