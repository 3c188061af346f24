"""Rebuild a read model beside the live one, compare the two row by row, and switch.

    rebuild    replays every event into a second table, while readers and writers use the live one
    compare    as of one place in the log: both tables' digests (the certificate) and their
               differences
    switch     in one transaction: the new table goes live, the live one is kept as the previous
    switch back    the same with the previous table, which catches up first

Every step is the owner's and ends as a whole or not at all. Who rebuilds, compares or switches a
read model does so alone: a lock of the session holds others off, and is gone with whoever is
killed. What a rebuild that did not end has left goes nowhere. Streams that stand still at an event
that cannot be folded (see `folding.py`) are counted on both sides: a certificate does not hold
while there are any, and a table in which more of them stand still than in the live one does not go
live.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from neolayer.crash_points import crash_point
from neolayer.engines.endpoints import Endpoints
from neolayer.engines.postgres.connections import Connection
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import Conflict
from neolayer.events.errors import ProjectionNotReady, UnknownProjection
from neolayer.events.model import Place
from neolayer.events.projections import tables
from neolayer.events.projections.alignment import (
    align,
    come_near,
    hold,
    in_one_snapshot,
    known,
    next_page,
    not_there,
    require_ended,
    state_of,
)
from neolayer.events.projections.archived import archived_streams, fetch_archived
from neolayer.events.projections.certificate import (
    Certificate,
    certify,
    digest_of,
    put_aside_of,
)
from neolayer.events.projections.differences import Difference, differences
from neolayer.events.projections.domain import Domain
from neolayer.events.projections.model import AnyProjection, Mode, Slot
from neolayer.events.projections.pages import (
    PAGE_EVENTS,
    Reach,
    Target,
    catch_up,
    require_shape,
    save,
)
from neolayer.events.projections.shape import shape_of

QUERIES = load_queries(__name__)
MOST_DIFFERENCES = 20

OnProgress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Live table and replay, as of one place. The certificate is about the fields both have."""

    certificate: Certificate
    differences: tuple[Difference, ...]
    new_fields: tuple[str, ...]
    gone_fields: tuple[str, ...]


async def ensure(at: Endpoints, domain: Domain) -> list[str]:
    """Make the tables of projections that are new; their names. Raises ProjectionNotReady.

    A new inline one is filled first: it must hold all events before the next append adds to it.
    """
    made: list[str] = []
    if not domain.projections:
        return made
    async with tables.owner_connection(at) as owner:
        for projection in domain.projections:
            state = await state_of(owner, projection, Slot.LIVE)
            if state is None:
                await _make(owner, at, domain, projection)
                made.append(projection.name)
            elif projection.mode is Mode.INLINE:
                require_shape(Target.of(projection, domain.registry), state.mark)
    return made


async def _make(
    owner: Connection, at: Endpoints, domain: Domain, projection: AnyProjection
) -> None:
    async with tables.turn(owner):
        if await state_of(owner, projection, Slot.LIVE) is not None:
            return  # another program was first
        await tables.create(owner, projection, Slot.LIVE)
        await _register(owner, projection, Slot.LIVE, "active")
        inline, archived = projection.mode is Mode.INLINE, bool(await archived_streams(owner))
        if archived:
            await fetch_archived(owner, at)
        if inline:
            await owner.execute(QUERIES.hold_appends)
        if inline or archived:
            reach = Reach(settled=not inline, archived=archived)
            target = Target.of(projection, domain.registry)
            page = await catch_up(owner, target, reach)
            if page is not None and not inline:
                await save(owner, target, page)
        if archived:
            await owner.execute(QUERIES.drop_archived_events)


