"""What typed events, aggregates and projections refuse."""

from __future__ import annotations

from uuid import UUID

from neolayer.errors import Conflict, InvalidInput, NeolayerError, NotFound

_LONGEST_CAUSE = 2_000


def storable(cause: str) -> str:
    """The words of an error as the database can hold them, whatever they quote."""
    text = cause.replace("\0", "").encode("utf-8", "backslashreplace").decode()
    return text[:_LONGEST_CAUSE]


class BadEventType(InvalidInput):
    """A declaration of event types does not hold together."""


class UnknownEventType(InvalidInput):
    """An event's type is not registered."""


class UnfitEvent(InvalidInput):
    """An event does not fit the type it is registered under; it was not stored."""


class UndecodableEvent(NeolayerError):
    """A stored event does not fit the type it is registered under."""


class BadProjection(InvalidInput):
    """A declaration of a projection does not hold together."""


class UnknownProjection(NotFound):
    """There is no projection of that name."""


class ProjectionFailed(NeolayerError):
    """A projection's function failed on an event."""

    event_id: UUID | None = None


class ProjectionNotReady(Conflict):
    """A projection is not in the state that this needs."""
