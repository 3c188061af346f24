"""The search sink on a real OpenSearch."""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import httpx
import pytest
from tests.fixtures.sink_suite import (
    KEY,
    OWNER,
    SPELLED,
    TABLE,
    THINGS,
    Log,
    SinkCase,
    SinkSuite,
    StillTables,
    Thing,
    change,
    put,
    remove,
)

from neolayer.engines.elasticsearch.client import SearchClient
from neolayer.engines.elasticsearch.engine import ElasticsearchEngine
from neolayer.engines.endpoints import ElasticsearchEndpoint, Endpoints
from neolayer.engines.engine import Level
from neolayer.errors import EngineUnavailable
from neolayer.relay.comparing.elasticsearch import ElasticsearchRows
from neolayer.relay.digests import row_digest, summarise
from neolayer.relay.sinks.elasticsearch import ElasticsearchSink, document_id
from neolayer.schema.lines import Line
from neolayer.schema.runner import migrate_down, migrate_up
from neolayer.schema.state import status

pytestmark = pytest.mark.engines
RELAY = {
    "properties": {
        "version": {"type": "long"},
        "order": {"type": "keyword"},
        "high": {"type": "long"},
        "low": {"type": "long"},
        "deleted_at": {"type": "date"},
    }
}
MAPPING: dict[str, Any] = {
    "dynamic": "strict",
    "properties": {
        "owner": {"type": "keyword"},
        "id": {"type": "long"},
        "note": {"type": "text"},
        "details": {"type": "object", "enabled": False},
        "amount": {"type": "keyword"},
        "seen_at": {"type": "date"},
        "good": {"type": "boolean"},
        "relay": RELAY,
    },
}
LIVE = {"bool": {"must_not": {"exists": {"field": "relay.deleted_at"}}}}


class Beyond(Thing):
    """A thing seen at the end of all days, for which no search server has a date."""

    def texts(self) -> list[Any]:
        *others, _, good = super().texts()
        return [*others, b"infinity", good]


class SearchCase(SinkCase):
    checkpoint_step = "neolayer.relay.sinks.elasticsearch.ElasticsearchSink.reflect"

    def __init__(self, endpoint: ElasticsearchEndpoint) -> None:
        self.endpoint = endpoint

    def sink(self) -> ElasticsearchSink:
        return ElasticsearchSink(self.endpoint, [THINGS], wait_s=0.01)

    def documents(self) -> list[dict[str, Any]]:
        index = f"{self.endpoint.url}/{self.endpoint.index('things')}"
        httpx.post(f"{index}/_refresh", timeout=30)
        found = httpx.get(f"{index}_live/_search?size=1000", timeout=30).json()
        return [hit["_source"] for hit in found["hits"]["hits"]]

    async def rows(self) -> Mapping[Any, Any]:
        return {(one["owner"], one["id"]): one["note"] for one in self.documents()}

    def refused(self) -> Thing:
        return Beyond(5, "poison")

    async def wipe(self) -> bool:
        for name in ("things", "relay_checkpoints"):
            httpx.delete(f"{self.endpoint.url}/{self.endpoint.index(name)}", timeout=30)
        await make_index(self.endpoint)
        return True


async def make_index(endpoint: ElasticsearchEndpoint) -> None:
    name = endpoint.index("things")
    client = SearchClient(endpoint)
    body = {"mappings": MAPPING, "aliases": {f"{name}_live": {"filter": LIVE}}}
    await client.call("PUT", f"/{name}", body)
    await client.close()


@pytest.fixture
async def search_case(opensearch: str, request: pytest.FixtureRequest) -> SearchCase:
    prefix = f"t{zlib.crc32(request.node.nodeid.encode())}"
    endpoint = ElasticsearchEndpoint(Level.REAL, opensearch, prefix=prefix)
    await make_index(endpoint)
    return SearchCase(endpoint)


@pytest.fixture
async def rows(search_case: SearchCase) -> AsyncIterator[ElasticsearchRows]:
    made = ElasticsearchRows(search_case.endpoint, [THINGS])
    yield made
    await made.close()


@pytest.fixture
async def sink(search_case: SearchCase) -> AsyncIterator[ElasticsearchSink]:
    made = search_case.sink()
    await made.open(1)
    yield made
    await made.close()


class TestElasticsearch(SinkSuite):
    @pytest.fixture
    def case(self, search_case: SearchCase) -> SinkCase:
        return search_case


async def test_a_document_is_the_row(search_case: SearchCase, sink: ElasticsearchSink) -> None:
    """Numbers, flags and instants as JSON has them; version and checksum beside them."""
    log = Log()
    thing = Thing(7, None, details={"n": [1, 2.5, None]}, amount=2**70, good=False)
    batch = log.commit(put(thing))
    await sink.write([batch])
    (document,) = search_case.documents()
    relay = document.pop("relay")
    assert relay["version"] == batch.changes[0].versions[0]
    texts = (text if isinstance(text, bytes) else None for text in thing.texts())
    assert (relay["high"] << 32) + relay["low"] == row_digest(texts)
    assert document == {
        "owner": str(thing.owner),
        "id": 7,
        "note": None,
        "details": {"n": [1, 2.5, None]},
        "amount": str(2**70),
        "seen_at": "2024-02-29T12:30:15.250000Z",
        "good": False,
    }


