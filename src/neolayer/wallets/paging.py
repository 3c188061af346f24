"""Where a page ended: the last row's place in the order, as text that only its list takes back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec

from neolayer.errors import InvalidInput
from neolayer.tenancy.cursors import Pages

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

    def text(self, pages: Pages) -> str:
        """The place as URL-safe text, good for these pages."""
        time_us = (self.time - _EPOCH) // timedelta(microseconds=1)
        return pages.write(msgspec.json.encode(_Place(time_us, self.index, self.key)))

    @classmethod
    def read(cls, text: str, pages: Pages) -> Place:
        """The place that `text` wrote for these pages. Raises ForgedCursor."""
        found = msgspec.json.decode(pages.read(text), type=_Place)
        return cls(_EPOCH + timedelta(microseconds=found.time_us), found.index, found.key)


# Before everything in an order from the newest, and from the oldest.
NEWEST = Place(_EPOCH + timedelta(microseconds=_LAST_US), (1 << 31) - 1, "~")
OLDEST = Place(_EPOCH, 0, str(UUID(int=0)))


def require_limit(limit: int) -> int:
    """Raises InvalidInput where a page would have no rows, or too many."""
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidInput(f"limit {limit} is not from 1 to {MAX_LIMIT}")
    return limit
