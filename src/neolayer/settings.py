"""The one configuration: `neolayer.toml`, overridden by `NEOLAYER_*`.

Without a file and without variables every engine is embedded under one data directory. A variable
names a field by its path, joined with two underscores: `NEOLAYER_POSTGRES__DSN`.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from neolayer.errors import SettingsError

DEFAULT_DATA_DIR = ".neolayer"
DEFAULT_FILE = "neolayer.toml"
PREFIX = "NEOLAYER_"
# For tests: where `make engines` puts servers, and the point at which a process is to die.
_NOT_SETTINGS = frozenset({"NEOLAYER_ENGINES", "NEOLAYER_CRASH_AT", "NEOLAYER_TRACEBACK"})


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PostgresSettings(_Section):
    """PostgreSQL: the three databases of one cluster, or one cluster each."""

    dsn: SecretStr | None = Field(
        default=None,
        description="DSN of a role that may create databases and roles; unset: embedded",
    )
    event_store_dsn: SecretStr | None = Field(
        default=None,
        description="DSN of another cluster for the event store; unset: the same cluster",
    )
    timeseries_dsn: SecretStr | None = Field(
        default=None, description="DSN of another cluster for time series; unset: the same cluster"
    )
    pool_size: int = Field(
        default=8, ge=1, description="connections a process keeps per database and role"
    )


class RedisSettings(_Section):
    """Redis or Valkey: caches, derived from the commit log."""

    dsn: SecretStr | None = Field(default=None, description="redis:// URL; unset: embedded Valkey")


class ClickHouseSettings(_Section):
    """ClickHouse: analytics, derived from the commit log."""

    dsn: SecretStr | None = Field(
        default=None, description="http(s)://user:password@host:port/database; unset: embedded chDB"
    )


class MongoSettings(_Section):
    """MongoDB: documents and the audit trail to query, derived from the commit log."""

    dsn: SecretStr | None = Field(
        default=None,
        description="mongodb://user:password@host:port/database; unset: documents stay in "
        "PostgreSQL",
    )


class ElasticsearchSettings(_Section):
    """Elasticsearch or OpenSearch: entities to search, derived from the commit log."""

    dsn: SecretStr | None = Field(
        default=None,
        description="https://user:password@host:9200/?prefix=neolayer&ca=/path/ca.pem; unset: "
        "entities are searched in PostgreSQL",
    )


class ObjectSettings(_Section):
    """Object storage."""

    url: str | None = Field(default=None, description="s3://bucket/prefix; unset: a local folder")


class ServeSettings(_Section):
    """The HTTP server that `up` starts."""

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=0, ge=0, le=65535, description="port; 0: any free one")
    proxy_depth: int = Field(
        default=0, ge=0, le=16, description="proxies of yours in front, each adding X-Forwarded-For"
    )
    tries_per_minute: int = Field(
        default=60,
        ge=1,
        description="logins, requests for a new password and letters' tokens that one address may"
        " send in a minute",
    )
    refreshes_per_minute: int = Field(
        default=600, ge=1, description="refresh tokens that one address may send in a minute"
    )
    unknown_tokens_per_minute: int = Field(
        default=300,
        ge=1,
        description="bearer tokens that nobody has which one address may send in a minute",
    )
    header_seconds: float = Field(
        default=15,
        gt=0,
        le=600,
        description="seconds that a request's head may take to come, and a connection may rest",
    )
    body_seconds: float = Field(
        default=15, gt=0, le=600, description="seconds that a request's body may take to come"
    )
    connections: int = Field(default=2000, ge=16, description="connections open at once, in all")
    connections_per_address: int = Field(
        default=250,
        ge=1,
        description="of these from one address (an IPv6 line's /64); without proxies only",
    )
    https: bool = Field(
        default=False,
        description="clients come by HTTPS only: cookies are Secure whatever a proxy says",
    )
    operator_token: SecretStr | None = Field(
        default=None,
        min_length=32,
        description="bearer token of operators' routes; unset: operators use the command line",
    )


class SessionSettings(_Section):
    """How long people stay logged in; NIST SP 800-63B-4 (AAL2): a day at most, an hour idle."""

    access_minutes: float = Field(
        default=15, gt=0, le=1440, description="minutes an access token is good for"
    )
    idle_minutes: float = Field(
        default=60, gt=0, description="minutes without use after which a session ends"
    )
    absolute_hours: float = Field(
        default=24, gt=0, le=8760, description="hours after which a session ends in any case"
    )
    grace_seconds: float = Field(
        default=10,
        ge=0,
        le=60,
        description="seconds in which a refresh token that comes again gets the same answer",
    )


class RelaySettings(_Section):
    """The flow from the commit log to the derived stores."""

    batch_rows: int = Field(
        default=50_000, ge=1, description="rows a sink is given at most at once"
    )
    batch_seconds: float = Field(
        default=0.5, gt=0, description="seconds a change waits for company"
    )
    log_bytes: int = Field(
        default=2 << 30,
        ge=1 << 20,
        description="bytes of changes kept per database for sinks that lag; one that lags further "
        "copies its tables again",
    )


class WebhookSettings(_Section):
    """Webhooks: how endpoints of tenants are called."""

    timeout_seconds: float = Field(
        default=10, gt=0, le=30, description="seconds that an endpoint may take to answer"
    )
    attempts: int = Field(
        default=16, ge=1, le=100, description="tries of a delivery before it is parked"
    )
    disable_after_hours: float = Field(
        default=72, gt=0, description="hours of failing after which an endpoint is disabled"
    )
    private_networks: tuple[str, ...] = Field(
        default=(),
        description="networks of yours that webhooks may lead to, such as 10.1.0.0/16; a JSON list",
    )


class NatsSettings(_Section):
    """NATS JetStream, fed from the commit log."""

    url: SecretStr | None = Field(
        default=None, description="nats://user:password@host:4222 (several: commas); unset: none"
    )
    prefix: str = Field(
        default="neolayer", pattern=r"^[A-Za-z0-9_-]{1,64}$", description="first part of a subject"
    )
    replicas: int = Field(default=1, ge=1, le=5, description="replicas of a stream we make")
    keep_days: float = Field(
        default=7, gt=0, description="days that a stream we make keeps messages"
    )


class KafkaSettings(_Section):
    """Kafka, fed from the commit log."""

    servers: str | None = Field(
        default=None, description="host:9092 (several: commas); unset: none"
    )
    prefix: str = Field(
        default="neolayer", pattern=r"^[A-Za-z0-9._-]{1,64}$", description="first part of a topic"
    )
    partitions: int = Field(default=6, ge=1, le=1000, description="partitions of a topic we make")
    username: str | None = Field(default=None, description="who asks, by SASL; unset: nobody")
    password: SecretStr | None = Field(default=None, description="proves it")
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="SCRAM-SHA-512", description="how it is proved"
    )
    tls: bool = Field(default=False, description="whether the brokers speak TLS")
    ca_file: Path | None = Field(
        default=None, description="certificates that vouch for theirs; unset: the well-known ones"
    )


class StreamSettings(_Section):
    """Outgoing streams, for readers outside this layer."""

    nats: NatsSettings = NatsSettings()
    kafka: KafkaSettings = KafkaSettings()


class KmsSettings(_Section):
    """A master key in AWS KMS."""

    key: str | None = Field(default=None, description="id, ARN or alias of the key")
    region: str | None = Field(default=None, description="the key's region, such as eu-central-1")
    url: str | None = Field(default=None, description="another endpoint; unset: the region's")
    access_key_id: str | None = Field(default=None, description="who asks")
    secret_access_key: SecretStr | None = Field(default=None, description="signs the requests")
    session_token: SecretStr | None = Field(
        default=None, description="goes with temporary credentials"
    )


class VaultSettings(_Section):
    """A master key in Vault's Transit engine."""

    url: str | None = Field(default=None, description="https://host:port; http on this machine")
    token: SecretStr | None = Field(default=None, description="may use the key")
    mount: str = Field(default="transit", description="where the Transit engine is mounted")
    key: str = Field(default="neolayer", description="name of the key")
    namespace: str | None = Field(default=None, description="namespace of Vault Enterprise")
    ca_file: Path | None = Field(
        default=None, description="certificates that vouch for Vault's; unset: the well-known ones"
    )