async def rebuild(
    at: Endpoints,
    domain: Domain,
    name: str,
    *,
    on_progress: OnProgress = lambda _: None,
    page_events: int = PAGE_EVENTS,
) -> Comparison:
    """Replay every event into a new table beside the live one, and compare the two.

    A table that an earlier rebuild left there is made anew. Raises UnknownProjection,
    ProjectionFailed, ProjectionNotReady, and Conflict where somebody else is at it.
    """
    projection = domain.projection(name)
    async with tables.owner_connection(at) as owner, tables.alone(owner, name):
        async with tables.turn(owner):
            if await state_of(owner, projection, Slot.LIVE) is None:
                raise not_there(projection, Slot.LIVE)
            await tables.create(owner, projection, Slot.NEXT)
            await _register(owner, projection, Slot.NEXT, "rebuilding")
            slot = projection.slot_name(Slot.NEXT)
            await owner.execute(QUERIES.forget_parked, {"name": slot})
            await owner.execute(QUERIES.carry_discarded, {"name": name, "to": slot})
        target, done = Target.of(projection, domain.registry, Slot.NEXT), 0
        fetched = await fetch_archived(owner, at)
        archived = bool(fetched)
        looked_at = page_events
        while (
            looked_at == page_events
        ):  # what comes after a page that was not full, `_compare` folds
            looked_at = await next_page(owner, target, Slot.NEXT, page_events, archived=archived)
            done += looked_at
            on_progress(done)
        if await archived_streams(owner) != fetched:
            raise ProjectionNotReady(
                f"streams were archived while {name} was rebuilt",
                hint=f"neolayer projections rebuild {name}",
            )
        return await _compare(owner, domain, projection)


async def compare(
    at: Endpoints, domain: Domain, name: str, *, limit: int = MOST_DIFFERENCES
) -> Comparison:
    """The rebuilt table beside the live one as of now.

    Raises ProjectionNotReady without one that is whole, Conflict where somebody else is at it.
    """
    projection = domain.projection(name)
    async with tables.owner_connection(at) as owner, tables.alone(owner, name):
        await require_ended(owner, projection)
        return await _compare(owner, domain, projection, limit=limit)


async def _compare(
    owner: Connection, domain: Domain, projection: AnyProjection, *, limit: int = MOST_DIFFERENCES
) -> Comparison:
    """In one snapshot: bring the new table to where the live one is, look at both, undo that."""
    async with in_one_snapshot(owner, undone=True):
        place = await align(owner, domain, projection, Slot.NEXT)
        live = await _fields(owner, projection, Slot.LIVE)
        new = await _fields(owner, projection, Slot.NEXT)
        both = tuple(name for name in new if name in live)
        of_live = await digest_of(owner, projection, Slot.LIVE, both)
        of_next = await digest_of(owner, projection, Slot.NEXT, both)
        aside = await put_aside_of(owner, projection.slot_name(Slot.LIVE))
        aside_there = await put_aside_of(owner, projection.slot_name(Slot.NEXT))
        found: tuple[Difference, ...] = ()
        if of_live != of_next and set(projection.key) <= set(both):
            found = await differences(owner, projection, both, limit=limit)
    async with owner.transaction():
        certificate = await certify(
            owner, projection, place, (of_live, aside), (of_next, aside_there)
        )
        await _set_status(owner, projection, Slot.NEXT, "paused")
    return Comparison(
        certificate,
        found,
        tuple(name for name in new if name not in live),
        tuple(name for name in live if name not in new),
    )


async def switch(at: Endpoints, domain: Domain, name: str, *, different: bool = False) -> Place:
    """Let readers see the rebuilt table; the place it reflects. The old one is kept as previous.

    Raises ProjectionNotReady where nothing was rebuilt or a rebuild did not end, where the newest
    certificate says that the two differ (unless `different` says that they shall), and where
    streams stand still in the new table that flow in the live one; Conflict where somebody else is
    at it. Then everything is as it was.
    """
    projection = domain.projection(name)
    async with tables.owner_connection(at) as owner, tables.alone(owner, name):
        await require_ended(owner, projection)
        if not different:
            await _require_equal(owner, projection)
        await come_near(owner, domain, projection, Slot.NEXT)
        async with tables.turn(owner):
            await hold(owner, projection)
            place = await align(owner, domain, projection, Slot.NEXT)
            await _require_flowing(owner, projection)
            await tables.drop(owner, projection, Slot.PREVIOUS)
            crash_point("projections.in_switch")
            await _move(owner, projection, Slot.LIVE, Slot.PREVIOUS)
            await _move(owner, projection, Slot.NEXT, Slot.LIVE)
            crash_point("projections.before_switch_commit")
    return place


async def _require_equal(owner: Connection, projection: AnyProjection) -> None:
    """Refuse a new table that was found to differ from the live one. Raises ProjectionNotReady."""
    name = projection.name
    row = await (await owner.execute(QUERIES.newest_certificate, {"name": name})).fetchone()
    if row is not None and not row[1]:
        raise ProjectionNotReady(
            f"the rebuilt table of {name} differs from the live one (certificate {row[0]})",
            hint=f"neolayer projections diff {name} says where; where it shall:"
            f" neolayer projections switch {name} --different",
        )


