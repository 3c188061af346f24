"""Keys that lie in a table, locked by the master key of a service.

A data key is wrapped here, by a key that the service has unlocked for us; the service is asked once
for each key and lifetime instead of once for each secret, and a sealed text stays short whoever
locks. What an unlocked key may be used for is bounded in time and number: access that is taken
away at the service ends `most_seconds` later at the latest.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cryptography.hazmat.primitives.keywrap import aes_key_wrap

from neolayer.keys.errors import LockRefused, MissingKey, WrongKey
from neolayer.keys.keyset import unwrap_under
from neolayer.keys.names import KeyName
from neolayer.keys.provider import WrappedKey
from neolayer.keys.providers.master import Context, LockedKey, MasterKey
from neolayer.keys.store import KeyStore

# How long a process may go on sealing with the key before the current one.
CURRENT_SECONDS = 1.0
_PLACE = "core.locked_keys"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many unlocked keys are kept, and for how long."""

    most_keys: int = 64
    most_seconds: float = 300.0


@dataclass(slots=True)
class _Unlocked:
    key: bytes = field(repr=False)
    until: float


class GuardedKeys:
    """Keys locked by `masters[locks_with]`; the other masters still unlock what they locked."""

    def __init__(
        self,
        masters: Mapping[str, MasterKey],
        locks_with: str,
        store: KeyStore,
        *,
        bounds: Bounds | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._masters = masters
        self._locks_with = locks_with
        self._store = store
        self._bounds = bounds or Bounds()
        self._clock = clock
        self._unlocked: OrderedDict[KeyName, _Unlocked] = OrderedDict()
        self._current: tuple[KeyName, float] | None = None
        self._under_way: dict[KeyName | None, asyncio.Task[Any]] = {}

    def __repr__(self) -> str:
        return f"GuardedKeys({self._locks_with})"

    async def wrap(self, data_key: bytes) -> WrappedKey:
        name = await self.current()
        return WrappedKey(name, aes_key_wrap(await self._key(name), data_key))

    async def unwrap(self, wrapped: WrappedKey) -> bytes:
        return unwrap_under(await self._key(wrapped.key), wrapped, place=_PLACE)

    async def current(self) -> KeyName:
        if self._current is None or self._current[1] <= self._clock():
            return await self._once(None, self._find_current)
        return self._current[0]

    async def _find_current(self) -> KeyName:
        names = await self._store.names()
        name = names[-1] if names else await self.rotate()
        self._current = (name, self._clock() + CURRENT_SECONDS)
        return name

    async def versions(self) -> tuple[KeyName, ...]:
        await self.current()
        return await self._store.names()

    async def rotate(self) -> KeyName:
        """A new version; where two make one at once, both get the one that was first."""
        name = await self._store.next_name()
        _, locked = await self._masters[self._locks_with].generate(_context(name))
        await self._store.add(name, locked)
        self._current = None
        return (await self._store.names())[-1]

    async def health(self) -> None:
        """The service is asked, whatever is unlocked already."""
        name = await self.current()
        await self._unlock(name, await self._stored(name))

    async def relock(self) -> int:
        names = await self._store.names()
        for name in names:
            locked = await self._stored(name)
            await self._store.replace(name, locked, await self._relocked(name, locked))
        return len(names)

    async def _relocked(self, name: KeyName, locked: LockedKey) -> LockedKey:
        master = self._masters[self._locks_with]
        try:
            if locked.locked_by.partition(":")[0] == self._locks_with:
                return await master.reencrypt(locked, _context(name))
        except LockRefused:
            raise WrongKey(str(name), place=_PLACE) from None
        return await master.encrypt(await self._unlock(name, locked), _context(name))

    async def _key(self, name: KeyName) -> bytes:
        """The key, unlocked. Raises MissingKey, WrongKey."""
        return self._kept(name) or await self._once(name, lambda: self._fetch(name))

    def _kept(self, name: KeyName) -> bytes | None:
        kept = self._unlocked.get(name)
        if kept is None or kept.until <= self._clock():
            self._unlocked.pop(name, None)
            return None
        self._unlocked.move_to_end(name)
        return kept.key

    async def _fetch(self, name: KeyName) -> bytes:
        key = await self._unlock(name, await self._stored(name))
        self._unlocked[name] = _Unlocked(key, self._clock() + self._bounds.most_seconds)
        while len(self._unlocked) > self._bounds.most_keys:
            self._unlocked.popitem(last=False)
        return key

    async def _once(self, wanted: KeyName | None, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What `ask` gives, for all who want it at the same time; a failure too is for all of them.

        One of them giving up does not end it.
        """
        task = self._under_way.get(wanted)
        if task is None:
            task = self._under_way[wanted] = asyncio.create_task(ask())
            task.add_done_callback(lambda done: self._landed(wanted, done))
        return await asyncio.shield(task)

    def _landed(self, wanted: KeyName | None, task: asyncio.Task[Any]) -> None:
        self._under_way.pop(wanted, None)
        if not task.cancelled():
            task.exception()  # looked at, should nobody be waiting any more

    async def _stored(self, name: KeyName) -> LockedKey:
        locked = await self._store.locked(name)
        if locked is None:
            raise MissingKey(
                str(name), place=_PLACE, hint="restore the database with all of its tables"
            )
        return locked

    async def _unlock(self, name: KeyName, locked: LockedKey) -> bytes:
        kind = locked.locked_by.partition(":")[0]
        master = self._masters.get(kind)
        if master is None:
            raise MissingKey(
                str(name),
                place=f"what {self._locks_with} can unlock: {locked.locked_by} locks it",
                hint=f"set NEOLAYER_KEYS__EARLIER={kind} and what that needs, then:"
                " neolayer keys rewrap",
            )
        try:
            return await master.decrypt(locked, _context(name))
        except LockRefused:
            raise WrongKey(str(name), place=_PLACE) from None


def _context(name: KeyName) -> Context:
    """Which key is locked: one that stands in another's place does not unlock."""
    return {"purpose": "neolayer key-encryption key", "key": str(name)}
