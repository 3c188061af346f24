"""The wiring: settings -> engines -> rooms. The only file that knows which part needs which.

`endpoints` says where each engine answers, for every process of the layer. What a supervisor runs
is wired in `supervision.py`. Redis's and ClickHouse's drivers take a second to load, so they are
loaded where an engine is made, not with this file.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from neolayer.audit import catalogue as audit
from neolayer.catalogue import DataClass, OutgoingCopy
from neolayer.chain import catalogue as chain
from neolayer.engines.clickhouse.dsn import parse_dsn
from neolayer.engines.elasticsearch import dsn as elasticsearch
from neolayer.engines.embedded.clickhouse import EmbeddedClickHouse
from neolayer.engines.embedded.data_directory import DataDirectory, Secrets
from neolayer.engines.embedded.placement import reachable_programs
from neolayer.engines.embedded.postgres import EmbeddedPostgres, wheel_bin_dir
from neolayer.engines.embedded.privileges import account_for
from neolayer.engines.embedded.valkey import EmbeddedValkey
from neolayer.engines.endpoints import (
    ClickHouseEndpoint,
    ElasticsearchEndpoint,
    Endpoints,
    KafkaEndpoint,
    MongoEndpoint,
    NatsEndpoint,
    ObjectsEndpoint,
    PostgresEndpoint,
    RedisEndpoint,
    Role,
)
from neolayer.engines.engine import Engine, Level
from neolayer.engines.fallback import FallbackEngine
from neolayer.engines.mongodb import dsn as mongodb
from neolayer.engines.nats.dsn import address_of_urls
from neolayer.engines.objects.engine import ObjectsEngine
from neolayer.engines.postgres.connections import address_of
from neolayer.engines.postgres.engine import PostgresEngine
from neolayer.engines.redis.dsn import address_of_url
from neolayer.errors import InvalidInput, NotRunning
from neolayer.periodic import BoundTask
from neolayer.settings import SERVICES, KafkaSettings, NatsSettings, Settings

if TYPE_CHECKING:
    from neolayer.keys.keyring import Keyring
    from neolayer.relay.sinks.sink import Sink


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
        mongodb=_mongodb(settings),
        nats=_nats(settings.streams.nats),
        kafka=_kafka(settings.streams.kafka),
        elasticsearch=_elasticsearch(settings),
    )


def _postgres(
    settings: Settings, directory: DataDirectory, secrets: Secrets, ports: Mapping[str, int]
) -> PostgresEndpoint:
    real = _other_cluster(settings.postgres.dsn, secrets)
    if real is not None:
        return real
    cluster = embedded_postgres(settings, directory, secrets)
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
        return embedded_valkey(directory, secrets).endpoint(ports["redis"])
    return _real_redis(settings.redis.dsn)


def _real_redis(dsn: SecretStr) -> RedisEndpoint:
    url = dsn.get_secret_value()
    return RedisEndpoint(Level.REAL, url, address_of_url(url))


def _clickhouse(
    settings: Settings, directory: DataDirectory, secrets: Secrets, ports: Mapping[str, int]
) -> ClickHouseEndpoint:
    if settings.clickhouse.dsn is None:
        return embedded_clickhouse(directory, secrets).endpoint(ports["clickhouse"])
    return parse_dsn(settings.clickhouse.dsn.get_secret_value())


def _nats(settings: NatsSettings) -> NatsEndpoint | None:
    if settings.url is None:
        return None
    url = settings.url.get_secret_value()
    return NatsEndpoint(
        Level.REAL,
        url,
        address_of_urls(url),
        settings.prefix,
        settings.replicas,
        settings.keep_days,
    )


def _kafka(settings: KafkaSettings) -> KafkaEndpoint | None:
    if settings.servers is None:
        return None
    options: dict[str, str] = {}
    if settings.username is not None:
        password = settings.password.get_secret_value() if settings.password else ""
        options |= {
            "sasl.mechanism": settings.mechanism,
            "sasl.username": settings.username,
            "sasl.password": password,
        }
    if settings.tls or options:
        protocol = f"{'sasl_' if options else ''}{'ssl' if settings.tls else 'plaintext'}"
        options["security.protocol"] = protocol
    if settings.ca_file is not None:
        options["ssl.ca.location"] = str(settings.ca_file)
    return KafkaEndpoint(
        Level.REAL, settings.servers, settings.prefix, settings.partitions, options
    )


def _mongodb(settings: Settings) -> MongoEndpoint | None:
    dsn = settings.mongodb.dsn
    return None if dsn is None else mongodb.parse_dsn(dsn.get_secret_value())


def _elasticsearch(settings: Settings) -> ElasticsearchEndpoint | None:
    dsn = settings.elasticsearch.dsn
    return None if dsn is None else elasticsearch.parse_dsn(dsn.get_secret_value())


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
        _redis_engine(at.redis),
        _clickhouse_engine(at.clickhouse),
        _mongodb_engine(at.mongodb),
        *_stream_engines(at.nats, at.kafka),
        _elasticsearch_engine(at.elasticsearch),
        ObjectsEngine(at.objects),
    ]


def engines_not_started(settings: Settings) -> list[Engine]:
    """The engines for which we start no server, unopened: they can be asked while no layer runs.

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
        found.append(_redis_engine(_real_redis(settings.redis.dsn)))
    if settings.clickhouse.dsn is not None:
        found.append(_clickhouse_engine(parse_dsn(settings.clickhouse.dsn.get_secret_value())))
    if (documents := _mongodb(settings)) is not None:
        found.append(_mongodb_engine(documents))
    found += _stream_engines(_nats(settings.streams.nats), _kafka(settings.streams.kafka))
    if (search := _elasticsearch(settings)) is not None:
        found.append(_elasticsearch_engine(search))
    return [*found, ObjectsEngine(_objects(settings))]


