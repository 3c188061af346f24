"""`neolayer status`: what runs, where, how far behind, and what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

from cyclopts import Parameter

from neolayer.audit.reading import AuditStatus
from neolayer.chain.reading import Coverage
from neolayer.cli.output import write_json
from neolayer.cli.root import app, invocation
from neolayer.cli.status_tables import show
from neolayer.engines.embedded.data_directory import DataDirectory, LayerState
from neolayer.engines.engine import Engine
from neolayer.errors import NotRunning
from neolayer.insight.health import EngineHealth, Health, examine
from neolayer.insight.joining import VERBS, Joining, joining
from neolayer.insight.tasks import TasksState, tasks_path
from neolayer.platform import data_classes, endpoints, engines
from neolayer.relay.state import state_path
from neolayer.relay.status import RelayStatus
from neolayer.settings import Settings

UNHEALTHY, NOT_RUNNING = 1, 3


@app.command
async def status(*, json: Annotated[bool, Parameter(help="Print JSON.")] = False) -> int:
    """Show every engine, process, the relay's lag, what waits for a person, gaps in chains.

    The exit code is 0 when all is healthy, 1 when something is not or needs a person, 3 when no
    layer runs.

    Example: neolayer status --json
    """
    settings = invocation().settings
    directory = DataDirectory(settings.data_dir)
    health = await _examine(settings)
    alarms = _alarms(health, settings)
    report = _report(directory, health, alarms)
    if json:
        write_json(report)
    else:
        show(report)
    if health is None:
        return NOT_RUNNING
    return 0 if health.healthy and not alarms else UNHEALTHY


async def _examine(settings: Settings) -> Health | None:
    """None where no layer runs."""
    try:
        at = endpoints(settings)
    except NotRunning:
        return None
    opened: list[Engine] = engines(at)
    try:
        return await examine(
            at,
            opened,
            state_file=state_path(settings.data_dir),
            tasks_file=tasks_path(settings.data_dir),
        )
    finally:
        await asyncio.gather(*(engine.close() for engine in opened))


def _alarms(health: Health | None, settings: Settings) -> list[str]:
    """What an operator must do."""
    if health is None:
        return []
    roles = [str(trouble) for trouble in health.roles]
    if health.waiting is None:
        return roles
    return [*roles, *health.waiting.alarms(log_bytes=settings.relay.log_bytes)]


def _report(
    directory: DataDirectory, health: Health | None, alarms: Sequence[str]
) -> dict[str, Any]:
    holder, state = directory.holder(), directory.read_state()
    return {
        "data_dir": str(directory.path),
        "running": holder is not None,
        "pid": holder.pid if holder else None,
        "phase": state.phase if holder and state else "stopped",
        "engines": [_engine(engine) for engine in health.engines] if health else [],
        "time_series": health.time_series if health else None,
        "services": _services(state) if holder and state else [],
        "relay": _relay(health.relay) if health and health.relay else None,
        "stores": [_store(one) for one in joining(data_classes())],
        "audit": _audit(health.audit) if health and health.audit else None,
        "webhooks": asdict(health.webhooks) if health and health.webhooks else None,
        "waiting": asdict(health.waiting) if health and health.waiting else None,
        "alarms": list(alarms),
        "notes": health.waiting.notes() if health and health.waiting else [],
        "tasks": _tasks(health.tasks) if health and health.tasks else [],
        "networks": [_network(network) for network in health.networks] if health else [],
    }


def _engine(engine: EngineHealth) -> dict[str, Any]:
    seen = engine.status
    return {
        "name": seen.name,
        "level": str(seen.level),
        "version": seen.version,
        "address": seen.address,
        "healthy": seen.healthy,
        "schema_version": engine.schema_version,
        "lag": None
        if engine.lag_bytes is None
        else {"bytes": engine.lag_bytes, "seconds": engine.lag_seconds},
        "detail": seen.detail,
    }


def _services(state: LayerState) -> list[dict[str, Any]]:
    return [
        {
            "name": service.name,
            "state": service.state,
            "pid": service.process.pid if service.process else None,
            "restarts": service.restarts,
            "last_exit": service.last_exit,
        }
        for service in state.services
    ]


def _relay(relay: RelayStatus) -> dict[str, Any]:
    return {
        "running": relay.running,
        "position": str(relay.core.confirmed) if relay.core.confirmed else None,
        "lag_bytes": relay.core.lag_bytes,
        "held_bytes": relay.held_bytes,
        "error": relay.error,
        "alarm": relay.alarm,
        "readers": [
            {
                "database": reader.database,
                "slot": reader.slot,
                "running": reader.running,
                "position": str(reader.confirmed) if reader.confirmed else None,
                "lag_bytes": reader.lag_bytes,
                "held_bytes": reader.held_bytes,
                "limit_bytes": reader.limit_bytes,
                "log_bytes": reader.log_bytes,
                "error": reader.error,
            }
            for reader in relay.readers
        ],
        "sinks": [
            {
                "name": sink.name,
                "position": str(sink.position) if sink.position else None,
                "lag_bytes": sink.lag_bytes,
                "lag_seconds": sink.lag_seconds,
                "waiting_rows": sink.waiting_rows,
                "error": sink.error,
            }
            for sink in relay.sinks
        ],
    }


def _store(one: Joining) -> dict[str, Any]:
    covered = {verb: verb in one.covered for verb in VERBS}
    return {"store": one.store, "class": one.data_class, **covered, "joined": one.is_joined}


def _audit(audit: AuditStatus) -> dict[str, Any]:
    return {
        "unsealed": audit.unsealed,
        "lag_seconds": round(audit.lag_seconds, 3),
        "chains": audit.chains,
        "unanchored_chains": audit.unanchored_chains,
        "last_anchor": audit.last_anchor,
        "anchored_at": audit.anchored_at,
    }


def _tasks(state: TasksState) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "every_seconds": task.every_seconds,
            "running": state.is_running,
            "succeeded_at": task.succeeded_at,
            "runs": task.runs,
            "failures": task.failures,
            "error": task.error,
        }
        for name, task in state.tasks.items()
    ]


def _network(network: Coverage) -> dict[str, Any]:
    return {
        "name": network.network,
        "chain_id": network.chain_id,
        "type": network.network_type,
        "head": network.head_number,
        "finalized": network.finalized_number,
        "stored": [list(part) for part in network.covered],
        "missing": [list(part) for part in network.missing],
    }
