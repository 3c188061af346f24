"""Whoever ends reading a checkpoint of a broker that says nothing is rid of it soon."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import confluent_kafka as kafka
import pytest
from tests.fixtures.patience import PATIENCE_S

from neolayer.engines.endpoints import KafkaEndpoint, Level
from neolayer.engines.kafka import checkpoint
from neolayer.errors import EngineUnavailable

AT = KafkaEndpoint(Level.REAL, "127.0.0.1:1")
SOON_S = 2.0


class Consumer:
    """A labelled stand-in for a consumer of a broker that takes connections and says nothing; with
    `knows` it tells of the topic first."""

    def __init__(self, *, knows: bool) -> None:
        self.knows = knows
        self.asked: list[float] = []
        self.begun, self.over, self.closed = (threading.Event() for _ in range(3))

    def list_topics(self, timeout: float) -> Any:
        if self.knows:
            return SimpleNamespace(topics={checkpoint.topic_of(AT)})
        self._ask(timeout)
        raise kafka.KafkaException(kafka.KafkaError(kafka.KafkaError._TRANSPORT))

    def assign(self, _: object) -> None: ...

    def poll(self, timeout: float) -> None:
        self._ask(timeout)

    def _ask(self, timeout: float) -> None:
        self.asked.append(timeout)
        self.begun.set()
        self.over.wait(PATIENCE_S)

    def close(self) -> None:
        self.closed.set()


@pytest.fixture(params=[False, True])
def consumer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Consumer:
    consumer = Consumer(knows=request.param)
    names = {name: getattr(kafka, name) for name in NAMES}
    stand_in = SimpleNamespace(Consumer=lambda _: consumer, **names)
    monkeypatch.setattr(checkpoint, "library", lambda: stand_in)
    return consumer


NAMES = ("KafkaException", "KafkaError", "TopicPartition", "OFFSET_BEGINNING")


async def test_C5_a_reader_that_is_ended_waits_for_the_broker_no_longer(consumer: Consumer) -> None:
    """It asks for a little while at a time, and once it is ended not again."""
    async with checkpoint.reading(AT, "kafka") as read:
        reading = asyncio.ensure_future(read())
        assert await asyncio.to_thread(consumer.begun.wait, PATIENCE_S)
        reading.cancel()
    consumer.over.set()
    assert await asyncio.to_thread(consumer.closed.wait, PATIENCE_S)
    (asked,) = consumer.asked
    assert asked <= SOON_S


async def test_C5_a_reader_asks_until_its_time_is_over(
    consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that is only slow has all of its time."""
    consumer.over.set()
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 1
        return now

    monkeypatch.setattr("neolayer.engines.kafka.client.monotonic", clock)
    async with checkpoint.reading(AT, "kafka") as read:
        with pytest.raises(EngineUnavailable, match="does not answer"):
            await read()
    assert len(consumer.asked) > 3