def _stream_engines(nats: NatsEndpoint | None, kafka: KafkaEndpoint | None) -> list[Engine]:
    found: list[Engine] = []
    if nats is not None:
        from neolayer.engines.nats.engine import NatsEngine

        found.append(NatsEngine(nats))
    if kafka is not None:
        from neolayer.engines.kafka.engine import KafkaEngine

        found.append(KafkaEngine(kafka))
    return found


def _redis_engine(at: RedisEndpoint) -> Engine:
    from neolayer.engines.redis.engine import RedisEngine

    return RedisEngine(at)


def _clickhouse_engine(at: ClickHouseEndpoint) -> Engine:
    from neolayer.engines.clickhouse.engine import ClickHouseEngine

    return ClickHouseEngine(at)


def _mongodb_engine(at: MongoEndpoint | None) -> Engine:
    if at is None:
        return FallbackEngine("mongodb", "PostgreSQL", "documents stay in PostgreSQL")
    from neolayer.engines.mongodb.engine import MongoEngine

    return MongoEngine(at)


def _elasticsearch_engine(at: ElasticsearchEndpoint | None) -> Engine:
    if at is None:
        return FallbackEngine("elasticsearch", "PostgreSQL", "entities are searched in PostgreSQL")
    from neolayer.engines.elasticsearch.engine import ElasticsearchEngine

    return ElasticsearchEngine(at)


def data_classes() -> tuple[DataClass, ...]:
    """Every class of data, as the rooms' catalogues declare them."""
    # Rooms that load cryptography and password hashing: not for every process.
    from neolayer.enclave import catalogue as enclave
    from neolayer.events import catalogue as events
    from neolayer.identity import catalogue as identity
    from neolayer.keys import catalogue as keys
    from neolayer.outbox import catalogue as outbox
    from neolayer.relay import catalogue as relay
    from neolayer.tenancy import catalogue as tenancy
    from neolayer.wallets import catalogue as wallets
    from neolayer.webhooks import catalogue as webhooks

    core = (chain, audit, keys, tenancy, identity, wallets, enclave)
    rooms = (*core, events, outbox, webhooks, relay)
    return tuple(one for room in rooms for one in room.CLASSES)


