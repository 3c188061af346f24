"""A table of ClickHouse that is not as the migrations made it, and how it comes back.

The migrator believes its marks, so it does not see that a table is gone. Each statement of this
line may run twice: without marks `migrate up` makes what is missing and leaves the rest as it is.
"""

from __future__ import annotations

from collections.abc import Collection

from neolayer.catalogue import ClickHouseCopy
from neolayer.errors import RelayError
from neolayer.relay.changes import Misfit

MARKS = ("_version", "_deleted")


def lack(copy: ClickHouseCopy, held: Collection[str]) -> str | None:
    """What a table with these columns lacks, in a sentence; None where it has everything."""
    if not held:
        return f"ClickHouse has no table {copy.table}"
    lacking = [name for name in (*copy.key, *copy.columns, *MARKS) if name not in held]
    return f"table {copy.table} of ClickHouse has no column {lacking[0]!r}" if lacking else None


def way_back(copy: ClickHouseCopy) -> str:
    """What to do, for a person who may change ClickHouse; all of its rows are copies."""
    return (
        "run: neolayer migrate up; where that changes nothing, in ClickHouse: DROP TABLE IF EXISTS"
        f" {copy.table}; DROP TABLE IF EXISTS schema_marks; and once more: neolayer migrate up"
    )


def require_declared(table: str, copy: ClickHouseCopy, held: Collection[str]) -> None:
    """Raises Misfit where there is no table, RelayError where one with these columns cannot take
    the copy: what is written waits for it, and is not copied anew by itself."""
    if not (lacks := lack(copy, held)):
        return
    if not held:
        raise Misfit(table, copy.key, lacks, way_back(copy))
    raise RelayError(
        lacks, hint=f"{way_back(copy)}; then: neolayer relay rebuild clickhouse {table}"
    )
