"""What is known of a command beside what it says, and what it gives the events it leads to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID, uuid5

from neolayer.errors import InvalidInput
from neolayer.events.model import Envelope, NewEvent


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Of one command. Its id makes the ids of its events, so that it counts once."""

    command_id: UUID | None
    metadata: Mapping[str, Any]
    correlation_id: UUID | None
    causation_id: UUID | None

    def event_id(self, place: int) -> UUID | None:
        """The id of the command's first, second, ... event; None where it has no id itself."""
        return None if self.command_id is None else uuid5(self.command_id, str(place))

    def told_by(self, events: Sequence[Any]) -> list[NewEvent | Envelope]:
        """The events with what is known of the command; what an event says itself stands.

        Raises InvalidInput where one has an id and the command has one too.
        """
        return [self._with(place, event) for place, event in enumerate(events)]

    def _with(self, place: int, event: Any) -> NewEvent | Envelope:
        given = event if isinstance(event, NewEvent | Envelope) else Envelope(event)
        if self.command_id is not None and _has_own_id(given):
            raise InvalidInput(
                "decide gave an event an id, and the command has one that makes the ids of its"
                " events",
                hint="leave out one of them; a NewEvent always has an id, a typed event has none",
            )
        return replace(
            given,
            event_id=self.event_id(place) or given.event_id,
            metadata={**self.metadata, **given.metadata},
            correlation_id=given.correlation_id or self.correlation_id,
            causation_id=given.causation_id or self.causation_id,
        )


def _has_own_id(event: NewEvent | Envelope) -> bool:
    return isinstance(event, NewEvent) or event.has_own_id
