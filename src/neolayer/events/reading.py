"""Rows of events as events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neolayer.events.model import Place, RecordedEvent


def recorded(row: Sequence[Any]) -> RecordedEvent:
    """An event from the columns that this room's queries return."""
    (*columns, transaction, index) = row
    return RecordedEvent(*columns, place=Place(transaction, index))  # pyright: ignore[reportCallIssue]
