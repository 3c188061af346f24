"""C4: the disk of a store outside is full: it is said, nobody else waits, and it goes on by itself.

Each server stands on a small file system of its own. What it can take it takes whole; what it
refuses waits in the relay's log, without a letter and without a copy anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pymongo
import pytest
from tests.contract.test_relay_faults import HUNDRED, until
from tests.engines.test_elasticsearch_sink import RELAY
from tests.engines.test_kafka_sink import read
from tests.engines.test_nats_sink import stored
from tests.fixtures.fix_anvil import engines_folder, need
from tests.fixtures.fix_disk import disk_of, fill
from tests.fixtures.fix_kafka import KafkaBroker
from tests.fixtures.fix_mongodb import address_of, forget_sockets, running_ferretdb
from tests.fixtures.fix_nats import NatsServer
from tests.fixtures.fix_opensearch import running_opensearch
from tests.fixtures.fix_relay import COLUMNS, RelayScene

from neolayer.catalogue import DataClass, MongoCopy, OutgoingCopy, SearchCopy
from neolayer.engines.embedded.ports import free_port, free_ports
from neolayer.engines.endpoints import ElasticsearchEndpoint
from neolayer.engines.engine import Level
from neolayer.engines.mongodb.dsn import parse_dsn
from neolayer.freshness import Store, Stream, position_of
from neolayer.position import Position
from neolayer.relay.sinks import nats as nats_sink_module
from neolayer.relay.sinks.elasticsearch import ElasticsearchSink
from neolayer.relay.sinks.kafka import KafkaSink
from neolayer.relay.sinks.mongodb import MongoSink
from neolayer.relay.sinks.nats import NatsSink
from neolayer.relay.sinks.null import NullSink
from neolayer.relay.sinks.sink import Sink
from neolayer.relay.state import read_state

pytestmark = pytest.mark.engines
ACCOUNTS = DataClass(
    "accounts",
    "neolayer",
    "public.accounts",
    copies=(
        MongoCopy("accounts", ("id",), COLUMNS),
        SearchCopy("accounts", ("id",), COLUMNS),
        OutgoingCopy("accounts", ("id",), COLUMNS),
    ),
)
# Thirty kilobytes that no store makes small, for each of ten rows.
LARGE = (
    "UPDATE accounts SET note = (SELECT string_agg(md5(id::text || n), '')"
    " FROM generate_series(1, 960) n) WHERE id <= 10"
)
NOTES = "SELECT id, note FROM accounts ORDER BY id"
Rows = Callable[[], Mapping[int, str | None]]


def said(scene: RelayScene, sink: str) -> str:
    """What the lane says of its failure; nothing where it is well again."""
    state = read_state(scene.state_file)
    return (state.lanes[sink].error if state else None) or ""


@dataclasses.dataclass(frozen=True)
class Scene:
    """A relay into one store on a small disk, and into others that have room."""

    relay: RelayScene
    store: Store
    sink: Callable[[], Sink]
    rows: Rows
    disk: Path
    answers_when_full: bool = True

    @contextlib.asynccontextmanager
    async def relaying(self) -> AsyncIterator[NullSink]:
        """With a hundred rows arrived; at the end every row is the same and none was refused."""
        counting = NullSink()
        async with self.relay.relaying(self.sink(), self.relay.redis_sink(), counting):
            await until(self.relay.is_streaming)
            await self.relay.arrives(self.relay.sql(HUNDRED), self.store)
            yield counting
            assert self.rows() == self.source()
            lane = await self.relay.lane_at(str(self.store), self.relay.sql("SELECT 1"))
            assert lane.rejected == 0
        assert counting.copies == 0

    def source(self) -> dict[int, str | None]:
        return {row[0]: row[1] for row in self.relay.rows(NOTES)}

    async def is_refused(self, counting: NullSink, statement: str, said: str) -> None:
        """The store says why, the others have it, and of each row there is all or nothing."""
        before = self.source()
        position = self.relay.sql(statement)
        after = self.source()
        error = await self.relay.error_of(str(self.store))
        assert said in error
        await self.relay.arrives(position, Store.REDIS)
        await self.relay.arrives_at(counting, position)
        if self.answers_when_full:
            for number, note in self.rows().items():
                assert note in (before[number], after[number])
            reached = await position_of(self.store, self.relay.endpoints)
            assert reached is not None and reached < position

    async def has_everything(self) -> None:
        """Without hands, once there is room."""
        position = self.relay.sql("UPDATE accounts SET amount = amount + 1")
        await self.relay.arrives(position, self.store)


# MongoDB


@pytest.fixture
async def mongodb(relay_scene: RelayScene, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    with disk_of(8) as disk, running_ferretdb(disk) as server:
        endpoint = parse_dsn(f"{address_of(server)}/layer")
        with pymongo.MongoClient[dict[str, Any]](endpoint.url) as client:

            def rows() -> dict[int, str | None]:
                found = client.layer.accounts.find({"_deleted": {"$exists": False}})
                return {one["_id"]: one.get("note") for one in found}

            yield Scene(
                with_endpoints(relay_scene, mongodb=endpoint),
                Store.MONGODB,
                lambda: MongoSink(endpoint, [ACCOUNTS], wait_s=0.02),
                rows,
                disk,
            )
        await forget_sockets()


def with_endpoints(scene: RelayScene, **more: Any) -> RelayScene:
    return dataclasses.replace(scene, endpoints=dataclasses.replace(scene.endpoints, **more))


async def test_C4_a_mongodb_whose_disk_is_full(mongodb: Scene) -> None:
    """Updates, inserts, deletes and what empties a table wait until there is room."""
    async with mongodb.relaying() as counting:
        filler = fill(mongodb.disk)
        await mongodb.is_refused(counting, LARGE, "has no room")
        filler.unlink()
        await mongodb.has_everything()


# OpenSearch


@pytest.fixture(scope="module")
def search_disk() -> Iterator[tuple[str, Path]]:
    """A node's URL, and the disk on which everything of it lies."""
    with disk_of(64) as disk, running_opensearch(disk, disk.parent / "opensearch.log") as url:
        yield url, disk


