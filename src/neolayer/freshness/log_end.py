"""Waiting for the source itself: whoever asks PostgreSQL for a position that its log has not come
to (a standby that was just promoted, a server that was put back) is told so, and gets no older
answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

from neolayer.engines.endpoints import Database
from neolayer.engines.postgres.connections import Connection
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import InvalidInput, NeolayerError
from neolayer.position import Position, Positions

_sql = load_queries(__name__)
_POLL_S = 0.05


class NotWritten(NeolayerError):
    """A database's log has not come to the position yet."""

    exit_code = 4

    def __init__(self, wanted: Position, at: Position) -> None:
        super().__init__(
            f"the log has not come to {wanted} yet: it is at {at}",
            hint="is the position of this layer, and PostgreSQL not put back? neolayer status",
        )
        self.wanted = wanted
        self.at = at


async def wait_for_log(
    position: Position | Positions,
    connection: Connection,
    database: Database,
    *,
    timeout: timedelta,  # noqa: ASYNC109  it says how far the log is
) -> Position:
    """How far the log of the connection's database is, at or above `position`.

    Raises NotWritten, and InvalidInput where the position is of other databases alone.
    """
    wanted = Positions.of(position) if isinstance(position, Position) else position
    mine = wanted.at(database)
    if mine is None:
        raise InvalidInput(
            f"the position {wanted} says nothing of the database {database}",
            hint="what writes return names the database; give its position",
        )

    async def read() -> Position:
        row = await (await connection.execute(_sql.log_end)).fetchone()
        assert row is not None
        return Position.from_version(row[0], database)

    return await _reached(mine, read, timeout)


async def _reached(
    wanted: Position, read: Callable[[], Awaitable[Position]], patience: timedelta
) -> Position:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience.total_seconds()
    while (at := await read()) < wanted:
        if (left := deadline - loop.time()) <= 0:
            raise NotWritten(wanted, at)
        await asyncio.sleep(min(_POLL_S, left))
    return at
