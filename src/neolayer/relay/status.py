"""What the relay says of itself, and what the server says of its slot.

The running relay leaves a small file once a second (what waits, the last error); everything that
must be true without it, the positions and the lag, is read from the engines.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString

import msgspec
import psycopg
from psycopg.rows import dict_row

from neolayer.engines.endpoints import Endpoints, Role
from neolayer.engines.postgres.connections import connect, explain
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import NeolayerError
from neolayer.freshness import ALL_STORES, position_of
from neolayer.position import CURRENT_EPOCH, Position

SLOT = "neolayer_relay"
PUBLICATION = "neolayer_relay"
_SILENT_S = 5.0

_sql = load_queries(__name__, "queries.sql")


class LaneState(msgspec.Struct):
    """One sink as its lane sees it. Times are seconds since 1970."""

    position: int = 0
    waiting_rows: int = 0
    waiting_bytes: int = 0
    written_rows: int = 0
    writes: int = 0
    committed_at: float | None = None
    error: str | None = None
    error_at: float | None = None
    failures: int = 0
    rejected: int = 0

    def failed(self, exc: NeolayerError) -> None:
        self.error, self.error_at = exc.message, time.time()
        self.failures += 1


class RelayState(msgspec.Struct):
    """The running relay, as it last wrote itself down."""

    pid: int
    started_at: float
    updated_at: float
    error: str | None = None
    lanes: dict[str, LaneState] = {}

    def write(self, path: Path) -> None:
        """Replace the file at once, so that a reader never sees half of it."""
        self.updated_at = time.time()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(msgspec.json.encode(self))
        temporary.replace(path)


def state_path(data_dir: Path) -> Path:
    return data_dir / "relay" / "state.json"


def read_state(path: Path) -> RelayState | None:
    """What the relay last wrote, or None."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=RelayState)
    except (OSError, msgspec.DecodeError):
        return None


@dataclass(frozen=True, slots=True)
class SinkStatus:
    """One sink: what it reflects, and how far behind the log it is."""

    name: str
    position: Position | None
    lag_bytes: int | None
    lag_seconds: float | None
    waiting_rows: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """The slot, the sinks and the last error. `running` is what the server sees, not a file."""

    slot: str
    exists: bool
    running: bool
    slot_state: str | None
    confirmed: Position | None
    lag_bytes: int | None
    held_bytes: int | None
    error: str | None
    sinks: tuple[SinkStatus, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class SlotState:
    """A slot as `pg_replication_slots` shows it; positions are log positions."""

    active: bool
    active_pid: int | None
    wal_status: str
    confirmed_lsn: int
    flushed_lsn: int
    lag_bytes: int
    held_bytes: int

    @property
    def lost(self) -> bool:
        return self.wal_status == "lost"


async def slot_state(dsn: str, slot: str = SLOT) -> SlotState | None:
    """The slot, or None where there is none. Raises EngineUnavailable."""
    row = await _row(dsn, _sql.slot, {"slot": slot})
    if row is None:
        return None
    numbers = {name: int(row[name] or 0) for name in _NUMBERS}
    return SlotState(row["active"], row["active_pid"], row["wal_status"], **numbers)


_NUMBERS = ("confirmed_lsn", "flushed_lsn", "lag_bytes", "held_bytes")


async def publication_exists(dsn: str, publication: str = PUBLICATION) -> bool:
    """Whether there is such a publication now. Raises EngineUnavailable."""
    row = await _row(dsn, _sql.publication, {"publication": publication})
    return row is not None and bool(row["found"])


async def _row(dsn: str, query: LiteralString, values: dict[str, Any]) -> dict[str, Any] | None:
    try:
        async with (
            await connect(dsn, autocommit=True, application_name="relay status") as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            await cursor.execute(query, values)
            return await cursor.fetchone()
    except psycopg.Error as exc:
        raise explain(exc, dsn) from exc


async def relay_status(endpoints: Endpoints, *, state_file: Path | None = None) -> RelayStatus:
    """The relay as it is now. Raises EngineUnavailable where PostgreSQL does not answer."""
    slot = await slot_state(endpoints.postgres.dsn(Role.OPERATOR))
    state = read_state(state_file) if state_file is not None else None
    flushed = Position(CURRENT_EPOCH, slot.flushed_lsn) if slot else None
    sinks = [await _sink_status(store, endpoints, flushed, state) for store in ALL_STORES]
    return RelayStatus(
        slot=SLOT,
        exists=slot is not None,
        running=slot is not None and slot.active,
        slot_state=slot.wal_status if slot else None,
        confirmed=Position(CURRENT_EPOCH, slot.confirmed_lsn) if slot else None,
        lag_bytes=slot.lag_bytes if slot else None,
        held_bytes=slot.held_bytes if slot else None,
        error=state.error if state else None,
        sinks=tuple(sinks),
    )


async def _sink_status(
    name: str, endpoints: Endpoints, flushed: Position | None, state: RelayState | None
) -> SinkStatus:
    lane = state.lanes.get(name) if state else None
    error = lane.error if lane else None
    position = None
    try:
        position = await position_of(_STORES[name], endpoints)
    except NeolayerError as exc:
        error = exc.message
    behind = max(0, flushed.lsn - position.lsn) if flushed and position else None
    return SinkStatus(
        name=name,
        position=position,
        lag_bytes=behind,
        lag_seconds=_lag_seconds(behind, lane, state),
        waiting_rows=lane.waiting_rows if lane else None,
        error=error,
    )


_STORES = {str(store): store for store in ALL_STORES}


def _lag_seconds(
    behind: int | None, lane: LaneState | None, state: RelayState | None
) -> float | None:
    """Age of the newest commit the sink has, while changes wait for it; 0 while none do."""
    if lane is None or state is None or time.time() - state.updated_at > _SILENT_S:
        return 0.0 if behind == 0 else None
    if not lane.waiting_rows:
        return 0.0
    return max(0.0, time.time() - lane.committed_at) if lane.committed_at else None
