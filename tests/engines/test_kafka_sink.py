"""The Kafka sink against a real broker: order per key, once for whoever reads what is committed."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from tests.fixtures.batches import (
    CLASSES,
    COINS,
    OUTBOX,
    PlainSnapshot,
    at,
    batch,
    changes,
    event_row,
    events,
)
from tests.fixtures.copies import Undivided, copy_whole, way_to
from tests.fixtures.fix_kafka import KafkaBroker
from tests.fixtures.patience import PATIENCE_S

from neolayer.engines.endpoints import KafkaEndpoint
from neolayer.engines.engine import Level
from neolayer.engines.kafka.engine import KafkaEngine
from neolayer.errors import EngineUnavailable
from neolayer.relay.changes import INSERT, Batch
from neolayer.relay.copying.progress import OwnProgress
from neolayer.relay.copying.whole import WholeCopy
from neolayer.relay.sinks.kafka import KafkaSink
from neolayer.relay.sinks.sink import CopyLost, Rejected

pytestmark = pytest.mark.engines
TENANT = UUID(int=5)
TABLES = {"core.outbox": OUTBOX, "public.coins": COINS}


@pytest.fixture
def endpoint(kafka_broker: KafkaBroker) -> KafkaEndpoint:
    """The module's broker under a prefix that nobody else has."""
    return kafka_broker.endpoint(f"t{secrets.token_hex(4)}")


async def opened(endpoint: KafkaEndpoint) -> KafkaSink:
    """A sink that has nothing to copy."""
    sink = KafkaSink(endpoint, CLASSES)
    assert await sink.open(at(1)) is None
    await copy_whole(sink, PlainSnapshot(at(1), {t: (r, []) for t, r in TABLES.items()}))
    return sink


def read(endpoint: KafkaEndpoint, topic: str = "outbox") -> list[Any]:
    """Every message that a reader of committed ones sees, partition by partition.

    The answer to a commit comes before its mark is in the partitions: what is there is waited for.
    """
    name = f"{endpoint.prefix}.{topic}"
    with reader(endpoint, "read_uncommitted") as watching, reader(endpoint) as consumer:
        partitions = watching.list_topics(name, timeout=10).topics[name].partitions
        places = [TopicPartition(name, number, 0) for number in partitions]
        ends = {one.partition: watching.get_watermark_offsets(one, timeout=10)[1] for one in places}
        consumer.assign(places)
        found = []
        while ends:
            message = consumer.poll(10)
            assert message is not None
            if message.error() is None:
                found.append(message)
                continue
            assert message.error().name() == "_PARTITION_EOF", message.error()
            if message.offset() >= ends.get(message.partition(), 0):
                ends.pop(message.partition(), None)
        return found


@contextlib.contextmanager
def reader(endpoint: KafkaEndpoint, isolation: str = "read_committed") -> Iterator[Any]:
    consumer = Consumer(
        {
            "bootstrap.servers": endpoint.servers,
            "group.id": secrets.token_hex(4),
            "isolation.level": isolation,
            "enable.partition.eof": True,
            "enable.auto.commit": False,
        }
    )
    try:
        yield consumer
    finally:
        consumer.close()


def by_key(messages: list[Any]) -> dict[str, list[str]]:
    told: dict[str, list[str]] = {}
    for message in messages:
        envelope = msgspec.json.decode(message.value())
        told.setdefault(envelope["key"], []).append(envelope["id"])
    return told


def keys(count: int) -> list[tuple[str | None, ...]]:
    return [event_row(TENANT, f"k{number % 7}") for number in range(count)]


def expected(*rows: tuple[str | None, ...]) -> dict[str, list[str]]:
    told: dict[str, list[str]] = {}
    for row in rows:
        told.setdefault(str(row[3]), []).append(str(row[1]))
    return told


