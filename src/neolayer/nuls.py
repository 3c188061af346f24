"""The character NUL: JSON can say it (`\\u0000`), PostgreSQL and the C libraries below us cannot.

So it is refused where it comes in, by one error that says where it stands, as a path from what the
caller gave: `events[1].data.lines[0].note`, `body.settings["a\\u0000"]` for the name of a field.
Half of a character (`\\ud800`), which JSON can say and UTF-8 cannot, is told the same way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, ClassVar, Self, cast

from neolayer.errors import InvalidInput

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_LONGEST_PATH = 300
_NUL, _HALF = re.compile("\0"), re.compile("[\ud800-\udfff]")


class Unstorable(InvalidInput):
    """A text holds what no text in a database can hold; `path` says where."""

    what: ClassVar[str]
    way_out: ClassVar[str]

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(f"{path[:_LONGEST_PATH]}: {self.what} cannot be stored", hint=self.way_out)

    def within(self, outer: str) -> Self:
        """The same, told by whoever was given what the path begins at."""
        return type(self)(f"{outer}.{self.path}")


class HoldsNul(Unstorable):
    """No text in a database, and none in a C library, can hold the character NUL."""

    what = "the character NUL (\\u0000)"
    way_out = "leave it out; what is bytes rather than text goes as base64"


class HoldsHalf(Unstorable):
    """No text in UTF-8 can hold half of a character, a surrogate without the other one."""

    what = "half of a character (a lone surrogate)"
    way_out = "write both halves, such as \\ud83d\\ude00; what is bytes goes as base64"


def refuse_nul(value: Any, path: str) -> None:
    """Raise HoldsNul for the first text of plain JSON that holds one."""
    if found := nul_in(value, path):
        raise HoldsNul(found)


def nul_in(value: Any, path: str) -> str | None:
    """Where plain JSON holds a NUL first, the names of fields included; None where it does not."""
    return next(_paths(value, path, _NUL), None)


def refuse_halves(value: Any, path: str) -> None:
    """Raise HoldsHalf for the first text of plain JSON that holds half of a character."""
    if found := next(_paths(value, path, _HALF), None):
        raise HoldsHalf(found)


def _paths(value: Any, path: str, unwanted: re.Pattern[str]) -> Iterator[str]:
    if isinstance(value, str):
        if unwanted.search(value):
            yield path
    elif isinstance(value, list):
        for place, item in enumerate(cast("list[Any]", value)):
            yield from _paths(item, f"{path}[{place}]", unwanted)
    elif isinstance(value, dict):
        for name, item in cast("dict[Any, Any]", value).items():
            if not isinstance(name, str):  # no JSON, which others refuse
                continue
            at = path + (f".{name}" if _PLAIN.fullmatch(name) else f"[{json.dumps(name)}]")
            if unwanted.search(name):
                yield at
            yield from _paths(item, at, unwanted)


def spells_nul(text: bytes) -> bool:
    """Whether JSON holds the escape of a NUL, not only its letters behind an escaped backslash."""
    return rb"\u0000" in text and rb"\u0000" in text.replace(rb"\\", b"")
