"""Waiting for what comes: until something was appended here, a pause is over, or it is time to end.

`follow` is for whoever reads all events and keeps the place by themselves; who shares the work, or
wants the place kept, subscribes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Final

from neolayer.events.model import BEGINNING, Place, RecordedEvent

POLL: Final = timedelta(milliseconds=50)
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 5.0


async def follow(
    read_after: Callable[[Place], Awaitable[list[RecordedEvent]]],
    *,
    after: Place = BEGINNING,
    poll: timedelta = POLL,
    committed: Callable[[], asyncio.Event] | None = None,
) -> AsyncIterator[RecordedEvent]:
    """Every event from a place on, for ever."""
    while True:
        news = None if committed is None else committed()
        events = await read_after(after)
        for event in events:
            after = event.place
            yield event
        if not events:
            await wait(poll, news)


async def wait(pause: timedelta, *signals: asyncio.Event | None) -> None:
    """Until one of the signals is set, or the pause is over."""
    waiting = [asyncio.create_task(each.wait()) for each in signals if each is not None]
    if not waiting:
        await asyncio.sleep(pause.total_seconds())
        return
    try:
        await asyncio.wait(
            waiting, timeout=pause.total_seconds(), return_when=asyncio.FIRST_COMPLETED
        )
    finally:
        for each in waiting:
            each.cancel()


def back_off(failures: int) -> timedelta:
    """How long to wait before the next try, after so many in vain before this one."""
    return timedelta(seconds=min(_FIRST_PAUSE_S * 2 ** min(failures, 10), _LONGEST_PAUSE_S))
