"""Integers that ClickHouse would cut off: it keeps the low bits of a text, and says nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from neolayer.relay.changes import Misfit, Relation

# smallint, integer, bigint, numeric: the bits that their whole numbers may need.
_NEEDED: Final = {21: 16, 23: 32, 20: 64, 1700: 256}
_INTEGER: Final = re.compile(r"(U?Int)(\d+)")


class Held(NamedTuple):
    """A column of ClickHouse's: its type, and whether rows are sorted or parted by it."""

    type: str
    is_key: bool


def require_wide(
    relation: Relation, columns: Sequence[str], target: str, held: Mapping[str, Held]
) -> None:
    """Raises Misfit where one of these columns may hold what the table `target` does not."""
    for column, type_id in zip(relation.columns, relation.types, strict=False):
        needed = _NEEDED.get(type_id, 0)
        if column not in columns or column not in held:
            continue
        found = _INTEGER.search(held[column].type)
        if found and needed > int(found[2]):
            raise Misfit(
                relation.table,
                [column],
                f"column {column} of table {relation.table} has {needed} bits, and its copy in"
                f" ClickHouse {found[2]}",
                _remedy(target, column, held[column], needed),
            )


def _remedy(target: str, column: str, held: Held, needed: int) -> str:
    wide = _INTEGER.sub(rf"\g<1>{needed}", held.type)
    if held.is_key:
        return (
            f"in ClickHouse {column} is in the key of table {target}, which cannot be altered: it"
            f" must be made anew with {column} {wide}, by a migration"
        )
    return f"in ClickHouse: ALTER TABLE {target} MODIFY COLUMN {column} {wide}"
