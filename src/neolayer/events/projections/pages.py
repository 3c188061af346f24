"""Read events of all tenants in reading order, fold a page, write what comes out.

The one step that every way of running a projection shares. What it writes, what it had to put aside
and how far it came are the caller's to commit together.

What the program's own code refuses is told event by event. What the database refuses is told of a
whole statement only: then the page is written again in ever smaller parts, each in a savepoint,
until the event is alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
import psycopg

from neolayer.engines.postgres.connections import Connection
from neolayer.engines.postgres.queries import load_queries
from neolayer.events.errors import (
    ProjectionFailed,
    ProjectionNotReady,
    UndecodableEvent,
    storable,
)
from neolayer.events.model import BEGINNING, Place
from neolayer.events.projections.folding import (
    Refusal,
    Refusals,
    RowKey,
    Step,
    Stored,
    Unreadable,
    failure,
    fold,
    keys_of,
    refused,
    steps_of,
)
from neolayer.events.projections.model import AnyProjection, Occurrence, Row, Slot
from neolayer.events.projections.shape import (
    Shape,
    Statements,
    keys_json,
    rows_json,
    shape_of,
    statements,
    table,
)
from neolayer.events.registry import Registry

QUERIES = load_queries(__name__)
PAGE_EVENTS: Final = 2_000
END: Final = Place(2**64 - 1, 2**63 - 1)


@dataclass(frozen=True, slots=True)
class Reach:
    """Which events a page may hold: behind `after`, up to `up_to`; `settled` keeps below the oldest
    running transaction; `seen` leaves out what that snapshot had seen; `archived` adds what was
    fetched from the archive (see `archived.py`)."""

    after: Place = BEGINNING
    up_to: Place = END
    settled: bool = True
    seen: str | None = None
    archived: bool = False

    def behind(self, place: Place) -> Reach:
        """The rest of it."""
        return replace(self, after=place)


@dataclass(frozen=True, slots=True)
class Page:
    """Some events in reading order. `last` is where the last one stands that was looked at;
    `refusals` are those that cannot be read, with their streams."""

    seen: Sequence[Occurrence]
    last: Place
    last_event: UUID
    last_at: datetime
    looked_at: int
    refusals: Refusals = field(default_factory=Refusals)


@dataclass(frozen=True, slots=True)
class Target:
    """A projection and one of its tables, with everything that is the same for each page."""

    name: str
    projection: AnyProjection
    registry: Registry
    shape: Shape
    at: Statements
    types: list[str]
    categories: Mapping[tuple[str, str], bool]

    @classmethod
    def of(
        cls,
        projection: AnyProjection,
        registry: Registry,
        slot: Slot = Slot.LIVE,
        *,
        locking: bool = False,
    ) -> Target:
        """The table of a place; `locking` where others write it meanwhile."""
        shape = shape_of(projection)
        kinds = [registry.of(kind) for kind in projection.events]
        return cls(
            projection.slot_name(slot),
            projection,
            registry,
            shape,
            statements(shape, table(projection, slot), locking=locking),
            sorted({kind.name for kind in kinds}),
            {(kind.category, kind.name): True for kind in kinds},
        )

    def wants(self, category: str, name: str) -> bool:
        """Whether it folds events of that type."""
        return (category, name) in self.categories


async def read_page(
    connection: Connection, target: Target, reach: Reach, *, limit: int = PAGE_EVENTS
) -> Page | None:
    """The next events, decoded with their personal fields sealed; None where there are none.

    Those of streams that stand still, and those that were discarded, are passed by.
    """
    cursor = await connection.execute(
        QUERIES.page_with_archive if reach.archived else QUERIES.page,
        {
            "name": target.name,
            "types": target.types,
            "transaction": str(reach.after.transaction),
            "position": reach.after.index,
            "to_transaction": str(reach.up_to.transaction),
            "to_position": reach.up_to.index,
            "settled": reach.settled,
            "seen": reach.seen,
            "limit": limit,
        },
    )
    return await page_of(connection, target, await cursor.fetchall())


async def page_of(
    connection: Connection, target: Target, rows: Sequence[tuple[Any, ...]]
) -> Page | None:
    """The page that these rows of events are; None where there are none."""
    if not rows:
        return None
    wanted = [row for row in rows if row[11] is not None and target.wants(row[5], row[6])]
    if wanted and rows[0][12]:
        standing, discarded = await _put_aside(connection, target, wanted)
        wanted = [
            row for row in wanted if (row[2], row[4]) not in standing and row[3] not in discarded
        ]
    seen, refusals = _decoded(target, wanted)
    last = rows[-1]
    return Page(seen, Place(int(last[0]), last[1]), last[3], last[9], len(rows), refusals)


async def _put_aside(
    connection: Connection, target: Target, rows: Sequence[tuple[Any, ...]]
) -> tuple[set[tuple[UUID, UUID]], set[UUID]]:
    """Of these events' streams those that stand still, and which events were discarded."""
    streams = list({(row[2], row[4]) for row in rows})
    params = {
        "name": target.name,
        "tenants": [tenant for tenant, _ in streams],
        "streams": [stream for _, stream in streams],
    }
    found = await (await connection.execute(QUERIES.put_aside, params)).fetchall()
    return (
        {(tenant, stream) for tenant, stream, _, is_discarded in found if not is_discarded},
        {event for _, _, event, is_discarded in found if is_discarded},
    )


def _decoded(target: Target, rows: Sequence[tuple[Any, ...]]) -> tuple[list[Occurrence], Refusals]:
    seen, refusals = list[Occurrence](), Refusals()
    for row in rows:
        try:
            seen.append(_occurrence(target, row))
        except UndecodableEvent as exc:
            refusals.add(_unread(target, row, exc))
    return seen, refusals