async def test_ranges_sum_up_and_list_in_the_order_of_the_key(
    sink: ElasticsearchSink, rows: ElasticsearchRows
) -> None:
    """Summaries equal those of the source's digests, by ranges over a text and a number."""
    log = Log()
    things = [Thing(n, owner=UUID(int=o)) for o in (1, 2, 1 << 100) for n in (-5, 3, 20)]
    gone = things[4]
    await sink.write([log.commit(*map(put, things)), log.commit(remove(gone))])
    live = [one for one in things if one is not gone]
    low, high = (str(UUID(int=1)), "3"), (str(UUID(int=2)), "20")
    parts: list[Sequence[Thing]] = [live[:1], live[1:4], live[4:]]
    expected = [
        summarise(
            row_digest(text if isinstance(text, bytes) else None for text in one.texts())
            for one in part
        )
        for part in parts
    ]
    assert await rows.summaries(TABLE, [None, low, high, None]) == expected
    listed = await rows.entries(TABLE, low, high, 100)
    assert [(one.key[0], int(one.key[1])) for one in listed] == [one.key for one in live[1:4]]
    stored = await rows.entry(TABLE, (str(gone.owner), str(gone.id)))
    assert stored is not None
    assert stored.deleted
    assert rows.shape(TABLE).key == KEY


async def test_put_right_and_forget(
    search_case: SearchCase, sink: ElasticsearchSink, rows: ElasticsearchRows
) -> None:
    """A repair goes the sink's own way; a version from nowhere can be removed."""
    log = Log()
    older = log.commit(put(Thing(1, "older")))
    await sink.write([log.commit(put(Thing(1, "newer")), put(Thing(2)))])
    (changes,) = older.changes
    await rows.put_right(TABLE, changes)  # type: ignore[arg-type]
    assert (await search_case.rows())[Thing(1).key] == "newer"
    keys = [(str(Thing(n).owner), str(n)) for n in (1, 2)]
    await rows.forget(TABLE, keys, log.position - 0x50)
    assert await search_case.rows() == {}


async def test_what_somebody_altered_under_its_checksum_is_found_by_looking(
    search_case: SearchCase, sink: ElasticsearchSink, rows: ElasticsearchRows
) -> None:
    """By the columns' names; what is newer than the part, missing or deleted is not judged here."""
    log = Log()
    things = [Thing(number, details={"a": [1.5, None]}) for number in range(6)]
    await sink.write([log.commit(*map(put, things))])
    part = StillTables(log.position + 1, things)
    await sink.write([log.commit(remove(things[4]), change(replace(things[5], note="newer")))])
    assert await rows.altered(TABLE, part) == []
    at, index = search_case.endpoint.url, search_case.endpoint.index("things")
    for number, forged in ((1, {"note": "forged"}), (2, {"good": False, "amount": "7"})):
        name = document_id((str(OWNER), str(number)))
        httpx.post(f"{at}/{index}/_update/{name}", json={"doc": forged}, timeout=30)
    httpx.delete(f"{at}/{index}/_doc/{document_id((str(OWNER), '3'))}", timeout=30)
    found = await rows.altered(TABLE, part)
    assert [(one.key[1], one.columns) for one in found] == [
        ("1", ("note",)),
        ("2", ("amount", "good")),
    ]


async def test_values_that_look_alike_are_no_difference(
    sink: ElasticsearchSink, rows: ElasticsearchRows
) -> None:
    """Written in a document's own way, each has the digest of PostgreSQL's text, and the looking
    into documents finds nothing altered."""
    log = Log()
    assert list(await sink.write([log.commit(*map(put, SPELLED))])) == []
    digests = [row_digest(v if isinstance(v, bytes) else None for v in x.texts()) for x in SPELLED]
    assert await rows.summaries(TABLE, [None, None]) == [summarise(digests)]
    assert len(set(digests)) == len(SPELLED)
    assert await rows.altered(TABLE, StillTables(log.position + 1, SPELLED)) == []
    for thing, digest in zip(SPELLED, digests, strict=True):
        stored = await rows.entry(TABLE, (str(OWNER), str(thing.id)))
        assert stored is not None and stored.digest == digest


