"""Seals entries into one hash chain per tenant, and one for the entries of no tenant.

A writer never waits for its chain: entries are stored without a seal, and sealed a moment later, in
one place. Each pass takes what has been committed since the last one, so the chain follows the
order of commits: what one pass saw stands before what only a later one did. An entry is taken
because it has no seal, not because of its number or time, so a transaction that commits late is
found whenever it does, and one that is still running, or is rolled back, holds up nothing.

A pass is one transaction. A sealer that is killed leaves nothing behind, and the next one goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

import psycopg

from neolayer.audit.encoding import FIRST_PREVIOUS, microseconds, seal
from neolayer.engines.postgres.connections import Connection, connect, explain
from neolayer.engines.postgres.queries import load_queries

SQL = load_queries(__name__, "sealing.sql")
BATCH: Final = 2_000


@dataclass(frozen=True, slots=True)
class Head:
    """The last seal of a chain. `tenant` is None for the entries without one."""

    tenant: UUID | None
    number: int = 0
    hash: bytes = FIRST_PREVIOUS


@dataclass(frozen=True, slots=True)
class Waiting:
    """A stored entry without a seal; its fields up to transaction_id."""

    id: UUID
    tenant: UUID | None
    fields: Sequence[str | None]


@dataclass(frozen=True, slots=True)
class Sealed:
    """The seal of one entry."""

    id: UUID
    number: int
    previous: bytes
    hash: bytes


def seal_all(
    waiting: Iterable[Waiting], heads: Mapping[UUID | None, Head], *, sealed_at_us: int
) -> tuple[list[Sealed], dict[UUID | None, Head]]:
    """Seals for the entries in their order, and the heads of the chains they lengthen."""
    moved: dict[UUID | None, Head] = {}
    seals: list[Sealed] = []
    for entry in waiting:
        head = moved.get(entry.tenant) or heads.get(entry.tenant) or Head(entry.tenant)
        number = head.number + 1
        digest = seal(number, head.hash, (*entry.fields, str(sealed_at_us)))
        seals.append(Sealed(entry.id, number, head.hash, digest))
        moved[entry.tenant] = Head(entry.tenant, number, digest)
    return seals, moved


@dataclass(slots=True)
class Sealer:
    """Seals what waits, over a connection as the auditor that is made anew when it breaks."""

    dsn: str = field(repr=False)
    batch: int = BATCH
    _connection: Connection | None = None
    _complete_below: str = "0"

    async def seal_waiting(self) -> int:
        """Seal until nothing waits; how many were sealed (0 too while another sealer has the turn).

        Raises EngineUnavailable where PostgreSQL does not answer; nothing is half done then.
        """
        total = 0
        try:
            while True:
                sealed = await self._pass(await self._connected())
                total += sealed
                if sealed < self.batch:
                    return total
        except psycopg.OperationalError as exc:
            await self.close()
            raise explain(exc, self.dsn) from exc

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = await connect(
                self.dsn, autocommit=True, application_name="audit sealer"
            )
            self._complete_below = "0"
        return self._connection

    async def _pass(self, connection: Connection) -> int:
        async with connection.transaction():
            found = await (await connection.execute(SQL.take_turn)).fetchone()
            if found is None or not found[0]:
                return 0
            waiting = await self._waiting(connection)
            if waiting:
                await _write(connection, waiting)
        if len(waiting) < self.batch:
            self._complete_below = found[1]
        return len(waiting)

    async def _waiting(self, connection: Connection) -> list[Waiting]:
        values = {"complete_below": self._complete_below, "limit": self.batch}
        rows = await connection.execute(SQL.waiting, values)
        return [Waiting(*row) for row in await rows.fetchall()]

    async def close(self) -> None:
        """Close the connection; the sealer may be used again."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None


async def _write(connection: Connection, waiting: Sequence[Waiting]) -> None:
    tenants = list({entry.tenant for entry in waiting if entry.tenant is not None})
    rows = await (await connection.execute(SQL.heads, {"tenants": tenants})).fetchall()
    instant = await _now(connection)
    heads = {tenant: Head(tenant, number, digest) for tenant, number, digest in rows}
    seals, moved = seal_all(waiting, heads, sealed_at_us=microseconds(instant))
    async with connection.pipeline():
        await connection.execute(
            SQL.write_seals,
            {
                "sealed_at": instant,
                "ids": [each.id for each in seals],
                "numbers": [each.number for each in seals],
                "previous": [each.previous for each in seals],
                "hashes": [each.hash for each in seals],
            },
        )
        await connection.execute(
            SQL.move_heads,
            {
                "sealed_at": instant,
                "tenants": [head.tenant for head in moved.values()],
                "numbers": [head.number for head in moved.values()],
                "hashes": [head.hash for head in moved.values()],
            },
        )


async def _now(connection: Connection) -> datetime:
    row = await (await connection.execute(SQL.now)).fetchone()
    assert row is not None
    return row[0]