def copied_classes(table: str | None = None) -> list[DataClass]:
    """Those that have copies, or the one of that name or table. Raises InvalidInput."""
    copied = [one for one in data_classes() if one.copies]
    chosen = [one for one in copied if table is None or table in (one.name, one.table)]
    if not chosen:
        read = [one for one in copied if not is_only_told(one)]
        names = ", ".join(one.name for one in read)
        raise InvalidInput(f"no table {table!r} has copies", hint=f"one of: {names}")
    return chosen


def is_only_told(one: DataClass) -> bool:
    """Whether all of its copies go out as messages, which nobody can compare."""
    return all(isinstance(copy, OutgoingCopy) for copy in one.copies)


@asynccontextmanager
async def tasks(settings: Settings, at: Endpoints) -> AsyncGenerator[tuple[BoundTask, ...]]:
    """Every room's periodic work, with what it needs open for the length of the block."""
    from neolayer.audit.tasks import tasks as audit_tasks
    from neolayer.enclave.tasks import tasks as enclave_tasks
    from neolayer.events.tasks import tasks as event_tasks
    from neolayer.identity.tasks import tasks as identity_tasks
    from neolayer.outbox.tasks import tasks as outbox_tasks
    from neolayer.tenancy.standing import tasks as standing_tasks
    from neolayer.webhooks.tasks import tasks as webhook_tasks

    async with AsyncExitStack() as needs:
        yield (
            *await needs.enter_async_context(standing_tasks(at)),
            *await needs.enter_async_context(audit_tasks(at, settings.audit)),
            *await needs.enter_async_context(identity_tasks(at)),
            *await needs.enter_async_context(enclave_tasks(at)),
            *await needs.enter_async_context(event_tasks(at, settings.events)),
            *outbox_tasks(at),
            *webhook_tasks(at),
        )


@asynccontextmanager
async def webhook_sinks(
    settings: Settings, at: Endpoints, classes: Collection[DataClass]
) -> AsyncGenerator[list[Sink]]:
    """What tells the tenants' endpoints, with the keyring that opens their secrets.

    Raises SettingsError, KeyringError.
    """
    from neolayer.relay.envelope import outgoing_databases
    from neolayer.relay.sinks.webhooks import WebhookSink
    from neolayer.webhooks.deliverer import Deliverer, policy_of

    async with keyring(settings) as opened:
        deliverer = Deliverer(at, opened, policy_of(settings.webhooks))
        yield [
            WebhookSink(at, classes, deliverer, database=database)
            for database in outgoing_databases(classes)
        ]


@asynccontextmanager
async def keyring(settings: Settings) -> AsyncGenerator[Keyring]:
    """The keyring of a layer, for the length of the block. Raises SettingsError, KeyringError."""
    from neolayer.keys.providers import open_keyring

    needs_database = {settings.keys.provider, settings.keys.earlier} & set(SERVICES)
    at = endpoints(settings) if needs_database else None
    async with open_keyring(settings.keys, settings.data_dir, at) as opened:
        yield opened


# The embedded engines in their folders


def embedded_postgres(
    settings: Settings, directory: DataDirectory, secrets: Secrets, *, for_start: bool = False
) -> EmbeddedPostgres:
    folder = directory.resolved / "postgres"
    programs: Path | None = None
    if for_start:
        account = account_for(settings.run_as)
        programs = reachable_programs(wheel_bin_dir(), directory.resolved / "programs", account)
    return EmbeddedPostgres(folder, secrets.roles[Role.ADMIN], settings.run_as, programs)


def embedded_valkey(directory: DataDirectory, secrets: Secrets) -> EmbeddedValkey:
    return EmbeddedValkey(directory.resolved / "redis", secrets.redis)


def embedded_clickhouse(directory: DataDirectory, secrets: Secrets) -> EmbeddedClickHouse:
    return EmbeddedClickHouse(
        directory.resolved / "clickhouse", secrets.clickhouse, secrets.clickhouse_reader
    )
