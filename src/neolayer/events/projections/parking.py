"""What projections have put aside: listed, folded after all, or given up.

An event that a projection cannot fold stands in `public.projection_parked_events`, and with it its
stream stands still in that read model. `replay` folds the stream on from there, `discard` gives up
the one event and folds what waits behind it; both go as far as the read model is, a transaction a
stream. What was discarded counts for nothing in a rebuild either, and certificates say so. So does
the audit trail, which lies in another database: its entry is stored first, and where it cannot be,
nothing is given up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from neolayer.audit import Entry, append
from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.connections import Connection, connect
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import Conflict, NotFound
from neolayer.events.model import Place
from neolayer.events.projections import tables
from neolayer.events.projections.alignment import known
from neolayer.events.projections.domain import Domain
from neolayer.events.projections.folding import Stream
from neolayer.events.projections.model import Mode, Slot, of_stream
from neolayer.events.projections.pages import (
    END,
    PAGE_EVENTS,
    Page,
    Target,
    apply_in_parts,
    page_of,
    require_shape,
)
from neolayer.tenancy import Principal, Scope, open_core

QUERIES = load_queries(__name__)
_FIRST = UUID(int=0)


@dataclass(frozen=True, slots=True)
class ParkedOccurrence:
    """An event that a projection could not fold; `waiting` later ones of its stream wait behind it.
    One that was discarded holds up nothing."""

    projection: str
    tenant: UUID
    stream_id: UUID
    version: int
    event_id: UUID
    cause: str
    attempts: int
    parked_at: datetime
    discarded_at: datetime | None
    discarded_by: str | None
    waiting: int


@dataclass(frozen=True, slots=True)
class Replayed:
    """How many streams flow again, and how many still stand.

    `is_late` where rows are made of several streams, and of some later events already: what was
    replayed came after those, in a rebuild it comes before them.
    """

    flowing: int
    standing: int
    is_late: bool = field(default=False, compare=False)


async def parked(
    at: Endpoints,
    name: str | None = None,
    *,
    tenant: UUID | None = None,
    stream_id: UUID | None = None,
    discarded: bool = False,
    limit: int = 1000,
) -> list[ParkedOccurrence]:
    """What stands still, or (`discarded`) what was given up; of one projection, tenant, stream.

    A rebuilt table that is not live yet has a name of its own: `balances:next`.
    """
    dsn = at.cluster(Database.EVENT_STORE).dsn(Role.OPERATOR, Database.EVENT_STORE)
    params = {
        "name": name,
        "tenant": tenant,
        "stream": stream_id,
        "discarded": discarded,
        "limit": limit,
    }
    async with await connect(dsn, autocommit=True, application_name="projections") as operator:
        rows = await (await operator.execute(QUERIES.parked, params)).fetchall()
    return [ParkedOccurrence(*row) for row in rows]


async def replay(
    at: Endpoints,
    domain: Domain,
    name: str,
    *,
    tenant: UUID | None = None,
    stream_id: UUID | None = None,
) -> Replayed:
    """Fold streams on that stand still, in order; one that fails again stands there again.

    Raises UnknownProjection, ProjectionNotReady.
    """
    target, flowing, standing = _target(domain, name), 0, 0
    async with tables.owner_connection(at) as owner:
        async for stream in _standing(owner, name, tenant, stream_id):
            match await go_on(owner, target, stream):
                case True:
                    flowing += 1
                case False:
                    standing += 1
                case None:  # somebody else was first
                    pass
    return _replayed(target, flowing, standing)


async def discard(
    at: Endpoints, domain: Domain, name: str, *, tenant: UUID, stream_id: UUID, by: Principal
) -> Replayed:
    """Give up the event that a stream stands still at, and fold what waits behind it.

    Raises NotFound where the stream does not stand still, Conflict where somebody else gives up or
    replays that event meanwhile, and as `replay`.
    """
    async with (
        tables.owner_connection(at) as owner,
        open_core(at, size=1, application_name="projections") as core,
    ):
        values = {"name": name, "tenant": tenant, "stream": stream_id}
        row = await (await owner.execute(QUERIES.standing_at, values)).fetchone()
        if row is None:
            raise NotFound(
                f"stream {stream_id} does not stand still in {name}",
                hint=f"neolayer projections parked {name}",
            )
        stream, discarding = (tenant, stream_id), _Discarding(core.scope(tenant, by=by), row[0])
        target = _target(domain, name)
        flows = await go_on(owner, target, stream, discarding)
    if flows is None:
        raise Conflict(
            f"stream {stream_id} no longer stands at version {row[0]} in {name}: somebody else has"
            " just given it up or replayed it",
            hint=f"see what is left: neolayer projections parked {name}",
        )
    return _replayed(target, int(flows), int(not flows))


def _replayed(target: Target, flowing: int, standing: int) -> Replayed:
    return Replayed(flowing, standing, flowing > 0 and target.projection.keys is not of_stream)


def _target(domain: Domain, name: str) -> Target:
    return Target.of(domain.projection(name), domain.registry)


async def _standing(
    owner: Connection, name: str, tenant: UUID | None, stream_id: UUID | None
) -> AsyncIterator[Stream]:
    """Every stream that stands still, each once."""
    after = _FIRST, _FIRST
    while True:
        params = {
            "name": name,
            "tenant": tenant,
            "stream": stream_id,
            "after_tenant": after[0],
            "after_stream": after[1],
        }
        rows = await (await owner.execute(QUERIES.standing_streams, params)).fetchall()
        if not rows:
            return
        for row in rows:
            after = row[0], row[1]
            yield after


@dataclass(frozen=True, slots=True)
class _Discarding:
    """Who gives an event up, in their tenant's core database; and which, so that nobody gives up
    the next one because another was faster."""

    scope: Scope
    version: int

    async def note(self, name: str, stream_id: UUID, version: int, attempts: int) -> None:
        changes = {"stream_id": stream_id, "version": version, "attempts": attempts}
        async with self.scope.transaction() as tx:
            append(tx, Entry("DELETE", "parked_event", resource_id=name, changes=changes))


async def go_on(
    owner: Connection, target: Target, stream: Stream, discarding: _Discarding | None = None
) -> bool | None:
    """Fold a stream on from where it stands; whether it flows now, None where it did already.

    Raises ProjectionNotReady where the table is not this program's to fill.
    """
    tenant, stream_id = stream
    at: dict[str, Any] = {"name": target.name, "tenant": tenant, "stream": stream_id}
    async with tables.turn(owner):
        if target.projection.mode is Mode.INLINE:
            await owner.execute(QUERIES.hold_appends)
        await owner.execute(QUERIES.hold_state, {"name": target.name})
        state = await known(owner, target.projection, Slot.LIVE)
        require_shape(target, state.mark)
        if discarding is None:
            cursor = await owner.execute(QUERIES.take_standing, at)
        else:
            which = {"by": str(discarding.scope.by), "version": discarding.version}
            cursor = await owner.execute(QUERIES.discard, at | which)
        row = await cursor.fetchone()
        if row is None:
            return None
        version, attempts, parked_at = row
        up_to = END if target.projection.mode is Mode.INLINE else state.place
        refused_at = await _fold_on(owner, target, at, version, up_to)
        if refused_at == version:
            again = {"version": version, "attempts": attempts + 1, "parked_at": parked_at}
            await owner.execute(QUERIES.note_attempts, at | again)
        if discarding is not None:
            await discarding.note(target.name, stream_id, version, attempts)
    return refused_at is None


async def _fold_on(
    owner: Connection, target: Target, at: dict[str, Any], from_version: int, up_to: Place
) -> int | None:
    """Fold a stream's events up to a place; the version at which it stands again, if it does."""
    reach: dict[str, Any] = at | {
        "types": target.types,
        "to_transaction": str(up_to.transaction),
        "to_position": up_to.index,
        "from_version": from_version,
    }
    while (page := await _page(owner, target, reach)) is not None:
        await apply_in_parts(owner, target, page)
        for refusal in page.refusals.by_stream.values():
            return refusal.version
        reach["from_version"] += page.looked_at
    return None


async def _page(owner: Connection, target: Target, reach: dict[str, Any]) -> Page | None:
    params = reach | {"limit": PAGE_EVENTS}
    rows = await (await owner.execute(QUERIES.stream_page, params)).fetchall()
    return await page_of(owner, target, rows)
