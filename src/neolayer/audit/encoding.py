"""What a seal is: one hash over everything an entry says, its number, and the seal before it.

SHA-256 over fields one after another, each as its length in bytes (four, big-endian; -1 for NULL)
and its text in UTF-8, so that no two entries share an encoding:

    'neolayer audit 1', chain_number, previous_hash (hex), tenant_id, id, occurred_at, principal,
    user_id, action, resource, resource_id, changes, ip_address, user_agent, success, error_message,
    transaction_id, sealed_at

The texts are PostgreSQL's own (`changes::text` of jsonb, `ip_address::text` with its netmask),
instants are whole microseconds since 1970. In the database `audit.entry_digest(entry)` says the
same; what verifies is this file, because whoever tampers with rows can tamper with a function.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256

FORMAT = "neolayer audit 1"
FIRST_PREVIOUS = bytes(32)  # before the first entry of a chain
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NULL = struct.pack(">i", -1)


def frame(fields: Iterable[str | None]) -> bytes:
    """The fields one after another, each with its length; different fields, different bytes."""
    return b"".join(map(_framed, fields))


def _framed(field: str | None) -> bytes:
    if field is None:
        return _NULL
    text = field.encode()
    return struct.pack(">i", len(text)) + text


def seal(number: int, previous: bytes, fields: Sequence[str | None]) -> bytes:
    """The hash of an entry: its place in the chain, and `fields` from tenant_id to sealed_at."""
    return sha256(frame((FORMAT, str(number), previous.hex(), *fields))).digest()


def microseconds(instant: datetime) -> int:
    """Whole microseconds since 1970, as instants stand in a seal."""
    return (instant - _EPOCH) // timedelta(microseconds=1)
