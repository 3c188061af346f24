"""The Kafka sink: each write is one transaction, messages and checkpoint together.

A reader with `isolation.level=read_committed` sees every envelope once and in commit order per key;
the checkpoint, a record in a compacted topic, is in the same transaction, so that neither is there
without the other. Where a broker dies while it commits, nobody knows; the record also names the
last envelope, so that a write that is tried again goes on behind what is there. Transactions are
bound to one identity a database (`transactional.id`): a second relay that starts takes it over, and
the first, should it still live, is refused for good.

Topics are PREFIX.TOPIC, made with `streams.kafka.partitions` where they are missing; the key of a
message is the tenant and the thing it is about, and the partition follows from it as Java does
it. Headers say id and type, so that a reader need not look inside.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final

import msgspec

from neolayer.catalogue import DataClass
from neolayer.crash_points import crash_point
from neolayer.engines.endpoints import Database, KafkaEndpoint
from neolayer.engines.kafka.checkpoint import topic_of
from neolayer.engines.kafka.client import TIMEOUT_S, Thread, explain, library, options
from neolayer.relay.changes import Batch
from neolayer.relay.comparable import Shape
from neolayer.relay.envelope import Made, Outgoing, Reached, unpublished
from neolayer.relay.enveloping import Envelopes
from neolayer.relay.sinks.sink import CopyLost, Park, Rejected, Snapshot, note_of

_PATIENCE_S: Final = 10.0
_TOO_LARGE: Final = ("MSG_SIZE_TOO_LARGE", "INVALID_MSG_SIZE", "INVALID_RECORD")


class _Checkpoint(msgspec.Struct):
    """The record of a sink: its position, and the last envelope it produced."""

    position: int = 0
    last: Reached | None = None


class KafkaSink:
    """Produces envelopes of one database's changes."""

    wait_s = 0.05  # a transaction costs some round trips: company is welcome

    def __init__(
        self,
        endpoint: KafkaEndpoint,
        classes: Iterable[DataClass],
        *,
        database: str = Database.CORE,
    ) -> None:
        self.database = str(database)
        self.name = "kafka" if database == Database.CORE else f"kafka:{database}"
        self._endpoint = endpoint
        self._envelopes = Envelopes(classes, self.database, prefix=endpoint.prefix)
        self._checkpoints = topic_of(endpoint)
        self._producer: _Producer | None = None
        self._left = 0
        self._sent: Reached | None = None  # the last one of the writes that are done

    @property
    def tables(self) -> frozenset[str]:
        return self._envelopes.tables

    async def open(self, confirmed: int) -> int | None:
        self._envelopes.restart()
        self._left = 0
        self._sent = None
        await self._drop()
        producer = await self._connected()
        checkpoint = self._left = producer.found.position
        return checkpoint if checkpoint and checkpoint >= confirmed else None

    async def close(self) -> None:
        await self._drop()

    def shape(self, table: str) -> Shape:
        return self._envelopes.shape(table)

    async def begin_copy(self, version: int) -> None:
        producer = await self._connected()
        try:
            await producer.note(version)
        except library().KafkaException as exc:
            await self._drop()
            raise explain(exc, self._endpoint) from exc

    async def copy_began(self) -> int:
        """As the broker has it now: topics may be emptied while the producer is connected."""
        producer = await self._connected()
        try:
            return await producer.noted()
        except library().KafkaException as exc:
            await self._drop()
            raise explain(exc, self._endpoint) from exc

    async def begin_again(self, version: int, table: str) -> None:
        (await self._connected()).last = None
        await self._produce(self._envelopes.emptied(version, table), None)

    async def copy_part(self, part: Snapshot, table: str, park: Park, *, asked: bool) -> None:
        (await self._connected()).last = None
        async for page in self._envelopes.copied(part, table):
            await park(await self._produce(page, None))

    async def reflect(self, version: int) -> None:
        await self._produce([], version)

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        rejected = await self._produce(self._envelopes.of(batches), batches[-1].position)
        self._envelopes.accept()
        return rejected

    async def _produce(self, made: Iterable[Made], position: int | None) -> list[Rejected]:
        """All of it and the checkpoint (None: leave it), or nothing."""
        rejected: list[Rejected] = []
        outgoing: list[Outgoing] = []
        for one in made:
            (rejected if isinstance(one, Rejected) else outgoing).append(one)  # pyright: ignore
        producer = await self._connected()
        outgoing, producer.last = unpublished(outgoing, producer.last, sent=self._sent)
        while True:
            refused = await self._transaction(producer, outgoing, position)
            if not refused:
                break
            # The broker would not take these: the transaction was taken back, and goes without.
            rejected += [outgoing[place].refuse(cause) for place, cause in refused.items()]
            outgoing = [one for place, one in enumerate(outgoing) if place not in refused]
        if position is not None:
            self._left = position
            self._sent = producer.written if producer.last is None else self._sent
        return rejected

    async def _transaction(
        self, producer: _Producer, outgoing: Sequence[Outgoing], position: int | None
    ) -> dict[int, str]:
        try:
            return await producer.transaction(outgoing, position)
        except library().KafkaException as exc:
            await self._drop()
            raise explain(exc, self._endpoint) from exc
        except BaseException:
            await self._drop()
            raise

    async def _connected(self) -> _Producer:
        """The producer, with its topics there. Raises CopyLost where they were emptied."""
        if self._producer is not None:
            return self._producer
        producer = _Producer(self._endpoint, self.name, self._checkpoints)
        topics = [f"{self._endpoint.prefix}.{topic}" for topic in self._envelopes.topics]
        try:
            await producer.open(topics)
            # A broker that was just started has not marked yet what it had said is committed.
            for _ in range(20):
                if not 0 < producer.found.position < self._left:
                    break
                await asyncio.sleep(0.05)
                await producer.look_again()
            if producer.found.position < self._left:
                raise CopyLost(self.name)
        except library().KafkaException as exc:
            producer.close()
            raise explain(exc, self._endpoint) from exc
        except BaseException:
            producer.close()
            raise
        self._producer = producer
        return producer

    async def _drop(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.close()


class _Producer:
    """A transactional producer in a thread of its own."""

    def __init__(self, endpoint: KafkaEndpoint, name: str, checkpoints: str) -> None:
        self.found = _Checkpoint()
        self.last: Reached | None = None
        self.written: Reached | None = None
        self._endpoint = endpoint
        self._name = name
        self._checkpoints = checkpoints
        self._thread = Thread(name)
        self._kafka = library()
        self._producer: Any = None
        self._identity = f"{endpoint.prefix}.{name.replace(':', '.')}"

    async def open(self, topics: Collection[str]) -> None:
        """Make what is missing, take over the identity, read the checkpoint. Raises KafkaException.

        The checkpoint is read when transactions of the one before us have ended, one way or other.
        """
        await self._thread.run(lambda: self._open(topics))

    def _open(self, topics: Collection[str]) -> None:
        self._make_topics(topics)
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
            }
        )
        self._producer.init_transactions(3 * _PATIENCE_S)
        self.found = self._newest(self._name)
        self.last = self.written = self.found.last

    def _make_topics(self, topics: Collection[str]) -> None:
        from confluent_kafka import admin as administration

        making: Any = administration
        admin = making.AdminClient(options(self._endpoint))
        there = set(admin.list_topics(timeout=TIMEOUT_S).topics)
        missing = [
            making.NewTopic(topic, num_partitions=self._endpoint.partitions)
            for topic in sorted(set(topics) - there)
        ]
        if self._checkpoints not in there:
            config = {"cleanup.policy": "compact", "segment.bytes": "1048576"}
            missing.append(making.NewTopic(self._checkpoints, num_partitions=1, config=config))
        for made in admin.create_topics(missing).values() if missing else ():
            try:
                made.result(3 * _PATIENCE_S)
            except self._kafka.KafkaException as exc:
                if exc.args[0].name() != "TOPIC_ALREADY_EXISTS":
                    raise

    async def transaction(
        self, outgoing: Sequence[Outgoing], position: int | None
    ) -> dict[int, str]:
        """Messages and checkpoint, all or none. Where the broker refuses some for ever: none, and
        their places with the cause. Raises KafkaException; then nobody knows, and this producer is
        of no use any more."""
        return await self._thread.run(lambda: self._transaction(outgoing, position))

    def _transaction(self, outgoing: Sequence[Outgoing], position: int | None) -> dict[int, str]:
        refused: dict[int, str] = {}
        last = self.written
        if outgoing:
            last = Reached(outgoing[-1].id, str(outgoing[-1].version))
        self._producer.begin_transaction()
        for place, one in enumerate(outgoing):
            self._send(place, one, refused)
        if position is not None:
            record = msgspec.json.encode(_Checkpoint(position, last))
            self._producer.produce(self._checkpoints, key=self._name, value=record)
        if self._producer.flush(1.5 * _PATIENCE_S):
            raise self._timed_out()
        if refused:
            self._producer.abort_transaction(_PATIENCE_S)
            return refused
        crash_point("kafka.before_commit")
        self._producer.commit_transaction(_PATIENCE_S)
        crash_point("kafka.after_commit")
        self.written = last
        return {}

    async def note(self, version: int) -> None:
        """That a copy began. Raises KafkaException."""
        await self._thread.run(lambda: self._note(version))

    async def look_again(self) -> None:
        """Read the checkpoint anew. Raises KafkaException."""
        self.found = await self._thread.run(lambda: self._newest(self._name))
        self.last = self.written = self.found.last

    async def noted(self) -> int:
        """With which version one began last; 0 for none. Raises KafkaException."""
        return (await self._thread.run(lambda: self._newest(note_of(self._name)))).position

    def _note(self, version: int) -> None:
        self._producer.begin_transaction()
        record = msgspec.json.encode(_Checkpoint(version))
        self._producer.produce(self._checkpoints, key=note_of(self._name), value=record)
        self._producer.commit_transaction(_PATIENCE_S)
        # The answer to a commit comes a moment before readers see what it brought.
        deadline = time.monotonic() + _PATIENCE_S
        while self._newest(note_of(self._name)).position != version:
            if time.monotonic() > deadline:
                raise self._timed_out()

    def _send(self, place: int, one: Outgoing, refused: dict[int, str]) -> None:
        def answered(error: Any, _: Any) -> None:
            if error is not None and error.name() in _TOO_LARGE:
                refused[place] = error.str()

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

    def _newest(self, name: str) -> _Checkpoint:
        """The newest committed record of this name."""
        consumer = self._kafka.Consumer(
            {
                **options(self._endpoint),
                "group.id": self._identity,
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
            }
        )
        found = _Checkpoint()
        try:
            beginning = self._kafka.OFFSET_BEGINNING
            consumer.assign([self._kafka.TopicPartition(self._checkpoints, 0, beginning)])
            while (message := consumer.poll(TIMEOUT_S)) is not None:
                error = message.error()
                if error is not None and error.name() == "_PARTITION_EOF":
                    return found
                if error is not None:
                    raise self._kafka.KafkaException(error)
                if message.key() == name.encode():
                    found = msgspec.json.decode(message.value(), type=_Checkpoint)
            raise self._timed_out()
        finally:
            consumer.close()

    def _timed_out(self) -> Exception:
        error: Exception = self._kafka.KafkaException(
            self._kafka.KafkaError(self._kafka.KafkaError._TIMED_OUT)
        )
        return error

    def close(self) -> None:
        """Let go of it, in its own thread: what is under way ends there."""
        self._thread.end(self._end)

    def _end(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge(blocking=False)
