"""The wiring: settings -> engines -> rooms. The only file that knows which part needs which.

`endpoints` says where each engine answers, for every process of the layer; `plan` says what a
supervisor must run. An engine with a DSN is only looked at; one without is started here.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, SecretStr

from neolayer.catalogue import DataClass
from neolayer.chain import catalogue as chain
from neolayer.engines.clickhouse.client import parse_dsn
from neolayer.engines.clickhouse.engine import ClickHouseEngine
from neolayer.engines.embedded.answers import engine_answers, http_answers
from neolayer.engines.embedded.clickhouse import EmbeddedClickHouse
from neolayer.engines.embedded.data_directory import DataDirectory, Secrets
from neolayer.engines.embedded.placement import place_data, reachable_programs
from neolayer.engines.embedded.ports import LOOPBACK, free_ports, is_free, require_free
from neolayer.engines.embedded.postgres import STOP_SIGNAL, EmbeddedPostgres, wheel_bin_dir
from neolayer.engines.embedded.privileges import account_for
from neolayer.engines.embedded.services import Service, Step
from neolayer.engines.embedded.valkey import EmbeddedValkey
from neolayer.engines.endpoints import (
    ClickHouseEndpoint,
    Endpoints,
    ObjectsEndpoint,
    PostgresEndpoint,
    RedisEndpoint,
    Role,
)
from neolayer.engines.engine import Engine, Level
from neolayer.engines.objects.engine import ObjectsEngine
from neolayer.engines.postgres.connections import address_of
from neolayer.engines.postgres.engine import PostgresEngine
from neolayer.engines.redis.client import address_of_url
from neolayer.engines.redis.engine import RedisEngine
from neolayer.errors import NotRunning
from neolayer.relay.status import slot_state
from neolayer.schema.runner import migrate_up
from neolayer.settings import Settings

_MIGRATED = "migrations"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a supervisor runs, and the port of each part that has one."""

    parts: tuple[Service | Step, ...]
    ports: Mapping[str, int]


def is_embedded(settings: Settings) -> bool:
    """Whether any engine's server is started by us."""
    chosen = (settings.postgres.dsn, settings.redis.dsn, settings.clickhouse.dsn)
    return any(dsn is None for dsn in chosen)


# Where each engine answers


def endpoints(settings: Settings) -> Endpoints:
    """Where each engine answers now. Raises NotRunning where one is embedded and no layer runs."""
    directory = DataDirectory(settings.data_dir)
    state = directory.read_state()
    running = directory.holder() is not None and state is not None
    if not is_embedded(settings):
        directory.prepare(None)  # the roles' passwords are kept there
    elif not running:
        raise NotRunning(
            f"no layer is running on {settings.data_dir}", hint="start it with: neolayer up"
        )
    return endpoints_at(settings, directory, state.ports if state else {})


def endpoints_at(
    settings: Settings, directory: DataDirectory, ports: Mapping[str, int]
) -> Endpoints:
    """The same, with the embedded engines on the ports given."""
    secrets = directory.secrets()
    postgres = _postgres(settings, directory, secrets, ports)
    return Endpoints(
        postgres=postgres,
        event_store=_other_cluster(settings.postgres.event_store_dsn, secrets) or postgres,
        timeseries=_other_cluster(settings.postgres.timeseries_dsn, secrets) or postgres,
        redis=_redis(settings, directory, secrets, ports),
        clickhouse=_clickhouse(settings, directory, secrets, ports),
        objects=_objects(settings),
    )


def _postgres(
    settings: Settings, directory: DataDirectory, secrets: Secrets, ports: Mapping[str, int]
) -> PostgresEndpoint:
    real = _other_cluster(settings.postgres.dsn, secrets)
    if real is not None:
        return real
    cluster = _embedded_postgres(settings, directory, secrets)
    return cluster.endpoint(ports["postgres"], passwords=secrets.passwords())


def _other_cluster(dsn: SecretStr | None, secrets: Secrets) -> PostgresEndpoint | None:
    if dsn is None:
        return None
    text = dsn.get_secret_value()
    return PostgresEndpoint(Level.REAL, text, secrets.passwords(), address_of(text))


