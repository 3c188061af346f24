"""The sinks that the catalogue asks for: one for every store that is to hold a copy."""

from __future__ import annotations

from collections.abc import Collection

from neolayer.catalogue import DataClass
from neolayer.engines.endpoints import Endpoints
from neolayer.relay.envelope import outgoing_databases
from neolayer.relay.sinks.clickhouse import ClickHouseSink
from neolayer.relay.sinks.elasticsearch import ElasticsearchSink
from neolayer.relay.sinks.redis import RedisSink
from neolayer.relay.sinks.sink import Sink
from neolayer.settings import RelaySettings


def declared_sinks(
    endpoints: Endpoints, settings: RelaySettings, classes: Collection[DataClass]
) -> list[Sink]:
    """Not connected yet; each says which database it reads."""
    sinks: list[Sink] = [
        ClickHouseSink(endpoints.clickhouse, classes, wait_s=settings.batch_seconds),
        RedisSink(endpoints.redis, classes),
    ]
    if endpoints.mongodb is not None:
        from neolayer.relay.sinks.mongodb import MongoSink  # its driver is an extra

        sinks.append(MongoSink(endpoints.mongodb, classes, wait_s=settings.batch_seconds))
    if endpoints.elasticsearch is not None:
        wait_s = settings.batch_seconds
        sinks.append(ElasticsearchSink(endpoints.elasticsearch, classes, wait_s=wait_s))
    for database in outgoing_databases(classes):
        if endpoints.nats is not None:
            from neolayer.relay.sinks.nats import NatsSink

            sinks.append(NatsSink(endpoints.nats, classes, database=database))
        if endpoints.kafka is not None:
            from neolayer.relay.sinks.kafka import KafkaSink

            sinks.append(KafkaSink(endpoints.kafka, classes, database=database))
    return sinks
