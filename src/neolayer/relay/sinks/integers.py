"""Integers that ClickHouse would cut off: it keeps the low bits of a text, and says nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from neolayer.errors import RelayError
from neolayer.relay.changes import Relation

# smallint, integer, bigint, numeric: the bits that their whole numbers may need.
_NEEDED: Final = {21: 16, 23: 32, 20: 64, 1700: 256}
_INTEGER: Final = re.compile(r"U?Int(\d+)")


def bits_of(type_name: str) -> int | None:
    """Of one of ClickHouse's types: `Nullable(Int32)` has 32; None where it is no integer."""
    found = _INTEGER.search(type_name)
    return int(found[1]) if found else None


def require_wide(relation: Relation, columns: Sequence[str], held: Mapping[str, int]) -> None:
    """Raises RelayError where a column may hold what `held`, the bits of the copy's, does not."""
    for column, type_id in zip(relation.columns, relation.types, strict=False):
        needed = _NEEDED.get(type_id, 0)
        if column in columns and column in held and needed > held[column]:
            raise RelayError(
                f"column {column} of table {relation.table} has {needed} bits, and its copy in"
                f" ClickHouse {held[column]}",
                hint=f"ALTER TABLE ... MODIFY COLUMN {column} Int{needed} in ClickHouse first",
            )
