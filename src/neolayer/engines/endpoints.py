"""Where each engine answers, and as whom.

`platform.endpoints(settings)` makes these from the settings and, for embedded engines, from the
state file a running layer leaves in its data directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from psycopg.conninfo import make_conninfo

from neolayer.engines.engine import Level


class Database(StrEnum):
    """The three databases, by the names they bear on the server."""

    CORE = "neolayer"
    EVENT_STORE = "event_store"
    TIMESERIES = "timeseries"


class Role(StrEnum):
    """The roles of every database; `ADMIN` is the DSN's user, `NEVER_LOG_IN` says who owns only."""

    ADMIN = "admin"
    OWNER = "neolayer_owner"
    MIGRATOR = "neolayer_migrator"
    APP = "neolayer_app"
    INGEST = "neolayer_ingest"
    RELAY = "neolayer_relay"
    BACKUP = "neolayer_backup"
    OPERATOR = "neolayer_operator"
    SEARCH = "neolayer_search"
    APPENDER = "neolayer_appender"
    AUDITOR = "neolayer_auditor"
    PROJECTOR = "neolayer_projector"


NEVER_LOG_IN = (Role.OWNER, Role.SEARCH, Role.APPENDER)


@dataclass(frozen=True, slots=True)
class PostgresEndpoint:
    """One cluster. `admin_dsn` may create roles and databases; the other roles have passwords."""

    level: Level
    admin_dsn: str = field(repr=False)
    passwords: dict[Role, str] = field(repr=False)
    address: str

    def dsn(self, role: Role, database: Database | str = Database.CORE) -> str:
        """A libpq connection string for one role in one database."""
        if role is Role.ADMIN:
            return make_conninfo(self.admin_dsn, dbname=str(database))
        return make_conninfo(
            self.admin_dsn,
            dbname=str(database),
            user=str(role),
            password=self.passwords[role],
        )


@dataclass(frozen=True, slots=True)
class RedisEndpoint:
    level: Level
    url: str = field(repr=False)
    address: str


@dataclass(frozen=True, slots=True)
class ClickHouseEndpoint:
    """One server. Without a reader of its own, reads run as `username`, held to reading."""

    level: Level
    host: str
    port: int
    username: str
    password: str = field(repr=False)
    database: str = "neolayer"
    secure: bool = False
    reader_username: str | None = None
    reader_password: str = field(default="", repr=False)

    @property
    def address(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.host}:{self.port}/{self.database}"


@dataclass(frozen=True, slots=True)
class MongoEndpoint:
    """One server or cluster, and the layer's database on it."""

    level: Level
    url: str = field(repr=False)
    database: str
    address: str


@dataclass(frozen=True, slots=True)
class ElasticsearchEndpoint:
    """One Elasticsearch or OpenSearch. `authority` is a file with the certificate to trust."""

    level: Level
    url: str
    username: str = ""
    password: str = field(default="", repr=False)
    prefix: str = "neolayer"
    authority: str | None = None

    @property
    def address(self) -> str:
        return f"{self.url}/{self.prefix}_*"

    def index(self, name: str) -> str:
        """The full name of one of the layer's indices."""
        return f"{self.prefix}_{name}"


@dataclass(frozen=True, slots=True)
class ObjectsEndpoint:
    level: Level
    url: str
    folder: Path | None = None

    @property
    def address(self) -> str:
        return self.url


@dataclass(frozen=True, slots=True)
class NatsEndpoint:
    """A server or cluster with JetStream; what we make there begins with `prefix`."""

    level: Level
    url: str = field(repr=False)
    address: str
    prefix: str = "neolayer"
    replicas: int = 1
    keep_days: float = 7.0


@dataclass(frozen=True, slots=True)
class KafkaEndpoint:
    """A cluster of brokers; what we make there begins with `prefix`. `options` are librdkafka's."""

    level: Level
    servers: str
    prefix: str = "neolayer"
    partitions: int = 6
    options: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)

    @property
    def address(self) -> str:
        return self.servers


@dataclass(frozen=True, slots=True)
class Endpoints:
    """All engines of one layer. The event store and time series share `postgres` by default.

    None: no such server is configured, and what it would hold stays where it comes from.
    """

    postgres: PostgresEndpoint
    event_store: PostgresEndpoint
    timeseries: PostgresEndpoint
    redis: RedisEndpoint
    clickhouse: ClickHouseEndpoint
    objects: ObjectsEndpoint
    mongodb: MongoEndpoint | None = None
    nats: NatsEndpoint | None = None
    kafka: KafkaEndpoint | None = None
    elasticsearch: ElasticsearchEndpoint | None = None

    def cluster(self, database: Database) -> PostgresEndpoint:
        return {
            Database.CORE: self.postgres,
            Database.EVENT_STORE: self.event_store,
            Database.TIMESERIES: self.timeseries,
        }[database]
