"""Rows of events as events. Decoding decides what reading costs: rows come in binary form, and what
is made of their bytes is made when it is asked for (see `RecordedEvent`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast
from uuid import UUID

from psycopg.postgres import types

from neolayer.engines.postgres.parameters import BinaryTexts
from neolayer.events.archive import Marker, Page
from neolayer.events.model import Place, RecordedEvent
from neolayer.events.segments import Segment

_RAW, _TEXT, _INT = types["bytea"].oid, types["text"].oid, types["int4"].oid
_LONG = types["int8"].oid


class EventsAsked(BinaryTexts):
    """The parameters of a query for events, whose rows `recorded` reads."""

    columns: ClassVar[tuple[int, ...]] = (
        *(_RAW, _RAW, _RAW),  # tenant, event, stream
        *(_TEXT, _TEXT, _INT),  # category, type, version
        *(_RAW, _RAW),  # data, metadata
        *(_RAW, _RAW, _RAW),  # user, correlation, causation
        *(_LONG, _INT, _TEXT),  # instant, schema version, key id
        *(_LONG, _LONG),  # place
    )


def events_asked(**values: Any) -> EventsAsked:
    """These values as PostgreSQL reads them; a sequence is an array."""
    return EventsAsked({name: _text(value) for name, value in values.items()})


def after_place(place: Place) -> dict[str, Any]:
    """The place that events are asked for behind, as the queries name it."""
    return {"transaction": place.transaction, "index": place.index}


def recorded(row: Sequence[Any]) -> RecordedEvent:
    """An event from the columns that this room's queries return."""
    return RecordedEvent(row)


def page_of(rows: Sequence[Sequence[Any]]) -> Page:
    """Events, and the archived streams that stand behind them in the same rows."""
    if not any(row[1] is None for row in rows):
        return Page(list(map(RecordedEvent, rows)), [])
    found = [RecordedEvent(row) for row in rows if row[1] is not None]
    return Page(found, [_marker(row) for row in rows if row[1] is None])


def _marker(row: Sequence[Any]) -> Marker:
    """An archived stream, from the columns of `public.archived_behind()`."""
    (_, _, stream, category, _, _, key, hash_, *_, size, transaction, index) = row
    segment = Segment(key.decode(), hash_.decode(), None if size is None else int(size))
    return Marker(UUID(bytes=stream), category, segment, Place(transaction, index))


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return "{" + ",".join(map(_quoted, cast("Sequence[object]", value))) + "}"
    return str(value)


def _quoted(item: object) -> str:
    escaped = str(item).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