@pytest.fixture
def search(relay_scene: RelayScene, search_disk: tuple[str, Path]) -> Scene:
    url, disk = search_disk
    endpoint = ElasticsearchEndpoint(Level.REAL, url, prefix=f"t{secrets.token_hex(4)}")
    index = f"{url}/{endpoint.index('accounts')}"
    properties = {"relay": RELAY, "id": {"type": "long"}, "note": {"enabled": False}}
    httpx.put(f"{url}/{endpoint.index('relay_checkpoints')}", timeout=60).raise_for_status()
    mappings = {"mappings": {"properties": properties}}
    httpx.put(index, json=mappings, timeout=60).raise_for_status()

    def rows() -> dict[int, str | None]:
        httpx.post(f"{index}/_refresh", timeout=30)
        live = {"bool": {"must_not": {"exists": {"field": "relay.deleted_at"}}}}
        asked = {"size": 1_000, "query": live}
        answer = httpx.post(f"{index}/_search", json=asked, timeout=30)
        hits = answer.json()["hits"]["hits"] if answer.is_success else []
        return {hit["_source"]["id"]: hit["_source"]["note"] for hit in hits}

    return Scene(
        with_endpoints(relay_scene, elasticsearch=endpoint),
        Store.ELASTICSEARCH,
        lambda: ElasticsearchSink(endpoint, [ACCOUNTS], wait_s=0.02),
        rows,
        disk,
    )


def watches_its_disk(url: str, *, wanted: bool) -> None:
    """As a server does that was not told otherwise, with limits that suit a small disk."""
    disk = "cluster.routing.allocation.disk"
    settings: dict[str, Any] = {
        f"{disk}.threshold_enabled": wanted,
        f"{disk}.watermark.low": "30mb",
        f"{disk}.watermark.high": "25mb",
        f"{disk}.watermark.flood_stage": "20mb",
        "cluster.info.update.interval": "10s",
    }
    answer = httpx.put(f"{url}/_cluster/settings", json={"persistent": settings}, timeout=30)
    assert answer.is_success, answer.text


async def test_C4_a_search_server_at_its_flood_stage(search: Scene) -> None:
    """It blocks writes before its disk is full, answers searches, and lets go by itself; what
    empties the table waits too."""
    endpoint = search.relay.endpoints.elasticsearch
    assert endpoint is not None
    everything = f"{endpoint.url}/{endpoint.prefix}*"

    def is_blocked() -> bool:
        return "read_only_allow_delete" in httpx.get(f"{everything}/_settings", timeout=30).text

    def may_make_no_index() -> bool:
        return "create_index" in httpx.get(f"{endpoint.url}/_cluster/settings", timeout=30).text

    watches_its_disk(endpoint.url, wanted=True)
    try:
        async with search.relaying() as counting:
            filler = fill(search.disk, leave_bytes=10 << 20)
            await until(is_blocked)
            await search.is_refused(counting, LARGE, "flood-stage watermark")
            assert len(search.rows()) == 100
            position = search.relay.sql("TRUNCATE accounts", HUNDRED)
            await search.relay.arrives_at(counting, position)
            filler.unlink()
            await search.has_everything()
            await until(lambda: not may_make_no_index())
    finally:
        watches_its_disk(endpoint.url, wanted=False)


