"""Where the tables of a projection are, and bringing one of them to where the live one is.

An asynchronous table is at a place in reading order, which is noted beside it. An inline one holds
whatever is committed; once it is no longer live, a snapshot of PostgreSQL tells what it had seen.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql

from neolayer.crash_points import crash_point
from neolayer.engines.postgres.connections import Connection
from neolayer.engines.postgres.queries import load_queries
from neolayer.events.errors import ProjectionNotReady
from neolayer.events.model import Place
from neolayer.events.projections import tables
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
from neolayer.events.projections.shape import table

QUERIES = load_queries(__name__)


@dataclass(frozen=True, slots=True)
class State:
    """What `public.projections` says of a table."""

    status: str
    mark: str | None
    place: Place
    seen: str | None


async def state_of(owner: Connection, projection: AnyProjection, slot: Slot) -> State | None:
    """How the table of a place is; None where there is none."""
    name = {"name": projection.slot_name(slot)}
    row = await (await owner.execute(QUERIES.state, name)).fetchone()
    return None if row is None else State(row[0], row[1], place_of(row[2], row[3]), row[4])


async def known(owner: Connection, projection: AnyProjection, slot: Slot) -> State:
    """The same of a table that must be there. Raises ProjectionNotReady."""
    state = await state_of(owner, projection, slot)
    if state is None:
        raise not_there(projection, slot)
    return state


async def require_ended(owner: Connection, projection: AnyProjection) -> None:
    """Refuse what a rebuild that did not end has left. Raises ProjectionNotReady."""
    if (await known(owner, projection, Slot.NEXT)).status == "rebuilding":
        raise ProjectionNotReady(
            f"the rebuild of {projection.name} did not end",
            hint=f"neolayer projections rebuild {projection.name}",
        )


def not_there(projection: AnyProjection, slot: Slot) -> ProjectionNotReady:
    """That a place has no table, and how one comes there."""
    name = projection.name
    match slot:
        case Slot.NEXT:
            message, hint = f"{name} was not rebuilt", f"neolayer projections rebuild {name}"
        case Slot.PREVIOUS:
            message, hint = f"{name} was never switched: there is nothing to go back to", None
        case Slot.LIVE:
            message, hint = f"{name} has no table yet", "start the layer with it: neolayer up"
    return ProjectionNotReady(message, hint=hint)


async def hold(owner: Connection, projection: AnyProjection) -> None:
    """Keep projector and appends from the live table until the end of the transaction."""
    name = projection.slot_name(Slot.LIVE)
    await owner.execute(QUERIES.hold_state, {"name": name})
    statement = sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE")
    if not await tables.exists(owner, projection, Slot.LIVE):
        raise not_there(projection, Slot.LIVE)
    await owner.execute(statement.format(table(projection, Slot.LIVE)))


async def next_page(
    owner: Connection, target: Target, slot: Slot, limit: int, *, archived: bool = False
) -> int:
    """Fold a page in a transaction of its own, up to where the live table is, so that the other is
    never ahead of it; how many events were looked at."""
    try:
        return await _page(owner, target, slot, limit, archived=archived, in_parts=False)
    except Exception as exc:
        if not is_about_rows(exc):
            raise
    return await _page(owner, target, slot, limit, archived=archived, in_parts=True)


async def _page(
    owner: Connection, target: Target, slot: Slot, limit: int, *, archived: bool, in_parts: bool
) -> int:
    projection = target.projection
    async with owner.transaction():
        live = await known(owner, projection, Slot.LIVE)
        mine = await known(owner, projection, slot)
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


async def come_near(
    owner: Connection, domain: Domain, projection: AnyProjection, slot: Slot
) -> None:
    """Bring a table to about where the live one is while everybody goes on, so that little is left
    for `align` to do where nobody may. Raises ProjectionNotReady."""
    mine = await known(owner, projection, slot)
    target = Target.of(projection, domain.registry, slot)
    if _goes_on_by_itself(target, slot, mine):
        return
    require_shape(target, mine.mark)
    if projection.mode is Mode.ASYNC:
        await _require_unarchived(owner, projection, mine.place)
        while await next_page(owner, target, slot, PAGE_EVENTS) == PAGE_EVENTS:
            pass
        return
    async with in_one_snapshot(owner):
        await align(owner, domain, projection, slot)
        await owner.execute(QUERIES.note_seen, {"name": target.name})


@asynccontextmanager
async def in_one_snapshot(owner: Connection, *, undone: bool = False) -> AsyncGenerator[None]:
    """A transaction that sees one moment from beginning to end; rolled back where `undone`."""
    await owner.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
    try:
        async with owner.transaction(force_rollback=undone):
            yield
    finally:
        await owner.set_isolation_level(None)


async def align(owner: Connection, domain: Domain, projection: AnyProjection, slot: Slot) -> Place:
    """Bring a table to where the live one is; that place. Within the caller's transaction.

    An asynchronous one is where its checkpoint says. An inline one holds whatever is committed.
    """
    live = await known(owner, projection, Slot.LIVE)
    mine = await known(owner, projection, slot)
    target = Target.of(projection, domain.registry, slot)
    if _goes_on_by_itself(target, slot, mine):
        return mine.place
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


def _goes_on_by_itself(target: Target, slot: Slot, mine: State) -> bool:
    """Whether the program that made the table folds on from where it is, once it is live again."""
    other = mine.mark != target.shape.mark
    return other and (slot, target.projection.mode) == (Slot.PREVIOUS, Mode.ASYNC)


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
