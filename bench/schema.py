"""The migrated database that every round of ingest starts from."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import psycopg

from bench.server import Databases
from neolayer.engines.endpoints import (
    ClickHouseEndpoint,
    Database,
    Endpoints,
    ObjectsEndpoint,
    PostgresEndpoint,
    RedisEndpoint,
    Role,
)
from neolayer.engines.engine import Level
from neolayer.schema.lines import Line
from neolayer.schema.runner import migrate_up

TEMPLATE = str(Database.CORE)
NETWORK_ID = "11111111-1111-4111-8111-111111111111"


def migrated_template(
    databases: Databases,
    endpoints: Endpoints | None = None,
    *,
    lines: Sequence[Line] = (Line.CORE,),
) -> None:
    """Make `TEMPLATE`: our migrations, the network, and the partitions of the blocks' year."""
    asyncio.run(migrate_up(endpoints or endpoints_of(databases.endpoint), lines=lines))
    with psycopg.connect(databases.dsn(Role.ADMIN, TEMPLATE)) as admin:
        admin.execute(
            "INSERT INTO blockchain.networks (id, name, chain_id, network_type)"
            " VALUES (%s, 'ethereum', 1, 'evm')",
            [NETWORK_ID],
        )
        admin.execute("SELECT blockchain.ensure_partitions('2025-01-01+00', '2025-12-31+00')")


def endpoints_of(postgres: PostgresEndpoint) -> Endpoints:
    """A layer of PostgreSQL alone: what runs on it looks at no other engine."""
    absent = Level.FALLBACK
    return Endpoints(
        postgres=postgres,
        event_store=postgres,
        timeseries=postgres,
        redis=RedisEndpoint(absent, "", ""),
        clickhouse=ClickHouseEndpoint(absent, "", 0, "", ""),
        objects=ObjectsEndpoint(absent, ""),
    )