def _occurrence(target: Target, row: tuple[Any, ...]) -> Occurrence:
    _, _, tenant, event_id, stream, category, name, version, schema_version, at, user, data, _ = row
    event = target.registry.named(category, name).from_json(data.encode(), schema_version)
    return Occurrence(event, tenant, stream, category, version, event_id, at, user)


def _unread(target: Target, row: tuple[Any, ...], exc: UndecodableEvent) -> Refusal:
    tenant, event_id, stream, version = row[2], row[3], row[4], row[7]
    failed = ProjectionFailed(
        f"{target.projection.name} cannot read event {event_id}"
        f" (version {version} of {stream}): {exc.message}",
        hint=exc.hint,
    )
    failed.event_id = event_id
    return Refusal(tenant, stream, version, event_id, failed)


def is_about_rows(exc: Exception) -> bool:
    """Whether the database, or the way there, refuses what would be written, today and for ever;
    it may have said 54000 of a key too long for an index, which psycopg calls operational."""
    if isinstance(exc, psycopg.Error):
        is_limit = (exc.sqlstate or "").startswith("54")
        return is_limit or isinstance(exc, psycopg.IntegrityError | psycopg.DataError)
    return isinstance(
        exc, ValueError | TypeError | OverflowError | RecursionError | msgspec.MsgspecError
    )


async def apply(connection: Connection, target: Target, page: Page) -> None:
    """Fold a page into the table, and put aside what cannot be folded. What the database refuses
    is raised; see `is_about_rows`."""
    await _write(connection, target, page.seen, page.refusals)
    await _park(connection, target, page.refusals)


async def apply_in_parts(connection: Connection, target: Target, page: Page) -> None:
    """The same, within a transaction, finding out which events the database refuses."""
    await _write_in_parts(connection, target, page.seen, page.refusals)
    await _park(connection, target, page.refusals)


async def _write_in_parts(
    connection: Connection, target: Target, seen: Sequence[Occurrence], refusals: Refusals
) -> None:
    trial = refusals.copy()
    try:
        async with connection.transaction():
            await _write(connection, target, seen, trial)
    except Exception as exc:
        if not is_about_rows(exc):
            raise
        if len(seen) > 1:
            middle = len(seen) // 2
            for part in (seen[:middle], seen[middle:]):
                await _write_in_parts(connection, target, part, refusals)
            return
        refusals.add(refused(seen[0], failure(target.projection, seen[0], exc)))
    else:
        refusals.by_stream |= trial.by_stream


async def _write(
    connection: Connection, target: Target, seen: Sequence[Occurrence], refusals: Refusals
) -> None:
    steps = steps_of(target.projection, seen, refusals)
    stored = await _stored(connection, target, steps)
    folded = fold(target.projection, steps, stored, refusals)
    if folded.put:
        await connection.execute(target.at.put, {"rows": rows_json(folded.put)})
    if folded.removed:
        await connection.execute(
            target.at.remove, {"keys": keys_json(target.shape, folded.removed)}
        )


async def _park(connection: Connection, target: Target, refusals: Refusals) -> None:
    if not refusals:
        return
    found = refusals.by_stream.values()
    await connection.execute(
        QUERIES.put_aside_events,
        {
            "name": target.name,
            "tenants": [one.tenant for one in found],
            "streams": [one.stream_id for one in found],
            "versions": [one.version for one in found],
            "events": [one.event_id for one in found],
            "causes": [storable(one.failed.message) for one in found],
        },
    )


async def _stored(connection: Connection, target: Target, steps: Sequence[Step]) -> Stored:
    keys = keys_of(steps)
    if not keys:
        return {}
    cursor = await connection.execute(target.at.read, {"keys": keys_json(target.shape, keys)})
    return rows_of(target, keys, await cursor.fetchall())


def rows_of(target: Target, keys: Sequence[RowKey], found: Sequence[tuple[Any, ...]]) -> Stored:
    """The rows that were read, by key."""
    return {keys[number]: _row(target, text) for number, text in found}


def _row(target: Target, text: str) -> Row | Unreadable:
    try:
        return target.shape.decoder.decode(text)
    except msgspec.MsgspecError as exc:
        return Unreadable(f"is no {target.projection.row.__name__}: {exc}")


async def catch_up(
    connection: Connection, target: Target, reach: Reach, *, limit: int = PAGE_EVENTS
) -> Page | None:
    """Every page of the reach, within the caller's transaction; the last one, or None."""
    last: Page | None = None
    while (page := await read_page(connection, target, reach, limit=limit)) is not None:
        await apply_in_parts(connection, target, page)
        last, reach = page, reach.behind(page.last)
        if page.looked_at < limit:
            break
    return last


async def save(connection: Connection, target: Target, page: Page) -> None:
    """Note how far a table has come, beside what was written."""
    await connection.execute(
        QUERIES.save,
        {
            "name": target.name,
            "transaction": str(page.last.transaction),
            "position": page.last.index,
            "event_id": page.last_event,
            "recorded_at": page.last_at,
        },
    )


def require_shape(target: Target, mark: str | None) -> None:
    """Refuse to write into a table that was made for another row. Raises ProjectionNotReady."""
    if mark != target.shape.mark:
        name = target.projection.name
        raise ProjectionNotReady(
            f"{name}: its rows have other fields than the table",
            hint=f"neolayer projections rebuild {name}, then: neolayer projections switch {name}",
        )


def place_of(transaction: str | None, position: int | None) -> Place:
    """A place as `public.projections` has it; the beginning where it has none."""
    return Place(int(transaction), position) if transaction and position is not None else BEGINNING