async def test_every_change_is_there_in_order_of_its_key(endpoint: KafkaEndpoint) -> None:
    """The same envelope as everywhere; key, headers, and the checkpoint beside it."""
    sink = await opened(endpoint)
    rows = keys(500)
    coin = changes(COINS, (at(3), INSERT, ["1", "ann", "1.5", None]))
    assert await sink.write([events(at(2), *rows), batch(coin, position=at(3))]) == []
    found = read(endpoint)
    assert by_key(found) == expected(*rows)
    assert {message.key() for message in found} == {f"{TENANT}:k{n}".encode() for n in range(7)}
    assert dict(found[0].headers())["type"] == b"wallet.created"
    (told,) = [m for m in read(endpoint, "coins") if dict(m.headers())["type"] == b"coins.inserted"]
    assert msgspec.json.decode(told.value())["data"]["amount"] == "1.5"
    assert await sink.open(at(2)) == at(3)
    assert await sink.open(at(4)) is None
    await sink.close()


async def test_C1_messages_and_checkpoint_are_there_together_or_not_at_all(
    endpoint: KafkaEndpoint,
) -> None:
    """A relay that dies within a transaction: the next one takes over, and readers see one."""
    sink = await opened(endpoint)
    rows = keys(200)
    producer: Any = (await sink._connected())._producer
    made = sink._envelopes.of([events(at(2), *rows)])
    await asyncio.to_thread(producer.begin_transaction)
    for one in made:
        producer.produce(f"{endpoint.prefix}.outbox", key=one.key, value=one.body)
    await asyncio.to_thread(producer.flush, 10)  # on the broker, and never committed
    again = KafkaSink(endpoint, CLASSES)
    assert await again.open(at(1)) == at(1)
    await again.write([events(at(2), *rows)])
    assert by_key(read(endpoint)) == expected(*rows)
    with pytest.raises(EngineUnavailable):  # fenced: the first must not go on
        await sink.write([events(at(3), *keys(1))])
    assert by_key(read(endpoint)) == expected(*rows)
    assert await again.open(at(2)) == at(2)
    await sink.close()
    await again.close()


async def test_C2_a_commit_whose_answer_was_lost_is_not_made_again(
    endpoint: KafkaEndpoint,
) -> None:
    """Also of a piece of a large transaction, whose checkpoint does not move."""
    sink = await opened(endpoint)
    rows = keys(60)
    whole = changes(OUTBOX, *((at(2), INSERT, row) for row in rows[:30]))
    piece = batch(whole, position=at(1), unfinished=at(2))
    rest = changes(OUTBOX, *((at(2), INSERT, row) for row in rows[30:]))
    await sink.write([piece])
    await sink._drop()  # the answer never came: the write is tried again
    await sink.write([piece])
    last = batch(rest, position=at(2))
    await sink.write([last])
    await sink._drop()
    await sink.write([last])
    assert by_key(read(endpoint)) == expected(*rows)
    await sink.close()


async def test_C5_a_connection_lost_inside_a_commit_loses_none_of_it(
    endpoint: KafkaEndpoint,
) -> None:
    """What is behind the last envelope that the topic has, and of the same commit, still goes."""
    sink = await opened(endpoint)
    rows = keys(60)
    for start in range(0, 60, 20):
        part = changes(OUTBOX, *((at(2), INSERT, row) for row in rows[start : start + 20]))
        last = start == 40
        await sink.write([batch(part, position=at(2 if last else 1), unfinished=at(2))])
        await sink._drop()
    assert by_key(read(endpoint)) == expected(*rows)
    await sink.close()


async def test_C1_dying_in_a_later_part_of_a_large_transaction_doubles_none_of_it(
    endpoint: KafkaEndpoint,
) -> None:
    """The checkpoint lies before it, so all of its parts come again, however often one dies."""
    sink = await opened(endpoint)
    rows = keys(60)
    parts = [
        changes(OUTBOX, *((at(2), INSERT, row) for row in rows[start : start + 15]))
        for start in range(0, 60, 15)
    ]
    pieces = [
        *(batch(part, position=at(1), unfinished=at(2)) for part in parts[:3]),
        batch(position=at(1), unfinished=at(2)),
        batch(parts[3], position=at(2)),
    ]
    for given in (2, 3, 4, 1, 5):
        for piece in pieces[:given]:
            await sink.write([piece])
        await sink.close()
        sink = KafkaSink(endpoint, CLASSES)
        assert await sink.open(at(1)) == (at(2) if given == 5 else at(1))
    assert by_key(read(endpoint)) == expected(*rows)
    await sink.close()


