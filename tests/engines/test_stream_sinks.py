"""NATS and Kafka, held to the contract that all sinks share.

What their store holds is what a consumer has that keeps each key's newest version.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
from tests.engines.test_kafka_sink import read
from tests.engines.test_nats_sink import stored
from tests.fixtures.fix_kafka import KafkaBroker
from tests.fixtures.fix_nats import NatsServer
from tests.fixtures.sink_suite import COLUMNS, KEY, THINGS, SinkCase, SinkSuite, Thing, folded

from neolayer.catalogue import OutgoingCopy
from neolayer.engines.endpoints import KafkaEndpoint
from neolayer.errors import EngineUnavailable
from neolayer.relay.changes import Batch
from neolayer.relay.sinks.kafka import KafkaSink
from neolayer.relay.sinks.nats import NatsSink
from neolayer.relay.sinks.sink import Rejected

pytestmark = pytest.mark.engines
OUTGOING = dataclasses.replace(THINGS, copies=(OutgoingCopy("things.{owner}", KEY, COLUMNS),))


class NatsCase(SinkCase):
    checkpoint_step = "neolayer.relay.sinks.nats.NatsSink._move_to"

    def __init__(self, server: NatsServer) -> None:
        self.server = server

    def sink(self) -> NatsSink:
        return NatsSink(self.server.endpoint(), [OUTGOING])

    def refused(self) -> Thing:
        return Thing(5, "x" * 2_000_000)

    async def rows(self) -> Mapping[Any, Any]:
        return folded(envelope for _, envelope in await stored(self.server, whole=True))


class TestNats(SinkSuite):
    @pytest.fixture
    def case(self, nats_server: NatsServer) -> SinkCase:
        return NatsCase(nats_server)


class TakingOver(KafkaSink):
    """Tries again as the relay does: a sink that another one took over from takes over again."""

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        try:
            return await super().write(batches)
        except EngineUnavailable:
            return await super().write(batches)


class KafkaCase(SinkCase):
    """Checkpoint and data are one transaction: nobody dies between them."""

    def __init__(self, endpoint: KafkaEndpoint) -> None:
        self.endpoint = endpoint

    def sink(self) -> KafkaSink:
        return TakingOver(self.endpoint, [OUTGOING])

    def refused(self) -> Thing:
        return Thing(5, "x" * 2_000_000)

    async def rows(self) -> Mapping[Any, Any]:
        by_partition: dict[int, list[Any]] = {}
        for message in read(self.endpoint, "things"):
            envelope = msgspec.json.decode(message.value())
            by_partition.setdefault(message.partition(), []).append(envelope)
        # A key lives in one partition, and there it is in order: each reader folds its own.
        return {key: note for part in by_partition.values() for key, note in folded(part).items()}


class TestKafka(SinkSuite):
    @pytest.fixture
    def case(self, kafka_broker: KafkaBroker) -> SinkCase:
        return KafkaCase(kafka_broker.endpoint(f"t{secrets.token_hex(4)}"))
