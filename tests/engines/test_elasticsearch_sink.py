"""The search sink on a real OpenSearch: the newest version stands, whatever comes."""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
from tests.fixtures.batches import at, batch, changes

from neolayer.catalogue import DataClass, SearchCopy
from neolayer.engines.elasticsearch.client import SearchClient
from neolayer.engines.elasticsearch.engine import ElasticsearchEngine
from neolayer.engines.endpoints import ElasticsearchEndpoint, Endpoints
from neolayer.engines.engine import Level
from neolayer.errors import EngineUnavailable
from neolayer.relay.changes import DELETE, INSERT, UPDATE, Relation, Truncation
from neolayer.relay.comparing.elasticsearch import ElasticsearchRows
from neolayer.relay.digests import Summary, row_digest, summarise
from neolayer.relay.sinks.elasticsearch import ElasticsearchSink
from neolayer.relay.sinks.sink import CopyLost
from neolayer.schema.lines import Line
from neolayer.schema.runner import migrate_down, migrate_up
from neolayer.schema.state import status

pytestmark = pytest.mark.engines
COLUMNS = ("shop", "number", "title", "price", "good", "seen_at")
GOODS = Relation(1, "public", "goods", COLUMNS, (25, 20, 25, 1700, 16, 1184))
CLASSES = (
    DataClass(
        "goods",
        "neolayer",
        "public.goods",
        copies=(SearchCopy("goods", key=("shop", "number"), columns=COLUMNS),),
    ),
)
MAPPING: dict[str, Any] = {
    "dynamic": "strict",
    "properties": {
        "shop": {"type": "keyword"},
        "number": {"type": "long"},
        "title": {"type": "text"},
        "price": {"type": "keyword"},
        "good": {"type": "boolean"},
        "seen_at": {"type": "date"},
        "relay": {
            "properties": {
                "version": {"type": "long"},
                "order": {"type": "keyword"},
                "high": {"type": "long"},
                "low": {"type": "long"},
                "deleted_at": {"type": "date"},
            }
        },
    },
}


def row(
    shop: str = "a", number: int = 1, title: str | None = "tea", price: str = "1.50"
) -> Sequence[Any]:
    return (shop, str(number), title, price, "t", "2030-03-01 12:00:00.123456+00")


@dataclasses.dataclass
class Shop:
    """One sink, and what its server has."""

    endpoint: ElasticsearchEndpoint
    sink: ElasticsearchSink
    rows: ElasticsearchRows

    async def write(self, *parts: tuple[int, int, Sequence[Any]]) -> list[Any]:
        made = changes(GOODS, *parts)
        return list(await self.sink.write([batch(made, position=parts[-1][0])]))

    def documents(self) -> dict[str, dict[str, Any]]:
        index = self.endpoint.index("goods")
        httpx.post(f"{self.endpoint.url}/{index}/_refresh")
        found = httpx.get(f"{self.endpoint.url}/{index}_live/_search?size=1000").json()
        return {hit["_id"]: hit["_source"] for hit in found["hits"]["hits"]}


@pytest.fixture
async def shop(opensearch: str, request: pytest.FixtureRequest) -> AsyncIterator[Shop]:
    prefix = f"t{zlib.crc32(request.node.name.encode())}"
    endpoint = ElasticsearchEndpoint(Level.REAL, opensearch, prefix=prefix)
    client = SearchClient(endpoint)
    name = endpoint.index("goods")
    live = {"bool": {"must_not": {"exists": {"field": "relay.deleted_at"}}}}
    await client.call(
        "PUT", f"/{name}", {"mappings": MAPPING, "aliases": {f"{name}_live": {"filter": live}}}
    )
    made = Shop(
        endpoint,
        ElasticsearchSink(endpoint, CLASSES, wait_s=0),
        ElasticsearchRows(endpoint, CLASSES),
    )
    assert await made.sink.open(at(1)) is None  # nothing was ever written
    try:
        yield made
    finally:
        await client.close()
        await made.rows.close()
        await made.sink.close()


async def test_every_value_is_there_and_the_checkpoint_with_it(shop: Shop) -> None:
    """Texts, numbers, flags and instants can be searched; the position is kept beside them."""
    assert await shop.write((at(5), INSERT, row(title='ünï "x" \\ 😀\n'))) == []
    document = shop.documents()["a:1"]
    assert document["title"] == 'ünï "x" \\ 😀\n'
    assert (document["number"], document["price"], document["good"]) == (1, "1.50", True)
    assert document["seen_at"] == "2030-03-01T12:00:00.123456Z"
    again = ElasticsearchSink(shop.endpoint, CLASSES, wait_s=0)
    assert await again.open(at(5)) == at(5)
    assert await again.open(at(6)) is None
    await again.close()


async def test_C14_duplicates_and_late_batches_change_nothing(shop: Shop) -> None:
    """The newest version of a key stands, though older ones come again and in any order."""
    first = (at(1), INSERT, row(title="first"))
    second = (at(2), UPDATE, row(title="second"))
    await shop.write(first, second)
    await shop.write(first)
    await shop.write(second)
    await shop.write((at(4), UPDATE, row(title="fourth")))
    await shop.write((at(3), UPDATE, row(title="third")))
    assert shop.documents()["a:1"]["title"] == "fourth"


