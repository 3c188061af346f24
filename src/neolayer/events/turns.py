"""One at a time at one place, in one process; who waits is let in in the order of asking.

What would meet a conflict and be done again waits instead, so a stream that many want to change
costs each of them one try. Other processes are not seen from here: with them, a conflict decides.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from weakref import WeakValueDictionary


class Turns:
    """A lock for each place that somebody is at, forgotten once nobody is.

    async with turns.at((tenant, stream_id)): ...
    """

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()

    def at(self, place: Hashable) -> asyncio.Lock:
        """The lock of a place, to be entered."""
        lock = self._locks.get(place)
        if lock is None:
            lock = self._locks[place] = asyncio.Lock()
        return lock

    def __len__(self) -> int:
        return len(self._locks)