def _redis(
    settings: Settings, directory: DataDirectory, secrets: Secrets, ports: Mapping[str, int]
) -> RedisEndpoint:
    if settings.redis.dsn is None:
        return _embedded_valkey(directory, secrets).endpoint(ports["redis"])
    url = settings.redis.dsn.get_secret_value()
    return RedisEndpoint(Level.REAL, url, address_of_url(url))


def _clickhouse(
    settings: Settings, directory: DataDirectory, secrets: Secrets, ports: Mapping[str, int]
) -> ClickHouseEndpoint:
    if settings.clickhouse.dsn is None:
        return _embedded_clickhouse(directory, secrets).endpoint(ports["clickhouse"])
    return parse_dsn(settings.clickhouse.dsn.get_secret_value())


def _objects(settings: Settings) -> ObjectsEndpoint:
    if settings.objects.url is not None:
        return ObjectsEndpoint(Level.REAL, settings.objects.url)
    folder = settings.data_dir / "objects"
    return ObjectsEndpoint(Level.EMBEDDED, folder.as_uri(), folder)


def engines(at: Endpoints) -> list[Engine]:
    """Every engine behind its face, unopened; the clusters of PostgreSQL once each."""
    clusters: list[Engine] = [PostgresEngine(at.postgres)]
    if at.event_store is not at.postgres:
        clusters.append(PostgresEngine(at.event_store, name="postgres event_store"))
    if at.timeseries is not at.postgres:
        clusters.append(PostgresEngine(at.timeseries, name="postgres timeseries"))
    return [
        *clusters,
        RedisEngine(at.redis),
        ClickHouseEngine(at.clickhouse),
        ObjectsEngine(at.objects),
    ]


def engines_elsewhere(settings: Settings) -> list[Engine]:
    """The engines that run elsewhere, unopened: those can be asked while no layer runs.

    Raises EngineUnavailable where a DSN cannot be read.
    """
    found: list[Engine] = []
    for name, dsn in (
        ("postgres", settings.postgres.dsn),
        ("postgres event_store", settings.postgres.event_store_dsn),
        ("postgres timeseries", settings.postgres.timeseries_dsn),
    ):
        if dsn is not None:
            text = dsn.get_secret_value()
            at = PostgresEndpoint(Level.REAL, text, {}, address_of(text))
            found.append(PostgresEngine(at, name=name))
    if settings.redis.dsn is not None:
        url = settings.redis.dsn.get_secret_value()
        found.append(RedisEngine(RedisEndpoint(Level.REAL, url, address_of_url(url))))
    if settings.clickhouse.dsn is not None:
        found.append(ClickHouseEngine(parse_dsn(settings.clickhouse.dsn.get_secret_value())))
    if settings.objects.url is not None:
        found.append(ObjectsEngine(_objects(settings)))
    return found


def data_classes() -> tuple[DataClass, ...]:
    """Every class of data, as the rooms' catalogues declare them."""
    return chain.CLASSES


# What a supervisor runs


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
    """Everything to run on a prepared data directory. Raises EngineError on a port taken."""
    ports = _ports(settings, directory)
    return Plan(tuple(services(settings, directory, ports)), ports)


def _ports(settings: Settings, directory: DataDirectory) -> dict[str, int]:
    """The ports of the last time where they are free still: addresses that people noted live on."""
    before = directory.read_state()
    known = before.ports if before else {}
    names = ("postgres", "redis", "clickhouse", "serve")
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
        cluster = _embedded_postgres(settings, directory, secrets, for_start=True)
        yield _postgres_service(cluster, at.postgres, ports["postgres"])
    if settings.redis.dsn is None:
        yield _redis_service(_embedded_valkey(directory, secrets), at.redis, ports["redis"])
    if settings.clickhouse.dsn is None:
        chdb = _embedded_clickhouse(directory, secrets)
        yield _clickhouse_service(chdb, ports["clickhouse"])
    started = ("postgres", "redis", "clickhouse")
    others = [engine for engine in engines(at) if not _runs_here(settings, engine.name)]
    yield from (Step(name=engine.name, run=_look_at(engine)) for engine in others)
    needed = tuple(dict.fromkeys([*started, *(engine.name for engine in others)]))
    yield Step(name=_MIGRATED, run=lambda: migrate_up(at), depends_on=needed)
    yield from _workers(settings, at, ports)


