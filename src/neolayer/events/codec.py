"""Typed events to stored ones and back, for one tenant: types by the registry, personal fields by
the keys of those they are about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import msgspec
import orjson

from neolayer.errors import InvalidInput
from neolayer.events.errors import UndecodableEvent, UnfitEvent
from neolayer.events.model import Envelope, NewEvent, RecordedEvent
from neolayer.events.personal import Erased, Keys, open_text, seal_text, subject_of
from neolayer.events.registry import Event, EventType, Registry
from neolayer.events.subjects import Subjects

_KEY_ID = "subject:{}"


class _Given(msgspec.Struct, frozen=True):
    """An event that is to be stored as `form`, and what it reads as; without a kind nobody has
    registered it. Its `plain` fields are to be sealed under the key of `subject`."""

    form: NewEvent
    kind: EventType | None = None
    value: Any = None
    subject: UUID | None = None
    plain: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TenantCodec:
    """What a tenant's rooms read and write typed events with."""

    tenant: UUID
    registry: Registry
    subjects: Subjects

    async def encode(self, events: Sequence[Any], *, category: str | None = None) -> list[NewEvent]:
        """Each as it is stored. A NewEvent of a type that is registered in `category` must fit it.

        Raises UnknownEventType, UnfitEvent, KeyringError.
        """
        given = [self._given(event, category) for event in events]
        about = {one.subject for one in given if one.subject is not None}
        keys = await self.subjects.keys_for_writing(about)
        return [self._sealed(one, keys) for one in given]

    async def read_back(self, events: Sequence[Any], *, category: str) -> list[Event]:
        """What readers of events that are to be stored will be given.

        Raises UnknownEventType, UnfitEvent, KeyringError.
        """
        given = [self._given(event, category) for event in events]
        keys = await self.keys_of(one.form.key_id for one in given)
        named = self.registry.named
        return [
            named(category, one.form.type).from_data(one.form.data, one.form.schema_version)
            if one.kind is None
            else (one.value if one.plain else self.opened(one.kind, one.value, keys))
            for one in given
        ]

    def category_of(self, events: Iterable[Any]) -> str | None:
        """The one category that typed events belong to; None where none is typed.

        Raises InvalidInput where there are two.
        """
        typed = (_content(event) for event in events if not isinstance(event, NewEvent))
        found = {self.registry.kind_of(event).category for event in typed}
        if len(found) > 1:
            raise InvalidInput(f"one stream, events of categories {', '.join(sorted(found))}")
        return found.pop() if found else None

    def _given(self, event: Any, category: str | None) -> _Given:
        if not isinstance(event, NewEvent):
            return self._typed(event, category)
        if category is None or not self.registry.knows(category, event.type):
            return _Given(event)
        return _bare(self.registry.named(category, event.type), event)

    def _typed(self, given: Any, category: str | None) -> _Given:
        event = _content(given)
        kind = self.registry.kind_of(event)
        if category not in (None, kind.category):
            raise UnfitEvent(
                f"{kind.name} is an event of category {kind.category!r}, not of {category!r}",
                hint="a reader would not find its type: declare one in that category",
            )
        data, value = kind.data_of(event)
        form = NewEvent(kind.name, data, schema_version=kind.schema_version)
        if isinstance(given, Envelope):
            form = replace(
                form,
                event_id=given.event_id,
                metadata=given.metadata,
                correlation_id=given.correlation_id,
                causation_id=given.causation_id,
            )
        if not kind.personal:
            return _Given(form, kind, value)
        for name in kind.personal:
            _require_text(kind, name, getattr(event, name))
        subject: object = kind.subject_of(event)
        if not isinstance(subject, UUID):
            raise UnfitEvent(
                f"{kind.name}.{kind.subject} is {type(subject).__name__}, no UUID",
                hint="it names the person whose key seals the personal fields",
            )
        return _Given(form, kind, value, subject, kind.personal)

    def _sealed(self, given: _Given, keys: Keys) -> NewEvent:
        form, kind, subject = given.form, given.kind, given.subject
        if kind is None or subject is None:
            return form
        data = dict(form.data)
        for name in given.plain:
            text: Any = getattr(given.value, name)
            if text is None or text is msgspec.UNSET:
                continue
            data[kind.stored_name(name)] = seal_text(
                text,
                keys[subject],
                tenant=self.tenant,
                subject=subject,
                within=form.event_id.bytes + name.encode(),
            )
        return replace(form, data=data, key_id=_KEY_ID.format(subject))

    async def decode(self, recorded: Sequence[RecordedEvent]) -> list[Event]:
        """Each as its class, opened. Raises UnknownEventType, UndecodableEvent, KeyringError."""
        kinds = [self.registry.named(one.category, one.type) for one in recorded]
        events = [
            kind.from_data(one.data, one.schema_version)
            for kind, one in zip(kinds, recorded, strict=True)
        ]
        keys = await self.keys_of(one.key_id for one in recorded)
        return [self.opened(kind, event, keys) for kind, event in zip(kinds, events, strict=True)]

    async def keys_of(self, key_ids: Iterable[str | None]) -> Mapping[UUID, bytes]:
        """The keys that events name, as far as they are there."""
        return await self.subjects.keys({s for k in key_ids if (s := subject_named(k)) is not None})

    def opened(self, kind: EventType, event: Event, keys: Keys) -> Event:
        """The event with its personal fields in plain text, or erased."""
        if not kind.personal:
            return event
        return open_fields(event, kind.personal, keys, tenant=self.tenant)


