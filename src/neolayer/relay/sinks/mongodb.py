"""The MongoDB sink: a document a row, and the newest version of each wins, whenever it comes.

How a document gets there is `upserts.py`'s. A deleted row leaves its version behind for a day, so
that an older change which arrives late does not bring it back; an emptied table leaves the version
below which nothing of it is believed.

Documents that the server refuses for ever (a validator, a size, a name it does not take) come back
with its words; the checkpoint passes them. It lies beside the data and is written after them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from bson import Int64
from pymongo.errors import PyMongoError

from neolayer.catalogue import DataClass, MongoCopy
from neolayer.crash_points import crash_point
from neolayer.engines.endpoints import MongoEndpoint
from neolayer.engines.mongodb.checkpoint import CHECKPOINTS
from neolayer.engines.mongodb.client import (
    Client,
    DocumentDatabase,
    connect,
    database_of,
    explain,
)
from neolayer.relay.changes import Batch, Relation, TableChanges, Truncation
from neolayer.relay.comparable import Shape
from neolayer.relay.sinks.bson import Document, Encoder, notation, text_of
from neolayer.relay.sinks.sink import CopyLost, Park, Rejected, Snapshot, note_of
from neolayer.relay.sinks.tabs import LIVE, latest_by_key
from neolayer.relay.sinks.upserts import DOCUMENTS, Upserts, hashable
from neolayer.relay.values import Notation, copied_rows

FLOORS: Final = "relay_floors"

_CLEAR_EVERY_S: Final = 600.0


class MongoSink:
    """The collections that the catalogue declares, fed from one database."""

    name = "mongodb"

    def __init__(
        self,
        endpoint: MongoEndpoint,
        classes: Iterable[DataClass],
        *,
        wait_s: float = 0.5,
        database: str = "neolayer",
    ) -> None:
        self.wait_s = wait_s
        self.database = database
        self._endpoint = endpoint
        self._copies = {
            one.table: copy
            for one in classes
            for copy in one.copies
            if isinstance(copy, MongoCopy) and one.database == database
        }
        self.tables = frozenset(self._copies)
        self._client: Client | None = None
        self._words: Notation = notation(decimals=True)
        self._expires = True
        self._upserts: Upserts | None = None
        self._left = 0
        self._floors: dict[str, int] = {}
        self._cleared_at = time.monotonic()

    async def open(self, confirmed: int) -> int | None:
        await self.connect()
        checkpoint = self._left = await self._stored(self.name)
        return checkpoint if checkpoint and checkpoint >= confirmed else None

    async def connect(self) -> None:
        """Connect and learn what the server can do. Raises EngineUnavailable."""
        if self._client is None:
            self._client = connect(self._endpoint)
        try:
            built = await self._client.server_info()
            floors = await self._database[FLOORS].find().to_list()
        except PyMongoError as exc:
            raise explain(exc, self._endpoint) from exc
        is_ferretdb = "ferretdbVersion" in built
        self._words = notation(decimals=not is_ferretdb)
        self._expires = not is_ferretdb
        self._upserts = Upserts(self._endpoint, self._database, is_ferretdb=is_ferretdb)
        self._floors = {one["_id"]: int(one["version"]) for one in floors}

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        await self._require_what_was_left()
        rejected: list[Rejected] = []
        waiting: dict[str, dict[Any, Document]] = {}
        for changes in (changes for batch in batches for changes in batch.changes):
            table = changes.relation.table
            if table not in self._copies:
                continue
            if isinstance(changes, Truncation):
                rejected += await self._apply(table, waiting.pop(table, {}).values())
                await self._truncate(table, changes.version)
                continue
            documents = await asyncio.to_thread(self._documents, changes)
            _keep_newest(waiting.setdefault(table, {}), documents)
        for table, documents in waiting.items():
            rejected += await self._apply(table, documents.values())
        crash_point("mongodb.before_checkpoint")
        await self.reflect(batches[-1].position)
        crash_point("mongodb.after_checkpoint")
        await self._clear_away()
        return rejected

    async def put(self, table: str, changes: TableChanges) -> Sequence[Rejected]:
        """Apply changes of one table and leave the checkpoint alone: for the reconciler."""
        kept: dict[Any, Document] = {}
        _keep_newest(kept, await asyncio.to_thread(self._documents, changes))
        return await self._apply(table, kept.values())

    # Copying

    def shape(self, table: str) -> Shape:
        copy = self._copies[table]
        names = (f"{column}={field}" for column, field in sorted(copy.names.items()))
        target = f"{self._endpoint.database}.{copy.collection}"
        return Shape(copy.key, copy.columns, target=(target, *names))

    async def begin_copy(self, version: int) -> None:
        await self._store(note_of(self.name), version)

    async def copy_began(self) -> int:
        return await self._stored(note_of(self.name))

    async def reflect(self, version: int) -> None:
        await self._store(self.name, version)
        self._left = max(self._left, version)

    async def require_types(self, relation: Relation) -> None:
        Encoder(relation, self._copies[relation.table], self._words)

    async def copy_part(self, part: Snapshot, table: str, park: Park) -> None:
        async for documents in self._made(part, table):
            await park(await self._apply(table, documents, over_equal=False))

    async def documents(self, part: Snapshot, table: str) -> AsyncIterator[list[Document]]:
        """The documents that a part of the table makes, for the reconciler; nothing is written."""
        async for documents in self._made(part, table):
            yield [one for one in documents if not one.refusal]

    async def _made(self, part: Snapshot, table: str) -> AsyncIterator[list[Document]]:
        copy = self._copies[table]
        relation = await part.describe(table, copy.columns)
        encoder = Encoder(relation, copy, self._words)
        held: list[Document] = []
        async for block in part.rows(table, copy.columns):
            rows = copied_rows(block)
            held += [encoder.live(row, part.version, fresh=True) for row in rows]
            if len(held) >= DOCUMENTS:
                yield held
                held = []
        if held:
            yield held

    async def drop_below(self, table: str, version: int) -> None:
        await self._delete_below(table, version)

    # Documents

    def _documents(self, changes: TableChanges) -> list[Document]:
        copy = self._copies[changes.relation.table]
        encoder = Encoder(changes.relation, copy, self._words)
        fresh = changes.inserts_only
        return [
            encoder.live(row, version, fresh=fresh) if mark == LIVE else encoder.dead(row, version)
            for row, version, mark in latest_by_key(changes, copy.key).values()
        ]

    async def _apply(
        self, table: str, documents: Collection[Document], *, over_equal: bool = True
    ) -> list[Rejected]:
        assert self._upserts is not None, "open() comes first"
        floor = self._floors.get(table, 0)
        fresh = [one for one in documents if one.version >= floor]
        rejected = [self._rejected(table, one, one.refusal) for one in fresh if one.refusal]
        refused = await self._upserts.put(
            self._copies[table].collection,
            [one for one in fresh if not one.refusal],
            over_equal=over_equal,
        )
        return [*rejected, *(self._rejected(table, one, cause) for one, cause in refused)]

    def _rejected(self, table: str, document: Document, cause: str) -> Rejected:
        copy = self._copies[table]
        row, relation = document.row, document.relation
        shown = copy.key if document.deleted else relation.columns
        return Rejected(
            table=table,
            key=tuple(text_of(row[place]) for place in relation.places(copy.key)),
            version=document.version,
            deleted=document.deleted,
            cause=cause,
            row={
                name: text_of(row[place])
                for name, place in zip(shown, relation.places(shown), strict=True)
            },
        )

    # Emptied tables, traces, checkpoint

    async def _truncate(self, table: str, version: int) -> None:
        """Remember the floor first: what is older is refused from then on."""
        try:
            await self._database[FLOORS].update_one(
                {"_id": table}, {"$max": {"version": Int64(version)}}, upsert=True
            )
        except PyMongoError as exc:
            raise explain(exc, self._endpoint) from exc
        self._floors[table] = max(version, self._floors.get(table, 0))
        await self._delete_below(table, version + 1)

    async def _delete_below(self, table: str, version: int) -> None:
        collection = self._database[self._copies[table].collection]
        try:
            await collection.delete_many({"_version": {"$lt": Int64(version)}})
            await collection.delete_many({"_version": None})
        except PyMongoError as exc:
            raise explain(exc, self._endpoint) from exc

    async def _clear_away(self) -> None:
        """Where the server expires nothing by itself: the traces whose day is over."""
        if self._expires or time.monotonic() - self._cleared_at < _CLEAR_EVERY_S:
            return
        self._cleared_at = time.monotonic()
        over = {"_deleted": True, "_expires_at": {"$lt": datetime.now(UTC)}}
        try:
            for copy in self._copies.values():
                await self._database[copy.collection].delete_many(over)
        except PyMongoError as exc:
            raise explain(exc, self._endpoint) from exc

    async def _stored(self, name: str) -> int:
        try:
            stored = await self._database[CHECKPOINTS].find_one({"_id": name})
        except PyMongoError as exc:
            raise explain(exc, self._endpoint) from exc
        return int(stored["version"]) if stored else 0

    async def _store(self, name: str, version: int) -> None:
        moved = {"$max": {"version": Int64(version)}, "$set": {"updated_at": datetime.now(UTC)}}
        try:
            await self._database[CHECKPOINTS].update_one({"_id": name}, moved, upsert=True)
        except PyMongoError as exc:
            raise explain(exc, self._endpoint) from exc

    async def _require_what_was_left(self) -> None:
        """The database may be dropped under us; its checkpoint then says less than we left."""
        if await self._stored(self.name) < self._left:
            raise CopyLost(self.name)

    @property
    def _database(self) -> DocumentDatabase:
        assert self._client is not None, "open() comes first"
        return database_of(self._client, self._endpoint)


def _keep_newest(kept: dict[Any, Document], documents: Iterable[Document]) -> None:
    """Of several changes of one key the newest; of one version the last."""
    for one in documents:
        name = hashable(one.id)
        other = kept.get(name)
        if other is None or one.version >= other.version:
            kept[name] = one
