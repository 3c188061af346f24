"""The rows in which a rebuilt table differs from the live one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg import sql

from neolayer.engines.postgres.connections import Connection
from neolayer.events.projections.model import AnyProjection, Slot
from neolayer.events.projections.shape import table

_QUERY = sql.SQL(
    "SELECT tenant_id, jsonb_build_array({keys}), to_jsonb(l.*), to_jsonb(n.*)"
    " FROM (SELECT {columns} FROM {live}) AS l"
    " FULL JOIN (SELECT {columns} FROM {next}) AS n USING (tenant_id, {keys})"
    " WHERE to_jsonb(l.*) IS DISTINCT FROM to_jsonb(n.*) ORDER BY tenant_id, {keys} LIMIT %(limit)s"
)


@dataclass(frozen=True, slots=True)
class Difference:
    """One row: as it is live and as the replay made it; None where it is not there at all."""

    tenant: UUID
    key: tuple[Any, ...]
    live: Mapping[str, Any] | None
    replay: Mapping[str, Any] | None

    @property
    def fields(self) -> tuple[str, ...]:
        """Which fields differ, where the row is in both."""
        if self.live is None or self.replay is None:
            return ()
        live, replay = self.live, self.replay
        return tuple(name for name in live if live[name] != replay.get(name))


async def differences(
    connection: Connection, projection: AnyProjection, columns: tuple[str, ...], *, limit: int
) -> tuple[Difference, ...]:
    """The first of them by tenant and key."""
    query = _QUERY.format(
        keys=_listed(projection.key),
        columns=_listed(("tenant_id", *columns)),
        live=table(projection, Slot.LIVE),
        next=table(projection, Slot.NEXT),
    )
    rows = await (await connection.execute(query, {"limit": limit})).fetchall()
    return tuple(
        Difference(tenant, tuple(key), _row(live), _row(replay))
        for tenant, key, live, replay in rows
    )


def _listed(names: tuple[str, ...]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _row(found: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The side of an outer join that has no row comes as one of nothing but nulls."""
    if found is None or found.get("tenant_id") is None:
        return None
    return {name: value for name, value in found.items() if name != "tenant_id"}
