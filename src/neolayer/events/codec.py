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
from neolayer.events.model import NewEvent, RecordedEvent
from neolayer.events.personal import Erased, Keys, open_text, seal_text, subject_of
from neolayer.events.registry import Event, EventType, Registry
from neolayer.events.subjects import Subjects

_KEY_ID = "subject:{}"


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
        about = {
            subject
            for kind, event, _ in given
            if kind is not None and kind.personal
            if (subject := kind.subject_of(event)) is not None
        }
        keys = await self.subjects.keys_for_writing(about)
        return [
            event if kind is None else self._encoded(kind, event, keys, form)
            for kind, event, form in given
        ]

    def _given(
        self, event: Any, category: str | None
    ) -> tuple[EventType | None, Any, NewEvent | None]:
        """The event with its type, and in what form it came; without a type it is stored as is."""
        if not isinstance(event, NewEvent):
            return self.registry.kind_of(event), event, None
        if category is None or not self.registry.knows(category, event.type):
            return None, event, None
        kind = self.registry.named(category, event.type)
        value = _fitting(kind, event)
        if not any(_is_plain(getattr(value, name)) for name in kind.personal):
            return None, event, None
        if event.schema_version != kind.schema_version:
            raise UnfitEvent(
                f"{kind.name} of schema version {event.schema_version} holds personal text that"
                " cannot be sealed",
                hint=f"write it as of schema version {kind.schema_version}",
            )
        return kind, value, event

    def category_of(self, events: Iterable[Any]) -> str | None:
        """The one category that typed events belong to; None where none is typed.

        Raises InvalidInput where there are two.
        """
        found = {self.registry.kind_of(e).category for e in events if not isinstance(e, NewEvent)}
        if len(found) > 1:
            raise InvalidInput(f"one stream, events of categories {', '.join(sorted(found))}")
        return found.pop() if found else None

    def _encoded(
        self, kind: EventType, event: Event, keys: Keys, form: NewEvent | None
    ) -> NewEvent:
        data = kind.data_of(event)
        is_typed = form is None
        form = form or NewEvent(kind.name, data, schema_version=kind.schema_version)
        subject = kind.subject_of(event) if kind.personal else None
        if subject is None:
            return form
        for name in kind.personal:
            value: Any = getattr(event, name)
            if isinstance(value, str) and (is_typed or _is_plain(value)):
                data[name] = seal_text(
                    value,
                    keys[subject],
                    tenant=self.tenant,
                    subject=subject,
                    within=form.event_id.bytes + name.encode(),
                )
            elif isinstance(value, Erased):
                raise InvalidInput(f"{kind.name}.{name} was erased and cannot be stored again")
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


def _fitting(kind: EventType, event: NewEvent) -> Event:
    """What the event reads as. Raises UnfitEvent."""
    try:
        return kind.from_json(orjson.dumps(event.data), event.schema_version)
    except (UndecodableEvent, orjson.JSONEncodeError) as exc:
        raise UnfitEvent(
            f"this is no {kind.name}: {exc}", hint="nothing could read it: mend its data"
        ) from exc


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
    return UUID(subject) if prefix == "subject" else None


def key_id_for(subject: UUID) -> str:
    """How an event or a snapshot names the key of a subject."""
    return _KEY_ID.format(subject)
