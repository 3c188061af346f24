"""Partitions made before they are needed.

Every `migrate up` makes the coming ones, ingest makes old ones on demand; what nobody made falls
into a default partition, which `default_partition_rows` counts and `status` alarms on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import LiteralString

from neolayer.engines.postgres.connections import Connection
from neolayer.engines.postgres.queries import load_queries
from neolayer.schema.lines import Line

QUERIES = load_queries("neolayer.schema")
_MAKERS: dict[Line, tuple[str, LiteralString]] = {
    Line.CORE: ("blockchain.ensure_partitions", QUERIES.ensure_chain_partitions),
    Line.TIMESERIES: ("public.ensure_partitions", QUERIES.ensure_metric_partitions),
}


async def make_partitions_ahead(owners: Mapping[Line, Connection]) -> None:
    """Make the coming partitions in the databases that have come that far."""
    for line, (function, statement) in _MAKERS.items():
        if line in owners and await _has_function(owners[line], function):
            await owners[line].execute(statement)


async def _has_function(owner: Connection, name: str) -> bool:
    signature = {"signature": f"{name}(timestamptz, timestamptz)"}
    row = await (await owner.execute(QUERIES.has_function, signature)).fetchone()
    return row is not None and bool(row[0])
