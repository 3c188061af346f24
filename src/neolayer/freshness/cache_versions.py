"""How a cached value and its version lie in Redis, so that the newer one wins.

An entry is the version as 16 hex digits, a mark and the value: `+` for a value, `-` for a
tombstone. Versions compare as text in Lua, whose numbers would round them.

The guard holds because of three rules. A reader takes the version before it reads the row, so
whatever it missed commits above it. The relay leaves a tombstone with the commit's version, and a
value goes only over something older. A tombstone outlives the slowest reader, because a reader
that took longer than `PUT_WITHIN` does not put.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final

CHECKPOINT_KEY: Final = "relay:checkpoint"
FLOOR_KEY: Final = "relay:floor"
TOMBSTONE_TTL: Final = timedelta(seconds=60)
PUT_WITHIN: Final = timedelta(seconds=30)

_DIGITS = 16


def version_text(version: int) -> str:
    """A version as text that sorts like the number."""
    return f"{version:016x}"


def read_entry(entry: bytes | None, floor: bytes | None) -> bytes | None:
    """The value of an entry; None for no entry, a tombstone, or one at or below the floor."""
    if entry is None or entry[_DIGITS : _DIGITS + 1] != b"+":
        return None
    if floor is not None and entry[:_DIGITS] <= floor:
        return None
    return entry[_DIGITS + 1 :]


def version_of(entry: bytes) -> int:
    """The version of an entry or a tombstone."""
    return int(entry[:_DIGITS], 16)


def is_tombstone(entry: bytes) -> bool:
    """Whether an entry says that its row changed."""
    return entry[_DIGITS : _DIGITS + 1] == b"-"