async def test_C4_a_search_server_whose_disk_is_full(search: Scene) -> None:
    """Nothing is left, because nothing watched: it loses its shards, and finds them again."""
    search = dataclasses.replace(search, answers_when_full=False)
    async with search.relaying() as counting:
        filler = fill(search.disk)
        await search.is_refused(counting, LARGE, "0 of 64 MiB left")
        filler.unlink()
        await until(lambda: not said(search.relay, "elasticsearch"))
        await search.has_everything()


async def test_C4_a_block_of_an_index_is_no_refusal_of_a_document(search: Scene) -> None:
    """Whoever sets one gets status 403, as some hosts do for a full disk: it waits."""
    endpoint = search.relay.endpoints.elasticsearch
    assert endpoint is not None
    settings = f"{endpoint.url}/{endpoint.index('accounts')}/_settings"
    async with search.relaying() as counting:
        httpx.put(settings, json={"index.blocks.write": True}, timeout=30)
        await search.is_refused(counting, LARGE, "FORBIDDEN/8/index write")
        httpx.put(settings, json={"index.blocks.write": None}, timeout=30)
        await search.has_everything()


# Streams


def told_once(envelopes: list[dict[str, Any]]) -> dict[int, str | None]:
    """What a reader has who keeps the newest of each row; no change is told of twice."""
    changes = [one for one in envelopes if not one["type"].endswith(".truncated")]
    ids = [one["id"] for one in changes]
    assert len(ids) == len(set(ids))
    return {one["data"]["id"]: one["data"]["note"] for one in changes}


@contextlib.asynccontextmanager
async def relaying(scene: RelayScene, sink: Sink, stream: Stream) -> AsyncIterator[NullSink]:
    """With a hundred rows told of, and the sinks that count."""
    counting = NullSink()
    async with scene.relaying(sink, scene.redis_sink(), counting):
        await until(scene.is_streaming)
        await scene.arrives(scene.sql(HUNDRED), stream)
        yield counting
    assert counting.copies == 0


async def others_have(scene: RelayScene, counting: NullSink, position: Position) -> None:
    await scene.arrives(position, Store.REDIS)
    await scene.arrives_at(counting, position)


async def test_C4_a_nats_whose_disk_is_full(
    relay_scene: RelayScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves messages without an answer until it is started again: then all come, each once."""
    monkeypatch.setattr(nats_sink_module, "_PATIENCE_S", 2.0)
    program = need(engines_folder() / "nats-server")
    with disk_of(8) as disk:
        (tmp_path / "data").symlink_to(disk)
        server = NatsServer(program, tmp_path, free_port())
        server.start()
        try:
            scene = with_endpoints(relay_scene, nats=server.endpoint())
            sink = NatsSink(server.endpoint(), [ACCOUNTS])
            async with relaying(scene, sink, Stream.NATS) as counting:
                filler = fill(disk)
                position = scene.sql(LARGE)
                assert "stores no message: is its disk full" in await scene.error_of("nats")
                await others_have(scene, counting, position)
                filler.unlink()
                server.kill()
                server.start()
                await scene.arrives(position, Stream.NATS)
            envelopes = [one for _, one in await stored(server, whole=True)]
        finally:
            server.kill()
    assert told_once(envelopes) == dict(scene.rows(NOTES))


async def test_C4_a_kafka_whose_disk_is_full(relay_scene: RelayScene, tmp_path: Path) -> None:
    """The broker ends itself: it is said, and when it is started again with room all of the
    transaction comes, once."""
    jars = need(engines_folder() / "kafka")
    with disk_of(64) as disk:
        (tmp_path / "data").symlink_to(disk)
        broker = KafkaBroker(jars, tmp_path, *free_ports(2))
        broker.format()
        broker.start()
        try:
            scene = with_endpoints(relay_scene, kafka=broker.endpoint())
            sink = KafkaSink(broker.endpoint(), [ACCOUNTS])
            async with relaying(scene, sink, Stream.KAFKA) as counting:
                filler = fill(disk)
                position = scene.sql(LARGE)
                assert await scene.error_of("kafka")
                await others_have(scene, counting, position)
                await until(broker.has_ended)
                await until(lambda: "does not answer" in said(scene, "kafka"))
                filler.unlink()
                broker.start()
                await scene.arrives(position, Stream.KAFKA)
            messages = read(broker.endpoint(), "accounts")
        finally:
            broker.kill()
    envelopes = [msgspec.json.decode(one.value()) for one in messages]
    assert told_once(envelopes) == dict(scene.rows(NOTES))