def _runs_here(settings: Settings, name: str) -> bool:
    return {
        "postgres": settings.postgres.dsn,
        "redis": settings.redis.dsn,
        "clickhouse": settings.clickhouse.dsn,
    }.get(name, SecretStr("elsewhere")) is None


def _look_at(engine: Engine) -> Callable[[], Awaitable[None]]:
    """Open, ping and close an engine that runs elsewhere: wrong DSN or version end the start."""

    async def look() -> None:
        try:
            await engine.open()
            await engine.ping()
        finally:
            await engine.close()

    return look


def _postgres_service(cluster: EmbeddedPostgres, at: PostgresEndpoint, port: int) -> Service:
    return Service(
        name="postgres",
        argv=tuple(cluster.argv(port)),
        prepare=cluster.prepare,
        ready=engine_answers(lambda: PostgresEngine(at)),
        env={"LC_ALL": "C"},
        user=cluster.account,
        cwd=cluster.directory,
        stop_signal=STOP_SIGNAL,
        stop_timeout_s=60.0,
    )


def _redis_service(valkey: EmbeddedValkey, at: RedisEndpoint, port: int) -> Service:
    return Service(
        name="redis",
        argv=tuple(valkey.argv(port)),
        prepare=valkey.initialise,
        ready=engine_answers(lambda: RedisEngine(at)),
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


def _workers(settings: Settings, at: Endpoints, ports: Mapping[str, int]) -> Iterator[Service]:
    environment = {**variables_of(settings), "NEOLAYER_SERVE__PORT": str(ports["serve"])}
    for name, ready in (
        ("relay", _relay_reads(at)),
        ("serve", http_answers(settings.serve.host, ports["serve"], "/health/live")),
    ):
        module = f"neolayer.workers.{name}"
        yield Service(
            name=name,
            argv=(sys.executable, "-m", module, "--data-dir", str(settings.data_dir)),
            ready=ready,
            env=environment,
            cwd=settings.data_dir,
            depends_on=(_MIGRATED,),
        )


def _relay_reads(at: Endpoints) -> Callable[[], Awaitable[bool]]:
    """The relay is ready when PostgreSQL sees it read the commit log."""

    async def reads() -> bool:
        slot = await slot_state(at.postgres.dsn(Role.OPERATOR))
        return slot is not None and slot.active

    return reads


def variables_of(settings: Settings) -> dict[str, str]:
    """The settings as variables, for children: they need not find our configuration file."""
    return dict(_variables(settings, "NEOLAYER_"))


def _variables(section: BaseModel, prefix: str) -> Iterator[tuple[str, str]]:
    for name in type(section).model_fields:
        value: object = getattr(section, name)
        here = f"{prefix}{name.upper()}"
        if isinstance(value, BaseModel):
            yield from _variables(value, f"{here}__")
        elif isinstance(value, SecretStr):
            yield here, value.get_secret_value()
        elif value is not None:
            yield here, str(value)


# The embedded engines in their folders


def _embedded_postgres(
    settings: Settings, directory: DataDirectory, secrets: Secrets, *, for_start: bool = False
) -> EmbeddedPostgres:
    folder = directory.resolved / "postgres"
    programs: Path | None = None
    if for_start:
        account = account_for(settings.run_as)
        programs = reachable_programs(wheel_bin_dir(), directory.resolved / "programs", account)
    return EmbeddedPostgres(folder, secrets.roles[Role.ADMIN], settings.run_as, programs)


def _embedded_valkey(directory: DataDirectory, secrets: Secrets) -> EmbeddedValkey:
    return EmbeddedValkey(directory.resolved / "redis", secrets.redis)


def _embedded_clickhouse(directory: DataDirectory, secrets: Secrets) -> EmbeddedClickHouse:
    return EmbeddedClickHouse(
        directory.resolved / "clickhouse", secrets.clickhouse, secrets.clickhouse_reader
    )
