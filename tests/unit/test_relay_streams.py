"""What a lane does with a stream that somebody emptied, without a server.

Brokers are labelled stand-ins: what they hold outlives a connection, and emptying them ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from tests.fixtures.batches import CLASSES, COINS, OUTBOX, PlainSnapshot, batch, changes
from tests.fixtures.copies import Undivided
from tests.fixtures.patience import PATIENCE_S
from tests.unit.test_relay_segments import opened

from neolayer.engines.endpoints import KafkaEndpoint, NatsEndpoint
from neolayer.engines.engine import Level
from neolayer.errors import EngineUnavailable
from neolayer.relay.changes import INSERT
from neolayer.relay.envelope import Outgoing, Reached
from neolayer.relay.lane import Lane
from neolayer.relay.segments import SegmentLog
from neolayer.relay.sinks import kafka, nats
from neolayer.relay.sinks.kafka import KafkaSink
from neolayer.relay.sinks.nats import NatsSink
from neolayer.relay.sinks.sink import Sink, note_of
from neolayer.relay.state import LaneState

COIN = ["1", "ann", "1", None]


@dataclass
class Broker:
    """What is in it: ids of messages, numbers by name; `lives` rises whenever it is emptied."""

    messages: list[str] = field(default_factory=list[str])
    numbers: dict[str, int] = field(default_factory=dict[str, int])
    lives: int = 1
    notes: int = 0  # how often a copy began

    def empty(self) -> None:
        self.messages.clear()
        self.numbers.clear()
        self.lives += 1

    def store(self, name: str, number: int) -> None:
        self.notes += name.endswith(":copy")
        self.numbers[name] = number


class Producer:
    """In the place of the Kafka sink's own, on one connection."""

    def __init__(self, broker: Broker, name: str) -> None:
        self._broker = broker
        self._name = name
        self._life = broker.lives
        self.last = self.written = None
        self.voided = False

    async def open(self, topics: Collection[str]) -> None:
        await asyncio.sleep(0)
        self.found = SimpleNamespace(position=self._broker.numbers.get(self._name, 0))

    async def transaction(self, outgoing: Sequence[Outgoing], position: int | None) -> Any:
        await self._trip()
        self._broker.messages += [one.id for one in outgoing]
        if outgoing:
            self.written = Reached(outgoing[-1].id, str(outgoing[-1].version))
        if position is not None:
            self._broker.store(self._name, position)
        return {}

    async def note(self, version: int) -> None:
        await self._trip()
        self._broker.store(note_of(self._name), version)

    async def noted(self) -> int:
        return self._broker.numbers.get(note_of(self._name), 0)

    async def _trip(self) -> None:
        await asyncio.sleep(0)
        if self._life != self._broker.lives:
            raise EngineUnavailable("kafka", "does not answer")

    def close(self) -> None: ...


class Memory(NatsSink):
    """The NATS sink over a broker that is not there."""

    def __init__(self, broker: Broker, *rest: Any) -> None:
        super().__init__(*rest)
        self.broker = broker

    async def _prepare(self, connection: Any) -> None:
        await asyncio.sleep(0)

    async def _last_message(self, connection: Any) -> None: ...

    async def _stored(self, connection: Any, name: str) -> int:
        return self.broker.numbers.get(name, 0)

    async def _store(self, connection: Any, name: str, version: int) -> None:
        self.broker.store(name, version)


@dataclass
class Connection:
    """One to NATS, with its publisher."""

    broker: Broker
    life: int
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def connection(self) -> Connection:
        return self

    async def send(self, subject: str, body: bytes, headers: Mapping[str, str]) -> Any:
        await asyncio.sleep(0)
        if self.life != self.broker.lives:
            raise EngineUnavailable("nats", "ended the connection")
        self.broker.messages.append(msgspec.json.decode(body)["id"])
        answer = asyncio.get_running_loop().create_future()
        answer.set_result(None)
        return answer

    @property
    def stream(self) -> Connection:
        return self

    async def account_info(self) -> None:
        if self.life != self.broker.lives:
            raise EngineUnavailable("nats", "ended the connection")

    async def ask(self, asked: Awaitable[Any], *, seconds: float = 0) -> Any:
        return await asked

    async def close(self) -> None:
        self.gone.set()


@pytest.fixture(params=["kafka", "nats"])
def stream(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Sink, Broker]:
    broker = Broker()

    async def connected(endpoint: NatsEndpoint) -> Connection:
        return Connection(broker, broker.lives)

    async def publishing(connection: Connection) -> Connection:
        return connection

    monkeypatch.setattr(kafka, "Producer", lambda _, name, __: Producer(broker, name))
    monkeypatch.setattr(nats, "connect", connected)
    monkeypatch.setattr(nats, "open_publisher", publishing)
    if request.param == "kafka":
        return KafkaSink(KafkaEndpoint(Level.REAL, "stand-in:1"), CLASSES), broker
    return Memory(broker, NatsEndpoint(Level.REAL, "nats://stand-in", "stand-in"), CLASSES), broker


def coin(log: SegmentLog) -> None:
    """One more commit."""
    version = log.position + 8
    log.append(batch(changes(COINS, (version, INSERT, COIN)), position=version))


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0)


async def test_C14_a_stream_that_was_emptied_is_copied_to_once_and_goes_on(
    stream: tuple[Sink, Broker], tmp_path: Path
) -> None:
    """Its loss is met at a write. What is remembered of the store that is gone says nothing of the
    one that is opened then: else it would count as lost again, and no copy ever begin."""
    sink, broker = stream
    log = await opened(tmp_path)

    @contextlib.asynccontextmanager
    async def snapshot() -> AsyncIterator[Undivided]:
        tables = {"core.outbox": (OUTBOX, []), "public.coins": (COINS, [COIN])}
        yield Undivided(PlainSnapshot(log.position, tables))

    state = LaneState()
    lane = Lane(sink, log, rows=10, state=state)
    running = asyncio.create_task(lane.run(snapshot))  # type: ignore[arg-type]
    try:
        coin(log)
        await until(lambda: broker.numbers.get(sink.name) == log.position)
        broker.empty()
        coin(log)
        await until(lambda: broker.numbers.get(sink.name) == log.position)
        coin(log)
        await until(lambda: broker.numbers.get(sink.name) == log.position)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert broker.notes == 2
    assert any(one.endswith(":copy") for one in broker.messages)
    assert broker.messages[-1].startswith("coins:")
