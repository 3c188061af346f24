"""Read events of all tenants in reading order, fold a page, write what comes out.

The one step that every way of running a projection shares. It neither opens nor ends a transaction:
what it writes and how far it came are the caller's to commit together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from neolayer.engines.postgres.connections import Connection
from neolayer.engines.postgres.queries import load_queries
from neolayer.events.errors import ProjectionFailed, ProjectionNotReady, UndecodableEvent
from neolayer.events.model import BEGINNING, Place
from neolayer.events.projections.folding import Folded, RowKey, Step, fold, keys_of, steps_of
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
    """Some events in reading order. `last` is where the last one stands that was looked at."""

    seen: Sequence[Occurrence]
    last: Place
    last_event: UUID
    last_at: datetime
    looked_at: int


@dataclass(frozen=True, slots=True)
class Target:
    """A projection and one of its tables, with everything that is the same for each page."""

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

    Raises ProjectionFailed where one cannot be decoded: then with what came before it left out too.
    """
    cursor = await connection.execute(
        QUERIES.page_with_archive if reach.archived else QUERIES.page,
        {
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
    rows = await cursor.fetchall()
    if not rows:
        return None
    seen = [
        _occurrence(target, row)
        for row in rows
        if row[11] is not None and target.wants(row[5], row[6])
    ]
    last = rows[-1]
    return Page(seen, Place(int(last[0]), last[1]), last[3], last[9], len(rows))


def _occurrence(target: Target, row: tuple[Any, ...]) -> Occurrence:
    _, _, tenant, event_id, stream, category, name, version, schema_version, at, user, data = row
    try:
        event = target.registry.named(category, name).from_json(data.encode(), schema_version)
    except UndecodableEvent as exc:
        failed = ProjectionFailed(
            f"{target.projection.name} cannot read event {event_id}"
            f" (version {version} of {stream}): {exc.message}",
            hint=exc.hint,
        )
        failed.event_id = event_id
        raise failed from exc
    return Occurrence(event, tenant, stream, category, version, event_id, at, user)


async def apply(connection: Connection, target: Target, seen: Sequence[Occurrence]) -> Folded:
    """Fold these events into the table. Raises ProjectionFailed; then nothing is written."""
    steps = steps_of(target.projection, seen)
    folded = fold(target.projection, steps, await _stored(connection, target, steps))
    if folded.put:
        await connection.execute(target.at.put, {"rows": rows_json(folded.put)})
    if folded.removed:
        await connection.execute(
            target.at.remove, {"keys": keys_json(target.shape, folded.removed)}
        )
    return folded


async def _stored(
    connection: Connection, target: Target, steps: Sequence[Step]
) -> Mapping[RowKey, Row]:
    keys = keys_of(steps)
    if not keys:
        return {}
    cursor = await connection.execute(target.at.read, {"keys": keys_json(target.shape, keys)})
    return rows_of(target, keys, await cursor.fetchall())


def rows_of(
    target: Target, keys: Sequence[RowKey], found: Sequence[tuple[Any, ...]]
) -> dict[RowKey, Row]:
    """The rows that were read, by key. Raises ProjectionFailed where one is of another shape."""
    try:
        return {keys[number]: target.shape.decoder.decode(text) for number, text in found}
    except msgspec.ValidationError as exc:
        raise ProjectionFailed(
            f"{target.projection.name}: a stored row is no {target.projection.row.__name__}: {exc}",
            hint=f"neolayer projections rebuild {target.projection.name}",
        ) from exc


async def catch_up(
    connection: Connection, target: Target, reach: Reach, *, limit: int = PAGE_EVENTS
) -> Page | None:
    """Every page of the reach, within the caller's transaction; the last one, or None."""
    last: Page | None = None
    while (page := await read_page(connection, target, reach, limit=limit)) is not None:
        await apply(connection, target, page.seen)
        last, reach = page, reach.behind(page.last)
        if page.looked_at < limit:
            break
    return last


async def save(connection: Connection, name: str, page: Page) -> None:
    """Note how far a table has come, beside what was written."""
    await connection.execute(
        QUERIES.save,
        {
            "name": name,
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
