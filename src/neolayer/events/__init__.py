"""Domain events: typed, appended to streams, read in one order, folded into read models."""

from __future__ import annotations

from neolayer.events.aggregates import Aggregate, Aggregates, Executed, Loaded
from neolayer.events.errors import (
    ProjectionFailed,
    ProjectionNotReady,
    UnfitEvent,
    UnknownEventType,
)
from neolayer.events.model import (
    ANY,
    BEGINNING,
    EXISTS,
    NONE,
    Appended,
    Codec,
    Envelope,
    EventIdTaken,
    Interfered,
    NewEvent,
    Place,
    Poison,
    RecordedEvent,
    StreamAppend,
    StreamIsClosed,
    WrongCategory,
    WrongVersion,
)
from neolayer.events.parked import ParkedEvent
from neolayer.events.personal import Erased, Personal
from neolayer.events.projections.domain import Domain, load_domain
from neolayer.events.projections.model import Mode, Occurrence, Projection
from neolayer.events.projections.operations import Projections
from neolayer.events.projections.reading import NotFoldedYet, ReadModels
from neolayer.events.registry import EventTypes, Registry
from neolayer.events.rooms import EventRooms, TenantRooms, open_event_rooms
from neolayer.events.snapshots import SnapshotPolicy
from neolayer.events.store import Events, EventStore, StreamState, open_event_store
from neolayer.events.subjects import Subjects
from neolayer.events.subscribers import Subscriptions, SubscriptionStanding
from neolayer.events.subscriptions import Subscription
from neolayer.events.typed import TypedEvents

__all__ = [
    "ANY",
    "BEGINNING",
    "EXISTS",
    "NONE",
    "Aggregate",
    "Aggregates",
    "Appended",
    "Codec",
    "Domain",
    "Envelope",
    "Erased",
    "EventIdTaken",
    "EventRooms",
    "EventStore",
    "EventTypes",
    "Events",
    "Executed",
    "Interfered",
    "Loaded",
    "Mode",
    "NewEvent",
    "NotFoldedYet",
    "Occurrence",
    "ParkedEvent",
    "Personal",
    "Place",
    "Poison",
    "Projection",
    "ProjectionFailed",
    "ProjectionNotReady",
    "Projections",
    "ReadModels",
    "RecordedEvent",
    "Registry",
    "SnapshotPolicy",
    "StreamAppend",
    "StreamIsClosed",
    "StreamState",
    "Subjects",
    "Subscription",
    "SubscriptionStanding",
    "Subscriptions",
    "TenantRooms",
    "TypedEvents",
    "UnfitEvent",
    "UnknownEventType",
    "WrongCategory",
    "WrongVersion",
    "load_domain",
    "open_event_rooms",
    "open_event_store",
]