async def test_C8_what_the_broker_will_never_take_is_set_aside(endpoint: KafkaEndpoint) -> None:
    """Too large for the client or the topic: it comes back with the cause; the others are there."""
    sink = await opened(endpoint)
    rows = keys(40)
    huge = msgspec.json.encode({"text": secrets.token_hex(1_500_000)}).decode()
    rows[7] = event_row(TENANT, data=huge)
    rejected = await sink.write([events(at(2), *rows)])
    assert [(one.key, one.version) for one in rejected] == [((rows[7][1],), at(2))]
    assert "large" in rejected[0].cause
    assert by_key(read(endpoint)) == expected(*(row for row in rows if row is not rows[7]))
    wide = replace(endpoint, options={"message.max.bytes": "4000000"})
    other = KafkaSink(wide, CLASSES)
    assert await other.open(at(1)) == at(2)
    last = [event_row(TENANT, data=huge), event_row(TENANT)]
    rejected = await other.write([events(at(3), *last)])
    assert len(rejected) == 1 and "large" in rejected[0].cause.lower()
    assert by_key(read(endpoint))["k1"][-1] == last[1][1]
    await sink.close()
    await other.close()


def empty(endpoint: KafkaEndpoint) -> None:
    """Somebody deletes all topics of the prefix, and makes them anew."""
    admin = AdminClient({"bootstrap.servers": endpoint.servers})
    there = admin.list_topics(timeout=10).topics
    topics = [topic for topic in there if topic.startswith(f"{endpoint.prefix}.")]
    assert len(topics) == 3
    for deleted in admin.delete_topics(topics, operation_timeout=30).values():
        deleted.result(30)
    made = [NewTopic(topic, len(there[topic].partitions)) for topic in topics]
    for created in admin.create_topics(made, operation_timeout=30).values():
        created.result(30)


async def test_a_broker_that_was_emptied_is_copied_to_anew(endpoint: KafkaEndpoint) -> None:
    """Its checkpoint is gone with its messages: the sink says so, and only until it is opened."""
    sink = await opened(endpoint)
    await sink.write([events(at(2), *keys(3))])
    await asyncio.to_thread(empty, endpoint)
    await sink._drop()  # its connections went with the broker
    for _ in range(2):
        with pytest.raises(CopyLost):
            await sink.write([events(at(3), *keys(3))])
    row, coin = event_row(TENANT), ["1", "ann", "1", None]
    snapshot = PlainSnapshot(
        at(3), {"core.outbox": (OUTBOX, [row]), "public.coins": (COINS, [coin])}
    )
    assert await sink.open(at(3)) is None
    await copy_whole(sink, snapshot)
    last = event_row(TENANT)
    await sink.write([events(at(4), last)])
    assert by_key(read(endpoint)) == expected(row, last)
    kinds = {dict(one.headers())["type"] for one in read(endpoint, "coins")}
    assert kinds == {b"coins.truncated", b"coins.copied"}
    await sink.close()


async def test_topics_that_are_emptied_in_mid_copy_are_noticed_at_its_end(
    endpoint: KafkaEndpoint,
) -> None:
    """Also by a producer that is connected all the while: the ranges it told before are gone, so
    the copy does not count and the next one goes on with nothing of it."""
    sink = KafkaSink(endpoint, CLASSES)
    assert await sink.open(at(1)) is None
    refused: list[Rejected] = []
    progress = OwnProgress()
    copy = WholeCopy(way_to(sink, progress, refused))
    await copy.begin()
    snapshot = PlainSnapshot(at(2), {t: (r, []) for t, r in TABLES.items()})
    producer = await sink._connected()
    copied = sink.copy_part

    async def copy_part(part: Any, table: str, *rest: Any, **options: Any) -> None:
        await copied(part, table, *rest, **options)
        if table == max(TABLES):
            await asyncio.to_thread(empty, endpoint)

    sink.copy_part = copy_part  # type: ignore[method-assign]
    with pytest.raises(CopyLost):
        await copy.run(Undivided(snapshot))
    assert await sink._connected() is producer
    again = WholeCopy(way_to(sink, progress, refused))
    assert not await again.resume(reaches_back_to=at(1))
    await sink.close()


