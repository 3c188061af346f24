"""`neolayer doctor`: what on this machine or in the settings would keep the layer from working."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated

import psycopg
from cyclopts import Parameter

from neolayer.cli.output import counted, write_json, write_table
from neolayer.cli.root import app, invocation
from neolayer.engines.embedded.data_directory import DataDirectory
from neolayer.engines.embedded.machine import Check, check_machine
from neolayer.engines.embedded.ports import require_free
from neolayer.engines.endpoints import Role
from neolayer.engines.engine import Engine, Level
from neolayer.engines.postgres.engine import PostgresEngine
from neolayer.errors import NeolayerError
from neolayer.events.holding import who_holds
from neolayer.insight.roles import role_troubles
from neolayer.insight.time_series import time_series
from neolayer.platform import endpoints, engines, engines_not_started, is_embedded
from neolayer.relay.state import state_path
from neolayer.relay.status import relay_status
from neolayer.settings import Settings
from neolayer.webhooks.tasks import webhook_status


@app.command
async def doctor(*, json: Annotated[bool, Parameter(help="Print JSON.")] = False) -> int:
    """Check this machine, the settings and every engine; exit code 1 where something is wrong.

    Example: neolayer doctor
    """
    checks = [check async for check in examine(invocation().settings)]
    if json:
        write_json([_row(check) for check in checks])
    else:
        rows = [tuple(_row(check).values()) for check in checks]
        write_table(("check", "result", "found", "what to do"), rows)
    return 0 if all(check.ok for check in checks) else 1


def _row(check: Check) -> dict[str, object]:
    remedy = None if check.ok else check.remedy
    return {
        "check": check.name,
        "result": "OK" if check.ok else "problem",
        "found": check.found,
        "remedy": remedy,
    }


async def examine(settings: Settings) -> AsyncIterator[Check]:
    """Every check, the machine's first."""
    machine = check_machine(
        settings.data_dir, run_as=settings.run_as, embedded=is_embedded(settings)
    )
    for check in machine:
        yield check
    yield _serve_port(settings)
    async for check in _engines(settings):
        yield check


def _serve_port(settings: Settings) -> Check:
    port = settings.serve.port
    if not port:
        return Check("serve port", True, "any free one")
    if DataDirectory(settings.data_dir).holder() is not None:
        return Check("serve port", True, f"{port}, the layer runs")
    try:
        require_free("serve", settings.serve.host, port)
    except NeolayerError as exc:
        return Check("serve port", False, exc.message, exc.hint)
    return Check("serve port", True, f"{port} is free")


async def _engines(settings: Settings) -> AsyncIterator[Check]:
    running = DataDirectory(settings.data_dir).holder() is not None
    if not running and is_embedded(settings):
        yield Check("layer", True, "not running: embedded engines are not asked")
    try:
        opened = engines(endpoints(settings)) if running else _elsewhere(settings)
    except NeolayerError as exc:
        yield Check("engines", False, exc.message, exc.hint)
        return
    try:
        for engine in opened:
            async for check in _engine(engine):
                yield check
        if running:
            async for check in _slots(settings):
                yield check
        if running:
            async for check in _webhooks(settings):
                yield check
            async for check in _readers(settings):
                yield check
            async for check in _roles(settings):
                yield check
        with suppress(NeolayerError):  # one that does not answer was told above
            if found := await time_series(opened):
                yield Check("time series", True, found)
    finally:
        await asyncio.gather(*(engine.close() for engine in opened))


async def _webhooks(settings: Settings) -> AsyncIterator[Check]:
    """Endpoints of tenants that are told nothing, or not everything."""
    with suppress(NeolayerError, psycopg.Error):  # before the migration they are not there
        told = await webhook_status(endpoints(settings).postgres.dsn(Role.OPERATOR))
        found = (
            f"{counted(told.endpoints, 'endpoint')}, {told.disabled} disabled, {told.parked} parked"
        )
        yield Check("webhooks", not told.disabled, found, "neolayer webhooks list --tenant TENANT")


async def _readers(settings: Settings) -> AsyncIterator[Check]:
    """Whether a transaction that does not end keeps the readers of events back."""
    with suppress(NeolayerError, psycopg.Error):  # before the migration there are no events
        holding = await who_holds(endpoints(settings))
        found = "no transaction keeps them back" if holding is None else holding.told
        yield Check("event readers", holding is None, found, holding.remedy if holding else None)


async def _roles(settings: Settings) -> AsyncIterator[Check]:
    """Whether the application's role logs in, and no role was told anything for later."""
    with suppress(NeolayerError, psycopg.Error):  # before the migration they are not there
        troubles = await role_troubles(endpoints(settings))
        for trouble in troubles:
            yield Check("roles", False, trouble.found, trouble.remedy)
        if not troubles:
            yield Check("roles", True, "as migrate up made them")


def _elsewhere(settings: Settings) -> list[Engine]:
    """Without a layer: the servers elsewhere, and the folder of objects only if it is not ours."""
    found = engines_not_started(settings)
    return found if settings.objects.url else found[:-1]


async def _engine(engine: Engine) -> AsyncIterator[Check]:
    status = await engine.status()
    found = (status.version if status.healthy else status.detail) or ""
    remedy = "read its log" if status.level is Level.EMBEDDED else "check its DSN and the server"
    yield Check(engine.name, status.healthy, found, status.hint or remedy)
    if isinstance(engine, PostgresEngine) and status.healthy:
        level = await engine.setting("wal_level")
        remedy = "ALTER SYSTEM SET wal_level = logical, then restart the server"
        yield Check(f"{engine.name} wal_level", level == "logical", level, remedy)
        yield await _slot_limit(engine)


async def _slot_limit(engine: PostgresEngine) -> Check:
    """Without a limit a slot that nobody reads keeps commit log until the disk is full."""
    limit = await engine.setting("max_slot_wal_keep_size")
    found = "no limit" if limit == "-1" else limit
    remedy = "ALTER SYSTEM SET max_slot_wal_keep_size = '8GB', then SELECT pg_reload_conf()"
    return Check(f"{engine.name} max_slot_wal_keep_size", limit != "-1", found, remedy)


async def _slots(settings: Settings) -> AsyncIterator[Check]:
    """Whether the server is about to give up a slot of the relay."""
    try:
        relay = await relay_status(endpoints(settings), state_file=state_path(settings.data_dir))
    except NeolayerError:  # before the first migration there is no role to ask as
        return
    for reader in relay.readers:
        if reader.error:
            remedy = reader.hint or "neolayer relay status"
            yield Check(f"relay of {reader.database}", False, reader.error, remedy)
        if reader.held_bytes is not None:
            found = reader.alarm or f"{reader.held_bytes >> 20} MB of commit log held back"
            remedy = "start the relay, or let its copies start over: neolayer relay status"
            yield Check(f"slot {reader.slot}", reader.alarm is None, found, remedy)
