"""How a cached value and its version lie in Redis, so that the newer one wins.

An entry is the version as 16 hex digits, a mark and the value: `+` for a value, `-` for a
tombstone. Versions compare as text in Lua, whose numbers would round them. A key of another type,
or a text of another form, is no entry: it is never believed, and whatever is ours replaces it.

The guard holds because of three rules. A reader takes the version before it reads the row, so
whatever it missed commits above it. The relay leaves a tombstone with the commit's version, and a
value goes only over something older. A tombstone outlives the slowest reader, because a reader
that took longer than `PUT_WITHIN` does not put.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

CHECKPOINT_KEY: Final = "relay:checkpoint"
FLOOR_KEY: Final = "relay:floor"
TOMBSTONE_TTL: Final = timedelta(seconds=60)
PUT_WITHIN: Final = timedelta(seconds=30)

_DIGITS = 16
_VERSION = re.compile(rb"[0-9a-f]{16}")
_VALUE = re.compile(rb"[0-9a-f]{16}\+")
_ENTRY = re.compile(rb"[0-9a-f]{16}[+-]")


def version_text(version: int) -> str:
    """A version as text that sorts like the number."""
    return f"{version:016x}"


def read_entry(entry: bytes | None, floor: bytes | None) -> bytes | None:
    """The value of an entry; None for no entry of ours, a tombstone, or one at or below the
    floor."""
    if entry is None or _VALUE.match(entry) is None:
        return None
    if floor is not None and entry[:_DIGITS] <= floor:
        return None
    return entry[_DIGITS + 1 :]


def version_of(entry: bytes) -> int:
    """The version of an entry or a tombstone; 0 where it is none of ours."""
    return read_version(entry[:_DIGITS])


def read_version(stored: bytes | str | None) -> int:
    """The version in a text that `version_text` wrote; 0 for none, and for what others wrote."""
    text = stored.encode() if isinstance(stored, str) else stored or b""
    return int(text, 16) if _VERSION.fullmatch(text) else 0


def is_entry(stored: bytes) -> bool:
    """Whether a text is an entry or a tombstone; what others wrote is neither."""
    return _ENTRY.match(stored) is not None


def is_tombstone(entry: bytes) -> bool:
    """Whether an entry says that its row changed."""
    return is_entry(entry) and entry[_DIGITS : _DIGITS + 1] == b"-"
