"""Data on stdout, words on stderr: the two ways a command speaks."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal
from typing import Any, NoReturn
from uuid import UUID

import orjson
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from neolayer.errors import visible
from neolayer.telemetry import mask

_INT64 = range(-(2**63), 2**64)


def say(text: str) -> None:
    """Words for the person at the terminal, secrets masked."""
    print(_shown(mask(text)), file=sys.stderr)


def words() -> Console:
    """A console on stderr, for progress and pictures."""
    return Console(stderr=True)


def write_json(value: object, *, indent: bool = True) -> None:
    """One JSON value on stdout and nothing else. See `plain` for how numbers are written."""
    option = orjson.OPT_INDENT_2 if indent else 0
    sys.stdout.buffer.write(orjson.dumps(plain(value), default=_default, option=option) + b"\n")
    sys.stdout.flush()


def encode_row(names: Sequence[bytes], row: Sequence[object]) -> bytes:
    """One JSON object on one line; `names` are encoded keys, each with its colon."""
    cells = (orjson.dumps(plain(cell), default=_default) for cell in row)
    return b"{" + b", ".join(map(bytes.__add__, names, cells)) + b"}"


def plain(value: Any) -> Any:
    """The value with integers beyond 64 bits as strings, so that no reader rounds them."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if value in _INT64 else str(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value


def _default(value: Any) -> Any:
    match value:
        case Decimal():
            return format(value, "f")
        case bytes() | memoryview():
            return "0x" + bytes(value).hex()  # pyright: ignore[reportUnknownArgumentType]
        case UUID():
            return str(value)
        case _:
            return str(value)


def counted(number: int, thing: str, things: str = "") -> str:
    """Such as `1 chain` and `2 chains`; `things` where an s does not do."""
    return f"{number} {thing if number == 1 else things or f'{thing}s'}"


def write_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    title: str = "",
    whole: str | Collection[str] = (),
) -> None:
    """A table on stdout for people; cut to the terminal's width, so never for scripts.

    The columns `whole` are not cut while there are others.
    """
    kept = (whole,) if isinstance(whole, str) else whole
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(visible(column), overflow="fold", no_wrap=column in kept)
    for row in rows:
        table.add_row(*(Text("" if cell is None else _shown(str(cell))) for cell in row))
    console = _Stdout()
    if title:
        console.print(Text(title))
    console.print(table)


def _shown(cell: str) -> str:
    """The cell's lines with what a terminal would obey as escapes: others may have written them."""
    return "\n".join(map(visible, cell.split("\n")))


def write_line(text: str) -> None:
    """One line on stdout, broken between words where a terminal is narrow; whole for scripts.

    What a terminal would obey, the end of a line too, stands there as escapes.
    """
    console = _Stdout()
    is_read_by_people = console.is_terminal or "COLUMNS" in os.environ
    console.print(Text(visible(text)), soft_wrap=not is_read_by_people)


class _Stdout(Console):
    def on_broken_pipe(self) -> NoReturn:
        """A reader that has gone is told of in one place (`root.run`), not by an exit from here."""
        raise BrokenPipeError
