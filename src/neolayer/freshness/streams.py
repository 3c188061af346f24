"""What goes out, waited for like a store: a position is there once all up to it was handed on.

For NATS and Kafka: stored there. For webhooks: in the queues of the endpoints; whether an endpoint
took it is told by its deliveries. Where nothing is told, that queue's checkpoint moves every few
seconds only.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from enum import StrEnum

import psycopg

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.connections import connect, explain
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import NotSupported

Version = Callable[[], Awaitable[int]]
_sql = load_queries(__name__, "queries.sql")


class Stream(StrEnum):
    """What leaves the layer, by what carries it."""

    NATS = "nats"
    KAFKA = "kafka"
    WEBHOOKS = "webhooks"


def streams_at(endpoints: Endpoints) -> tuple[Stream, ...]:
    """Those that are configured; webhooks always are."""
    there = {Stream.NATS: endpoints.nats, Stream.KAFKA: endpoints.kafka}
    return tuple(one for one in Stream if there.get(one, endpoints) is not None)


def version_reader(
    stream: Stream, endpoints: Endpoints, sink: str
) -> AbstractAsyncContextManager[Version]:
    """A function that reads a sink's checkpoint as a version (0: none). Raises NotSupported."""
    return _READERS[stream](endpoints, sink)


@asynccontextmanager
async def _nats(endpoints: Endpoints, sink: str) -> AsyncGenerator[Version]:
    if endpoints.nats is None:
        raise NotSupported("nats", "is not configured", hint="set streams.nats.url")
    from neolayer.engines.nats import checkpoint  # its client is an extra

    async with checkpoint.reading(endpoints.nats, sink) as read:
        yield read


@asynccontextmanager
async def _kafka(endpoints: Endpoints, sink: str) -> AsyncGenerator[Version]:
    if endpoints.kafka is None:
        raise NotSupported("kafka", "is not configured", hint="set streams.kafka.servers")
    from neolayer.engines.kafka import checkpoint

    async with checkpoint.reading(endpoints.kafka, sink) as read:
        yield read


@asynccontextmanager
async def _webhooks(endpoints: Endpoints, sink: str) -> AsyncGenerator[Version]:
    dsn = endpoints.cluster(Database.CORE).dsn(Role.APP, Database.CORE)
    async with await connect(dsn, autocommit=True, application_name="freshness") as connection:

        async def read() -> int:
            try:
                row = await (
                    await connection.execute(_sql.queue_checkpoint, {"sink": sink})
                ).fetchone()
            except psycopg.Error as exc:
                raise explain(exc, dsn) from exc
            return int(row[0]) if row else 0

        yield read


_READERS = {Stream.NATS: _nats, Stream.KAFKA: _kafka, Stream.WEBHOOKS: _webhooks}
