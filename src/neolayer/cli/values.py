"""What a word on the command line may mean: numbers within bounds, ids, instants, places.

Each type reads one word whole or refuses it with a sentence, which the root completes with the
parameter's name; so no value reaches an engine that the engine could not hold.

    Limit = Annotated[Count, Parameter(help="How many at most.")]
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from uuid import UUID

from cyclopts import Parameter, Token

from neolayer.engines.endpoints import Database
from neolayer.position import Positions

LARGEST: Final = 2**63 - 1  # PostgreSQL's bigint
_WHOLE = re.compile(r"[+-]?[0-9]+")
_DIGITS: Final = 30
_SHOWN: Final = 40
_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2262, 1, 1, tzinfo=UTC)


def whole(lowest: int, highest: int) -> Parameter:
    """A whole number from `lowest` to `highest`, in plain digits."""

    def read(text: str) -> int:
        if _WHOLE.fullmatch(text) is None:
            raise ValueError(f"{shown(text)} is no whole number")
        if len(text) > _DIGITS or not lowest <= int(text) <= highest:
            raise ValueError(f"{shown(text)} is not from {lowest} to {highest}")
        return int(text)

    return each(read)


def number(lowest: float, highest: float) -> Parameter:
    """A number from `lowest` to `highest`, also with a fraction."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not lowest <= value <= highest:
            raise ValueError(f"{shown(text)} is not a number from {lowest:g} to {highest:g}")
        return value

    return each(read)


def shown(text: str) -> str:
    """The word in quotes, cut where it is long."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def each(read: Callable[[str], Any], **options: Any) -> Parameter:
    """A parameter whose words are read one by one; several where its type is a list."""

    def convert(kind: Any, tokens: Sequence[Token]) -> Any:
        found = [read(token.value) for token in tokens]
        return found if _is_list(kind) else found[-1]

    return Parameter(converter=convert, **options)


def _is_list(kind: Any) -> bool:
    return str(kind).partition("[")[0].rpartition(".")[2] in ("list", "tuple")


def _id(text: str) -> UUID:
    try:
        return UUID(text if text.isascii() else "")
    except ValueError:
        raise ValueError(f"{shown(text)} is no id; write a UUID") from None


def _instant(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
        found = (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        found = None
    if found is None or not _FIRST <= found < _LAST:
        raise ValueError(
            f"{shown(text)} is no time from 1970 to 2261; write it as 2030-01-31T12:00:00Z"
        )
    return found


def _zoned(text: str) -> datetime:
    found = _instant(text)
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError(f"{shown(text)} has no zone; write it as 2030-01-31T12:00:00Z")
    return found


def _positions(text: str) -> Positions:
    try:
        found = Positions.parse(text)
    except (ValueError, OverflowError):
        found = None
    if not found or any(one.database not in tuple(Database) for one in found.each):
        raise ValueError(f"{shown(text)} is no position; write neolayer:1:0/16B3748")
    try:
        _ = [one.version for one in found.each]
    except OverflowError:
        raise ValueError(f"{shown(text)} is beyond every position") from None
    return found


Count = Annotated[int, whole(1, 1_000_000)]
Page = Annotated[int, whole(1, 1000)]
Bigint = Annotated[int, whole(0, LARGEST)]
Positive = Annotated[int, whole(1, LARGEST)]
Seconds = Annotated[int, whole(0, 366 * 86_400)]
Id = Annotated[UUID, each(_id)]
Instant = Annotated[datetime, each(_instant)]  # UTC where no zone is named
Zoned = Annotated[datetime, each(_zoned)]
# One word, although it is read into an object with fields.
PositionsOf = Annotated[Positions, each(_positions, n_tokens=1, accepts_keys=False)]
