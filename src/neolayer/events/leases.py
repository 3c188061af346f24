"""Which partitions of a subscription a consumer holds: claimed, kept while it is at work, freed.

A lease is what a dead consumer's partitions run out by, so it is short. A handler may take longer:
while one is at work the lease is renewed beside it, for as long as a transaction may last, over a
connection that no handler can hold. What holds the whole process up is not renewed beside, and may
lose its partition; the `fence` of the row, which rises with each owner, then keeps it from storing
anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import psycopg

from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import Conflict, EngineUnavailable, NeolayerError, NotFound
from neolayer.events.model import Place
from neolayer.telemetry import log_warning
from neolayer.tenancy import Scope
from neolayer.waiting import answered

sql = load_queries(__name__, "subscriptions.sql")
_SHARE = 3  # a lease is renewed so many times in its length
LONGEST_S = 60.0  # what a transaction may last: a handler that hangs keeps nothing for ever


class PartitionLost(Conflict):
    """Another consumer has taken the partition over, or an earlier try of the same page was stored
    after all; nothing of this batch is stored."""


@dataclass(slots=True)
class Held:
    """A partition that a consumer holds; `place` is as far as it has looked, `noted` is what is
    stored of that."""

    partition: int
    fence: int
    place: Place
    noted: Place


@dataclass(slots=True)
class Leases:
    """What one consumer of a subscription holds; `beside` is where it is renewed."""

    scope: Scope
    beside: Scope
    subscription: str
    consumer: str
    lease: timedelta
    _held: dict[int, Held] = field(default_factory=dict[int, Held])
    _claimed_at: float = float("-inf")
    _kept_until: float = float("-inf")
    _renewing: asyncio.Task[None] | None = None

    def __iter__(self):
        return iter(list(self._held.values()))

    def __contains__(self, held: Held) -> bool:
        return self._held.get(held.partition) is held

    async def claim(self) -> bool:
        """Take a fair share and give up what is more, where it is time to; whether it was.

        Raises NotFound where the subscription was deleted.
        """
        now = asyncio.get_running_loop().time()
        if now < self._claimed_at + self._every.total_seconds():
            return False
        rows = await self.scope.fetch(sql.claim, self._params)
        known, self._held = self._held, {}
        for partition, fence, transaction, index in rows:
            held = known.get(partition)
            if held is None or held.fence != fence:
                place = Place(transaction, index)
                held = Held(partition, fence, place, place)
            self._held[partition] = held
        named = {"name": self.subscription}
        if not rows and await self.scope.one(sql.subscription, named) is None:
            raise NotFound(f"the subscription {self.subscription!r} was deleted")
        self._claimed_at = now
        return True

    def forget(self) -> None:
        """Look anew what is held and how far it is: what was last stored is not known."""
        self._held, self._claimed_at = {}, float("-inf")

    @asynccontextmanager
    async def kept(self) -> AsyncGenerator[None]:
        """What is held is not taken away in this block, however long the lease is."""
        self._kept_until = asyncio.get_running_loop().time() + LONGEST_S
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._renew())
        try:
            yield
        finally:
            self._kept_until = float("-inf")

    async def leave(self) -> None:
        """Free what is held, for the others to take at once; what cannot be freed runs out."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
            self._renewing = None
        try:
            async with self.scope.transaction() as tx:
                await tx.execute(sql.leave, self._params)
        except (EngineUnavailable, psycopg.Error) as exc:
            log_warning("a subscription's partitions were not freed", reason=str(exc))

    async def _renew(self) -> None:
        loop, every_s = asyncio.get_running_loop(), self._every.total_seconds()
        while True:
            await asyncio.sleep(every_s)
            if loop.time() > self._kept_until:
                continue
            try:
                with answered("the renewal"):
                    async with asyncio.timeout(every_s):
                        await self.beside.fetch(sql.renew, self._params)
            except (NeolayerError, psycopg.Error, TimeoutError) as exc:
                reason = str(exc) or "no answer"
                log_warning("a subscription's lease was not renewed", reason=reason)

    @property
    def _every(self) -> timedelta:
        return self.lease / _SHARE

    @property
    def _params(self) -> dict[str, object]:
        return {"name": self.subscription, "consumer": self.consumer, "lease": self.lease}
