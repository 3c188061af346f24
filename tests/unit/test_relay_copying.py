"""A copy that did not end is gone on with, and what of it is believed. Sinks are stand-ins."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.fixtures.batches import COINS, PlainSnapshot, at
from tests.fixtures.copies import Undivided, way_to

from neolayer.catalogue import ClickHouseCopy, DataClass, MongoCopy, OutgoingCopy, SearchCopy
from neolayer.engines.endpoints import (
    ClickHouseEndpoint,
    ElasticsearchEndpoint,
    KafkaEndpoint,
    MongoEndpoint,
    NatsEndpoint,
)
from neolayer.engines.engine import Level
from neolayer.errors import EngineUnavailable, Unanswered
from neolayer.relay.changes import Batch, Relation
from neolayer.relay.comparable import Shape
from neolayer.relay.copying import tables as copying
from neolayer.relay.copying.progress import OwnProgress, Wanted
from neolayer.relay.copying.tables import copy_tables
from neolayer.relay.copying.whole import WholeCopy
from neolayer.relay.sinks.clickhouse import ClickHouseSink
from neolayer.relay.sinks.elasticsearch import ElasticsearchSink
from neolayer.relay.sinks.kafka import KafkaSink
from neolayer.relay.sinks.mongodb import MongoSink
from neolayer.relay.sinks.nats import NatsSink
from neolayer.relay.sinks.sink import Copied as Copying
from neolayer.relay.sinks.sink import Park, Rejected, Snapshot
from neolayer.relay.sinks.webhooks import WebhookSink

STAMPS = Relation(3, "public", "stamps", COINS.columns, COINS.types)
ROWS = [["1", "ann", "1", None], ["2", "bob", "2", None]]
OLD = Shape(("id",), ("id", "owner"))
WIDER, BY_OWNER = Shape(("id",), ("id", "owner", "amount")), Shape(("owner",), ("id", "owner"))
ELSEWHERE = Shape(("id",), ("id", "owner"), target=("other",))


def as_of(number: int) -> Undivided:
    tables = {one.table: (one, list(ROWS)) for one in (COINS, STAMPS)}
    return Undivided(PlainSnapshot(at(number), tables))  # type: ignore[arg-type]


class Copied:
    """What both stand-ins have in common; `down`: the second table is refused."""

    name = "stand-in"
    database = "neolayer"
    tables = frozenset({COINS.table, STAMPS.table})

    def __init__(self) -> None:
        self.shapes = {COINS.table: OLD, STAMPS.table: OLD}
        self.down = False
        self.note = self.checkpoint = 0
        self.parts: list[str] = []

    def shape(self, table: str) -> Shape:
        return self.shapes[table]

    async def begin_copy(self, version: int) -> None:
        self.note = version

    async def copy_began(self) -> int:
        return self.note

    async def reflect(self, version: int) -> None:
        self.checkpoint = version

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        return ()

    async def _read(self, part: Snapshot, table: str) -> list[dict[str, str]]:
        if self.down and table == STAMPS.table:
            raise EngineUnavailable(self.name, "not now")
        self.parts.append(table)
        columns = self.shape(table).columns
        lines = [line async for line in part.rows(table, columns)]
        return [dict(zip(columns, one.decode().split(), strict=True)) for one in lines]


class Rows(Copied):
    """A store of rows by table and key."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[tuple[str, ...], tuple[int, dict[str, str]]] = {}

    async def copy_part(self, part: Snapshot, table: str, park: Park) -> None:
        for row in await self._read(part, table):
            key = (table, *(row[column] for column in self.shape(table).key))
            self.held[key] = part.version, row

    async def drop_below(self, table: str, version: int) -> None:
        for key, (held, _) in list(self.held.items()):
            if key[0] == table and held < version:
                del self.held[key]


class Stream(Copied):
    """What it was told: tables that begin again, by their version."""

    def __init__(self) -> None:
        super().__init__()
        self.began: list[tuple[str, int]] = []

    async def begin_again(self, version: int, table: str) -> None:
        self.began.append((table, version))

    async def copy_part(self, part: Snapshot, table: str, park: Park, *, asked: bool) -> None:
        await self._read(part, table)


@pytest.fixture(autouse=True)
def one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "PARALLEL", 1)


async def interrupted(sink: Rows | Stream) -> OwnProgress:
    """A copy whose first table is in, and whose second is not."""
    progress = OwnProgress()
    copy = WholeCopy(way_to(sink, progress, []))
    await copy.begin()
    sink.down = True
    with pytest.raises(EngineUnavailable):
        await copy.run(as_of(1))
    assert sink.parts == [COINS.table]
    sink.down = False
    return progress


async def gone_on(sink: Rows | Stream, progress: OwnProgress) -> int | None:
    """The version of the copy that the next process makes whole."""
    copy = WholeCopy(way_to(sink, progress, []))
    if not await copy.resume(reaches_back_to=at(0)):
        await copy.begin()
    version = await copy.run(as_of(2))
    await copy.end()
    assert await progress.copy_of(sink.name) == []
    return version