async def test_two_databases_have_a_checkpoint_each(endpoint: KafkaEndpoint) -> None:
    """In one compacted topic, under the sink's name."""
    core = await opened(endpoint)
    coins = [replace(one, database="event_store") for one in CLASSES if one.name == "coins"]
    other = KafkaSink(endpoint, coins, database="event_store")
    assert await other.open(at(1)) is None
    await copy_whole(
        other, PlainSnapshot(at(5), {"public.coins": (COINS, [["1", "ann", "1", None]])})
    )
    assert (await core.open(at(1)), await other.open(at(1))) == (at(1), at(5))
    await core.close()
    await other.close()


async def test_the_engine_says_how_it_is(endpoint: KafkaEndpoint) -> None:
    """A running one, and one sentence for one that does not answer."""
    engine = KafkaEngine(endpoint)
    status = await engine.status()
    assert status.healthy and status.version == "1 broker"
    await engine.close()
    dead = KafkaEngine(KafkaEndpoint(Level.REAL, "127.0.0.1:1"))
    status = await dead.status()
    assert not status.healthy and "127.0.0.1:1 does not answer" in (status.detail or "")
    await dead.close()


async def restart(broker: KafkaBroker) -> None:
    """Kill it and start it again."""
    await asyncio.to_thread(broker.kill)
    await asyncio.to_thread(broker.start)


async def restart_forgetting(broker: KafkaBroker, sink: KafkaSink, *topics: str) -> None:
    """The same, and the last transaction that touched these topics lost its marks there. Another
    one, elsewhere, begins only when the broker has noted that this one has ended."""
    await sink.begin_again(at(9), "public.coins")
    await asyncio.to_thread(read, broker.endpoint(sink._endpoint.prefix), "coins")
    await asyncio.to_thread(broker.kill)
    broker.forget_marks(*topics)
    await asyncio.to_thread(broker.start)


async def write_as_a_lane(
    sink: KafkaSink, writes: Sequence[Batch], a_third: asyncio.Event | None = None
) -> int:
    """All in order, again after a failure, and from the checkpoint on where something was lost:
    how often that was."""
    number = lost = 0
    is_lost = False
    while number < len(writes):
        if a_third is not None and number == len(writes) // 3:
            a_third.set()
        try:
            if is_lost:
                checkpoint = await sink.open(at(1))
                assert checkpoint is not None
                number, is_lost = sum(one.position <= checkpoint for one in writes), False
            await sink.write([writes[number]])
            number += 1
        except EngineUnavailable:
            await asyncio.sleep(0.2)
        except CopyLost:
            lost, is_lost = lost + 1, True
    return lost


async def test_C2_a_commit_whose_marks_the_broker_forgot_is_said_again_once(
    kafka_broker: KafkaBroker, endpoint: KafkaEndpoint
) -> None:
    """It had answered that all is committed, yet nobody would ever see it: as Kafka does where it
    is started again and ends a transaction before it knows of the partitions."""
    sink = await opened(endpoint)
    rows = keys(60)
    writes = [events(at(2 + n), *rows[n * 20 : n * 20 + 20]) for n in range(3)]
    topics = [f"{endpoint.prefix}.outbox", f"{endpoint.prefix}.checkpoints"]
    assert await write_as_a_lane(sink, writes[:2]) == 0
    await restart_forgetting(kafka_broker, sink, *topics)
    assert await write_as_a_lane(sink, writes) == 1
    assert by_key(read(endpoint)) == expected(*rows)
    await restart_forgetting(kafka_broker, sink, *topics)
    await sink.close()
    other = KafkaSink(endpoint, CLASSES)
    assert await other.open(at(1)) == at(3)
    await other.write([writes[2]])
    assert by_key(read(endpoint)) == expected(*rows)
    await other.close()


