"""What of an event is sent in another form, checked before it is sent: ids, names and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from math import isfinite
from typing import Any, TypeGuard, cast
from uuid import UUID

import msgspec
import orjson

from neolayer.errors import InvalidInput
from neolayer.events.model import LONGEST_NAME, NewEvent
from neolayer.nuls import HoldsNul, Unstorable, refuse_halves, refuse_nul, spells_nul

MAX_INT = 2**31 - 1
_LONGEST_KEY_ID = 100
# As the database writes JSON, up to twice as much (schema/event_store/0070_sizes.sql).
MOST_DATA_BYTES = 512 * 1024
MOST_METADATA_BYTES = 128 * 1024


class Body(msgspec.Struct, frozen=True):
    """What of an event is sent in another form: ids in hex, the rest as JSON."""

    id: str
    data: bytes
    metadata: bytes | None
    correlation: str | None
    causation: str | None


def is_whole(value: object) -> TypeGuard[int]:
    """Whether it is an integer; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def body_of(event: NewEvent, place: int) -> Body:
    """The event as it is sent, if nothing is wrong with it. Raises InvalidInput."""
    try:
        return _checked_body(event, place)
    except Unstorable as exc:
        raise exc.within(f"events[{place}]") from None


def _checked_body(event: NewEvent, place: int) -> Body:
    require_name(event.type, "type")
    if not is_whole(event.schema_version) or not 0 < event.schema_version <= MAX_INT:
        raise InvalidInput(f"no schema version: {event.schema_version}")
    key_id = event.key_id
    if key_id is not None and "\0" in key_id:
        raise HoldsNul("key_id")
    if key_id is not None and (len(key_id) > _LONGEST_KEY_ID or not key_id.isprintable()):
        raise InvalidInput(f"a key id has at most {_LONGEST_KEY_ID} printable characters")
    metadata = None
    if event.metadata:
        metadata = _json(event.metadata, "metadata", most=MOST_METADATA_BYTES)
    return Body(
        hex_of(event.event_id, "event_id", place),
        _json(event.data, "data", most=MOST_DATA_BYTES),
        metadata,
        hex_of(event.correlation_id, "correlation_id", place) if event.correlation_id else None,
        hex_of(event.causation_id, "causation_id", place) if event.causation_id else None,
    )


def hex_of(value: object, name: str, place: int | None = None) -> str:
    """An id as it is sent. Raises InvalidInput."""
    if not isinstance(value, UUID):
        at = name if place is None else f"events[{place}].{name}"
        raise InvalidInput(f"{at}: an id is a UUID, not {repr(value)[:100]}")
    return value.hex


def require_name(name: object, what: str) -> None:
    """Raise InvalidInput where it cannot be the name of a type or category."""
    if not isinstance(name, str):
        raise InvalidInput(f"a {what} is text, not {type(name).__name__}")
    if "\0" in name:
        raise HoldsNul(what)
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise InvalidInput(f"a {what} is 1 to {LONGEST_NAME} printable characters: {name[:300]!r}")


def _json(value: Mapping[str, Any], field: str, *, most: int) -> bytes:
    """As JSON that PostgreSQL can hold. Raises InvalidInput."""
    try:
        text = orjson.dumps(value)
    except orjson.JSONEncodeError as exc:
        refuse_halves(value, field)
        hint = "write it as text" if "64-bit" in str(exc) else None
        raise InvalidInput(f"an event's {field} is not JSON: {exc}", hint=hint) from None
    if text[:1] != b"{":
        raise InvalidInput(f"an event's {field} is an object, with names")
    if b"null" in text:  # which is what becomes of NaN and the infinities
        _require_finite(value, f"an event's {field}")
    if spells_nul(text):
        refuse_nul(orjson.loads(text), field)
    if len(text) > most:
        raise InvalidInput(
            f"an event's {field} has {len(text)} bytes as JSON; at most {most}",
            hint="keep what is long as a file, and its name in the event",
        )
    return text


def _require_finite(value: Any, path: str) -> None:
    """Refuse numbers that JSON has no words for. Raises InvalidInput."""
    if isinstance(value, float) and not isfinite(value):
        raise InvalidInput(f"{path} is {value}, which JSON cannot say", hint="write null or a text")
    if isinstance(value, Mapping):
        for name, item in cast("Mapping[Any, Any]", value).items():
            _require_finite(item, f"{path}.{name}")
    elif isinstance(value, list | tuple):
        for place, item in enumerate(cast("Sequence[Any]", value)):
            _require_finite(item, f"{path}[{place}]")
    elif is_dataclass(value) and not isinstance(value, type):
        for one in fields(value):
            _require_finite(getattr(value, one.name), f"{path}.{one.name}")
    elif isinstance(value, Enum):
        _require_finite(value.value, path)
