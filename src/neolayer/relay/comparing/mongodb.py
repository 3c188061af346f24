"""MongoDB's side of a comparison: the checksums that the sink left with each document, added up.

They are of PostgreSQL's texts as the sink was given them, so what is found is a document that never
came, came late, or is too many. A field that somebody altered by hand is found by looking into the
documents themselves (`altered`), each beside the one that the sink would make now.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import bson
import structlog
from bson import Int64
from pymongo.errors import PyMongoError

from neolayer.catalogue import DataClass, MongoCopy
from neolayer.engines.endpoints import MongoEndpoint
from neolayer.engines.mongodb.client import Client, connect, database_of, explain
from neolayer.relay.changes import TableChanges
from neolayer.relay.comparable import Altered, Bound, Entry, Key, Rows, Shape, StoredRow
from neolayer.relay.digests import NOTHING, Summary, join_halves
from neolayer.relay.sinks.bson import Document, Id, id_from_texts, texts_from_id
from neolayer.relay.sinks.mongodb import MongoSink
from neolayer.relay.sinks.upserts import hashable

_SUMS: dict[str, Any] = {
    "_id": None,
    "rows": {"$sum": 1},
    "high": {"$sum": "$_digest_high"},
    "low": {"$sum": "$_digest_low"},
}
_OF_THE_RELAY: dict[str, Any] = {"_version": {"$exists": True}}
_NOBODYS: dict[str, Any] = {"_version": {"$exists": False}}
_log = structlog.get_logger()


class MongoRows:
    """The copies in one MongoDB database, as `Comparable`."""

    name = "mongodb"

    def __init__(self, endpoint: MongoEndpoint, classes: Iterable[DataClass]) -> None:
        classes = list(classes)
        self._endpoint = endpoint
        self._sink = MongoSink(endpoint, classes)
        self._copies = {
            one.table: copy for one in classes for copy in one.copies if isinstance(copy, MongoCopy)
        }
        self._client: Client | None = None
        self._writes = False
        self.tables = frozenset(self._copies)

    def shape(self, table: str) -> Shape:
        copy = self._copies[table]
        return Shape(copy.key, copy.columns)

    async def summaries(self, table: str, bounds: Sequence[Bound]) -> list[Summary]:
        like = await self._any_id(table)
        if like is None:
            return [NOTHING] * (len(bounds) - 1)
        ranges = pairwise(bounds)
        return list(
            await asyncio.gather(*(self._summary(table, low, high, like) for low, high in ranges))
        )

    async def entries(self, table: str, low: Bound, high: Bound, limit: int) -> list[Entry]:
        like = await self._any_id(table)
        if like is None:
            return []
        fields = {"_version": 1, "_digest_high": 1, "_digest_low": 1}
        try:
            found = await (
                self._collection(table)
                .find(self._range(table, low, high, like), fields, sort=[("_id", 1)], limit=limit)
                .to_list()
            )
        except PyMongoError as exc:
            raise explain(exc, self._endpoint) from exc
        return [
            Entry(
                texts_from_id(one["_id"]),
                join_halves(int(one["_digest_high"]), int(one["_digest_low"])),
                int(one["_version"]),
            )
            for one in found
        ]

    async def entry(self, table: str, key: Key) -> StoredRow | None:
        like = await self._any_id(table)
        if like is None:
            return None
        try:
            name = self._id(table, key, like)
            found = await self._collection(table).find_one({"_id": name})
        except PyMongoError as exc:
            raise explain(exc, self._endpoint) from exc
        if found is None:
            return None
        copy = self._copies[table]
        values = {
            column: text_like_postgres(found.get(copy.names.get(column, column)))
            for column in copy.columns
        }
        high, low = found.get("_digest_high"), found.get("_digest_low")
        digest = None if high is None or low is None else join_halves(int(high), int(low))
        deleted = bool(found.get("_deleted"))
        return StoredRow(key, values, int(found.get("_version", 0)), deleted, digest)

    async def altered(self, table: str, part: Rows) -> list[Altered]:
        await self._connect_sink()
        found: list[Altered] = []
        async for documents in self._sink.documents(part, table):
            found += await self._altered(table, documents)
        return found

    async def _altered(self, table: str, documents: Sequence[Document]) -> list[Altered]:
        copy = self._copies[table]
        collection = self._collection(table)
        names = [one.id for one in documents]
        try:
            stored = await collection.find({"_id": {"$in": names}}).to_list()
        except PyMongoError as exc:
            raise explain(exc, self._endpoint) from exc
        by_name = {hashable(one["_id"]): one for one in stored}
        columns = {field: column for column, field in copy.names.items()}
        found: list[Altered] = []
        for one in documents:
            theirs = by_name.get(hashable(one.id))
            if theirs is None:
                continue
            version = theirs.get("_version")
            ours = _decoded(one.encoded, collection)
            if not isinstance(version, int) or version > one.version or _marked(ours, theirs):
                continue
            if fields := _differing(ours, theirs):
                key = texts_from_id(one.id)
                told = tuple(sorted(columns.get(field, field) for field in fields))
                found.append(Altered(key, version, told))
        return found

    async def _connect_sink(self) -> None:
        if not self._writes:
            await self._sink.connect()
            self._writes = True

    async def put_right(self, table: str, changes: TableChanges) -> None:
        await self._connect_sink()
        for one in await self._sink.put(table, changes):
            _log.error("a row is refused for ever", table=one.table)

    async def newest(self, table: str, limit: int) -> list[tuple[Key, int]]:
        try:
            found = await (
                self._collection(table)
                .find(_OF_THE_RELAY, {"_version": 1}, sort=[("_version", -1)], limit=limit)
                .to_list()
            )
        except PyMongoError as exc:
            raise explain(exc, self._endpoint) from exc
        return [(texts_from_id(one["_id"]), int(one["_version"])) for one in found]

    async def strangers(self, table: str, limit: int) -> list[str]:
        try:
            found = await self._collection(table).find(_NOBODYS, {"_id": 1}, limit=limit).to_list()
        except PyMongoError as exc:
            raise explain(exc, self._endpoint) from exc
        return [str(one["_id"]) for one in found]

    async def remove_strangers(self, table: str) -> None:
        try:
            await self._collection(table).delete_many(_NOBODYS)
        except PyMongoError as exc:
            raise explain(exc, self._endpoint) from exc

    async def forget(self, table: str, keys: Sequence[Key], above: int) -> None:
        like = await self._any_id(table)
        if like is None:
            return
        names = [self._id(table, key, like) for key in keys]
        ahead = {"_id": {"$in": names}, "_version": {"$gt": Int64(above)}}
        try:
            await self._collection(table).delete_many(ahead)
        except PyMongoError as exc:
            raise explain(exc, self._endpoint) from exc

    async def close(self) -> None:
        client, self._client = self._client, None
        await self._sink.close()
        if client is not None:
            await client.close()

    async def _summary(self, table: str, low: Bound, high: Bound, like: Id) -> Summary:
        where = self._range(table, low, high, like)
        found = await self._sums(table, where, _SUMS)
        if found.get("rows") and not (found["high"] or found["low"]):
            # FerretDB adds up the first of several sums alone.
            for name in ("high", "low"):
                found |= await self._sums(table, where, {"_id": None, name: _SUMS[name]})
        if not found:
            return NOTHING
        return Summary(int(found["rows"]), int(found["high"]), int(found["low"]))

    async def _sums(self, table: str, where: dict[str, Any], sums: Any) -> dict[str, Any]:
        """The sums over documents; empty where there are none."""
        asked = [{"$match": where}, {"$group": sums}]
        try:
            found = await (await self._collection(table).aggregate(asked)).to_list()
        except PyMongoError as exc:
            raise explain(exc, self._endpoint) from exc
        return found[0] if found else {}

    async def _any_id(self, table: str) -> Id | None:
        """Some stored key: of which kinds its parts are, the column's type decided."""
        try:
            found = await self._collection(table).find_one(_OF_THE_RELAY, {"_id": 1})
        except PyMongoError as exc:
            raise explain(exc, self._endpoint) from exc
        return None if found is None else found["_id"]

    def _id(self, table: str, key: Key, like: Id) -> Id:
        copy = self._copies[table]
        return id_from_texts([copy.names.get(one, one) for one in copy.key], key, like)

    def _range(self, table: str, low: Bound, high: Bound, like: Id) -> dict[str, Any]:
        """The live documents from `low` on and below `high`."""
        ends: dict[str, Id] = {}
        if low is not None:
            ends["$gte"] = self._id(table, low, like)
        if high is not None:
            ends["$lt"] = self._id(table, high, like)
        alive = {"_deleted": {"$exists": False}, **_OF_THE_RELAY}
        return {"_id": ends, **alive} if ends else alive

    def _collection(self, table: str) -> Any:
        if self._client is None:
            self._client = connect(self._endpoint)
        return database_of(self._client, self._endpoint)[self._copies[table].collection]


_OURS = frozenset(("_id", "_version", "_digest_high", "_digest_low"))


def _decoded(encoded: bytes, collection: Any) -> dict[str, Any]:
    return bson.decode(encoded, collection.codec_options)  # pyright: ignore


def _marked(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """Whether its checksum says already that it is another row."""
    marks = ("_digest_high", "_digest_low")
    return any(theirs.get(mark) != ours[mark] for mark in marks) or "_deleted" in theirs


def _differing(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    fields = (ours.keys() | theirs.keys()) - _OURS
    return [field for field in fields if not _is_same(field, ours, theirs)]


def _is_same(field: str, ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """By their bytes where Python's word is no (NaN), or too generous (true and 1)."""
    if (field in ours) != (field in theirs):
        return False
    return bson.encode({"": ours[field]}) == bson.encode({"": theirs[field]})


def text_like_postgres(value: Any) -> str | None:
    """A field as PostgreSQL would write it, as far as the document still knows."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, datetime):
        text = value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
        return text.rstrip("0").rstrip(".") + "+00"
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
