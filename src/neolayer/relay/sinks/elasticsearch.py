"""The search sink: a document a row, told apart by external versions.

The server itself keeps the newer of two versions, and answers 409 for the older, which is as good
as done. Equal versions go over each other (`external_gte`): they bring the same. A deleted row
leaves a tombstone of its version, because a server forgets what it deleted within a minute; readers
ask through an alias that leaves tombstones out, and they are cleared away after a day. The
checkpoint is a document of the same server.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from neolayer.catalogue import DataClass, SearchCopy
from neolayer.crash_points import crash_point
from neolayer.engines.elasticsearch.checkpoint import path_of
from neolayer.engines.elasticsearch.client import (
    BLOCKED,
    WAITS,
    SearchClient,
    is_fault,
    probe_of,
    reason_of,
)
from neolayer.engines.endpoints import ElasticsearchEndpoint
from neolayer.errors import EngineUnavailable
from neolayer.relay.changes import Batch, Relation, Row, TableChanges, Truncation
from neolayer.relay.comparable import Shape
from neolayer.relay.digests import halves, row_digest
from neolayer.relay.sinks.sink import CopyLost, Park, Rejected, Snapshot, note_of
from neolayer.relay.sinks.tabs import DEAD, LIVE, latest_by_key
from neolayer.relay.values import JSON, UnfitValue, copied_rows, document_of

_BULK_BYTES: Final = 8 << 20
_TOMBSTONES_S: Final = 86_400
_CLEAR_EVERY_S: Final = 3_600
_TRIES: Final = 6
_TRIES_ALONE: Final = 3
_BUSY: Final = frozenset({429, 503})
_CONFLICT: Final = 409
_GONE: Final = 404
_WHOLE: Final = "allow_partial_search_results=false"

Encode = Callable[[Row, int, bytes], bytes]
_Operation = tuple[bytes, Relation, Row, int, bytes]


class ElasticsearchSink:
    """Copies the declared tables into indices of one server."""

    name = "elasticsearch"
    database = "neolayer"

    def __init__(
        self, endpoint: ElasticsearchEndpoint, classes: Iterable[DataClass], *, wait_s: float
    ) -> None:
        self._client = SearchClient(endpoint)
        self._at = endpoint
        self._copies = {
            one.table: copy
            for one in classes
            for copy in one.copies
            if isinstance(copy, SearchCopy)
        }
        self.tables = frozenset(self._copies)
        self.wait_s = wait_s
        self._left = 0
        self._floors: dict[str, int] = {}
        self._cleared_at = 0.0

    async def open(self, confirmed: int) -> int | None:
        stored = await self._stored(self.name)
        self._left = checkpoint = int(stored.get("version", 0))
        self._floors = dict(stored.get("floors", {}))
        return checkpoint if checkpoint and checkpoint >= confirmed else None

    async def close(self) -> None:
        await self._client.close()

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        if int((await self._stored(self.name)).get("version", 0)) < self._left:
            raise CopyLost(self.name)
        rejected: list[Rejected] = []
        for changes in (changes for batch in batches for changes in batch.changes):
            if changes.relation.table not in self._copies:
                continue
            if isinstance(changes, Truncation):
                await self._empty(changes.relation.table, changes.version)
            else:
                rejected += await self.apply(changes)
        crash_point("elasticsearch.before_checkpoint")
        await self.reflect(batches[-1].position)
        crash_point("elasticsearch.after_checkpoint")
        await self._clear_tombstones()
        return rejected

    def shape(self, table: str) -> Shape:
        copy = self._copies[table]
        return Shape(copy.key, copy.columns, target=(self._at.index(copy.index),))

    async def begin_copy(self, version: int) -> None:
        note = path_of(self._at, note_of(self.name))
        await self._client.call("PUT", f"{note}?{WAITS}", {"version": version})

    async def copy_began(self) -> int:
        return int((await self._stored(note_of(self.name))).get("version", 0))

    async def copy_part(self, part: Snapshot, table: str, park: Park) -> None:
        copy = self._copies[table]
        relation = await part.describe(table, copy.columns)
        encode = encoder(self._at, copy, relation)
        async for block in part.rows(table, copy.columns):
            rows = copied_rows(block)
            for some in _parts(_encoded(encode, copy, relation, row, part.version) for row in rows):
                await park(await self._send(some, copy))
        if part.version < self._floors.get(table, 0):  # emptied since, perhaps beside us
            await self.drop_below(table, self._floors[table])

    async def documents(
        self, part: Snapshot, table: str
    ) -> AsyncIterator[list[tuple[tuple[str, ...], dict[str, Any]]]]:
        """The (key, document) pairs that a part of the table makes; nothing is written."""
        copy = self._copies[table]
        relation = await part.describe(table, copy.columns)
        encode, places = encoder(self._at, copy, relation), relation.places(copy.key)
        async for block in part.rows(table, copy.columns):
            made: list[tuple[tuple[str, ...], dict[str, Any]]] = []
            for row in copied_rows(block):
                with contextlib.suppress(UnfitValue):  # it is refused, and has its letter
                    document = orjson.loads(encode(row, part.version, LIVE).split(b"\n")[1])
                    made.append((tuple(_text(row[place]) for place in places), document))
            yield made

    async def drop_below(self, table: str, version: int) -> None:
        await self._delete(self._copies[table], {"range": {"relay.version": {"lt": version}}})

    async def apply(self, changes: TableChanges) -> list[Rejected]:
        """Bring the last state of every key that was touched; the checkpoint stays."""
        copy = self._copies[changes.relation.table]
        floor = self._floors.get(changes.relation.table, 0)
        latest = latest_by_key(changes, copy.key).values()
        encode = encoder(self._at, copy, changes.relation)
        rejected: list[Rejected] = []
        for part in _parts(
            (
                _encoded(encode, copy, changes.relation, row, version, mark)
                for row, version, mark in latest
                if version >= floor
            )
        ):
            rejected += await self._send(part, copy)
        return rejected

    # Documents

    async def _send(
        self, operations: Sequence[_Operation | Rejected], copy: SearchCopy
    ) -> list[Rejected]:
        """All operations of a part; what the server is too busy for is sent again, alone."""
        rejected = [one for one in operations if isinstance(one, Rejected)]
        faults: list[_Operation] = []
        waiting = [one for one in operations if not isinstance(one, Rejected)]
        for attempt in range(_TRIES):
            if not waiting:
                return rejected + await self._send_alone(faults, copy)
            if attempt:
                await _pause(attempt)
            outcomes = await self._client.bulk(b"".join(line for line, *_ in waiting))
            busy: list[_Operation] = []
            for operation, outcome in zip(waiting, outcomes, strict=True):
                status, (kind, reason) = int(outcome["status"]), reason_of(outcome.get("error"))
                if status < 300 or status == _CONFLICT:
                    continue
                if status in _BUSY and kind != BLOCKED:
                    busy.append(operation)
                    continue
                if is_fault(outcome):
                    faults.append(operation)
                    continue
                await self._raise_trouble(outcome)
                rejected.append(_rejected(operation, copy, reason))
            waiting = busy
        raise EngineUnavailable(
            "elasticsearch", f"{self._at.address} is too busy for {len(waiting)} documents"
        )

    async def _send_alone(
        self, operations: Sequence[_Operation], copy: SearchCopy
    ) -> list[Rejected]:
        """Send each on which the server failed by itself; it is to blame where its shard takes
        another write at the same time, try after try."""
        rejected: list[Rejected] = []
        left = [(one, "") for one in operations]
        for attempt in range(_TRIES_ALONE):
            if left:
                await _pause(attempt)
            failed: list[tuple[_Operation, str]] = []
            for one, _ in left:
                outcome, beside = await self._client.bulk(one[0] + probe_of(one[0]))
                _, reason = reason_of(outcome.get("error"))
                if "error" in beside:
                    await self._raise_trouble(beside)
                if is_fault(outcome):
                    failed.append((one, reason))
                elif "error" in outcome and int(outcome["status"]) != _CONFLICT:
                    await self._raise_trouble(outcome)
                    rejected.append(_rejected(one, copy, reason))
            left = failed
        return rejected + [_rejected(one, copy, reason) for one, reason in left]

    async def _raise_trouble(self, outcome: dict[str, Any]) -> None:
        """Of an operation that failed: raise EngineUnavailable unless the document is to blame."""
        status, error = int(outcome["status"]), outcome.get("error")
        if (trouble := await self._client.trouble(status, error)) is not None:
            raise trouble
        if status == _GONE:
            raise EngineUnavailable(
                "elasticsearch",
                f"{self._at.address} has no index {outcome['_index']}",
                hint="run: neolayer migrate up",
            )

    async def _empty(self, table: str, version: int) -> None:
        """Remove what a TRUNCATE of that version did.

        A delete by query leaves the next higher version behind, which would refuse the rows that
        come after it in the same transaction: theirs are removed one by one, under their own.
        """
        self._floors[table] = version
        copy = self._copies[table]
        await self.drop_below(table, version)
        index = self._at.index(copy.index)
        same = {"query": {"term": {"relay.version": version}}, "size": 1_000, "_source": False}
        while True:
            found = await self._client.call("POST", f"/{index}/_search?{_WHOLE}", same)
            hits = found["hits"]["hits"]
            if not hits:
                return
            head = {"_index": index, "version": version, "version_type": "external_gte"}
            lines = (orjson.dumps({"delete": head | {"_id": hit["_id"]}}) + b"\n" for hit in hits)
            for outcome in await self._client.bulk(b"".join(lines)):
                if "error" in outcome and int(outcome["status"]) != _CONFLICT:
                    await self._raise_trouble(outcome)
                    _, reason = reason_of(outcome["error"])
                    raise EngineUnavailable(
                        "elasticsearch", f"{self._at.address} removes no document: {reason}"
                    )
            await self._client.call("POST", f"/{index}/_refresh")

    async def _delete(self, copy: SearchCopy, query: dict[str, Any]) -> None:
        index = self._at.index(copy.index)
        await self._client.call("POST", f"/{index}/_refresh")
        await self._client.call(
            "POST",
            f"/{index}/_delete_by_query?conflicts=proceed&refresh=true&slices=auto",
            {"query": query},
        )

    async def _clear_tombstones(self) -> None:
        now = time.time()
        if now - self._cleared_at < _CLEAR_EVERY_S:
            return
        self._cleared_at = now
        old = datetime.fromtimestamp(now - _TOMBSTONES_S, UTC).isoformat()
        for copy in self._copies.values():
            await self._delete(copy, {"range": {"relay.deleted_at": {"lt": old}}})

    # The checkpoint

    async def _stored(self, name: str) -> dict[str, Any]:
        found = await self._client.call("GET", path_of(self._at, name), missing={})
        return found.get("_source", {})

    async def reflect(self, version: int) -> None:
        self._left = max(self._left, version)
        kept = {"version": self._left, "floors": self._floors}
        path = f"{path_of(self._at, self.name)}?{WAITS}"
        await self._client.call("PUT", path, kept)


def encoder(at: ElasticsearchEndpoint, copy: SearchCopy, relation: Relation) -> Encode:
    """A function from (row, version, mark) to the two lines of a bulk operation.

    It raises UnfitValue for a value that JSON has no word for.
    """
    build = document_of(relation, copy.columns, JSON)
    build_key = document_of(relation, copy.key, JSON)
    key_places = relation.places(copy.key)
    whole = [relation.types[place] in WHOLE for place in key_places]
    places = relation.places(copy.columns)
    index = at.index(copy.index)

    def encode(row: Row, version: int, mark: bytes) -> bytes:
        key = [_text(row[place]) for place in key_places]
        head = {
            "index": {
                "_index": index,
                "_id": document_id(key),
                "version": version,
                "version_type": "external_gte",
            }
        }
        relay: dict[str, Any] = {"version": version, "order": order_of(key, whole)}
        if mark == DEAD:
            document = build_key(row) | {"relay": relay}
            relay["deleted_at"] = datetime.now(UTC).isoformat()
        else:
            values = (row[place] for place in places)
            digest = row_digest(v if isinstance(v, bytes) else None for v in values)
            relay["high"], relay["low"] = halves(digest)
            document = build(row) | {"relay": relay}
        return orjson.dumps(head) + b"\n" + orjson.dumps(document) + b"\n"

    return encode


async def _pause(attempt: int) -> None:
    await asyncio.sleep(0.1 * 2**attempt * random.uniform(0.5, 1.0))  # noqa: S311


def document_id(key: Sequence[str]) -> str:
    """The `_id` of a row: the texts of its key, joined."""
    return ":".join(part.replace("%", "%25").replace(":", "%3A") for part in key)


WHOLE: Final = frozenset({20, 21, 23, 26})
"""pg_type.oid of int8, int2, int4 and oid."""


def order_of(key: Sequence[str], whole: Sequence[bool]) -> str:
    """A text whose bytes sort as PostgreSQL sorts the key; `whole`: the column is an integer."""
    parts = (
        f"{int(part) + (1 << 63):016x}" if is_whole else part
        for part, is_whole in zip(key, whole, strict=True)
    )
    return "\0".join(parts)


def _encoded(
    encode: Encode,
    copy: SearchCopy,
    relation: Relation,
    row: Row,
    version: int,
    mark: bytes = LIVE,
) -> _Operation | Rejected:
    try:
        return encode(row, version, mark), relation, row, version, mark
    except UnfitValue as exc:
        return _rejected((b"", relation, row, version, mark), copy, exc.message)


def _rejected(operation: _Operation, copy: SearchCopy, cause: str) -> Rejected:
    _, relation, row, version, mark = operation
    texts = {name: _shown(value) for name, value in zip(relation.columns, row, strict=True)}
    deleted = mark == DEAD
    kept = {name: texts[name] for name in copy.key} if deleted else texts
    key = tuple(texts[name] for name in copy.key)
    return Rejected(relation.table, key, version, deleted, cause, kept)


def _parts(
    operations: Iterable[_Operation | Rejected],
) -> Iterator[list[_Operation | Rejected]]:
    part: list[_Operation | Rejected] = []
    size = 0
    for operation in operations:
        part.append(operation)
        size += 0 if isinstance(operation, Rejected) else len(operation[0])
        if size >= _BULK_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _text(value: bytes | int) -> str:
    if isinstance(value, bytes):
        return value.decode()
    raise UnfitValue("a key column is null")


def _shown(value: bytes | int) -> str | None:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else None
