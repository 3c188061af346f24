"""Which events there are: types, categories and schema versions, and how each is read.

    accounts = EventTypes("account")

    @accounts.event("deposited", schema_version=2)
    class Deposited(msgspec.Struct, frozen=True):
        amount: int
        currency: str

    @accounts.upcaster("deposited", from_version=1)
    def add_currency(data: Data) -> Data:
        return {**data, "currency": "EUR"}

An event is a frozen value and nothing else; what it means to an aggregate or to a read model is
said there. `Registry` joins the types of all categories and checks them once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast, get_type_hints
from uuid import UUID

import msgspec

from neolayer.events.errors import (
    BadEventType,
    UndecodableEvent,
    UnfitEvent,
    UnknownEventType,
)
from neolayer.events.model import CLOSED_TYPE, LONGEST_NAME
from neolayer.events.personal import misplaced_personal, personal_fields
from neolayer.events.upcasting import Data, Upcaster, require_complete, upcast

Event = msgspec.Struct
E = TypeVar("E", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class EventType:
    """One type of event of one category, and the class that holds it."""

    name: str
    category: str
    schema_version: int
    kind: type[Event]
    subject: str | None
    personal: tuple[str, ...]
    steps: Mapping[int, Upcaster]
    decoder: msgspec.json.Decoder[Event] = field(repr=False)

    def data_of(self, event: Event) -> tuple[dict[str, Any], Event]:
        """The event as JSON has it, and as that reads. Raises UnfitEvent where nothing could read
        it: a frozen Struct takes values of any type."""
        try:
            data = cast("dict[str, Any]", msgspec.to_builtins(event, str_keys=True))
            return data, msgspec.convert(data, self.kind, str_keys=True)
        except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as exc:
            raise UnfitEvent(
                f"this is no {self.name}: {exc}", hint="nothing could read it: mend its fields"
            ) from exc

    def stored_name(self, name: str) -> str:
        """What a field is called in JSON."""
        return self.kind.__struct_encode_fields__[self.kind.__struct_fields__.index(name)]

    def subject_of(self, event: Event) -> UUID | None:
        """Whose personal data the event holds."""
        return None if self.subject is None else cast("UUID", getattr(event, self.subject))

    def from_json(self, data: bytes | msgspec.Raw, schema_version: int) -> Event:
        """The event of its stored JSON, personal fields sealed. Raises UndecodableEvent."""
        try:
            if schema_version == self.schema_version:
                return self.decoder.decode(data)
            return self._upcast(cast("Data", msgspec.json.decode(data)), schema_version)
        except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
            raise self._refusal(schema_version, exc) from exc

    def from_data(self, data: Data, schema_version: int) -> Event:
        """The same of data that is taken apart already."""
        try:
            return self._upcast(data, schema_version)
        except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
            raise self._refusal(schema_version, exc) from exc

    def _upcast(self, data: Data, schema_version: int) -> Event:
        current = self.schema_version
        data = upcast(self.name, data, self.steps, come_from=schema_version, to=current)
        return msgspec.convert(data, self.kind, str_keys=True)

    def _refusal(self, schema_version: int, exc: Exception) -> UndecodableEvent:
        return UndecodableEvent(
            f"a stored {self.name} of schema version {schema_version} is no"
            f" {self.kind.__name__}: {exc}",
            hint="raise the type's schema_version and register an upcaster",
        )


class EventTypes:
    """The event types of one category, as a module declares them."""

    def __init__(self, category: str) -> None:
        self.category = category
        self._declared: dict[str, tuple[type[Event], int, str | None]] = {}
        self._steps: dict[str, dict[int, Upcaster]] = {}

    def event(
        self, name: str, *, schema_version: int = 1, subject: str | None = None
    ) -> Callable[[type[E]], type[E]]:
        """Register a frozen `msgspec.Struct` under a name that stays for ever.

        `subject` names the field with the id of the person whose `Personal` fields it holds.
        """

        def register(kind: type[E]) -> type[E]:
            if name in self._declared:
                raise BadEventType(f"{self.category} declares {name} twice")
            if not kind.__struct_config__.frozen:
                raise BadEventType(f"{kind.__name__} must be a frozen Struct: facts do not change")
            self._declared[name] = (kind, schema_version, subject)
            return kind

        return register

    def upcaster(self, name: str, *, from_version: int) -> Callable[[Upcaster], Upcaster]:
        """Register how data of a schema version becomes data of the next one."""

        def register(step: Upcaster) -> Upcaster:
            steps = self._steps.setdefault(name, {})
            if from_version in steps:
                raise BadEventType(f"{name} has two upcasters from version {from_version}")
            steps[from_version] = step
            return step

        return register

    def types(self) -> Iterator[EventType]:
        """Every type, checked. Raises BadEventType."""
        if strays := sorted(set(self._steps) - set(self._declared)):
            raise BadEventType(f"{self.category} has an upcaster of {strays[0]} but no such event")
        _require_name("category", self.category)
        for name, (kind, schema_version, subject) in self._declared.items():
            _require_declarable(name, kind, schema_version)
            steps = self._steps.get(name, {})
            require_complete(name, steps, schema_version)
            personal = personal_fields(kind)
            _require_subject(name, kind, subject, personal)
            yield EventType(
                name,
                self.category,
                schema_version,
                kind,
                subject,
                personal,
                steps,
                msgspec.json.Decoder(kind),
            )


def _require_name(what: str, name: str) -> None:
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise BadEventType(f"a {what} is 1 to {LONGEST_NAME} printable characters: {name[:300]!r}")


def _require_declarable(name: str, kind: type[Event], schema_version: int) -> None:
    _require_name("type", name)
    if name == CLOSED_TYPE:
        raise BadEventType(
            f"{CLOSED_TYPE} is what closes a stream, whatever its category",
            hint="call yours otherwise; `events.close` ends a stream",
        )
    if schema_version < 1:
        raise BadEventType(f"{name}: schema versions start at 1, {schema_version} is none")
    if kind.__struct_config__.array_like:
        raise BadEventType(f"{name}: an event is a JSON object, {kind.__name__} is array_like")
    if field_name := misplaced_personal(kind):
        raise BadEventType(
            f"{name}.{field_name} holds Personal where nothing would seal it",
            hint="a personal field is `Personal` or `Personal | None`, in the event itself",
        )


def _require_subject(
    name: str, kind: type[Event], subject: str | None, personal: tuple[str, ...]
) -> None:
    if personal and subject is None:
        raise BadEventType(
            f"{name} has personal fields ({', '.join(personal)}) and no subject",
            hint='name the field that says whose they are: event(..., subject="customer_id")',
        )
    if subject is not None and get_type_hints(kind).get(subject) is not UUID:
        raise BadEventType(f"{name}: the subject is a field of type UUID, {subject!r} is none")


class StreamClosed(msgspec.Struct, frozen=True):
    """The last event of a stream that was closed, whatever its category."""


_CLOSED = EventType(
    CLOSED_TYPE, "", 1, StreamClosed, None, (), {}, msgspec.json.Decoder[Event](StreamClosed)
)


class Registry:
    """The types of every category, by class and by name. Raises BadEventType."""

    def __init__(self, declared: Iterable[EventTypes] = ()) -> None:
        self._by_kind: dict[type[Event], EventType] = {}
        self._by_name: dict[tuple[str, str], EventType] = {}
        for one in (each for types in declared for each in types.types()):
            if one.kind in self._by_kind or (one.category, one.name) in self._by_name:
                raise BadEventType(f"{one.category}: {one.name} is registered twice")
            self._by_kind[one.kind] = one
            self._by_name[one.category, one.name] = one

    def __iter__(self) -> Iterator[EventType]:
        return iter(self._by_name.values())

    def of(self, kind: type[Any]) -> EventType:
        """The type that a class is registered as. Raises UnknownEventType."""
        found = self.find(kind)
        if found is None:
            raise UnknownEventType(
                f"{kind.__name__} is no registered event",
                hint="declare it with @types.event(...), in a module that events.modules names",
            )
        return found

    def find(self, kind: type[Any]) -> EventType | None:
        """The same; None where it is none."""
        return self._by_kind.get(kind)

    def kind_of(self, event: object) -> EventType:
        """The same of an event. Raises UnknownEventType."""
        return self.of(type(event))

    def named(self, category: str, name: str) -> EventType:
        """The type of a stored event. Raises UnknownEventType."""
        found = self._by_name.get((category, name))
        if found is None and name == CLOSED_TYPE:
            return _CLOSED
        if found is None:
            raise UnknownEventType(
                f"nothing is registered for events {name!r} of category {category!r}",
                hint="declare it with @types.event(...), in a module that events.modules names",
            )
        return found

    def knows(self, category: str, name: str) -> bool:
        """Whether a stored event has a type here."""
        return (category, name) in self._by_name

    def knows_name(self, name: str) -> bool:
        """Whether events of any category are called so."""
        return any(one.name == name for one in self)
