"""Domain events: appended to streams, read in one order, subscribed to."""

from __future__ import annotations

from neolayer.events.model import (
    ANY,
    BEGINNING,
    EXISTS,
    NONE,
    Appended,
    Codec,
    EventIdTaken,
    Interfered,
    NewEvent,
    Place,
    RecordedEvent,
    StreamAppend,
    StreamIsClosed,
    WrongCategory,
    WrongVersion,
)
from neolayer.events.store import Events, EventStore, StreamState, open_event_store

__all__ = [
    "ANY",
    "BEGINNING",
    "EXISTS",
    "NONE",
    "Appended",
    "Codec",
    "EventIdTaken",
    "EventStore",
    "Events",
    "Interfered",
    "NewEvent",
    "Place",
    "RecordedEvent",
    "StreamAppend",
    "StreamIsClosed",
    "StreamState",
    "WrongCategory",
    "WrongVersion",
    "open_event_store",
]
