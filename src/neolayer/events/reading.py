"""Rows of events as events. Decoding decides what reading costs: JSON comes as text, to orjson."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from neolayer.events.model import Place, RecordedEvent


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
