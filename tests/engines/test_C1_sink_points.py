"""C1: kill -9 at the crash points of sinks whose servers are no wheels; each change is once."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import secrets
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import nats
import pytest
from tests.engines.test_elasticsearch_sink import SearchCase, search_case
from tests.engines.test_kafka_sink import read
from tests.engines.test_mongodb_sink import MongoCase, mongo_case
from tests.fixtures.batches import CLASSES, COINS, OUTBOX, PlainSnapshot, at, event_row, events
from tests.fixtures.copies import copy_whole
from tests.fixtures.fix_kafka import KafkaBroker
from tests.fixtures.fix_nats import NatsServer
from tests.fixtures.sink_suite import THINGS, Log, StillTables, Thing, change, put, remove

from neolayer.crash_points import VARIABLE
from neolayer.engines.endpoints import ElasticsearchEndpoint, KafkaEndpoint, NatsEndpoint
from neolayer.engines.engine import Level
from neolayer.engines.mongodb.dsn import parse_dsn
from neolayer.relay.changes import Batch
from neolayer.relay.sinks.elasticsearch import ElasticsearchSink
from neolayer.relay.sinks.kafka import KafkaSink
from neolayer.relay.sinks.mongodb import MongoSink
from neolayer.relay.sinks.nats import NatsSink

pytestmark = pytest.mark.engines
__all__ = ["mongo_case", "search_case"]
ROOT = Path(__file__).parents[2]
TENANT = UUID(int=5)
ROWS = 30
BATCHES = 5


def sink_at(told: dict[str, Any]) -> Any:
    if "servers" in told:
        return KafkaSink(KafkaEndpoint(Level.REAL, **told), CLASSES)
    return NatsSink(NatsEndpoint(Level.REAL, told["url"], told["url"], "neolayer"), CLASSES)


def rows_of(number: int) -> list[tuple[str | None, ...]]:
    """The announcements of one commit: the same in every process."""
    ids = (UUID(int=number * 1_000 + place) for place in range(ROWS))
    return [event_row(TENANT, f"k{one.int % 7}", event_id=one) for one in ids]


def things_of(log: Log) -> list[Batch]:
    """Commits that put, change and remove things: the same in every process."""
    commits: list[Batch] = []
    for number in range(BATCHES):
        news = [put(Thing(number * ROWS + place, f"new {number}")) for place in range(ROWS)]
        old = [Thing((number - 1) * ROWS + place, f"new {number - 1}") for place in range(3)]
        changed = [change(replace(one, note=f"changed {number}"), was=one) for one in old[1:]]
        commits.append(log.commit(*news, *(changed if number else ())))
        if number:
            commits.append(log.commit(remove(old[0])))
    return commits


def rows_left() -> dict[Any, Any]:
    left = {Thing(id_).key: f"new {id_ // ROWS}" for id_ in range(BATCHES * ROWS)}
    for number in range(1, BATCHES):
        first = (number - 1) * ROWS
        del left[Thing(first).key]
        left |= {Thing(first + place).key: f"changed {number}" for place in (1, 2)}
    return left


async def feed_things(sink: Any) -> None:
    """The same into a store of rows."""
    log = Log()
    start = log.position
    commits = things_of(log)
    checkpoint = await sink.open(start)
    if checkpoint is None:
        await copy_whole(sink, StillTables(start, []))
        checkpoint = start
    for commit in commits:
        if commit.position > checkpoint:
            await sink.write([commit])
    await sink.close()


async def feed(told: dict[str, Any]) -> None:
    """Go on from the checkpoint to the last commit, as a lane would."""
    if "mongodb" in told:
        return await feed_things(MongoSink(parse_dsn(told["mongodb"]), [THINGS]))
    if "search" in told:
        at_search = ElasticsearchEndpoint(Level.REAL, told["search"], prefix=told["prefix"])
        return await feed_things(ElasticsearchSink(at_search, [THINGS], wait_s=0.01))
    sink = sink_at(told)
    checkpoint = await sink.open(at(1))
    if checkpoint is None:
        tables = {"core.outbox": (OUTBOX, []), "public.coins": (COINS, [])}
        await copy_whole(sink, PlainSnapshot(at(1), tables))
        checkpoint = at(1)
    for number in range(2, 2 + BATCHES):
        if at(number) > checkpoint:
            await sink.write([events(at(number), *rows_of(number))])
    await sink.close()
    return None


def run(told: dict[str, Any], crash_at: str) -> int:
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-m", "tests.engines.test_C1_sink_points"],
        cwd=ROOT,
        input=json.dumps(told).encode(),
        env={**os.environ, VARIABLE: crash_at, "PYTHONPATH": path},
        timeout=120,
        check=False,
    ).returncode


def kill_at(told: dict[str, Any], *points: str) -> None:
    """Die at each point in turn, each time further on, then go through to the end."""
    for number, point in enumerate(points):
        assert run(told, f"{point}:{1 + number % 2}") == -9, point
    assert run(told, "") == 0


EXPECTED = [row[1] for number in range(2, 2 + BATCHES) for row in rows_of(number)]


async def test_C1_nats_killed_at_every_point(nats_server: NatsServer) -> None:
    """Every announcement is in the stream once, in order."""
    url = f"nats://127.0.0.1:{nats_server.port}"
    told = {"url": url}
    kill_at(told, "nats.after_publish", "nats.after_checkpoint", "nats.after_publish")
    client = await nats.connect(url)
    jetstream = client.jetstream()
    last = (await jetstream.stream_info("neolayer")).state.last_seq
    found = [await jetstream.get_msg("neolayer", number) for number in range(1, last + 1)]
    await client.close()
    told_ids = [msgspec.json.decode(one.data or b"")["id"] for one in found]
    # Before the first there is the mark of a copy: what the stream had before is of no use.
    assert [one for one in told_ids if not one.endswith(":copy")] == EXPECTED


async def test_C1_kafka_killed_at_every_point(kafka_broker: KafkaBroker) -> None:
    """Whoever reads what is committed gets every announcement once, in order per key."""
    endpoint = kafka_broker.endpoint(f"t{secrets.token_hex(4)}")
    told = {field.name: getattr(endpoint, field.name) for field in dataclasses.fields(endpoint)}
    del told["level"]
    kill_at(told, "kafka.before_commit", "kafka.after_commit", "kafka.before_commit")
    by_key: dict[bytes, list[str]] = {}
    for message in read(endpoint):
        by_key.setdefault(message.key(), []).append(msgspec.json.decode(message.value())["id"])
    found = [one for ids in by_key.values() for one in ids if not one.endswith(":copy")]
    assert sorted(found) == sorted(EXPECTED)
    for told_ids in by_key.values():
        assert [one for one in EXPECTED if one in told_ids] == [
            one for one in told_ids if not one.endswith(":copy")
        ]


async def test_C1_mongodb_killed_at_every_point(mongo_case: MongoCase) -> None:
    """Every row is there once, as the last commit left it, and none that was removed."""
    told = {"mongodb": mongo_case.endpoint.url}
    kill_at(
        told, "mongodb.before_checkpoint", "mongodb.after_checkpoint", "mongodb.before_checkpoint"
    )
    assert await mongo_case.rows() == rows_left()


async def test_C1_elasticsearch_killed_at_every_point(search_case: SearchCase) -> None:
    """The same of documents that are searched."""
    endpoint = search_case.endpoint
    told = {"search": endpoint.url, "prefix": endpoint.prefix}
    before, after = "elasticsearch.before_checkpoint", "elasticsearch.after_checkpoint"
    kill_at(told, before, after, before)
    assert await search_case.rows() == rows_left()


if __name__ == "__main__":
    asyncio.run(feed(json.loads(sys.stdin.read())))
