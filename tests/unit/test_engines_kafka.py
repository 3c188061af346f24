"""What is asked of a Kafka broker. The broker is a labelled stand-in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from neolayer.engines.kafka.unstable import unstable


class Admin:
    """In the place of the client of a broker that has read so far that these topics exist."""

    def __init__(self, *topics: str) -> None:
        self.topics = {topic: SimpleNamespace(partitions={0: None}) for topic in topics}

    def list_topics(self, timeout: float) -> Any:
        return self


def test_C2_a_broker_that_does_not_know_a_topic_yet_is_asked_again() -> None:
    """What it does not know it cannot judge: the partitions would pass for well."""
    from confluent_kafka import KafkaException

    with pytest.raises(KafkaException, match="UNKNOWN_TOPIC_OR_PART"):
        unstable(
            Admin("neolayer.checkpoints"), {"neolayer.checkpoints", "neolayer.events"}, patience_s=0
        )
    assert unstable(Admin(), set()) == {}
