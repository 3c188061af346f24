"""C1: kill -9 at the crash points of sinks whose servers are no wheels; each change is once."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import nats
import pytest
from tests.engines.test_kafka_sink import read
from tests.fixtures.batches import CLASSES, COINS, OUTBOX, PlainSnapshot, at, event_row, events
from tests.fixtures.copies import copy_whole
from tests.fixtures.fix_kafka import KafkaBroker
from tests.fixtures.fix_nats import NatsServer

from neolayer.crash_points import VARIABLE
from neolayer.engines.endpoints import KafkaEndpoint, NatsEndpoint
from neolayer.engines.engine import Level
from neolayer.relay.sinks.kafka import KafkaSink
from neolayer.relay.sinks.nats import NatsSink

pytestmark = pytest.mark.engines
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


async def feed(told: dict[str, Any]) -> None:
    """Go on from the checkpoint to the last commit, as a lane would."""
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


if __name__ == "__main__":
    asyncio.run(feed(json.loads(sys.stdin.read())))
