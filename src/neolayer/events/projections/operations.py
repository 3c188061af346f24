"""What an operator does with read models, as one object: `platform.projections`.

for standing in await platform.projections.list():
    print(standing.name, standing.status, standing.lag_events, standing.waiting)
comparison = await platform.projections.rebuild("balances")
if comparison.certificate.holds:
    await platform.projections.switch("balances")
"""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from uuid import UUID

from neolayer.engines.endpoints import Endpoints
from neolayer.events.model import Place
from neolayer.events.projections import parking, rebuild, status
from neolayer.events.projections.domain import Domain
from neolayer.events.projections.parking import ParkedOccurrence, Replayed
from neolayer.events.projections.rebuild import MOST_DIFFERENCES, Comparison, OnProgress
from neolayer.events.projections.status import Standing
from neolayer.tenancy import Principal


@dataclass(frozen=True, slots=True)
class Projections:
    """The read models of all tenants, as the modules of `domain` declare them."""

    endpoints: Endpoints
    domain: Domain

    async def list(self) -> builtins.list[Standing]:
        """How each table is: status, place, lag, what waits, its newest certificate."""
        return await status.standings(self.endpoints)

    async def rebuild(self, name: str, *, on_progress: OnProgress = lambda _: None) -> Comparison:
        """Replay every event into a table beside the live one. Raises as `rebuild.rebuild`."""
        return await rebuild.rebuild(self.endpoints, self.domain, name, on_progress=on_progress)

    async def compare(self, name: str, *, limit: int = MOST_DIFFERENCES) -> Comparison:
        """The rebuilt table beside the live one, row by row. Raises ProjectionNotReady."""
        return await rebuild.compare(self.endpoints, self.domain, name, limit=limit)

    async def switch(self, name: str, *, different: bool = False) -> Place:
        """Let readers see the rebuilt table, `different` also where its rows are; the place it
        reflects. Raises ProjectionNotReady, Conflict."""
        return await rebuild.switch(self.endpoints, self.domain, name, different=different)

    async def switch_back(self, name: str) -> Place:
        """Let them see the one from before, caught up. Raises ProjectionNotReady."""
        return await rebuild.switch_back(self.endpoints, self.domain, name)

    async def resume(self, name: str) -> None:
        """Let one that stopped try again. Raises UnknownProjection."""
        await rebuild.resume(self.endpoints, self.domain, name)

    async def drop(self, name: str) -> None:
        """Forget one that no module declares any more. Raises Conflict, UnknownProjection."""
        await rebuild.drop(self.endpoints, self.domain, name)

    async def parked(
        self,
        name: str | None = None,
        *,
        tenant: UUID | None = None,
        stream_id: UUID | None = None,
        discarded: bool = False,
        limit: int = 1000,
    ) -> builtins.list[ParkedOccurrence]:
        """The events at which streams stand still, or (`discarded`) that were given up."""
        return await parking.parked(
            self.endpoints,
            name,
            tenant=tenant,
            stream_id=stream_id,
            discarded=discarded,
            limit=limit,
        )

    async def replay(
        self, name: str, *, tenant: UUID | None = None, stream_id: UUID | None = None
    ) -> Replayed:
        """Fold streams on that stand still. Raises UnknownProjection, ProjectionNotReady."""
        return await parking.replay(
            self.endpoints, self.domain, name, tenant=tenant, stream_id=stream_id
        )

    async def discard(self, name: str, *, tenant: UUID, stream_id: UUID, by: Principal) -> Replayed:
        """Give up the event that a stream stands still at, and fold what waits behind it.

        Raises NotFound, UnknownProjection, ProjectionNotReady.
        """
        return await parking.discard(
            self.endpoints, self.domain, name, tenant=tenant, stream_id=stream_id, by=by
        )
