"""What a projection is: a row's type, its key, the events it folds and the function that does."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec

from neolayer.events.errors import BadProjection

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")

Row = msgspec.Struct
Key = tuple[Any, ...]
R = TypeVar("R", bound=msgspec.Struct)


class Mode(StrEnum):
    """When events are folded: with the append, in its transaction; or behind it."""

    INLINE = "inline"
    ASYNC = "async"


class Slot(StrEnum):
    """The three places of a read model's table: what readers see, what is being built beside it,
    and what readers saw before the last switch. The values are schemas of the event store."""

    LIVE = "read_models"
    NEXT = "read_models_next"
    PREVIOUS = "read_models_previous"


@dataclass(frozen=True, slots=True)
class Occurrence:
    """An event as a projection sees it: `event` with its personal fields sealed, where it stands in
    its stream, and in `key` the row that is being folded."""

    event: msgspec.Struct
    tenant: UUID
    stream_id: UUID
    category: str
    version: int
    event_id: UUID
    recorded_at: datetime
    user_id: UUID | None = None
    key: Key = ()

    def at(self, key: Key) -> Occurrence:
        """The same, for one of the rows it concerns."""
        return replace(self, key=key)


def of_stream(seen: Occurrence) -> Iterable[Key]:
    """One row a stream, by its id."""
    return ((seen.stream_id,),)


@dataclass(frozen=True, slots=True)
class Projection(Generic[R]):
    """A read model and how it comes about. Raises BadProjection.

    `row` is a frozen Struct; its fields are the table's columns and `key` names those that tell
    rows apart within a tenant. `keys` says which rows an event concerns; `fold` is given each of
    them (None where there is none) and answers with the row as it is from then on (None: no row).
    It must depend on nothing else, so that a replay makes the same rows. `indexes` are those that
    queries need, each a tuple of columns.
    """

    name: str
    row: type[R]
    key: tuple[str, ...]
    events: tuple[type[msgspec.Struct], ...]
    fold: Callable[[R | None, Occurrence], R | None] = field(repr=False)
    keys: Callable[[Occurrence], Iterable[Key]] = field(default=of_stream, repr=False)
    mode: Mode = Mode.ASYNC
    indexes: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        fields = self.row.__struct_fields__
        if not _NAME.fullmatch(self.name):
            raise BadProjection(f"a projection's name is like account_balances, not {self.name!r}")
        if not self.row.__struct_config__.frozen:
            raise BadProjection(f"{self.name}: {self.row.__name__} must be a frozen Struct")
        if "tenant_id" in fields:
            raise BadProjection(f"{self.name}: tenant_id stands in every row by itself")
        if not self.key or not self.events:
            raise BadProjection(f"{self.name}: say which fields are the key, and which events")
        for column in (*self.key, *(name for index in self.indexes for name in index)):
            if column not in fields:
                raise BadProjection(f"{self.name}: {self.row.__name__} has no field {column!r}")

    def slot_name(self, slot: Slot) -> str:
        """The name under which `public.projections` keeps the state of one of the three tables."""
        return (
            self.name if slot is Slot.LIVE else f"{self.name}:{slot.removeprefix('read_models_')}"
        )


AnyProjection = Projection[Any]
