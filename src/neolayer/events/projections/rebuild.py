"""Rebuild a read model beside the live one, compare the two row by row, and switch.

    rebuild    replays every event into a second table, while readers and writers use the live one
    compare    as of one place in the log: both tables' digests (the certificate) and their
               differences
    switch     in one transaction: the new table goes live, the live one is kept as the previous
    switch back    the same with the previous table, which catches up first

Every step is the owner's, takes its turn under one lock, and ends as a whole or not at all. Streams
that stand still at an event that cannot be folded (see `folding.py`) are counted on both sides: a
certificate does not hold while there are any, and a table in which more of them stand still than in
the live one does not go live.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from neolayer.crash_points import crash_point
from neolayer.engines.endpoints import Endpoints
from neolayer.engines.postgres.connections import Connection
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import Conflict
from neolayer.events.errors import ProjectionNotReady, UnknownProjection
from neolayer.events.model import Place
from neolayer.events.projections import tables
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
    END,
    PAGE_EVENTS,
    Reach,
    Target,
    apply,
    apply_in_parts,
    catch_up,
    is_about_rows,
    place_of,
    read_page,
    require_shape,
    save,
)
from neolayer.events.projections.shape import shape_of, table

QUERIES = load_queries(__name__)
MOST_DIFFERENCES = 20

OnProgress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class State:
    """What `public.projections` says of a table."""

    status: str
    mark: str | None
    place: Place
    seen: str | None


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
            state = await _state(owner, projection, Slot.LIVE)
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
        if await _state(owner, projection, Slot.LIVE) is not None:
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
    ProjectionFailed, ProjectionNotReady.
    """
    projection = domain.projection(name)
    async with tables.owner_connection(at) as owner:
        async with tables.turn(owner):
            if await _state(owner, projection, Slot.LIVE) is None:
                raise _not_there(projection, Slot.LIVE)
            await tables.create(owner, projection, Slot.NEXT)
            await _register(owner, projection, Slot.NEXT, "rebuilding")
            slot = projection.slot_name(Slot.NEXT)
            await owner.execute(QUERIES.forget_parked, {"name": slot})
            await owner.execute(QUERIES.carry_discarded, {"name": name, "to": slot})
        target, done = Target.of(projection, domain.registry, Slot.NEXT), 0
        fetched = await fetch_archived(owner, at)
        while looked_at := await _next_page(owner, target, page_events, archived=bool(fetched)):
            done += looked_at
            on_progress(done)
        if await archived_streams(owner) != fetched:
            raise ProjectionNotReady(
                f"streams were archived while {name} was rebuilt",
                hint=f"neolayer projections rebuild {name}",
            )
        return await _compare(owner, domain, projection)


async def _next_page(owner: Connection, target: Target, limit: int, *, archived: bool) -> int:
    """Up to where the live table is, so that the new one is never ahead of it."""
    try:
        return await _page(owner, target, limit, archived=archived, in_parts=False)
    except Exception as exc:
        if not is_about_rows(exc):
            raise
    return await _page(owner, target, limit, archived=archived, in_parts=True)


async def _page(
    owner: Connection, target: Target, limit: int, *, archived: bool, in_parts: bool
) -> int:
    projection = target.projection
    async with owner.transaction():
        live = await known(owner, projection, Slot.LIVE)
        mine = await known(owner, projection, Slot.NEXT)
        up_to = live.place if projection.mode is Mode.ASYNC else END
        reach = Reach(mine.place, up_to, archived=archived)
        page = await read_page(owner, target, reach, limit=limit)
        if page is None:
            return 0
        crash_point("projections.before_rebuild_write")
        await (apply_in_parts if in_parts else apply)(owner, target, page)
        await save(owner, target, page)
        crash_point("projections.before_rebuild_commit")
    return page.looked_at


async def compare(
    at: Endpoints, domain: Domain, name: str, *, limit: int = MOST_DIFFERENCES
) -> Comparison:
    """The rebuilt table beside the live one as of now. Raises ProjectionNotReady without one."""
    async with tables.owner_connection(at) as owner:
        return await _compare(owner, domain, domain.projection(name), limit=limit)


async def _compare(
    owner: Connection, domain: Domain, projection: AnyProjection, *, limit: int = MOST_DIFFERENCES
) -> Comparison:
    """In one snapshot: bring the new table to where the live one is, look at both, undo that."""
    await owner.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
    try:
        async with owner.transaction(force_rollback=True):
            place = await _align(owner, domain, projection, Slot.NEXT)
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
    finally:
        await owner.set_isolation_level(None)
    async with owner.transaction():
        certificate = await certify(
            owner, projection, place, (of_live, aside), (of_next, aside_there)
        )
    return Comparison(
        certificate,
        found,
        tuple(name for name in new if name not in live),
        tuple(name for name in live if name not in new),
    )


