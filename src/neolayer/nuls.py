"""The character NUL: JSON can say it (`\\u0000`), PostgreSQL and the C libraries below us cannot.

So it is refused where it comes in, by one error that says where it stands, as a path from what the
caller gave: `events[1].data.lines[0].note`, `body.settings["a\\u0000"]` for the name of a field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, cast

from neolayer.errors import InvalidInput

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_LONGEST_PATH = 300


class HoldsNul(InvalidInput):
    """No text in a database, and none in a C library, can hold the character NUL."""

    def __init__(self, path: str) -> None:
        self.path = path
        super().__init__(
            f"{path[:_LONGEST_PATH]}: the character NUL (\\u0000) cannot be stored",
            hint="leave it out; what is bytes rather than text goes as base64",
        )

    def within(self, outer: str) -> HoldsNul:
        """The same, told by whoever was given what the path begins at."""
        return HoldsNul(f"{outer}.{self.path}")


def refuse_nul(value: Any, path: str) -> None:
    """Raise HoldsNul for the first text of plain JSON that holds one."""
    if found := nul_in(value, path):
        raise HoldsNul(found)


def nul_in(value: Any, path: str) -> str | None:
    """Where plain JSON holds a NUL first, the names of fields included; None where it does not."""
    return next(_paths(value, path), None)


def _paths(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, str):
        if "\0" in value:
            yield path
    elif isinstance(value, list):
        for place, item in enumerate(cast("list[Any]", value)):
            yield from _paths(item, f"{path}[{place}]")
    elif isinstance(value, dict):
        for name, item in cast("dict[str, Any]", value).items():
            at = path + (f".{name}" if _PLAIN.fullmatch(name) else f"[{json.dumps(name)}]")
            if "\0" in name:
                yield at
            yield from _paths(item, at)


def spells_nul(text: bytes) -> bool:
    """Whether JSON holds the escape of a NUL, not only its letters behind an escaped backslash."""
    return rb"\u0000" in text and rb"\u0000" in text.replace(rb"\\", b"")
