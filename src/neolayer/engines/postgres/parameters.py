"""Values as they are sent, and statements with PostgreSQL's placeholders.

What no text of PostgreSQL can hold is refused here, by its parameter's name, before it is sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, cast

from psycopg.abc import Params
from psycopg.adapt import PyFormat

from neolayer.errors import InvalidInput
from neolayer.nuls import HoldsNul

_PLACEHOLDER = re.compile(r"%(?:\((?P<name>\w+)\))?(?P<format>[sbt%])")
_FORMATS = {"s": PyFormat.AUTO, "b": PyFormat.BINARY, "t": PyFormat.TEXT}


class Texts(dict[str, str | bytes | None]):
    """Values by name that are PostgreSQL's text already, such as `t` for true: nothing to adapt.

    The server tells their types by where they stand. What psycopg takes 40 us for takes 2.
    """

    def ordered(self, names: Iterable[str]) -> list[bytes | None]:
        """As they are sent. Raises InvalidInput on what would end such a text early."""
        sent = list[bytes | None]()
        for name in names:
            value = self[name]
            if isinstance(value, str):
                value = _encoded(name, value)
            if value is not None and b"\0" in value:
                raise HoldsNul(name)
            sent.append(value)
        return sent


class Encoded(tuple[bytes | None, ...]):
    """Such texts in the order in which the statement first names them, encoded and without NUL: for
    a statement that goes with so many others that looking names up is felt."""

    __slots__ = ()


class RawTexts(Texts):
    """Such values for a statement whose answer is read as it came: cells are bytes."""


class BinaryTexts(Texts):
    """Such values for a statement whose rows come in PostgreSQL's binary form, each column read as
    the type of `columns`: `bytea` leaves a value as it came, for who decodes it when it is needed.
    """

    columns: ClassVar[tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Converted:
    """A statement with PostgreSQL's placeholders; `names` is None where they had no names."""

    command: bytes
    formats: tuple[PyFormat, ...]
    names: tuple[str, ...] | None

    def ordered(self, params: Params) -> Sequence[Any]:
        if self.names is None:
            return cast("Sequence[Any]", params)
        values = cast("Mapping[str, Any]", params)
        return [values[name] for name in self.names]


@lru_cache(maxsize=1000)
def convert(text: str) -> Converted:
    """`%s` and `%(name)s` as `$1`, one number a name; `%%` as `%`."""
    numbers: dict[str, int] = {}
    formats: list[PyFormat] = []
    named = False

    def number(match: re.Match[str]) -> str:
        nonlocal named
        if match["format"] == "%":
            return "%"
        named = named or match["name"] is not None
        name = match["name"] or str(len(formats))
        if name not in numbers:
            formats.append(_FORMATS[match["format"]])
            numbers[name] = len(formats)
        return f"${numbers[name]}"

    command = _PLACEHOLDER.sub(number, text).encode()
    return Converted(command, tuple(formats), tuple(numbers) if named else None)


def require_texts(values: Sequence[Any], names: Sequence[str] | None) -> None:
    """Raise InvalidInput for the first text that PostgreSQL has no place for."""
    for place, value in enumerate(values):
        name = names[place] if names else f"parameter {place + 1}"
        several = isinstance(value, list | tuple)
        for text in cast("Sequence[Any]", value) if several else [value]:
            if isinstance(text, str) and b"\0" in _encoded(name, text):
                raise HoldsNul(name)


def _encoded(name: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidInput(
            f"{name} holds half a character, which no stored text can hold"
        ) from None