def _content(event: Any) -> Any:
    return event.event if isinstance(event, Envelope) else event


def _bare(kind: EventType, event: NewEvent) -> _Given:
    """A NewEvent of a registered type; what is sealed already stays as it is. Raises UnfitEvent."""
    try:
        value = kind.from_json(orjson.dumps(event.data), event.schema_version)
    except (UndecodableEvent, orjson.JSONEncodeError) as exc:
        raise UnfitEvent(
            f"this is no {kind.name}: {exc}", hint="nothing could read it: mend its data"
        ) from exc
    for name in kind.personal:
        _require_text(kind, name, getattr(value, name))
    plain = tuple(name for name in kind.personal if _is_plain(getattr(value, name)))
    if not plain:
        return _Given(event, kind, value)
    if event.schema_version != kind.schema_version:
        raise UnfitEvent(
            f"{kind.name} of schema version {event.schema_version} holds personal text that"
            " cannot be sealed",
            hint=f"write it as of schema version {kind.schema_version}",
        )
    return _Given(event, kind, value, kind.subject_of(value), plain)


def _require_text(kind: EventType, name: str, value: object) -> None:
    """Raise UnfitEvent for what no key could seal, InvalidInput for what was erased."""
    if isinstance(value, Erased):
        raise InvalidInput(f"{kind.name}.{name} was erased and cannot be stored again")
    if value is None or value is msgspec.UNSET:
        return
    if not isinstance(value, str):
        raise UnfitEvent(f"{kind.name}.{name} is personal text, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        raise UnfitEvent(f"{kind.name}.{name} is no text: {exc.reason}") from None


def _is_plain(value: Any) -> bool:
    return isinstance(value, str) and subject_of(value) is None


def open_fields(value: Event, personal: Iterable[str], keys: Keys, *, tenant: UUID) -> Event:
    """A value with these fields opened."""
    plain: dict[str, str | Erased] = {}
    for name in personal:
        sealed: Any = getattr(value, name)
        if isinstance(sealed, str):
            plain[name] = open_text(sealed, keys, tenant=tenant)
    return msgspec.structs.replace(value, **plain)


def subjects_in(values: Iterable[Event], personal: Sequence[str]) -> set[UUID]:
    """Whose sealed texts stand in these fields."""
    texts = (getattr(value, name) for value in values for name in personal)
    found = (subject_of(text) for text in texts if isinstance(text, str))
    return {subject for subject in found if subject is not None}


def subject_named(key_id: str | None) -> UUID | None:
    """Whose key an event's `key_id` names."""
    prefix, _, subject = (key_id or "").partition(":")
    try:
        return UUID(subject) if prefix == "subject" else None
    except ValueError:
        return None


def key_id_for(subject: UUID) -> str:
    """How an event or a snapshot names the key of a subject."""
    return _KEY_ID.format(subject)
