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

from collections.abc import Iterable, Sequence

from neolayer.catalogue import DataClass
from neolayer.engines.endpoints import Database, KafkaEndpoint
from neolayer.engines.kafka.checkpoint import topic_of
from neolayer.engines.kafka.client import explain, library
from neolayer.relay.changes import Batch
from neolayer.relay.comparable import Shape
from neolayer.relay.envelope import Made, Outgoing, Reached, unpublished
from neolayer.relay.enveloping import Envelopes
from neolayer.relay.sinks.kafka_producer import Producer
from neolayer.relay.sinks.sink import CopyLost, Park, Rejected, Snapshot


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
        self._producer: Producer | None = None
        self._left = 0
        self._sent: Reached | None = None  # the last one of the writes that are done
        self._has_produced = False  # since it was opened

    @property
    def tables(self) -> frozenset[str]:
        return self._envelopes.tables

    async def open(self, confirmed: int) -> int | None:
        self._envelopes.restart()
        self._left = 0
        self._sent = None
        self._has_produced = False
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
        self._has_produced = True
        if position is not None:
            self._left = position
            self._sent = producer.written if producer.last is None else self._sent
        return rejected

    async def _transaction(
        self, producer: Producer, outgoing: Sequence[Outgoing], position: int | None
    ) -> dict[int, str]:
        try:
            return await producer.transaction(outgoing, position)
        except library().KafkaException as exc:
            await self._drop()
            raise explain(exc, self._endpoint) from exc
        except BaseException:
            await self._drop()
            raise

    async def _connected(self) -> Producer:
        """The producer, with its topics there. Raises CopyLost where they were emptied, or where
        the broker forgot what it had said is committed."""
        if self._producer is not None:
            return self._producer
        producer = Producer(self._endpoint, self.name, self._checkpoints)
        topics = [f"{self._endpoint.prefix}.{topic}" for topic in self._envelopes.topics]
        try:
            await producer.open(topics)
            if producer.found.position < self._left or (producer.voided and self._has_produced):
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
