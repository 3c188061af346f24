"""One number for a row, the same wherever it is computed.

A row is written as text: each value as its length in bytes, a colon and PostgreSQL's own text of
it (as the commit log brings it, in UTC), a null as a colon alone, in the order of the copy's
columns. `2:42::5:ready` is 42, null, ready; no two rows share a text. The digest is the first 64
bits of its MD5: PostgreSQL and ClickHouse compute it from the columns themselves, and a store that
cannot keeps the one a sink computed here. It finds accidents, not attackers.

A range of rows is summed up as the number of rows and the sums of the upper and of the lower 32
bits of their digests. A range holds at most a million rows of the source, so both sums are exact
in a double, which is what JSON, MongoDB and Elasticsearch count in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

_HALF = 32
_LOW = (1 << _HALF) - 1


@dataclass(frozen=True, slots=True)
class Summary:
    """What a range of rows comes to. Equal summaries mean equal rows."""

    rows: int
    high: int
    low: int


NOTHING = Summary(0, 0, 0)


def row_digest(values: Iterable[bytes | None]) -> int:
    """The digest of a row, from PostgreSQL's texts of its columns; 64 bits, unsigned."""
    text = b"".join(b":" if value is None else b"%d:%b" % (len(value), value) for value in values)
    return int.from_bytes(hashlib.md5(text, usedforsecurity=False).digest()[:8], "big")


def halves(digest: int) -> tuple[int, int]:
    """The upper and the lower 32 bits, for a store whose numbers end below 64."""
    return digest >> _HALF, digest & _LOW


def join_halves(high: int, low: int) -> int:
    """The inverse of `halves`."""
    return high << _HALF | low


def summarise(digests: Iterable[int]) -> Summary:
    """The summary of rows whose digests are at hand."""
    rows = high = low = 0
    for digest in digests:
        rows += 1
        high += digest >> _HALF
        low += digest & _LOW
    return Summary(rows, high, low)
