"""Where a page ended, as text that a caller hands back for the next one.

It holds the last row's place in the order and nothing else: the query it goes into is bound to a
tenant and a wallet anyway, so a forged one skips rows of the forger's own.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec

from neolayer.errors import InvalidInput

MAX_LIMIT = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_US = 9_214_646_400_000_000  # 2262, where the database's times end


class _Place(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    time_us: int
    index: int
    key: str


@dataclass(frozen=True, slots=True)
class Place:
    """A row's place: its time, what orders rows of one time, and its key."""

    time: datetime
    index: int
    key: str

    def text(self) -> str:
        """The place as URL-safe text."""
        time_us = (self.time - _EPOCH) // timedelta(microseconds=1)
        raw = msgspec.json.encode(_Place(time_us, self.index, self.key))
        return base64.urlsafe_b64encode(raw).decode().rstrip("=")

    @classmethod
    def read(cls, text: str) -> Place:
        """The place that `text` wrote. Raises InvalidInput."""
        try:
            raw = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
            found = msgspec.json.decode(raw, type=_Place)
            if not 0 <= found.time_us <= _LAST_US or not 0 <= found.index < 1 << 31:
                raise ValueError
            if not (found.key.isascii() and found.key.isprintable() and len(found.key) <= 66):
                raise ValueError
            return cls(_EPOCH + timedelta(microseconds=found.time_us), found.index, found.key)
        except (ValueError, binascii.Error, msgspec.DecodeError):
            raise InvalidInput(
                "this is not where a page ended", hint="hand back `after` as it was given"
            ) from None


# Before everything in an order from the newest, and from the oldest.
NEWEST = Place(_EPOCH + timedelta(microseconds=_LAST_US), (1 << 31) - 1, "~")
OLDEST = Place(_EPOCH, 0, str(UUID(int=0)))


def require_limit(limit: int) -> int:
    """Raises InvalidInput where a page would have no rows, or too many."""
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidInput(f"limit {limit} is not from 1 to {MAX_LIMIT}")
    return limit
