"""Rows of events as events. Decoding decides what reading costs: JSON comes as text, to orjson."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from neolayer.events.model import Place, RecordedEvent


def recorded(row: Sequence[Any]) -> RecordedEvent:
    """An event from the columns that this room's queries return."""
    data, metadata = row[6], row[7]
    return RecordedEvent(
        *row[:6],
        orjson.loads(data),
        {} if metadata == "{}" else orjson.loads(metadata),
        *row[8:14],
        Place(row[14], row[15]),
    )