async def test_C14_a_deleted_row_stays_deleted(shop: Shop) -> None:
    """An older change that comes late does not bring a deleted row back; a newer insert does."""
    await shop.write((at(1), INSERT, row()), (at(3), DELETE, row()))
    await shop.write((at(2), UPDATE, row(title="late")))
    assert shop.documents() == {}
    await shop.write((at(4), INSERT, row(title="new")))
    assert shop.documents()["a:1"]["title"] == "new"


async def test_changes_of_one_transaction_come_in_order(shop: Shop) -> None:
    """Pieces of a large transaction share a version: the last one stands."""
    made = [changes(GOODS, (at(7), UPDATE, row(title=title))) for title in ("one", "two")]
    await shop.sink.write([batch(made[0], position=at(6), unfinished=at(7))])
    await shop.sink.write([batch(made[1], position=at(7))])
    assert shop.documents()["a:1"]["title"] == "two"


async def test_truncate_empties_and_what_came_before_it_stays_away(shop: Shop) -> None:
    """TRUNCATE removes what is older, keeps what is newer, and refuses what comes late."""
    await shop.write((at(1), INSERT, row(number=1)), (at(9), INSERT, row(number=9)))
    await shop.sink.write([batch(Truncation(GOODS, at(5)), position=at(9))])
    await shop.write((at(2), INSERT, row(number=2)))
    assert set(shop.documents()) == {"a:9"}


async def test_C8_a_row_that_the_mapping_refuses_is_given_back(shop: Shop) -> None:
    """A refused document is named with the server's cause; its neighbours are there."""
    bad = ("a", "2", "x", "1", "t", "infinity")  # no date of any calendar
    rejected = await shop.write((at(1), INSERT, row(number=1)), (at(1), INSERT, bad))
    (one,) = rejected
    assert (one.table, one.key, one.version) == ("public.goods", ("a", "2"), at(1))
    assert "seen_at" in one.cause
    assert one.row["seen_at"] == "infinity"
    assert set(shop.documents()) == {"a:1"}


async def test_a_copy_that_was_emptied_says_so(shop: Shop) -> None:
    """A server that lost what it was told is never written to as if it had it."""
    await shop.write((at(5), INSERT, row()))
    httpx.delete(f"{shop.endpoint.url}/{shop.endpoint.index('relay_checkpoints')}")
    with pytest.raises(CopyLost):
        await shop.write((at(6), INSERT, row(number=2)))


async def test_ranges_sum_up_and_list_in_the_order_of_the_key(shop: Shop) -> None:
    """Summaries equal those of the source's digests, by ranges over text and number."""
    rows = [row(s, n) for s in ("a", "a\x01", "b", "é") for n in (-5, 3, 20)]
    await shop.write(*[(at(1), INSERT, one) for one in rows], (at(2), DELETE, row("b", 3)))
    live = [one for one in rows if (one[0], one[1]) != ("b", "3")]

    def digests(low: tuple[str, int], high: tuple[str, int]) -> Summary:
        return summarise(
            row_digest([value.encode() for value in one])
            for one in live
            if low <= (one[0], int(one[1])) < high
        )

    bounds = [None, ("a", "3"), ("b", "-5"), None]
    found = await shop.rows.summaries("public.goods", bounds)
    assert found == [
        digests(("", -99), ("a", 3)),
        digests(("a", 3), ("b", -5)),
        digests(("b", -5), ("\U0010ffff", 99)),
    ]
    listed = await shop.rows.entries("public.goods", ("a", "3"), ("b", "20"), 100)
    assert [one.key for one in listed] == [
        *(("a", "3"), ("a", "20"), ("a\x01", "-5"), ("a\x01", "3"), ("a\x01", "20"), ("b", "-5")),
    ]
    stored = await shop.rows.entry("public.goods", ("b", "3"))
    assert stored is not None
    assert (stored.deleted, stored.version) == (True, at(2))


async def test_put_right_and_forget(shop: Shop) -> None:
    """A repair writes through the sink's own way; a version from nowhere can be removed."""
    await shop.write((at(9), INSERT, row(title="newer")), (at(9), INSERT, row(number=2)))
    await shop.rows.put_right("public.goods", changes(GOODS, (at(5), UPDATE, row(title="older"))))
    assert shop.documents()["a:1"]["title"] == "newer"
    await shop.rows.forget("public.goods", [("a", "1"), ("a", "2")], at(8))
    assert shop.documents() == {}


async def test_C7_a_busy_server_is_asked_again_for_what_it_did_not_take(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a bulk with a 429 inside only that item is sent again; the rest is not repeated."""
    sent: list[int] = []
    bulk = SearchClient.bulk

    async def busy_once(self: SearchClient, lines: bytes) -> list[dict[str, Any]]:
        sent.append(len(lines.splitlines()) // 2)
        if len(sent) > 1:
            return await bulk(self, lines)
        pairs = lines.splitlines(keepends=True)
        outcomes = await bulk(self, b"".join(pairs[2:]))
        return [{"status": 429, "error": {"type": "rejected"}}, *outcomes]

    monkeypatch.setattr(SearchClient, "bulk", busy_once)
    await shop.write(*[(at(1), INSERT, row(number=n)) for n in range(3)])
    assert sent == [3, 1]
    assert len(shop.documents()) == 3


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
