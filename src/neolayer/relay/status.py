"""How far every sink is, and what the server says of the relay's slot.

What the running relay says of itself (`state.py`: what waits, the last error) is shown beside it;
everything that must be true without that, the positions and the lag, is read from the engines.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.connections import connect, explain
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import NeolayerError
from neolayer.freshness import ALL_STORES, position_of, stores_at
from neolayer.position import Position
from neolayer.relay.state import (
    PUBLICATION,
    SILENT_S,
    SLOT,
    FlowState,
    LaneState,
    RelayState,
    read_state,
    slot_of,
)

_ALARM_SHARE = 0.5  # of what the server keeps at most

_sql = load_queries(__name__, "queries.sql")


@dataclass(frozen=True, slots=True)
class SinkStatus:
    """One sink: what it reflects, and how far behind the log it is."""

    name: str
    position: Position | None
    lag_bytes: int | None
    lag_seconds: float | None
    waiting_rows: int | None
    error: str | None
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class ReaderStatus:
    """One database's slot as the server sees it, and the segment log behind it.

    `held_bytes` is the commit log that the server keeps for the slot, `limit_bytes` what it keeps
    at most (None: any amount), `log_bytes` what our segment log holds for sinks that lag.
    """

    database: str
    slot: str
    exists: bool
    running: bool
    slot_state: str | None
    confirmed: Position | None
    flushed: Position | None
    lag_bytes: int | None
    held_bytes: int | None
    limit_bytes: int | None
    log_bytes: int | None
    error: str | None
    copy_bytes: int = 0
    free_bytes: int | None = None
    hint: str | None = None

    @property
    def alarm(self) -> str | None:
        """What must be done before the server gives up the slot or the disk is full, or None."""
        return self._slot_alarm or self._disk_alarm

    @property
    def _disk_alarm(self) -> str | None:
        """A copy holds back what comes meanwhile: the disk must have room for it."""
        if self.free_bytes is None or self.copy_bytes <= (self.log_bytes or 0) + self.free_bytes:
            return None
        return (
            f"a copy may hold back {self.copy_bytes >> 20} MB of changes of {self.database}, and"
            f" the disk of the relay's folder has {self.free_bytes >> 20} MB left: make room, or"
            f" the copy starts over"
        )

    @property
    def _slot_alarm(self) -> str | None:
        if self.slot_state == "lost":
            return f"the server gave up slot {self.slot}: every copy of {self.database} starts over"
        if self.held_bytes is None or self.limit_bytes is None:
            return None
        if self.held_bytes < _ALARM_SHARE * self.limit_bytes:
            return None
        return (
            f"slot {self.slot} holds back {self.held_bytes >> 20} MB of commit log and is given up "
            f"at {self.limit_bytes >> 20} MB: is the relay running?"
        )


@dataclass(frozen=True, slots=True)
class RelayStatus:
    """Every reader and sink. `running` is what the servers see, not what a file says."""

    readers: tuple[ReaderStatus, ...]
    sinks: tuple[SinkStatus, ...]

    @property
    def running(self) -> bool:
        return all(reader.running for reader in self.readers)

    @property
    def core(self) -> ReaderStatus:
        """The reader of the core database, which is always there."""
        return self.readers[0]

    @property
    def held_bytes(self) -> int | None:
        """The most commit log that a slot holds back."""
        held = [reader.held_bytes for reader in self.readers if reader.held_bytes is not None]
        return max(held, default=None)

    @property
    def error(self) -> str | None:
        return next((reader.error for reader in self.readers if reader.error), None)

    @property
    def alarm(self) -> str | None:
        return next((reader.alarm for reader in self.readers if reader.alarm), None)


@dataclass(frozen=True, slots=True)
class SlotState:
    """A slot as `pg_replication_slots` shows it; positions are log positions."""

    active: bool
    active_pid: int | None
    wal_status: str
    epoch: int
    confirmed_lsn: int
    flushed_lsn: int
    lag_bytes: int
    held_bytes: int
    limit_bytes: int | None

    @property
    def lost(self) -> bool:
        return self.wal_status == "lost"


async def slot_state(dsn: str, slot: str = SLOT) -> SlotState | None:
    """The slot, or None where there is none. Raises EngineUnavailable."""
    row = await _row(dsn, _sql.slot, {"slot": slot})
    if row is None:
        return None
    numbers = {name: int(row[name] or 0) for name in _NUMBERS}
    limit = row["limit_bytes"]
    return SlotState(
        row["active"], row["active_pid"], row["wal_status"], **numbers, limit_bytes=limit
    )


_NUMBERS = ("epoch", "confirmed_lsn", "flushed_lsn", "lag_bytes", "held_bytes")


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
    state = read_state(state_file) if state_file is not None else None
    flows = state.flows if state else {}
    # First what the sinks have, then where the servers are: what lies ahead of them is so for sure.
    held = [await _held(store, endpoints) for store in stores_at(endpoints)]
    readers = [
        await _reader_status(database, endpoints, flows.get(database))
        for database in Database
        if database is Database.CORE or database in flows
    ]
    sinks = [_store_status(one, readers[0], state) for one in held]
    by_database = {reader.database: reader for reader in readers}
    streams = [
        _stream_status(name, lane, by_database[database], state)
        for database, flow in flows.items()
        for name, lane in flow.lanes.items()
        if name not in _STORES
    ]
    return RelayStatus(tuple(readers), (*sinks, *streams))


async def _reader_status(
    database: Database, endpoints: Endpoints, flow: FlowState | None
) -> ReaderStatus:
    slot = await slot_state(
        endpoints.cluster(database).dsn(Role.OPERATOR, database), slot_of(database)
    )
    return ReaderStatus(
        database=str(database),
        slot=slot_of(database),
        exists=slot is not None,
        running=slot is not None and slot.active,
        slot_state=slot.wal_status if slot else None,
        confirmed=Position(slot.epoch, slot.confirmed_lsn, str(database)) if slot else None,
        flushed=Position(slot.epoch, slot.flushed_lsn, str(database)) if slot else None,
        lag_bytes=slot.lag_bytes if slot else None,
        held_bytes=slot.held_bytes if slot else None,
        limit_bytes=slot.limit_bytes if slot else None,
        log_bytes=flow.log_bytes if flow else None,
        copy_bytes=flow.copy_bytes if flow else 0,
        free_bytes=flow.free_bytes if flow else None,
        error=flow.error if flow else None,
        hint=flow.hint if flow else None,
    )


async def _held(
    name: str, endpoints: Endpoints
) -> tuple[str, Position | None, NeolayerError | None]:
    """A store's name, the position it has, and why it does not say."""
    try:
        return name, await position_of(_STORES[name], endpoints), None
    except NeolayerError as exc:
        return name, None, exc


