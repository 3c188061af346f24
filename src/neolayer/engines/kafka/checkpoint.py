"""Where a sink's checkpoint lies in Kafka: the newest record of its name in a compacted topic."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec

from neolayer.engines.endpoints import KafkaEndpoint
from neolayer.engines.kafka.client import Thread, explain, library, options

_IDLE_S: Final = 0.2  # without a record for so long the end is reached again


class _Record(msgspec.Struct):
    position: int = 0


def topic_of(endpoint: KafkaEndpoint) -> str:
    return f"{endpoint.prefix}.checkpoints"


class _Reader:
    """Reads on from where it is; all of it in one thread, where librdkafka may block."""

    def __init__(self, endpoint: KafkaEndpoint, sink: str, thread: Thread) -> None:
        self._kafka = library()
        self._topic = topic_of(endpoint)
        self._endpoint = endpoint
        self._sink = sink.encode()
        self._thread = thread
        self._consumer: Any = None
        self._position = 0
        self._is_assigned = False
        self._was_at_the_end = False

    def read(self) -> int:
        if self._consumer is None:
            self._consumer = self._kafka.Consumer(
                {
                    **options(self._endpoint),
                    "group.id": f"{self._topic}.reading",
                    "enable.auto.commit": False,
                    "isolation.level": "read_committed",
                    "enable.partition.eof": True,
                }
            )
        if not self._is_assigned:
            found = self._thread.patiently(lambda s: self._consumer.list_topics(timeout=s))
            if self._topic not in found.topics:
                return 0
            beginning = self._kafka.TopicPartition(self._topic, 0, self._kafka.OFFSET_BEGINNING)
            self._consumer.assign([beginning])
            self._is_assigned = True
        while not self._is_at_the_end():
            pass
        return self._position

    def _is_at_the_end(self) -> bool:
        """After one record more."""
        poll = self._consumer.poll
        message = poll(_IDLE_S) if self._was_at_the_end else self._thread.patiently(poll)
        if message is None:
            if self._was_at_the_end:
                return True
            timed_out = self._kafka.KafkaError(self._kafka.KafkaError._TIMED_OUT)
            raise self._kafka.KafkaException(timed_out)
        error = message.error()
        if error is None:
            if message.key() == self._sink:
                self._position = msgspec.json.decode(message.value(), type=_Record).position
            return False
        if error.name() == "_PARTITION_EOF":
            self._was_at_the_end = True
            return True
        raise self._kafka.KafkaException(error)

    def close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()


@asynccontextmanager
async def reading(
    endpoint: KafkaEndpoint, sink: str
) -> AsyncGenerator[Callable[[], Awaitable[int]]]:
    """A function that reads the checkpoint (0: none), over one consumer.

    Raises EngineUnavailable.
    """
    thread = Thread(f"{sink} checkpoint")
    reader = _Reader(endpoint, sink, thread)
    kafka = library()

    async def read() -> int:
        try:
            return await thread.run(reader.read)
        except kafka.KafkaException as exc:
            raise explain(exc, endpoint) from exc

    try:
        yield read
    finally:
        thread.end(reader.close)
