"""A search server's side of a comparison: sums of the digests that the sink left with each row.

A server of documents cannot write a row as PostgreSQL does, so what is compared is the digest that
was stored with it: a row that never came, came late or came from nowhere is found, and so is one
that was replaced as a whole. A single field that somebody altered by hand is found by looking into
the documents (`altered`), each beside the one that the sink would make now.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import orjson
import structlog

from neolayer.catalogue import DataClass, SearchCopy
from neolayer.engines.elasticsearch.client import SearchClient
from neolayer.engines.endpoints import ElasticsearchEndpoint
from neolayer.relay.changes import TableChanges
from neolayer.relay.comparable import Altered, Bound, Entry, Key, Rows, Shape, StoredRow
from neolayer.relay.digests import NOTHING, Summary, join_halves
from neolayer.relay.sinks.elasticsearch import ElasticsearchSink, document_id, order_of

_OURS: dict[str, Any] = {"exists": {"field": "relay.version"}}
_NOBODYS: dict[str, Any] = {"bool": {"must_not": _OURS}}
_LIVE = {"bool": {"filter": _OURS, "must_not": {"exists": {"field": "relay.deleted_at"}}}}
_LOOKED_AT = 500
_log = structlog.get_logger()
_SUMS = {
    "high": {"sum": {"field": "relay.high"}},
    "low": {"sum": {"field": "relay.low"}},
}


class ElasticsearchRows:
    """The copies on one server, as `Comparable`."""

    name = "elasticsearch"

    def __init__(self, endpoint: ElasticsearchEndpoint, classes: Iterable[DataClass]) -> None:
        kept = tuple(classes)
        self._at = endpoint
        self._client = SearchClient(endpoint)
        self._sink = ElasticsearchSink(endpoint, kept, wait_s=0)
        self._copies = {
            one.table: copy for one in kept for copy in one.copies if isinstance(copy, SearchCopy)
        }
        self._whole: dict[str, list[bool]] = {}
        self.tables = frozenset(self._copies)

    def shape(self, table: str) -> Shape:
        copy = self._copies[table]
        return Shape(copy.key, copy.columns)

    async def summaries(self, table: str, bounds: Sequence[Bound]) -> list[Summary]:
        ranges = [await self._range(table, low, high) for low, high in pairwise(bounds)]
        filters = {str(place): wanted for place, wanted in enumerate(ranges)}
        answer = await self._search(
            table,
            {
                "size": 0,
                "query": _LIVE,
                "aggs": {"ranges": {"filters": {"filters": filters}, "aggs": _SUMS}},
            },
        )
        found = answer["aggregations"]["ranges"]["buckets"]
        return [_summary(found[str(place)]) for place in range(len(ranges))]

    async def entries(self, table: str, low: Bound, high: Bound, limit: int) -> list[Entry]:
        answer = await self._search(
            table,
            {
                "size": limit,
                "query": {"bool": {"filter": [_LIVE, await self._range(table, low, high)]}},
                "sort": [{"relay.order": "asc"}],
                "_source": ["relay", *self._copies[table].key],
            },
        )
        return [self._entry(table, hit["_source"]) for hit in answer["hits"]["hits"]]

    async def entry(self, table: str, key: Key) -> StoredRow | None:
        index = self._at.index(self._copies[table].index)
        path = f"/{index}/_doc/{_quoted(document_id(key))}"
        found = await self._client.call("GET", path, missing={})
        if not found.get("found"):
            return None
        source: dict[str, Any] = found["_source"]
        relay: dict[str, Any] = source.pop("relay", {})
        values = {name: _as_text(value) for name, value in source.items()}
        digest = join_halves(int(relay["high"]), int(relay["low"])) if "high" in relay else None
        deleted = "deleted_at" in relay
        return StoredRow(key, values, int(relay.get("version", 0)), deleted, digest)

    async def altered(self, table: str, part: Rows) -> list[Altered]:
        found: list[Altered] = []
        async for pairs in self._sink.documents(part, table):
            for start in range(0, len(pairs), _LOOKED_AT):
                found += await self._altered(table, pairs[start : start + _LOOKED_AT])
        return found

    async def _altered(
        self, table: str, pairs: Sequence[tuple[Key, dict[str, Any]]]
    ) -> list[Altered]:
        index = self._at.index(self._copies[table].index)
        asked = {"ids": [document_id(key) for key, _ in pairs]}
        answer = await self._client.call("POST", f"/{index}/_mget", asked)
        found: list[Altered] = []
        for (key, ours), one in zip(pairs, answer["docs"], strict=True):
            theirs: dict[str, Any] = one.get("_source") or {}
            mark: dict[str, Any] = theirs.get("relay") or {}
            wanted: dict[str, Any] = ours["relay"]
            marks = ("high", "low")
            if "deleted_at" in mark or any(mark.get(half) != wanted[half] for half in marks):
                continue  # absent, or its checksum says already that it is another row
            fields = (ours.keys() | theirs.keys()) - {"relay"}
            columns = tuple(sorted(x for x in fields if not _is_same(x, ours, theirs)))
            if columns and int(mark["version"]) <= int(wanted["version"]):
                found.append(Altered(key, int(mark["version"]), columns))
        return found

    async def put_right(self, table: str, changes: TableChanges) -> None:
        for one in await self._sink.apply(changes):
            _log.error("a row is refused for ever", table=one.table)

    async def newest(self, table: str, limit: int) -> list[tuple[Key, int]]:
        asked = {
            "size": limit,
            "query": _OURS,
            "sort": [{"relay.version": "desc"}],
            "_source": ["relay", *self._copies[table].key],
        }
        hits = (await self._search(table, asked))["hits"]["hits"]
        return [
            (self._key(table, hit["_source"]), int(hit["_source"]["relay"]["version"]))
            for hit in hits
        ]

    async def strangers(self, table: str, limit: int) -> list[str]:
        answer = await self._search(table, {"size": limit, "query": _NOBODYS, "_source": False})
        return [hit["_id"] for hit in answer["hits"]["hits"]]

    async def remove_strangers(self, table: str) -> None:
        index = self._at.index(self._copies[table].index)
        path = f"/{index}/_delete_by_query?conflicts=proceed&refresh=true"
        await self._client.call("POST", path, {"query": _NOBODYS})

    async def forget(self, table: str, keys: Sequence[Key], above: int) -> None:
        index = self._at.index(self._copies[table].index)
        wanted = {"ids": {"values": [document_id(key) for key in keys]}}
        newer = {"range": {"relay.version": {"gt": above}}}
        await self._client.call(
            "POST",
            f"/{index}/_delete_by_query?conflicts=proceed&refresh=true",
            {"query": {"bool": {"filter": [wanted, newer]}}},
        )

    async def close(self) -> None:
        await self._sink.close()
        await self._client.close()

    async def _search(self, table: str, body: dict[str, Any]) -> Any:
        """Documents become visible to searches a second after they were written, or by asking."""
        index = self._at.index(self._copies[table].index)
        await self._client.call("POST", f"/{index}/_refresh")
        return await self._client.call("POST", f"/{index}/_search", body)

    async def _range(self, table: str, low: Bound, high: Bound) -> dict[str, Any]:
        if low is None and high is None:
            return {"match_all": {}}
        whole = await self._whole_columns(table)
        limits: dict[str, str] = {}
        if low is not None:
            limits["gte"] = order_of(low, whole)
        if high is not None:
            limits["lt"] = order_of(high, whole)
        return {"range": {"relay.order": limits}}

    async def _whole_columns(self, table: str) -> list[bool]:
        """Which columns of the key are integers: the index says so."""
        if table not in self._whole:
            copy = self._copies[table]
            index = self._at.index(copy.index)
            answer = await self._client.call("GET", f"/{index}/_mapping")
            (about,) = answer.values()
            fields = about["mappings"]["properties"]
            self._whole[table] = [
                fields[name]["type"] in ("long", "integer", "short") for name in copy.key
            ]
        return self._whole[table]

    def _entry(self, table: str, source: dict[str, Any]) -> Entry:
        relay = source["relay"]
        digest = join_halves(int(relay["high"]), int(relay["low"]))
        return Entry(self._key(table, source), digest, int(relay["version"]))

    def _key(self, table: str, source: dict[str, Any]) -> Key:
        return tuple(_as_text(source[name]) or "" for name in self._copies[table].key)


def _is_same(field: str, ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """As JSON writes them, where Python's word is too generous (true and 1)."""
    sides = (ours.get(field), theirs.get(field))
    one, other = (orjson.dumps(value, option=orjson.OPT_SORT_KEYS) for value in sides)
    return one == other


def _summary(bucket: dict[str, Any]) -> Summary:
    rows = int(bucket["doc_count"])
    if not rows:
        return NOTHING
    return Summary(rows, int(bucket["high"]["value"]), int(bucket["low"]["value"]))


def _as_text(value: object) -> str | None:
    """A value as PostgreSQL writes its type, but for instants, which stay as JSON has them."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "t" if value else "f"
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _quoted(text: str) -> str:
    return quote(text, safe="")
