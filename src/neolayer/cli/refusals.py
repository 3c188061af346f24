"""What was refused, told to a person: each by name while they are few, else alike ones together."""

from __future__ import annotations

import re
from collections.abc import Sequence

from neolayer.errors import BadBlock

_EACH, _KINDS = 20, 10
_PARTICULARS = re.compile(r"0x[0-9a-fA-F]+|\d+")
_LINE = re.compile(r":\d+$")


def told(refused: Sequence[BadBlock]) -> list[str]:
    """The lines to say, at most twenty, in the order in which each kind first appeared."""
    if len(refused) <= _EACH:
        return [f"refused: {bad.message}" for bad in refused]
    alike: dict[str, list[BadBlock]] = {}
    for bad in refused:
        alike.setdefault(_PARTICULARS.sub("#", bad.reason), []).append(bad)
    kinds = list(alike.values())
    lines = [_line(kind) for kind in kinds[:_KINDS]]
    if others := kinds[_KINDS:]:
        lines.append(f"refused: {sum(map(len, others))} more, for {len(others)} other reasons")
    return [*lines, f"refused: {len(refused)} in all; --json lists each"]


def _line(kind: Sequence[BadBlock]) -> str:
    first = kind[0].message
    if len(kind) == 1:
        return f"refused: {first}"
    files = len({_LINE.sub("", bad.origin) for bad in kind})
    where = f", in {files} files" if files > 1 else ""
    return f"refused: {first} ({len(kind)} such{where})"
