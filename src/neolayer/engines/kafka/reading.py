"""A partition's messages up to its end. All of it blocks: it belongs in a `Thread`."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from typing import Any

from neolayer.engines.endpoints import KafkaEndpoint
from neolayer.engines.kafka.client import TIMEOUT_S, library, options

COMMITTED, UNCOMMITTED = "read_committed", "read_uncommitted"


class Partitions:
    """Reads partitions of one broker as a group that commits nothing."""

    def __init__(self, endpoint: KafkaEndpoint, group: str) -> None:
        self._endpoint = endpoint
        self._group = group
        self._kafka = library()

    def end(self, topic: str, partition: int) -> int:
        """The offset behind the last message. Raises KafkaException."""
        with contextlib.closing(self._consumer(COMMITTED)) as consumer:
            place = self._kafka.TopicPartition(topic, partition)
            return int(consumer.get_watermark_offsets(place, timeout=TIMEOUT_S)[1])

    @contextlib.contextmanager
    def messages(
        self, topic: str, partition: int, offset: int, *, isolation: str = COMMITTED
    ) -> Generator[Iterator[Any]]:
        """From an offset on; of committed ones up to the last stable offset.

        Raises KafkaException.
        """
        with contextlib.closing(self._consumer(isolation)) as consumer:
            consumer.assign([self._kafka.TopicPartition(topic, partition, offset)])
            yield self._until_end(consumer)

    def _until_end(self, consumer: Any) -> Iterator[Any]:
        while (message := consumer.poll(TIMEOUT_S)) is not None:
            error = message.error()
            if error is None:
                yield message
            elif error.name() == "_PARTITION_EOF":
                return
            else:
                raise self._kafka.KafkaException(error)
        raise self._kafka.KafkaException(self._kafka.KafkaError(self._kafka.KafkaError._TIMED_OUT))

    def _consumer(self, isolation: str) -> Any:
        return self._kafka.Consumer(
            {
                **options(self._endpoint),
                "group.id": self._group,
                "enable.auto.commit": False,
                "isolation.level": isolation,
                "enable.partition.eof": True,
            }
        )