Provider = Literal["file", "environment", "aws-kms", "vault-transit"]
SERVICES = ("aws-kms", "vault-transit")


class KeySettings(_Section):
    """The keys that seal secrets in the database."""

    provider: Provider = Field(
        default="file",
        description="who keeps the keys: file (of the data directory), environment, aws-kms or "
        "vault-transit",
    )
    earlier: Provider | None = Field(
        default=None, description="who kept them before, while `keys rewrap` moves what is sealed"
    )
    key: SecretStr | None = Field(
        default=None, description="environment: the key that seals, 32 random bytes in base64"
    )
    previous: tuple[SecretStr, ...] = Field(
        default=(), description="environment: earlier keys, which still open; a JSON list"
    )
    kms: KmsSettings = KmsSettings()
    vault: VaultSettings = VaultSettings()
    timeout_seconds: float = Field(
        default=3, gt=0, description="seconds that a key service may take to answer"
    )
    cache_seconds: float = Field(
        default=300, gt=0, description="seconds that a key which a service unlocked may be used"
    )
    cache_keys: int = Field(
        default=64, ge=1, description="keys which a service unlocked, kept at most"
    )


class EventSettings(_Section):
    """The event store: a program's own events and projections."""

    modules: tuple[str, ...] = Field(
        default=(),
        description="modules that hold your event types and projections; a JSON list",
    )
    project_seconds: float = Field(
        default=0.1,
        gt=0,
        le=60,
        description="seconds between two looks for events that projections have not folded yet",
    )


