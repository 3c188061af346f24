"""All subscriptions of a tenant: which there are, how they fare, what one has parked, and its end.

for one in await acme.events.subscriptions.list():
    print(one.name, one.lag_events, one.parked)
await acme.events.subscriptions.delete("letters")
"""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from datetime import datetime

from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import NotFound
from neolayer.events.archive import Archive
from neolayer.events.model import Place
from neolayer.events.parked import Parked
from neolayer.events.segments import SegmentStore
from neolayer.tenancy import Scope

sql = load_queries(__name__, "subscriptions.sql")


@dataclass(frozen=True, slots=True)
class SubscriptionStanding:
    """A subscription, of `types` (None: all). All up to `place` was handled or parked;
    `lag_events` lie behind it, of all types and at most 100,000; `consumers` work on it now."""

    name: str
    partitions: int
    types: tuple[str, ...] | None
    created_at: datetime
    place: Place
    lag_events: int
    parked: int
    consumers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Subscriptions:
    """The subscriptions of one tenant. `scope` is one of the event store."""

    scope: Scope
    segments: SegmentStore | None = None

    async def list(self) -> builtins.list[SubscriptionStanding]:
        """Every one, by name."""
        return [
            SubscriptionStanding(
                name,
                partitions,
                None if types is None else tuple(types),
                created_at,
                Place(transaction, index),
                lag,
                parked,
                tuple(names),
            )
            for name, partitions, types, created_at, transaction, index, lag, parked, names in (
                await self.scope.fetch(sql.list_subscriptions)
            )
        ]

    async def parked(self, name: str) -> Parked:
        """What the one of that name has parked, to be listed, replayed, given up.

        Raises NotFound.
        """
        if await self.scope.one(sql.subscription, {"name": name}) is None:
            raise NotFound(f"there is no subscription {name!r}")
        return Parked(self.scope, name, Archive(self.scope, self.segments))

    async def delete(self, name: str) -> None:
        """Forget a subscription with its places and what it parked; the events stay.

        Its consumers end with NotFound, when they look next. Raises NotFound.
        """
        async with self.scope.transaction() as tx:
            if await tx.one(sql.delete_subscription, {"name": name}) is None:
                raise NotFound(f"there is no subscription {name!r}")
