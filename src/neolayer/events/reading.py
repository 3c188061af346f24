"""Rows of events as events. Decoding decides what reading costs: JSON comes as text, to orjson."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from neolayer.events.archive import Marker, Page
from neolayer.events.model import Place, RecordedEvent
from neolayer.events.segments import Segment


def recorded(row: Sequence[Any]) -> RecordedEvent:
    """An event from the columns that this room's queries return."""
    (tenant, event, stream, category, kind, version, data, metadata, *rest) = row
    (user, correlation, causation, at, schema_version, key_id, transaction, index) = rest
    return RecordedEvent(
        tenant,
        event,
        stream,
        category,
        kind,
        version,
        orjson.loads(data),
        {} if metadata == "{}" else orjson.loads(metadata),
        user,
        correlation,
        causation,
        at,
        schema_version,
        key_id,
        Place(transaction, index),
    )


def page_of(rows: Sequence[Sequence[Any]]) -> Page:
    """Events, and the archived streams that stand behind them in the same rows."""
    if not any(row[1] is None for row in rows):
        return Page([recorded(row) for row in rows], [])
    found = [recorded(row) for row in rows if row[1] is not None]
    return Page(found, [_marker(row) for row in rows if row[1] is None])


def _marker(row: Sequence[Any]) -> Marker:
    """An archived stream, from the columns of `public.archived_behind()`."""
    (_, _, stream, category, _, _, key, hash_, *_, size, transaction, index) = row
    segment = Segment(key, hash_, None if size is None else int(size))
    return Marker(stream, category, segment, Place(transaction, index))