async def test_C2_where_only_the_checkpoint_lost_its_mark_nothing_is_told_twice(
    kafka_broker: KafkaBroker, endpoint: KafkaEndpoint
) -> None:
    """Readers have what nobody can read the checkpoint of: it is written once more, and holds."""
    sink = await opened(endpoint)
    rows = keys(60)
    writes = [events(at(2 + n), *rows[n * 20 : n * 20 + 20]) for n in range(3)]
    assert await write_as_a_lane(sink, writes[:2]) == 0
    await restart_forgetting(kafka_broker, sink, f"{endpoint.prefix}.checkpoints")
    assert await write_as_a_lane(sink, writes[2:]) == 0
    assert by_key(read(endpoint)) == expected(*rows)
    await restart_forgetting(kafka_broker, sink, f"{endpoint.prefix}.checkpoints")
    await sink.close()
    other = KafkaSink(endpoint, CLASSES)
    assert await other.open(at(1)) == at(4)
    await other.close()


async def test_C2_where_only_the_checkpoint_kept_its_mark_all_is_copied_again(
    kafka_broker: KafkaBroker, endpoint: KafkaEndpoint
) -> None:
    """What lies before the checkpoint would never be sent again: the checkpoint counts no more."""
    sink = await opened(endpoint)
    rows = keys(40)
    writes = [events(at(2 + n), *rows[n * 20 : n * 20 + 20]) for n in range(2)]
    assert await write_as_a_lane(sink, writes) == 0
    await restart_forgetting(kafka_broker, sink, f"{endpoint.prefix}.outbox")
    with pytest.raises(CopyLost):
        while True:
            with contextlib.suppress(EngineUnavailable):
                await sink.write([events(at(4), *keys(1))])
    assert await sink.open(at(1)) is None
    assert by_key(read(endpoint)) == expected(*rows[:20])
    await sink.close()


async def test_C2_a_range_whose_marks_the_broker_forgot_is_copied_again(
    kafka_broker: KafkaBroker, endpoint: KafkaEndpoint
) -> None:
    """A copy of which a part may be gone does not go on; it begins anew."""
    sink = KafkaSink(endpoint, CLASSES)
    assert await sink.open(at(1)) is None
    progress = OwnProgress()
    copied = sink.copy_part

    async def copy_part(part: Any, table: str, *rest: Any, **options: Any) -> None:
        if table == max(TABLES):
            raise EngineUnavailable("kafka", "is cut off")
        await copied(part, table, *rest, **options)

    sink.copy_part = copy_part  # type: ignore[method-assign]
    rows = [event_row(TENANT, f"k{n}") for n in range(20)]
    snapshot = PlainSnapshot(at(2), {"core.outbox": (OUTBOX, rows), "public.coins": (COINS, [])})
    copy = WholeCopy(way_to(sink, progress, []))
    await copy.begin()
    with pytest.raises(EngineUnavailable):
        await copy.run(Undivided(snapshot))
    assert await WholeCopy(way_to(sink, progress, [])).resume(reaches_back_to=at(1))
    await restart_forgetting(kafka_broker, sink, f"{endpoint.prefix}.outbox")
    await sink.close()
    other = KafkaSink(endpoint, CLASSES)
    while True:
        try:
            assert await other.open(at(1)) is None
            break
        except EngineUnavailable:
            await asyncio.sleep(0.2)
    assert not await WholeCopy(way_to(other, progress, [])).resume(reaches_back_to=at(1))
    assert 0 < len(by_key(read(endpoint))) < len(rows)  # a row is a transaction here
    await copy_whole(other, snapshot)
    assert by_key(read(endpoint)).keys() == expected(*rows).keys()
    await other.close()


async def test_C2_a_broker_killed_under_load_loses_and_doubles_nothing(
    kafka_broker: KafkaBroker, endpoint: KafkaEndpoint
) -> None:
    """It is killed and started again while batches are written, as a lane writes them."""
    sink = await opened(endpoint)
    rows = [event_row(TENANT, f"k{n % 7}", event_id=uuid4()) for n in range(3_000)]
    writes = [events(at(2 + n), *rows[n * 100 : n * 100 + 100]) for n in range(30)]
    a_third = asyncio.Event()
    writing = asyncio.create_task(write_as_a_lane(sink, writes, a_third=a_third))
    await a_third.wait()
    await restart(kafka_broker)
    await asyncio.wait_for(writing, PATIENCE_S)
    assert by_key(read(endpoint)) == expected(*rows)
    await sink.close()
