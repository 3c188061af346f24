"""What `up` runs: engines first, then the migrations, then what works on them.

An engine with a DSN is only looked at; one without is started here. Drivers and migrations are
loaded while the servers start, because loading them takes as long as the servers do.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import cast

from pydantic import BaseModel, SecretStr

from neolayer.engines.embedded.answers import engine_answers, http_answers, redis_answers
from neolayer.engines.embedded.clickhouse import EmbeddedClickHouse
from neolayer.engines.embedded.data_directory import DataDirectory
from neolayer.engines.embedded.placement import place_data
from neolayer.engines.embedded.ports import LOOPBACK, free_ports, is_free, require_free
from neolayer.engines.embedded.postgres import STOP_SIGNAL, EmbeddedPostgres
from neolayer.engines.embedded.privileges import account_for
from neolayer.engines.embedded.processes import stop_strays
from neolayer.engines.embedded.services import Service, Step
from neolayer.engines.embedded.valkey import EmbeddedValkey
from neolayer.engines.endpoints import Endpoints, PostgresEndpoint, Role
from neolayer.engines.engine import Engine
from neolayer.engines.postgres.connections import connect
from neolayer.engines.postgres.engine import PostgresEngine
from neolayer.platform import (
    embedded_clickhouse,
    embedded_postgres,
    embedded_valkey,
    endpoints_at,
    engines_not_started,
)
from neolayer.settings import Settings

_LOADED, _MIGRATED = "programs", "migrations"
_EARLY = ("relay", "serve")  # the workers that load while the engines start
# Secrets that are not for every worker; the DSNs are.
_ENTITLED: Mapping[str, tuple[str, ...]] = {
    "NEOLAYER_SERVE__OPERATOR_TOKEN": ("serve",),
    "NEOLAYER_KEYS__": ("serve", "tasks", "relay"),  # the relay signs what webhooks are sent
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What a supervisor runs, and the port of each part that has one."""

    parts: tuple[Service | Step, ...]
    ports: Mapping[str, int]


def prepare(settings: Settings, *, chosen: bool) -> tuple[DataDirectory, str | None]:
    """The data directory, made and writable, and a sentence where it had to lie elsewhere.

    `chosen`: the user named the place. Raises DataDirectoryError or SettingsError.
    """
    account = account_for(settings.run_as) if settings.postgres.dsn is None else None
    moved = place_data(settings.data_dir, chosen=chosen, account=account)
    directory = DataDirectory(settings.data_dir)
    directory.prepare(account)
    return directory, moved


def plan(settings: Settings, directory: DataDirectory) -> Plan:
    """Everything to run on a prepared data directory, which the caller has locked.

    What a killed layer left running is ended first: it would still hold the ports that the next one
    should keep. Raises EngineError on a port taken.
    """
    from neolayer.insight.tasks import tasks_path

    stop_strays(directory.resolved)
    tasks_path(settings.data_dir).unlink(missing_ok=True)  # of the last time, not of this
    ports = _ports(settings, directory)
    return Plan(tuple(services(settings, directory, ports)), ports)


def _ports(settings: Settings, directory: DataDirectory) -> dict[str, int]:
    """A port for each part that is started here: that of the last time where it is free still, so
    that addresses that people noted live on."""
    before = directory.read_state()
    known = before.ports if before else {}
    elsewhere = {
        "postgres": settings.postgres.dsn,
        "redis": settings.redis.dsn,
        "clickhouse": settings.clickhouse.dsn,
    }
    names = [*(name for name, dsn in elsewhere.items() if dsn is None), "serve"]
    fresh = dict(zip(names, free_ports(len(names)), strict=True))
    kept = {name: known[name] for name in names if name in known and is_free(known[name])}
    ports = {**fresh, **kept}
    if settings.serve.port:
        require_free("serve", settings.serve.host, settings.serve.port)
        ports["serve"] = settings.serve.port
    return ports


def services(
    settings: Settings, directory: DataDirectory, ports: Mapping[str, int]
) -> Iterator[Service | Step]:
    """Engines first, then the migrations, then what works on them."""
    at = endpoints_at(settings, directory, ports)
    secrets = directory.secrets()
    if settings.postgres.dsn is None:
        cluster = embedded_postgres(settings, directory, secrets, for_start=True)
        yield _postgres_service(cluster, at.postgres, ports["postgres"])
    if settings.redis.dsn is None:
        yield _redis_service(embedded_valkey(directory, secrets), ports["redis"])
    slowest: tuple[str, ...] = ()
    if settings.clickhouse.dsn is None:
        chdb = embedded_clickhouse(directory, secrets)
        slowest = ("clickhouse",)
        yield _clickhouse_service(chdb, ports["clickhouse"])
    others = engines_not_started(settings)
    for engine in others:
        yield Step(name=engine.name, run=_look_at(engine), yields_to=_EARLY)
    yield Step(name=_LOADED, run=_load, yields_to=_EARLY)
    needed = ["postgres", "redis", "clickhouse", *(engine.name for engine in others), _LOADED]
    yield Step(name=_MIGRATED, run=lambda: _migrate(at), depends_on=tuple(dict.fromkeys(needed)))
    yield from _workers(settings, at, ports, slowest)


async def _load() -> None:
    """Load what is needed next, in a thread, while the servers start."""
    for module in ("neolayer.schema.runner", "neolayer.relay.status"):
        await asyncio.to_thread(import_module, module)


async def _migrate(at: Endpoints) -> None:
    from neolayer.schema.runner import migrate_up

    await migrate_up(at)


