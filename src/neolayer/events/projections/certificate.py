"""What a table comes to in one line: its rows and a digest over all of them.

Each row's text is hashed by itself and the hashes are added up, so the order in which the server
meets the rows makes no difference and a table of any size needs no sorting and no memory. Equal
digests of equally many rows mean equal tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg import sql

from neolayer.engines.postgres.connections import Connection
from neolayer.engines.postgres.queries import load_queries
from neolayer.events.model import Place
from neolayer.events.projections.model import AnyProjection, Slot
from neolayer.events.projections.shape import shape_of, table

QUERIES = load_queries(__name__)

_DIGEST = sql.SQL(
    "SELECT count(*),"
    " coalesce(sum(('x' || left(h.digest, 16))::bit(64)::bigint::numeric), 0),"
    " coalesce(sum(('x' || right(h.digest, 16))::bit(64)::bigint::numeric), 0)"
    " FROM (SELECT md5(jsonb_build_array({})::text) AS digest FROM {}) AS h"
)
_MASK = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Digest:
    """Rows, and 128 bits over all of them."""

    rows: int
    digest: str


@dataclass(frozen=True, slots=True)
class PutAside:
    """Streams that stand still in a table, and events that were discarded there."""

    waiting: int = 0
    discarded: int = 0


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a replay of all events came to beside the live table, as of one place in the log.

    `live_waiting` and `replay_waiting` are the streams that stand still on either side at an event
    that cannot be folded; `discarded` events count on neither.
    """

    number: int
    projection: str
    as_of: Place
    live: Digest
    replay: Digest
    made_at: datetime
    live_waiting: int = 0
    replay_waiting: int = 0
    discarded: int = 0

    @property
    def holds(self) -> bool:
        """Whether the live table is exactly what its events say, of every stream."""
        return self.live == self.replay and not self.live_waiting and not self.replay_waiting


async def digest_of(
    connection: Connection, projection: AnyProjection, slot: Slot, columns: tuple[str, ...]
) -> Digest:
    """Of these columns of a table, the tenant's among them."""
    names = sql.SQL(", ").join(map(sql.Identifier, ("tenant_id", *columns)))
    query = _DIGEST.format(names, table(projection, slot))
    row = await (await connection.execute(query)).fetchone()
    assert row is not None
    return Digest(row[0], f"{int(row[1]) & _MASK:016x}{int(row[2]) & _MASK:016x}")


async def put_aside_of(connection: Connection, name: str) -> PutAside:
    """Of the table that has its state under this name."""
    row = await (await connection.execute(QUERIES.put_aside_counts, {"name": name})).fetchone()
    assert row is not None
    return PutAside(*row)


async def certify(
    connection: Connection,
    projection: AnyProjection,
    as_of: Place,
    live: tuple[Digest, PutAside],
    replay: tuple[Digest, PutAside],
) -> Certificate:
    """Store the certificate."""
    (of_live, aside), (of_replay, aside_there) = live, replay
    values: dict[str, Any] = {
        "name": projection.name,
        "transaction": str(as_of.transaction),
        "position": as_of.index,
        "live_rows": of_live.rows,
        "live_digest": of_live.digest,
        "replay_rows": of_replay.rows,
        "replay_digest": of_replay.digest,
        "live_waiting": aside.waiting,
        "replay_waiting": aside_there.waiting,
        "discarded": aside_there.discarded,
    }
    row = await (await connection.execute(QUERIES.certify, values)).fetchone()
    assert row is not None
    return Certificate(
        row[0],
        projection.name,
        as_of,
        of_live,
        of_replay,
        row[1],
        aside.waiting,
        aside_there.waiting,
        aside_there.discarded,
    )


def columns_of(projection: AnyProjection) -> tuple[str, ...]:
    """All columns of a read model as the program declares it, in order."""
    return tuple(column.name for column in shape_of(projection).columns)