class AuditSettings(_Section):
    """The audit trail: how soon entries are sealed, and how often that is noted elsewhere."""

    seal_seconds: float = Field(
        default=0.25, gt=0, le=60, description="seconds between two looks for entries to seal"
    )
    anchor_seconds: float = Field(
        default=300, gt=0, description="seconds between two anchors in the object store"
    )


class Settings(BaseSettings):
    """All settings; each field has a default that works on a bare machine."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
    )

    data_dir: Path = Field(
        default=Path(DEFAULT_DATA_DIR), description="where embedded engines keep data"
    )
    run_as: str | None = Field(
        default=None, description="user that PostgreSQL runs as when we are root; unset: nobody"
    )
    postgres: PostgresSettings = PostgresSettings()
    redis: RedisSettings = RedisSettings()
    clickhouse: ClickHouseSettings = ClickHouseSettings()
    mongodb: MongoSettings = MongoSettings()
    elasticsearch: ElasticsearchSettings = ElasticsearchSettings()
    objects: ObjectSettings = ObjectSettings()
    serve: ServeSettings = ServeSettings()
    sessions: SessionSettings = SessionSettings()
    relay: RelaySettings = RelaySettings()
    streams: StreamSettings = StreamSettings()
    webhooks: WebhookSettings = WebhookSettings()
    keys: KeySettings = KeySettings()
    audit: AuditSettings = AuditSettings()
    events: EventSettings = EventSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings


def load_settings(file: Path | None = None, *, data_dir: Path | None = None) -> Settings:
    """Read the file (default: `neolayer.toml` here, if there is one), then the environment.

    `data_dir` beats both. Relative paths in a file are relative to that file. Raises SettingsError
    naming the file or variable and the field.
    """
    values = _read(file)
    _refuse_unknown_variables()
    try:
        settings = Settings(**values)
    except ValidationError as exc:
        raise SettingsError(_explain(exc, file)) from exc
    chosen = data_dir or settings.data_dir
    return settings.model_copy(update={"data_dir": chosen.expanduser().absolute()})


def _read(file: Path | None) -> dict[str, Any]:
    path = file or Path(DEFAULT_FILE)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if file is None:
            return {}
        raise SettingsError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise SettingsError(f"{path}: {exc}") from exc
    if isinstance(values.get("data_dir"), str):
        values["data_dir"] = path.parent / cast(str, values["data_dir"])
    return values


def _refuse_unknown_variables() -> None:
    known = set(variables(Settings))
    for name in os.environ:
        if name.startswith(PREFIX) and name not in known | _NOT_SETTINGS:
            raise SettingsError(
                f"{name} is no setting", hint="`neolayer config show` lists every variable."
            )


def forget_libpq_variables() -> None:
    """Drop `PGHOST`, `PGOPTIONS`, `PGSSLMODE` and their like from this process's environment.

    libpq would take them for what a DSN leaves out, and so connect elsewhere or otherwise than the
    one configuration says. Children inherit what is left.
    """
    for name in [name for name in os.environ if name.startswith("PG") and name.isupper()]:
        del os.environ[name]


def variables(section: type[BaseModel], prefix: str = PREFIX) -> Iterator[str]:
    """The environment variable of each setting, in the order of the fields."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from variables(kind, f"{prefix}{name.upper()}__")
        else:
            yield f"{prefix}{name.upper()}"


def _explain(exc: ValidationError, file: Path | None) -> str:
    first = exc.errors(include_url=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    variable = "NEOLAYER_" + "__".join(str(part) for part in first["loc"]).upper()
    return f"setting {field!r} ({file or DEFAULT_FILE} or {variable}): {first['msg']}"