async def _require_flowing(owner: Connection, projection: AnyProjection) -> None:
    """Refuse a new table that lacks streams which the live one has. Raises ProjectionNotReady."""
    names = {"name": projection.slot_name(Slot.NEXT), "other": projection.slot_name(Slot.LIVE)}
    row = await (await owner.execute(QUERIES.newly_standing, names)).fetchone()
    if row is not None and row[0]:
        raise ProjectionNotReady(
            f"{row[0]} streams stand still in the rebuilt table that flow in the live one",
            hint=f"neolayer projections parked {names['name']} says why",
        )


async def switch_back(at: Endpoints, domain: Domain, name: str) -> Place:
    """Let readers see the table from before the last switch, caught up; the place it reflects.

    What was live is kept as rebuilt, so `switch` goes forward again. Raises ProjectionNotReady
    where there is none, Conflict where somebody else is at it.
    """
    projection = domain.projection(name)
    async with tables.owner_connection(at) as owner, tables.alone(owner, name):
        await known(owner, projection, Slot.PREVIOUS)
        await come_near(owner, domain, projection, Slot.PREVIOUS)
        async with tables.turn(owner):
            await hold(owner, projection)
            place = await align(owner, domain, projection, Slot.PREVIOUS)
            await tables.drop(owner, projection, Slot.NEXT)
            await _move(owner, projection, Slot.LIVE, Slot.NEXT)
            await _move(owner, projection, Slot.PREVIOUS, Slot.LIVE)
    return place


async def drop(at: Endpoints, domain: Domain, name: str) -> None:
    """Forget a read model that no module declares any more: its tables, state and certificates.

    Until then it is one that has not folded what comes, and keeps closed streams from the archive.
    Raises Conflict where it is declared, UnknownProjection where there is none.
    """
    if any(one.name == name for one in domain.projections):
        raise Conflict(
            f"{name} is declared in the modules of the settings",
            hint="take it out of them first: what is declared is made again",
        )
    async with (
        tables.owner_connection(at) as owner,
        tables.alone(owner, name),
        tables.turn(owner),
    ):
        row = await (await owner.execute(QUERIES.state, {"name": name})).fetchone()
        if row is None:
            raise UnknownProjection(
                f"there is no read model {name!r}", hint="neolayer projections list"
            )
        await tables.drop_all(owner, name)


async def resume(at: Endpoints, domain: Domain, name: str) -> None:
    """Let a projection that stopped try again from where it stands. Raises UnknownProjection."""
    projection = domain.projection(name)
    async with tables.owner_connection(at) as owner, owner.transaction():
        await known(owner, projection, Slot.LIVE)
        await _set_status(owner, projection, Slot.LIVE, "active")


# Tables and their states


async def _move(owner: Connection, projection: AnyProjection, come_from: Slot, to: Slot) -> None:
    """A table and its state, with what an inline one had seen when it ceased to be live."""
    await tables.move(owner, projection, come_from, to)
    name = {"name": projection.slot_name(come_from)}
    if come_from is Slot.LIVE and projection.mode is Mode.INLINE:
        await owner.execute(QUERIES.note_seen, name)
    status = "active" if to is Slot.LIVE else "paused"
    values = name | {"to": projection.slot_name(to), "status": status}
    await owner.execute(QUERIES.rename, values)


async def _register(owner: Connection, projection: AnyProjection, slot: Slot, status: str) -> None:
    values: dict[str, Any] = {
        "name": projection.slot_name(slot),
        "status": status,
        "mode": projection.mode.value,
        "shape": shape_of(projection).mark,
    }
    await owner.execute(QUERIES.register, values)


async def _set_status(
    owner: Connection, projection: AnyProjection, slot: Slot, status: str
) -> None:
    values = {"name": projection.slot_name(slot), "status": status, "cause": None}
    await owner.execute(QUERIES.set_status, values)


async def _fields(owner: Connection, projection: AnyProjection, slot: Slot) -> tuple[str, ...]:
    """The columns that a table really has, without the tenant."""
    at = f"{slot.value}.{projection.name}"
    rows = await (await owner.execute(QUERIES.fields, {"table": at})).fetchall()
    return tuple(row[0] for row in rows)
