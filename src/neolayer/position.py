"""A place in commit order: the one clock all stores are measured by.

A position is the commit LSN of one PostgreSQL database under an epoch. The epoch is PostgreSQL's
timeline, which rises at every promotion of a standby and every restore to a point in time, so a
position never goes backwards although an LSN may.
`Position.version` packs both into one signed 64-bit integer, the form in which every sink
compares versions (ClickHouse `UInt64`, Redis, Elasticsearch external versions below 9.2e18).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# The epoch of a cluster that was never restored and whose standby was never promoted.
CURRENT_EPOCH = 1

_LSN_BITS = 48
_MAX_LSN = (1 << _LSN_BITS) - 1
_MAX_EPOCH = 30_000  # keeps versions below 9.2e18, where Elasticsearch stops
_TEXT = re.compile(r"(?P<database>[a-z_]+):(?P<epoch>\d+):(?P<lsn>[0-9A-F]+/[0-9A-F]+)")


def parse_lsn(text: str) -> int:
    """The 64-bit number behind PostgreSQL's `16/B374D848` form. Raises ValueError."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) | int(low, 16)


def format_lsn(lsn: int) -> str:
    """PostgreSQL's text form of an LSN."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A commit position of one database. Positions of one cluster compare by (epoch, lsn)."""

    epoch: int
    lsn: int
    database: str = "neolayer"

    @property
    def version(self) -> int:
        """Epoch and LSN as one non-negative 63-bit integer that never goes backwards.

        Raises OverflowError beyond 256 TiB of WAL in one epoch or 30,000 epochs.
        """
        return pack_version(self.epoch, self.lsn)

    @classmethod
    def from_version(cls, version: int, database: str = "neolayer") -> Position:
        return cls(version >> _LSN_BITS, version & _MAX_LSN, database)

    @classmethod
    def parse(cls, text: str) -> Position:
        """The inverse of `str()`. Raises ValueError."""
        found = _TEXT.fullmatch(text)
        if found is None:
            raise ValueError(f"not a position: {text!r} (expected neolayer:1:0/16B3748)")
        return cls(int(found["epoch"]), parse_lsn(found["lsn"]), found["database"])

    def __str__(self) -> str:
        return f"{self.database}:{self.epoch}:{format_lsn(self.lsn)}"


def pack_version(epoch: int, lsn: int) -> int:
    """See `Position.version`."""
    if not 0 <= lsn <= _MAX_LSN or not 0 <= epoch <= _MAX_EPOCH:
        raise OverflowError(f"position {epoch}:{format_lsn(lsn)} does not fit a version")
    return (epoch << _LSN_BITS) | lsn


@dataclass(frozen=True, slots=True)
class Positions:
    """One position a database: what a caller must see of all that they wrote, as one token."""

    each: tuple[Position, ...] = ()

    @classmethod
    def of(cls, *positions: Position | None) -> Positions:
        """The furthest of each database, sorted by its name."""
        furthest: dict[str, Position] = {}
        for one in positions:
            if one is not None and one >= furthest.get(one.database, one):
                furthest[one.database] = one
        return cls(tuple(furthest[name] for name in sorted(furthest)))

    @classmethod
    def parse(cls, text: str) -> Positions:
        """The inverse of `str()`. Raises ValueError."""
        return cls.of(*(Position.parse(part.strip()) for part in text.split(",") if part.strip()))

    def plus(self, *positions: Position | None) -> Positions:
        """These and further ones."""
        return Positions.of(*self.each, *positions)

    def at(self, database: str) -> Position | None:
        """The position of one database, or None."""
        return next((one for one in self.each if one.database == database), None)

    def __bool__(self) -> bool:
        return bool(self.each)

    def __str__(self) -> str:
        return ",".join(map(str, self.each))


def of_database(wanted: Position | Positions | None, database: str) -> Position | None:
    """What is wanted of one database: of several databases' positions its own, if there is one."""
    return wanted.at(database) if isinstance(wanted, Positions) else wanted