async def switch(at: Endpoints, domain: Domain, name: str) -> Place:
    """Let readers see the rebuilt table; the place it reflects. The old one is kept as previous.

    Raises ProjectionNotReady where nothing was rebuilt, and where streams stand still in the new
    table that flow in the live one: then everything is as it was.
    """
    projection = domain.projection(name)
    async with tables.owner_connection(at) as owner, tables.turn(owner):
        await hold(owner, projection)
        place = await _align(owner, domain, projection, Slot.NEXT)
        await _require_flowing(owner, projection)
        await tables.drop(owner, projection, Slot.PREVIOUS)
        crash_point("projections.in_switch")
        await _move(owner, projection, Slot.LIVE, Slot.PREVIOUS)
        await _move(owner, projection, Slot.NEXT, Slot.LIVE)
        crash_point("projections.before_switch_commit")
    return place


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

    What was live is kept as rebuilt, so `switch` goes forward again. Raises as `switch`.
    """
    projection = domain.projection(name)
    async with tables.owner_connection(at) as owner, tables.turn(owner):
        await hold(owner, projection)
        place = await _align(owner, domain, projection, Slot.PREVIOUS)
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
    async with tables.owner_connection(at) as owner, tables.turn(owner):
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
        await _set_status(owner, projection, "active")


# What these have in common


async def hold(owner: Connection, projection: AnyProjection) -> None:
    """Keep projector and appends from the live table until the end of the transaction."""
    name = projection.slot_name(Slot.LIVE)
    await owner.execute(QUERIES.hold_state, {"name": name})
    statement = sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE")
    if not await tables.exists(owner, projection, Slot.LIVE):
        raise _not_there(projection, Slot.LIVE)
    await owner.execute(statement.format(table(projection, Slot.LIVE)))


async def _align(owner: Connection, domain: Domain, projection: AnyProjection, slot: Slot) -> Place:
    """Bring a table to where the live one is; that place. Within the caller's transaction.

    An asynchronous one is where its checkpoint says. An inline one holds whatever is committed.
    """
    live = await known(owner, projection, Slot.LIVE)
    mine = await known(owner, projection, slot)
    target = Target.of(projection, domain.registry, slot)
    if mine.mark != target.shape.mark and (slot, projection.mode) == (Slot.PREVIOUS, Mode.ASYNC):
        return mine.place  # the program that made it goes on with it from there
    require_shape(target, mine.mark)
    if projection.mode is Mode.ASYNC:
        reach = Reach(mine.place, max(live.place, mine.place))
    else:
        after = mine.place if mine.seen is None else _before_all_unseen(mine.seen)
        reach = Reach(after, settled=False, seen=mine.seen)
    await _require_unarchived(owner, projection, reach.after)
    page = await catch_up(owner, target, reach)
    if page is not None:
        await save(owner, target, page)
        return page.last
    return max(mine.place, live.place)


async def _require_unarchived(owner: Connection, projection: AnyProjection, after: Place) -> None:
    """Refuse to catch up past events that lie in the archive. Raises ProjectionNotReady."""
    place = {"transaction": str(after.transaction), "position": after.index}
    row = await (await owner.execute(QUERIES.archived_after, place)).fetchone()
    if row is not None and row[0]:
        raise ProjectionNotReady(
            f"streams were archived since this table of {projection.name} was made",
            hint=f"neolayer projections rebuild {projection.name}",
        )


def _before_all_unseen(snapshot: str) -> Place:
    """Every transaction below a snapshot's first number had ended by then."""
    return Place(int(snapshot.split(":")[0]) - 1, END.index)


async def _move(owner: Connection, projection: AnyProjection, come_from: Slot, to: Slot) -> None:
    """A table and its state, with what an inline one had seen when it ceased to be live."""
    await tables.move(owner, projection, come_from, to)
    name = {"name": projection.slot_name(come_from)}
    if come_from is Slot.LIVE and projection.mode is Mode.INLINE:
        await owner.execute(QUERIES.note_seen, name)
    status = "active" if to is Slot.LIVE else "paused"
    values = name | {"to": projection.slot_name(to), "status": status}
    await owner.execute(QUERIES.rename, values)


async def _state(owner: Connection, projection: AnyProjection, slot: Slot) -> State | None:
    name = {"name": projection.slot_name(slot)}
    row = await (await owner.execute(QUERIES.state, name)).fetchone()
    return None if row is None else State(row[0], row[1], place_of(row[2], row[3]), row[4])


async def known(owner: Connection, projection: AnyProjection, slot: Slot) -> State:
    """The same of a table that must be there. Raises ProjectionNotReady."""
    state = await _state(owner, projection, slot)
    if state is None:
        raise _not_there(projection, slot)
    return state


def _not_there(projection: AnyProjection, slot: Slot) -> ProjectionNotReady:
    name = projection.name
    match slot:
        case Slot.NEXT:
            message, hint = f"{name} was not rebuilt", f"neolayer projections rebuild {name}"
        case Slot.PREVIOUS:
            message, hint = f"{name} was never switched: there is nothing to go back to", None
        case Slot.LIVE:
            message, hint = f"{name} has no table yet", "start the layer with it: neolayer up"
    return ProjectionNotReady(message, hint=hint)


async def _register(owner: Connection, projection: AnyProjection, slot: Slot, status: str) -> None:
    values: dict[str, Any] = {
        "name": projection.slot_name(slot),
        "status": status,
        "mode": projection.mode.value,
        "shape": shape_of(projection).mark,
    }
    await owner.execute(QUERIES.register, values)


async def _set_status(owner: Connection, projection: AnyProjection, status: str) -> None:
    values = {"name": projection.name, "status": status, "cause": None}
    await owner.execute(QUERIES.set_status, values)


async def _fields(owner: Connection, projection: AnyProjection, slot: Slot) -> tuple[str, ...]:
    """The columns that a table really has, without the tenant."""
    at = f"{slot.value}.{projection.name}"
    rows = await (await owner.execute(QUERIES.fields, {"table": at})).fetchall()
    return tuple(row[0] for row in rows)