def _store_status(
    held: tuple[str, Position | None, NeolayerError | None],
    reader: ReaderStatus,
    state: RelayState | None,
) -> SinkStatus:
    name, position, silent = held
    lane = state.lanes.get(name) if state else None
    return _sink_status(name, position, silent, lane, reader, state)


def _stream_status(
    name: str, lane: LaneState, reader: ReaderStatus, state: RelayState | None
) -> SinkStatus:
    """A sink that nobody reads through us: what its lane says."""
    position = Position.from_version(lane.position, reader.database) if lane.position else None
    return _sink_status(name, position, None, lane, reader, state)


def _sink_status(
    name: str,
    position: Position | None,
    silent: NeolayerError | None,
    lane: LaneState | None,
    reader: ReaderStatus,
    state: RelayState | None,
) -> SinkStatus:
    behind = _behind(position, reader)
    does_not_compare = behind is None and position is not None
    is_unknown = does_not_compare or (behind and reader.error)
    error, hint = (lane.error, lane.hint) if lane else (None, None)
    if silent is not None:
        error, hint = silent.message, silent.hint
    return SinkStatus(
        name=name,
        position=position,
        lag_bytes=behind,
        lag_seconds=None if is_unknown else _lag_seconds(behind, lane, state),
        waiting_rows=lane.waiting_rows if lane else None,
        error=error or _ahead(position, reader),
        hint=hint,
    )


def _behind(position: Position | None, reader: ReaderStatus) -> int | None:
    """How much log the position lacks; None where the two do not compare."""
    if reader.flushed is None or position is None or position > reader.flushed:
        return None
    return max(0, reader.flushed.lsn - position.lsn)


def _ahead(position: Position | None, reader: ReaderStatus) -> str | None:
    """A position that PostgreSQL itself has not reached."""
    if reader.flushed is None or position is None or position <= reader.flushed:
        return None
    return f"it reflects {position}, and PostgreSQL is at {reader.flushed}: it was put back"


_STORES = {str(store): store for store in ALL_STORES}


def _lag_seconds(
    behind: int | None, lane: LaneState | None, state: RelayState | None
) -> float | None:
    """Age of the newest commit the sink has, while changes wait for it; 0 while none do."""
    if lane is None or state is None or time.time() - state.updated_at > SILENT_S:
        return 0.0 if behind == 0 else None
    if not lane.waiting_rows:
        return 0.0
    return max(0.0, time.time() - lane.committed_at) if lane.committed_at else None
