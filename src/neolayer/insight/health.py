"""The whole layer at one glance: engines, schema, relay, and how complete each chain is.

Every part is asked at the same time and each may fail alone: what cannot be known is None, and the
engine's own `detail` says why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

import psycopg

from neolayer.audit.reading import AuditStatus, audit_status
from neolayer.chain.reading import Coverage, network_coverage
from neolayer.engines.endpoints import Endpoints, Role
from neolayer.engines.engine import Engine, EngineStatus
from neolayer.engines.postgres.connections import connect
from neolayer.errors import NeolayerError
from neolayer.insight.roles import RoleTrouble, role_troubles
from neolayer.insight.tasks import TasksState, read_tasks
from neolayer.insight.time_series import time_series
from neolayer.insight.waiting import Waiting, what_waits
from neolayer.relay.status import RelayStatus, SinkStatus, relay_status
from neolayer.schema.files import load_migrations
from neolayer.schema.lines import Line
from neolayer.schema.state import schema_version
from neolayer.webhooks.tasks import WebhookStatus, webhook_status

T = TypeVar("T")
# How long one part may keep the answer about all others waiting.
_PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class EngineHealth:
    """One engine, the newest migration it has, and how far it lags behind the commit log.

    Both are None where they mean nothing for this engine or cannot be known.
    """

    status: EngineStatus
    schema_version: int | None
    lag_bytes: int | None
    lag_seconds: float | None


@dataclass(frozen=True, slots=True)
class Health:
    """The layer as it is now."""

    engines: tuple[EngineHealth, ...]
    relay: RelayStatus | None
    networks: tuple[Coverage, ...]
    time_series: str | None = None
    audit: AuditStatus | None = None
    tasks: TasksState | None = None
    webhooks: WebhookStatus | None = None
    waiting: Waiting | None = None
    roles: tuple[RoleTrouble, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether every engine answers, the relay reads, and periodic work is done where it was."""
        answering = all(engine.status.healthy for engine in self.engines)
        working = self.tasks is None or self.tasks.is_running
        return answering and working and self.relay is not None and self.relay.running


async def examine(
    at: Endpoints,
    engines: Sequence[Engine],
    *,
    state_file: Path | None = None,
    tasks_file: Path | None = None,
) -> Health:
    """Ask everything at once. Never raises what an engine says; the engines stay open.

    The files are those in which the relay and the worker of periodic tasks say how they fare.
    """
    statuses = asyncio.gather(*(engine.status() for engine in engines))
    versions = asyncio.gather(*(_or_none(schema_version(at, line)) for line in Line))
    relay = _or_none(relay_status(at, state_file=state_file))
    networks = _or_none(coverage(at))
    sealing = _or_none(audit_status(at.postgres.dsn(Role.OPERATOR)))
    telling = _or_none(webhook_status(at.postgres.dsn(Role.OPERATOR)))
    left = asyncio.gather(telling, _or_none(what_waits(at)), _or_none(role_troubles(at)))
    seen, known, relaying, covered, sealed, (told, waits, odd) = await asyncio.gather(
        statuses, versions, relay, networks, sealing, left
    )
    sinks = {sink.name: sink for sink in relaying.sinks} if relaying else {}
    by_line = dict(zip(Line, known, strict=True))
    found = [_engine_health(status, at, by_line, sinks.get(status.name)) for status in seen]
    below = await _or_none(time_series(engines))
    tasks = read_tasks(tasks_file) if tasks_file is not None else None
    return Health(
        tuple(found),
        relaying,
        tuple(covered or ()),
        below,
        sealed,
        tasks,
        told,
        waits,
        tuple(odd or ()),
    )


def _engine_health(
    status: EngineStatus, at: Endpoints, versions: dict[Line, int | None], sink: SinkStatus | None
) -> EngineHealth:
    def current(line: Line) -> bool:
        return versions[line] == _newest().get(line)

    has = [
        version
        for line, version in versions.items()
        if version is not None and _address(at, line) == status.address
    ]
    lag = (sink.lag_bytes, sink.lag_seconds) if sink else (None, None)
    behind = [
        line for line in versions if _address(at, line) == status.address and not current(line)
    ]
    if status.healthy and behind:
        status = replace(status, healthy=False, detail=_behind(behind))
    return EngineHealth(status, max(has, default=None), *lag)


def _behind(lines: Sequence[Line]) -> str:
    return f"the schema of {', '.join(lines)} is not that of this version; run: neolayer migrate up"


@cache
def _newest() -> dict[Line, int]:
    """The newest migration of each line that this version brings."""
    return {migration.line: migration.number for migration in load_migrations()}


def _address(at: Endpoints, line: Line) -> str | None:
    if line is Line.MONGODB:
        return at.mongodb.address if at.mongodb is not None else None
    if line is Line.ELASTICSEARCH:
        return at.elasticsearch.address if at.elasticsearch is not None else None
    return at.clickhouse.address if line.database is None else at.cluster(line.database).address


async def coverage(at: Endpoints) -> list[Coverage]:
    """Every network's coverage, read as the operator. Raises EngineUnavailable."""
    dsn = at.postgres.dsn(Role.OPERATOR)
    async with await connect(dsn, application_name="status") as connection:
        return await network_coverage(connection)


async def _or_none(asked: Awaitable[T]) -> T | None:
    try:
        async with asyncio.timeout(_PATIENCE_S):
            return await asked
    except (
        NeolayerError,
        psycopg.Error,
        TimeoutError,
    ):  # before the first migration the tables are not there
        return None