def _look_at(engine: Engine) -> Callable[[], Awaitable[None]]:
    """Open, ping and close an engine that runs elsewhere: wrong DSN or version end the start."""

    async def look() -> None:
        try:
            await engine.open()
            await engine.ping()
        finally:
            await engine.close()

    return look


def _is_primary(
    cluster: EmbeddedPostgres, at: PostgresEndpoint, port: int
) -> Callable[[], Awaitable[bool]]:
    """Ready is a server that can be written to: one that was put back and is to come up on a new
    timeline (`standby.signal` lies in its data) is promoted; then the file is gone."""
    answers, admin = engine_answers(lambda: PostgresEngine(at)), cluster.admin_dsn(port)

    async def ready() -> bool:
        if not (cluster.data / "standby.signal").exists():
            return await answers()
        opened = await connect(admin, autocommit=True, application_name="promote")
        async with opened:
            await opened.execute("SELECT pg_promote()")
        return False

    return ready


def _postgres_service(cluster: EmbeddedPostgres, at: PostgresEndpoint, port: int) -> Service:
    return Service(
        name="postgres",
        argv=tuple(cluster.argv(port)),
        prepare=cluster.prepare,
        ready=_is_primary(cluster, at, port),
        env={"LC_ALL": "C"},
        user=cluster.account,
        cwd=cluster.directory,
        stop_signal=STOP_SIGNAL,
        stop_timeout_s=60.0,
    )


def _redis_service(valkey: EmbeddedValkey, port: int) -> Service:
    return Service(
        name="redis",
        argv=tuple(valkey.argv(port)),
        prepare=valkey.initialise,
        ready=redis_answers(port, valkey.password),
        cwd=valkey.directory,
    )


def _clickhouse_service(chdb: EmbeddedClickHouse, port: int) -> Service:
    return Service(
        name="clickhouse",
        argv=tuple(chdb.argv(port)),
        prepare=chdb.initialise,
        ready=http_answers(LOOPBACK, port, "/ping"),
        cwd=chdb.directory,
        stop_timeout_s=30.0,
    )


def _workers(
    settings: Settings, at: Endpoints, ports: Mapping[str, int], slowest: tuple[str, ...]
) -> Iterator[Service]:
    port = ports["serve"]
    answers = http_answers(settings.serve.host, port, "/health/live")
    yield _worker(settings, port, "relay", _relay_reads(settings, at), yields_to=slowest)
    yield _worker(settings, port, "serve", answers, yields_to=slowest)
    # What is done again and again can begin a moment later: a start is not to wait for it.
    yield _worker(settings, port, "tasks", _tasks_run(settings), in_background=True)


def _worker(
    settings: Settings,
    port: int,
    name: str,
    ready: Callable[[], Awaitable[bool]],
    *,
    yields_to: tuple[str, ...] = (),
    in_background: bool = False,
) -> Service:
    module = f"neolayer.workers.{name}"
    argv = (sys.executable, "-m", module, "--data-dir", str(settings.data_dir))
    return Service(
        name=name,
        argv=argv if in_background else (*argv, "--wait"),
        yields_to=yields_to,
        loads_early=not in_background,
        in_background=in_background,
        ready=ready,
        env={
            **variables_for(name, settings),
            **_module_path(settings),
            "NEOLAYER_SERVE__PORT": str(port),
        },
        cwd=settings.data_dir,
        depends_on=(_MIGRATED,),
    )


def _relay_reads(settings: Settings, at: Endpoints) -> Callable[[], Awaitable[bool]]:
    """The relay is ready when PostgreSQL sees it read the commit log, or when it will not read it
    before a person has done something: the layer is up for that person, and `status` says why."""

    async def reads() -> bool:
        from neolayer.relay.state import read_state, state_path
        from neolayer.relay.status import slot_state

        slot = await slot_state(at.postgres.dsn(Role.OPERATOR))
        if slot is not None and slot.active:
            return True
        state = read_state(state_path(settings.data_dir))
        return state is not None and state.refuses

    return reads


def _tasks_run(settings: Settings) -> Callable[[], Awaitable[bool]]:
    """The worker of periodic tasks is ready when it says that it runs."""

    async def run() -> bool:
        from neolayer.insight.tasks import read_tasks, tasks_path

        state = read_tasks(tasks_path(settings.data_dir))
        return state is not None and state.is_running

    return run


def _module_path(settings: Settings) -> dict[str, str]:
    """Where workers, which run in the data directory, find the modules of `events.modules`."""
    if not settings.events.modules:
        return {}
    already = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(Path.cwd()), *([already] if already else [])])}


def variables_for(worker: str, settings: Settings) -> dict[str, str]:
    """The settings as variables for one worker, without the secrets that are others': whoever can
    read a process's environment, or makes it print it, gets no more than it works with."""
    return {
        name: value
        for name, value in variables_of(settings).items()
        if not any(
            name.startswith(prefix) and worker not in entitled
            for prefix, entitled in _ENTITLED.items()
        )
    }


def variables_of(settings: Settings) -> dict[str, str]:
    """The settings as variables, for children: they need not find our configuration file."""
    return dict(_variables(settings, "NEOLAYER_"))


def _variables(section: BaseModel, prefix: str) -> Iterator[tuple[str, str]]:
    for name in type(section).model_fields:
        value: object = getattr(section, name)
        here = f"{prefix}{name.upper()}"
        if isinstance(value, BaseModel):
            yield from _variables(value, f"{here}__")
        elif isinstance(value, tuple):
            yield here, json.dumps([_text(each) for each in cast("tuple[object, ...]", value)])
        elif value is not None:
            yield here, _text(value)


def _text(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
