"""Whether a store's position says anything of what is written: not where PostgreSQL was put back.

A server that goes on at an earlier place of the same timeline writes other commits at positions
which the copies have passed. A fresh write's position then looks contained in a copy that never saw
it. Two things tell: a copy is ahead of the server's own log, which no copy of it can be; and the
relay, once it has found that, has it in a note beside its log, also when the server has passed the
copies again. Neither is known where the relay runs on another machine and the server has passed
them; nor where PostgreSQL does not answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
import psycopg

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.connections import connect
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import EngineError, RelayError
from neolayer.position import Position

NOTE_FILE: Final = "server"
WAY_OUT: Final = (
    "recover PostgreSQL onto a new timeline: stop it, make an empty file standby.signal in its data"
    " directory, start it, SELECT pg_promote(); then every copy starts over by itself"
)
_PATIENCE_S: Final = 5.0

_sql = load_queries(__name__, "queries.sql")


class PutBack(RelayError):
    """PostgreSQL stands where it stood before, or is another, and its timeline is the same."""


class ServerNote(msgspec.Struct):
    """The server that a relay read last; `put_back` is what was found of it, once it was."""

    system: str
    epoch: int
    put_back: str | None = None


def read_note(path: Path) -> ServerNote | None:
    """The note, or None where there is none that can be read. Raises OSError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=ServerNote)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def require_not_refused(wanted: Position, notes: Mapping[str, Path]) -> None:
    """Raises PutBack where a relay refuses the server that the position is of."""
    try:
        note = read_note(notes[wanted.database]) if wanted.database in notes else None
    except OSError:  # of another account's relay
        return
    if note is not None and note.put_back is not None and wanted.epoch <= note.epoch:
        raise PutBack(note.put_back, hint=WAY_OUT)


async def require_not_ahead(reached: Mapping[str, Position], endpoints: Endpoints) -> None:
    """Raises PutBack where a store is ahead of the database that all of them are fed from.

    The stores are read first and the server after them, so what lies ahead of it does so for sure.
    """
    if not reached:
        return
    end = await _log_end(endpoints, next(iter(reached.values())).database)
    for store, at in reached.items():
        if end is None or at <= end:
            continue
        if at.epoch > end.epoch:
            raise PutBack(
                f"{store} reflects {at}, and PostgreSQL is at {end}, on an older timeline",
                hint="point the DSN at the server that was promoted",
            )
        raise PutBack(
            f"PostgreSQL was put back on the same timeline: it is at {end}, and {store} reflects"
            f" {at}, so that no position says what {store} has",
            hint=WAY_OUT,
        )


async def _log_end(endpoints: Endpoints, database: str) -> Position | None:
    """How far the server's log is on its disk; None where it does not say, as a standby does."""
    of = Database(database)
    cluster = endpoints.cluster(of)
    if Role.APP not in cluster.passwords:
        return None
    try:
        async with (
            asyncio.timeout(_PATIENCE_S),
            await connect(
                cluster.dsn(Role.APP, of), autocommit=True, application_name="freshness"
            ) as connection,
        ):
            row = await (await connection.execute(_sql.log_end)).fetchone()
    except (EngineError, psycopg.Error, TimeoutError):
        return None
    return None if row is None else Position.from_version(row[0], database)
