"""The producer of the Kafka sink: transactions of envelopes and checkpoint, one identity.

All that an identity began has ended when its next producer has taken it over. A broker that is
started again can forget the marks of such an end, though (`engines.kafka.unstable`). What the next
commit would then make visible, beside the same messages sent once more, is taken back first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import msgspec

from neolayer.crash_points import crash_point
from neolayer.engines.endpoints import KafkaEndpoint
from neolayer.engines.kafka.client import TIMEOUT_S, Thread, library, options
from neolayer.engines.kafka.reading import COMMITTED, UNCOMMITTED, Partitions
from neolayer.engines.kafka.unstable import Place, unstable
from neolayer.errors import EngineUnavailable
from neolayer.relay.envelope import Outgoing, Reached
from neolayer.relay.sinks.sink import note_of

_PATIENCE_S: Final = 10.0
_MARKING_S: Final = 5.0
_PAUSE_S: Final = 0.05
_TAIL: Final = 100_000  # messages of a partition, more than a write brings
_TOO_LARGE: Final = ("MSG_SIZE_TOO_LARGE", "INVALID_MSG_SIZE", "INVALID_RECORD")


class Checkpoint(msgspec.Struct):
    """The record of a sink: its position, and the last envelope it produced."""

    position: int = 0
    last: Reached | None = None


class _Told(msgspec.Struct):
    """Of an envelope, what says which it is and when it was said."""

    id: str
    version: str


class Producer:
    """A transactional producer in a thread of its own."""

    def __init__(self, endpoint: KafkaEndpoint, name: str, checkpoints: str) -> None:
        self.found = Checkpoint()
        self.voided = False  # what was said to be committed is not, and was taken back
        self.last: Reached | None = None
        self.written: Reached | None = None
        self._endpoint = endpoint
        self._name = name
        self._checkpoints = checkpoints
        self._thread = Thread(name)
        self._kafka = library()
        self._producer: Any = None
        self._was_cut = False
        self._undelivered: Any = None  # why the first message did not arrive that did not
        self._identity = f"{endpoint.prefix}.{name.replace(':', '.')}"
        self._stored = Partitions(endpoint, self._identity)

    async def open(self, topics: Collection[str]) -> None:
        """Make what is missing, take over the identity, read the checkpoint. Raises KafkaException.

        The checkpoint is read when transactions of the one before us have ended, one way or other.
        """
        await self._thread.run(lambda: self._open(topics))

    def _open(self, topics: Collection[str]) -> None:
        from confluent_kafka.admin import AdminClient

        admin = AdminClient(options(self._endpoint))
        made = self._make_topics(admin, topics)
        self._producer = self._kafka.Producer(
            {
                **options(self._endpoint),
                "transactional.id": self._identity,
                "transaction.timeout.ms": 60_000,
                "acks": "all",
                "partitioner": "murmur2_random",
                "compression.type": "lz4",
                "linger.ms": 5,
                "message.timeout.ms": int(_PATIENCE_S * 1000),
                "queue.buffering.max.messages": 1_000_000,
                "error_cb": self._note_failure,
            }
        )
        self._producer.init_transactions(3 * _PATIENCE_S)
        self._producer.poll(0)
        self._was_cut = False  # what was, was before
        self._void_unmarked(admin, {*topics, self._checkpoints} - made)
        self.found = self._newest(self._name)
        self.last = self.written = self.found.last

    def _void_unmarked(self, admin: Any, topics: set[str]) -> None:
        """Settle what a transaction of ours brought that the broker ended without its marks.

        All that we began has ended by now; what still holds up readers would become visible with
        our next commit, beside the same messages sent again. So it is taken back, and the
        checkpoint is the one before it, unless readers have its messages and only the checkpoint
        waits. Where it kept its marks in some partitions of several, all is copied anew, as a
        copy is that was under way.
        """
        held_up = unstable(admin, topics)
        ours = {place for place in held_up if place[0] == self._checkpoints}
        data = held_up.keys() - ours
        found = self._newest(self._name)
        waiting = self._newest(self._name, UNCOMMITTED)
        visible = (
            self._visible(admin, topics - {self._checkpoints}, found, waiting)
            if ours
            else set[str]()
        )
        if visible and data:
            self._store({note_of(self._name): 0, self._name: 0})
        elif waiting.last is not None and waiting.last.id in visible:
            self._store({self._name: waiting.position}, waiting.last)
        else:
            self._take_back_checkpoint(admin, ours, held_up)
            if data:
                oldest = min(self._version_at(*place, held_up[place]) for place in data)
                is_passed = oldest <= found.position
                # First: who is killed here finds the partitions as they were.
                self._store({note_of(self._name): 0, **({self._name: 0} if is_passed else {})})
        self._abort_in(data)
        self.voided = self._left_open(admin, data, held_up) != data

    def _take_back_checkpoint(
        self, admin: Any, places: set[Place], held_up: Mapping[Place, int]
    ) -> None:
        self._abort_in(places)
        for place in self._left_open(admin, places, held_up):
            raise EngineUnavailable(
                "kafka",
                f"{self._endpoint.address}: readers of {self._checkpoints} wait at offset"
                f" {held_up[place]} for the end of a transaction that is not this sink's",
                hint="another sink may be at work: wait; else kafka-transactions.sh abort ends it",
            )

    def _visible(
        self, admin: Any, topics: Collection[str], found: Checkpoint, waiting: Checkpoint
    ) -> set[str]:
        """The ids of what readers have of a write whose checkpoint nobody can read yet."""
        known = admin.list_topics(timeout=TIMEOUT_S).topics
        ids: set[str] = set()
        for topic in topics:
            for partition in known[topic].partitions:
                start = max(0, self._stored.end(topic, partition) - _TAIL)
                with self._stored.messages(topic, partition, start) as messages:
                    told = (msgspec.json.decode(one.value(), type=_Told) for one in messages)
                    ids.update(
                        one.id
                        for one in told
                        if found.position < int(one.version) <= waiting.position
                    )
        return ids

    def _left_open(
        self, admin: Any, places: Collection[Place], held_up: Mapping[Place, int]
    ) -> set[Place]:
        """Which of these partitions readers still wait at where they did: not for us, then.

        The answer to an abort comes a moment before its marks.
        """
        deadline = time.monotonic() + _MARKING_S
        while True:
            now = unstable(admin, {topic for topic, _ in places})
            left = {place for place in places if now.get(place) == held_up[place]}
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(_PAUSE_S)

    def _version_at(self, topic: str, partition: int, offset: int) -> int:
        """Of the first message from there on, committed or not; 0 where it is no envelope."""
        with self._stored.messages(topic, partition, offset, isolation=UNCOMMITTED) as messages:
            for message in messages:
                try:
                    return int(msgspec.json.decode(message.value(), type=_Told).version)
                except (ValueError, TypeError):
                    return 0
        return 0

    def _begin(self) -> None:
        self._producer.poll(0)
        self._require_connected()
        self._producer.begin_transaction()

    def _require_connected(self) -> None:
        """A broker that was away may have forgotten a mark: who connects anew looks for that."""
        if self._was_cut:
            raise self._failed("_TRANSPORT")

    def _note_failure(self, error: Any) -> None:
        self._was_cut |= error.name() in ("_TRANSPORT", "_ALL_BROKERS_DOWN")

    def _abort_in(self, places: Collection[Place]) -> None:
        """End in these partitions what this identity ever began there, and leave nothing."""
        if not places:
            return
        self._begin()
        failed: list[Any] = []

        def answered(error: Any, _: Any) -> None:
            if error is not None:
                failed.append(error)

        for topic, partition in sorted(places):
            self._producer.produce(
                topic, partition=partition, key=b"", value=b"", on_delivery=answered
            )
        if self._producer.flush(_PATIENCE_S):
            raise self._failed("_TIMED_OUT")
        if failed:  # where nothing arrived nothing is ended
            raise self._kafka.KafkaException(failed[0])
        self._producer.abort_transaction(_PATIENCE_S)

    def _make_topics(self, admin: Any, topics: Collection[str]) -> set[str]:
        """Those that were missing and are there now."""
        from confluent_kafka import admin as administration

        making: Any = administration
        there = set(admin.list_topics(timeout=TIMEOUT_S).topics)
        missing = [
            making.NewTopic(topic, num_partitions=self._endpoint.partitions)
            for topic in sorted(set(topics) - there)
        ]
        if self._checkpoints not in there:
            config = {"cleanup.policy": "compact", "segment.bytes": "1048576"}
            missing.append(making.NewTopic(self._checkpoints, num_partitions=1, config=config))
        made: set[str] = set()
        for topic, answer in admin.create_topics(missing).items() if missing else ():
            try:
                answer.result(3 * _PATIENCE_S)
                made.add(topic)
            except self._kafka.KafkaException as exc:
                # A broker that was just started lists them only when it has read that they exist.
                if exc.args[0].name() != "TOPIC_ALREADY_EXISTS":
                    raise
        return made

    async def transaction(
        self, outgoing: Sequence[Outgoing], position: int | None
    ) -> dict[int, str]:
        """Messages and checkpoint, all or none. Where the broker refuses some for ever: none, and
        their places with the cause. Raises KafkaException; then nobody knows, and this producer is
        of no use any more."""
        return await self._thread.run(lambda: self._transaction(outgoing, position))

    def _transaction(self, outgoing: Sequence[Outgoing], position: int | None) -> dict[int, str]:
        refused: dict[int, str] = {}
        self._undelivered = None
        last = self.written
        if outgoing:
            last = Reached(outgoing[-1].id, str(outgoing[-1].version))
        self._begin()
        for place, one in enumerate(outgoing):
            self._send(place, one, refused)
        if position is not None:
            record = msgspec.json.encode(Checkpoint(position, last))
            self._producer.produce(self._checkpoints, key=self._name, value=record)
        if self._producer.flush(1.5 * _PATIENCE_S):
            raise self._failed("_TIMED_OUT")
        if refused:
            self._producer.abort_transaction(_PATIENCE_S)
            self._require_connected()  # or this took back what an earlier one had brought
            return refused
        if self._undelivered is not None:
            raise self._kafka.KafkaException(self._undelivered)
        crash_point("kafka.before_commit")
        self._producer.commit_transaction(_PATIENCE_S)
        crash_point("kafka.after_commit")
        self.written = last
        return {}

    async def note(self, version: int) -> None:
        """That a copy began. Raises KafkaException."""
        await self._thread.run(lambda: self._note(version))

    async def noted(self) -> int:
        """With which version one began last; 0 for none. Raises KafkaException."""
        return (await self._thread.run(lambda: self._newest(note_of(self._name)))).position

    def _note(self, version: int) -> None:
        self._store({note_of(self._name): version})

    def _store(self, positions: Mapping[str, int], last: Reached | None = None) -> None:
        """Records of the checkpoint topic, by key; they are there when this returns."""
        self._begin()
        for key, position in positions.items():
            record = msgspec.json.encode(Checkpoint(position, last))
            self._producer.produce(self._checkpoints, key=key, value=record)
        self._producer.commit_transaction(_PATIENCE_S)
        # The answer to a commit comes a moment before readers see what it brought.
        deadline = time.monotonic() + _PATIENCE_S
        while any(self._newest(key).position != one for key, one in positions.items()):
            if time.monotonic() > deadline:
                raise self._failed("_TIMED_OUT")

    def _send(self, place: int, one: Outgoing, refused: dict[int, str]) -> None:
        def answered(error: Any, _: Any) -> None:
            if error is not None and error.name() in _TOO_LARGE:
                refused[place] = error.str()
            elif error is not None:
                self._undelivered = self._undelivered or error

        topic = f"{self._endpoint.prefix}.{one.topic}"
        for partition in self._partitions(topic) if one.concerns_all else [-1]:
            self._send_to(topic, partition, place, one, refused, answered)

    def _partitions(self, topic: str) -> list[int]:
        """What concerns all keys goes to all partitions, or some readers would not hear of it."""
        return sorted(self._producer.list_topics(topic, timeout=TIMEOUT_S).topics[topic].partitions)

    def _send_to(
        self,
        topic: str,
        partition: int,
        place: int,
        one: Outgoing,
        refused: dict[int, str],
        answered: Callable[[Any, Any], None],
    ) -> None:
        """`partition` -1: the one of its key."""
        while True:
            try:
                self._producer.produce(
                    topic,
                    partition=partition,
                    key=f"{one.tenant or ''}:{one.key}",
                    value=one.body,
                    headers={"id": one.id, "type": one.type, "subject": one.subject},
                    on_delivery=answered,
                )
                return
            except BufferError:
                self._producer.poll(0.1)
            except self._kafka.KafkaException as exc:
                if exc.args[0].name() not in _TOO_LARGE:
                    raise
                refused[place] = exc.args[0].str()
                return

    def _newest(self, name: str, isolation: str = COMMITTED) -> Checkpoint:
        """The newest record of this name."""
        found = Checkpoint()
        beginning = self._kafka.OFFSET_BEGINNING
        with self._stored.messages(
            self._checkpoints, 0, beginning, isolation=isolation
        ) as messages:
            for message in messages:
                if message.key() == name.encode():
                    found = msgspec.json.decode(message.value(), type=Checkpoint)
        return found

    def _failed(self, name: str) -> Exception:
        error: Exception = self._kafka.KafkaException(
            self._kafka.KafkaError(getattr(self._kafka.KafkaError, name))
        )
        return error

    def close(self) -> None:
        """Let go of it, in its own thread: what is under way ends there."""
        self._thread.end(self._end)

    def _end(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge(blocking=False)
