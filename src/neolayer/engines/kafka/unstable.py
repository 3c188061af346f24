"""Partitions whose readers wait for the end of a transaction.

A reader of committed messages gets those below the last stable offset: where the oldest open
transaction begins. A broker that is started again can take a transaction for ended whose marks it
never wrote (it looks for the partitions before it has read that they exist, and passes over them);
then that offset stands still for ever, whatever is committed behind it.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any, Final, TypeAlias

from neolayer.engines.kafka.client import TIMEOUT_S

Place: TypeAlias = tuple[str, int]  # topic and partition
_NOT_YET: Final = (
    "UNKNOWN_TOPIC_OR_PART",
    "LEADER_NOT_AVAILABLE",
    "NOT_LEADER_FOR_PARTITION",
    "OFFSET_NOT_AVAILABLE",
)
_PAUSE_S: Final = 0.1


def unstable(
    admin: Any, topics: Collection[str], *, patience_s: float = TIMEOUT_S
) -> dict[Place, int]:
    """Of these topics: each partition with an open transaction, and its last stable offset.

    A broker that was just started does not know all of them yet, and is asked again for as long as
    `patience_s`. Raises KafkaException.
    """
    from confluent_kafka import KafkaException

    deadline = time.monotonic() + patience_s
    while True:
        try:
            return _unstable(admin, topics)
        except KafkaException as exc:
            if exc.args[0].name() not in _NOT_YET or time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE_S)


def _unstable(admin: Any, topics: Collection[str]) -> dict[Place, int]:
    from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
    from confluent_kafka import admin as administration

    asking: Any = administration
    if not topics:
        return {}
    known = admin.list_topics(timeout=TIMEOUT_S).topics
    if not known.keys() >= set(topics):
        raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    every = [
        TopicPartition(topic, number)
        for topic in sorted(topics)
        for number in known[topic].partitions
    ]

    def ends(isolation: Any) -> dict[Place, int]:
        asked = {one: asking.OffsetSpec.latest() for one in every}
        answers = admin.list_offsets(asked, isolation_level=isolation, request_timeout=TIMEOUT_S)
        return {
            (one.topic, one.partition): answer.result(TIMEOUT_S).offset
            for one, answer in answers.items()
        }

    stable = ends(IsolationLevel.READ_COMMITTED)
    newest = ends(IsolationLevel.READ_UNCOMMITTED)
    return {place: offset for place, offset in stable.items() if offset < newest[place]}