@pytest.mark.parametrize("kind", [Rows, Stream])
async def test_what_is_in_stays_where_the_same_is_copied(kind: type[Rows | Stream]) -> None:
    """Only the table that was refused is read by the next process."""
    sink = kind()
    assert await gone_on(sink, await interrupted(sink)) == at(1)
    assert sink.parts == [COINS.table, STAMPS.table]


@pytest.mark.parametrize("shape", [WIDER, BY_OWNER, ELSEWHERE], ids=["columns", "key", "target"])
async def test_a_table_of_which_something_else_is_copied_starts_over(shape: Shape) -> None:
    """The next process has another catalogue: of that table nothing that was copied is believed,
    and what lies under keys of before goes. The other tables keep their parts."""
    sink = Rows()
    progress = await interrupted(sink)
    sink.shapes[COINS.table] = shape
    assert await gone_on(sink, progress) == at(1)
    assert sink.parts == [COINS.table, COINS.table, STAMPS.table]
    held = {key: set(row) for key, (_, row) in sink.held.items() if key[0] == COINS.table}
    names = ("ann", "bob") if shape is BY_OWNER else ("1", "2")
    assert held == {(COINS.table, name): set(shape.columns) for name in names}


async def test_of_which_all_is_other_nothing_is_gone_on_with() -> None:
    """Where no table that was begun is of use, a new copy begins, with a note of its own."""
    sink = Rows()
    progress = await interrupted(sink)
    sink.shapes = dict.fromkeys(sink.shapes, WIDER)
    assert await gone_on(sink, progress) == sink.note == at(2)


async def test_a_stream_is_told_all_tables_anew_under_one_version() -> None:
    """A later version in between would say that the stream has what it was never told."""
    sink = Stream()
    progress = await interrupted(sink)
    sink.shapes[COINS.table] = WIDER
    assert await gone_on(sink, progress) == at(2)
    both = (COINS.table, STAMPS.table)
    assert sink.began == [(table, at(copy)) for copy in (1, 2) for table in both]


async def test_a_rebuild_starts_over_where_something_else_is_copied() -> None:
    """The same of a table that somebody wants made anew."""
    sink, progress = Rows(), OwnProgress()
    way = way_to(sink, progress, [])
    begun = Wanted(sink.name, COINS.table, None).under(OLD)
    await progress.begin_table(begun, at(1), [])  # its parts are all in
    (begun,) = await progress.copy_of(sink.name)
    assert await copy_tables(way, [begun], as_of(2)) and sink.parts == []
    sink.shapes[COINS.table] = WIDER
    assert await copy_tables(way, [begun], as_of(2)) and sink.parts == [COINS.table]


async def test_a_copy_that_is_given_up_by_itself_is_a_failure() -> None:
    """The client cancels what a part waits for: the copy is told to have failed, not to be left."""

    class GivenUp(Rows):
        async def copy_part(self, part: Snapshot, table: str, park: Park) -> None:
            raise asyncio.CancelledError

    sink, progress = GivenUp(), OwnProgress()
    wanted = Wanted(sink.name, COINS.table, None).under(OLD)
    with pytest.raises(Unanswered, match="stand-in was left without an answer"):
        await copy_tables(way_to(sink, progress, []), [wanted], as_of(1))


def declared(name: str) -> DataClass:
    """A table's copies, all of which go to what is called so."""
    key, columns = ("id",), ("id", "owner")
    copies = (
        ClickHouseCopy(name, key, columns),
        MongoCopy(name, key, columns),
        SearchCopy(name, key, columns),
        OutgoingCopy(name, key, columns),
    )
    return DataClass("coins", "neolayer", COINS.table, copies)


def copying_sinks(one: DataClass) -> Iterator[Copying]:
    level = Level.REAL
    yield ClickHouseSink(ClickHouseEndpoint(level, "db", 1, "neo", ""), [one], wait_s=0)
    yield MongoSink(MongoEndpoint(level, "mongodb://db", "neolayer", "db"), [one])
    yield ElasticsearchSink(ElasticsearchEndpoint(level, "http://db:1"), [one], wait_s=0)
    yield NatsSink(NatsEndpoint(level, "nats://db", "db"), [one])
    yield KafkaSink(KafkaEndpoint(level, "db"), [one])
    postgres: Any = SimpleNamespace(dsn=lambda *_: "")
    yield WebhookSink(cast(Any, SimpleNamespace(cluster=lambda _: postgres)), [one])


async def test_every_sink_says_where_a_table_goes() -> None:
    """What went to the collection, index, table or subject of before is not taken for copied."""
    for sink, same, other in zip(
        *(copying_sinks(declared(name)) for name in ("coins", "coins", "purses")), strict=True
    ):
        begun = replace(
            Wanted(sink.name, COINS.table, None).under(sink.shape(COINS.table)), version=1
        )
        assert begun.under(same.shape(COINS.table)) == begun
        assert begun.under(other.shape(COINS.table)).version is None, sink.name
        for closing in (sink, same, other):
            await closing.close()
