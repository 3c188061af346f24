"""Real NATS and Kafka are waited for like a store: a position is there once all up to it is."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest
from tests.fixtures.batches import CLASSES, COINS, OUTBOX, PlainSnapshot, at, event_row, events
from tests.fixtures.copies import copy_whole
from tests.fixtures.fix_kafka import KafkaBroker
from tests.fixtures.fix_nats import NatsServer

from neolayer.engines.endpoints import Database, Endpoints, PostgresEndpoint, Role
from neolayer.engines.engine import Level
from neolayer.errors import EngineUnavailable
from neolayer.freshness import NotFresh, Stream, position_of, wait_for
from neolayer.position import Position
from neolayer.relay.sinks.kafka import KafkaSink
from neolayer.relay.sinks.nats import NatsSink
from neolayer.relay.sinks.sink import Sink

pytestmark = pytest.mark.engines
TABLES = {"core.outbox": OUTBOX, "public.coins": COINS}
SOON = timedelta(seconds=0)


def no_postgres(_: Database) -> PostgresEndpoint:
    return PostgresEndpoint(Level.REAL, "host=127.0.0.1 port=1", {Role.APP: ""}, "127.0.0.1:1")


async def is_waited_for(stream: Stream, sink: Sink, endpoints: Endpoints) -> None:
    assert await position_of(stream, endpoints) is None
    await sink.open(at(1))
    await copy_whole(sink, PlainSnapshot(at(1), {name: (of, []) for name, of in TABLES.items()}))
    for number in (2, 3):
        await sink.write([events(at(number), event_row(UUID(int=5)))])
        there = Position.from_version(at(number))
        assert await wait_for(there, endpoints, stores=[stream], timeout=SOON) == {stream: there}
    with pytest.raises(NotFresh, match=f"{stream} is at"):
        await wait_for(Position.from_version(at(4)), endpoints, stores=[stream], timeout=SOON)
    with pytest.raises(NotFresh, match="at nothing yet"):
        wanted = Position.from_version(at(1), "event_store")
        await wait_for(wanted, endpoints, stores=[stream], timeout=SOON)
    await sink.close()


async def test_nats(nats_server: NatsServer) -> None:
    """From the bucket; without a server it is said so."""
    endpoints = cast(Endpoints, SimpleNamespace(nats=nats_server.endpoint(), cluster=no_postgres))
    await is_waited_for(Stream.NATS, NatsSink(nats_server.endpoint(), CLASSES), endpoints)
    nats_server.kill()
    with pytest.raises(EngineUnavailable, match="nats"):
        await position_of(Stream.NATS, endpoints)


async def test_kafka(kafka_broker: KafkaBroker) -> None:
    """From the newest record of the compacted topic, which is read on and not from the start."""
    endpoint = dataclasses.replace(kafka_broker.endpoint(), prefix="fresh")
    endpoints: Any = SimpleNamespace(kafka=endpoint, cluster=no_postgres)
    await is_waited_for(Stream.KAFKA, KafkaSink(endpoint, CLASSES), endpoints)