async def test_documents_of_others_are_in_no_range_and_are_named(
    search_case: SearchCase, sink: ElasticsearchSink, rows: ElasticsearchRows
) -> None:
    """They spoil no sum and no list, are found by themselves, and can be removed."""
    log = Log()
    things = [Thing(1), Thing(2)]
    await sink.write([log.commit(*map(put, things)), log.commit(remove(things[1]))])
    at, index = search_case.endpoint.url, search_case.endpoint.index("things")
    httpx.put(f"{at}/{index}/_doc/stray", json={"owner": "nobody", "note": "?"}, timeout=30)
    digests = [row_digest(v if isinstance(v, bytes) else None for v in things[0].texts())]
    assert await rows.summaries(TABLE, [None, None]) == [summarise(digests)]
    assert [one.key[1] for one in await rows.entries(TABLE, None, None, 9)] == ["1"]
    key, version = (await rows.newest(TABLE, 9))[0]
    assert (key[1], version) == ("2", log.version)
    assert await rows.strangers(TABLE, 9) == ["stray"]
    await rows.remove_strangers(TABLE)
    assert await rows.strangers(TABLE, 9) == []
    stored = await rows.entry(TABLE, (str(OWNER), "1"))
    assert stored is not None and [stored.digest] == digests


async def test_a_repair_goes_past_a_row_that_is_refused(
    search_case: SearchCase, rows: ElasticsearchRows
) -> None:
    """What the server takes is put right all the same."""
    log = Log()
    (changes,) = log.commit(put(Beyond(5, "poison")), put(Thing(6))).changes
    await rows.put_right(TABLE, changes)  # type: ignore[arg-type]
    assert set(await search_case.rows()) == {Thing(6).key}


async def test_C7_a_busy_server_is_asked_again_for_what_it_did_not_take(
    search_case: SearchCase, sink: ElasticsearchSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a bulk with a 429 inside only that item is sent again; the rest is not repeated."""
    sent: list[int] = []
    bulk = SearchClient.bulk

    async def busy_once(self: SearchClient, lines: bytes) -> list[dict[str, Any]]:
        sent.append(len(lines.splitlines()) // 2)
        if len(sent) > 1:
            return await bulk(self, lines)
        outcomes = await bulk(self, b"".join(lines.splitlines(keepends=True)[2:]))
        return [{"status": 429, "error": {"type": "rejected"}}, *outcomes]

    monkeypatch.setattr(SearchClient, "bulk", busy_once)
    await sink.write([Log().commit(*(put(Thing(n)) for n in range(3)))])
    assert sent == [3, 1]
    assert len(search_case.documents()) == 3


async def test_C8_a_document_is_to_blame_where_its_shard_takes_a_write_of_nothing(
    search_case: SearchCase, sink: ElasticsearchSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C8: the server's own answer to that write, beside a fault that is put into the answers here;
    the write leaves nothing behind, and the neighbours are there."""
    probed: list[dict[str, Any]] = []
    bulk = SearchClient.bulk

    async def failing(self: SearchClient, lines: bytes) -> list[dict[str, Any]]:
        outcomes = await bulk(self, lines)
        probed.extend(one for one in outcomes if one["_id"] == "%probe")
        fault = {"status": 500, "error": {"type": "null_pointer_exception", "reason": "oh"}}
        return [fault if one["_id"].endswith(":1") else one for one in outcomes]

    monkeypatch.setattr(SearchClient, "bulk", failing)
    (rejected,) = await sink.write([Log().commit(*(put(Thing(n)) for n in range(3)))])
    assert (rejected.key[1], rejected.cause) == ("1", "oh")
    assert [(one["status"], one["result"]) for one in probed] == [(404, "not_found")] * 3
    assert len(search_case.documents()) == 3


async def test_nobody_there_is_one_sentence() -> None:
    """A port where nobody listens is named, with the way out."""
    engine = ElasticsearchEngine(ElasticsearchEndpoint(Level.REAL, "http://127.0.0.1:1"))
    with pytest.raises(EngineUnavailable, match=r"127\.0\.0\.1:1.* refuses the connection"):
        await engine.open()


async def test_the_line_goes_up_and_down_in_the_one_history(
    layer_databases: Endpoints, opensearch: str
) -> None:
    """up, status and down cover the search server; a killed run is gone on with."""
    endpoint = ElasticsearchEndpoint(Level.REAL, opensearch, prefix="history")
    layer = dataclasses.replace(layer_databases, elasticsearch=endpoint)
    lines = (Line.CORE, Line.ELASTICSEARCH)
    steps = await migrate_up(layer, lines=lines)
    assert [step.label for step in steps] == ["elasticsearch/0049_entities"]
    assert await migrate_up(layer, lines=lines) == []
    assert (await status(layer, lines=lines)).is_current
    known = httpx.get(f"{opensearch}/history_smart_contracts_live/_mapping").json()
    assert json.dumps(known).count("strict") == 1
    await migrate_down(layer, lines=(Line.ELASTICSEARCH,))
    assert httpx.get(f"{opensearch}/history_blocks").status_code == 404
    engine = ElasticsearchEngine(endpoint)
    assert await engine.version() == "2.19.6 (OpenSearch)"
    await engine.close()
