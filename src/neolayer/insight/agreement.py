"""Do PostgreSQL and ClickHouse say the same? Counts and exact sums of a network, side by side.

Sums are taken over exact integers in both (numeric here, UInt256 there), so that equality means
equality. Both are asked with the same text; only the schema in front of the table differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from neolayer.engines.endpoints import Endpoints
from neolayer.insight.querying import Target, ask

# What is compared, table by table: (label, expression).
_MEASURES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "blocks": (("count", "count(*)"), ("gas_used", "coalesce(sum(gas_used), 0)")),
    "transactions": (
        ("count", "count(*)"),
        ("value", "coalesce(sum(value), 0)"),
        ("gas_limit", "coalesce(sum(gas_limit), 0)"),
        ("gas_used", "coalesce(sum(gas_used), 0)"),
    ),
    "logs": (("count", "count(*)"),),
    "smart_contracts": (("count", "count(*)"),),
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure of one table in both stores; exact integers."""

    table: str
    measure: str
    postgres: int
    clickhouse: int

    @property
    def agrees(self) -> bool:
        return self.postgres == self.clickhouse


async def compare(endpoints: Endpoints, network_id: UUID) -> list[Comparison]:
    """Every figure of a network. Wait for a position first: the stores are asked one after the
    other, as they are."""
    found: list[Comparison] = []
    for table, measures in _MEASURES.items():
        ours = await _figures(endpoints, Target.CORE, f"blockchain.{table}", measures, network_id)
        theirs = await _figures(endpoints, Target.ANALYTICS, table, measures, network_id)
        rows = zip(measures, ours, theirs, strict=True)
        found += [Comparison(table, label, left, right) for (label, _), left, right in rows]
    return found


async def _figures(
    endpoints: Endpoints,
    target: Target,
    table: str,
    measures: tuple[tuple[str, str], ...],
    network_id: UUID,
) -> list[int]:
    """Names and expressions are this module's own; the id is a UUID, so no text gets in."""
    asked = ", ".join(f"{expression} AS n{at}" for at, (_, expression) in enumerate(measures))
    statement = f"SELECT {asked} FROM {table} WHERE network_id = '{network_id}'"  # noqa: S608
    async with ask(endpoints, target, statement) as answer:
        rows: list[Any] = [row async for block in answer.blocks for row in block]
    return [int(value) for value in rows[0]]
