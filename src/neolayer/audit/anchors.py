"""Anchors: where every chain ends, written outside the database as objects never replaced.

Whoever may change anything in PostgreSQL may also compute a whole chain anew, and then it fits.
What they cannot change is what was written elsewhere before: an anchor holds number and hash of the
last seal of each chain that has grown since the anchor before it, and that anchor's hash.

    audit/anchors/000000000012.json
    {"anchor": 12, "anchored_at": "...", "previous": "<SHA-256 of anchor 11's bytes>",
     "heads": [["<tenant id, or null>", 831, "<entry_hash>"], ...]}

An object is put only where none is (on S3 by a conditional write), so two writers cannot both be
number 12, and one that was killed before it noted its anchor in the database finds it there.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Final
from uuid import UUID

import msgspec
import psycopg
from obstore.exceptions import AlreadyExistsError, BaseError

from neolayer.audit.sealer import Head
from neolayer.engines.endpoints import ObjectsEndpoint
from neolayer.engines.objects.engine import Store, open_store
from neolayer.engines.objects.engine import explain as explain_objects
from neolayer.engines.postgres.connections import Connection, connect, explain
from neolayer.engines.postgres.queries import load_queries

SQL = load_queries(__name__, "anchoring.sql")
PREFIX: Final = "audit/anchors/"
_FIRST_PREVIOUS: Final = "0" * 64


class Anchor(msgspec.Struct, frozen=True):
    """One anchor as its object holds it."""

    anchor: int
    anchored_at: datetime
    previous: str
    heads: list[tuple[UUID | None, int, str]]


@dataclass(frozen=True, slots=True)
class StoredAnchor:
    """An anchor with the hash of its object's bytes."""

    anchor: Anchor
    hash: bytes

    @property
    def key(self) -> str:
        return key_of(self.anchor.anchor)


def key_of(number: int) -> str:
    """The object's key of the anchor with that number."""
    return f"{PREFIX}{number:012d}.json"


@dataclass(slots=True)
class AnchorStore:
    """Anchors as objects."""

    endpoint: ObjectsEndpoint
    _store: Store | None = None

    async def put(self, anchor: Anchor) -> StoredAnchor | None:
        """Store it; None where there is one of that number already. Raises EngineUnavailable."""
        content = msgspec.json.encode(anchor)
        try:
            await self._opened().put_async(key_of(anchor.anchor), content, mode="create")
        except AlreadyExistsError:
            return None
        except (BaseError, OSError) as exc:
            raise explain_objects(exc, self.endpoint) from exc
        return StoredAnchor(anchor, sha256(content).digest())

    async def get(self, number: int) -> StoredAnchor | None:
        """The anchor of that number; None where there is none.

        Raises msgspec.DecodeError where its object is no anchor, EngineUnavailable.
        """
        try:
            answer = await self._opened().get_async(key_of(number))
            content = bytes(await answer.bytes_async())
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as exc:
            raise explain_objects(exc, self.endpoint) from exc
        anchor = msgspec.json.decode(content, type=Anchor)
        return StoredAnchor(anchor, sha256(content).digest())

    def _opened(self) -> Store:
        self._store = self._store or open_store(self.endpoint)
        return self._store

    async def last_number(self) -> int:
        """The highest number that has an object, 0 without any. Raises EngineUnavailable."""
        highest = 0
        try:
            async for chunk in self._opened().list(PREFIX):  # pyright: ignore[reportUnknownMemberType]
                for found in chunk:
                    name = found["path"].removeprefix(PREFIX).removesuffix(".json")
                    if name.isdecimal():
                        highest = max(highest, int(name))
        except (BaseError, OSError) as exc:
            raise explain_objects(exc, self.endpoint) from exc
        return highest


@dataclass(slots=True)
class Anchorer:
    """Writes anchors, as the auditor's role."""

    dsn: str = field(repr=False)
    store: AnchorStore

    async def write_anchor(self) -> StoredAnchor | None:
        """Anchor the chains that have grown; None where none has. Raises EngineUnavailable."""
        try:
            async with self._turn() as connection:
                last = await self._catch_up(connection)
                heads = await _moved_heads(connection)
                if not heads:
                    return None
                stored = await self._put_next(connection, last, heads)
                await _note(connection, stored)
                return stored
        except psycopg.OperationalError as exc:
            raise explain(exc, self.dsn) from exc

    @asynccontextmanager
    async def _turn(self) -> AsyncGenerator[Connection]:
        """A transaction while which nobody else writes anchors."""
        async with await connect(self.dsn, application_name="audit anchors") as connection:
            await connection.execute(SQL.take_turn)
            yield connection

    async def _catch_up(self, connection: Connection) -> tuple[int, str]:
        """Note the anchors that were put and not noted; number and hash of the last."""
        row = await (await connection.execute(SQL.last_anchor)).fetchone()
        number, previous = (row[0], bytes(row[1]).hex()) if row else (0, _FIRST_PREVIOUS)
        while (found := await self.store.get(number + 1)) is not None:
            await _note(connection, found)
            number, previous = found.anchor.anchor, found.hash.hex()
        return number, previous

    async def _put_next(
        self, connection: Connection, last: tuple[int, str], heads: Sequence[Head]
    ) -> StoredAnchor:
        lines = [(head.tenant, head.number, head.hash.hex()) for head in heads]
        while True:
            number, previous = last
            anchor = Anchor(number + 1, datetime.now(UTC), previous, lines)
            stored = await self.store.put(anchor)
            if stored is not None:
                return stored
            last = await self._catch_up(connection)


async def _moved_heads(connection: Connection) -> list[Head]:
    rows = await connection.execute(SQL.moved_heads)
    return [Head(*row) for row in await rows.fetchall()]


async def _note(connection: Connection, stored: StoredAnchor) -> None:
    anchor = stored.anchor
    await connection.execute(
        SQL.note_anchor,
        {
            "number": anchor.anchor,
            "object_key": stored.key,
            "object_hash": stored.hash,
            "chain_count": len(anchor.heads),
            "anchored_at": anchor.anchored_at,
        },
    )
    await connection.execute(
        SQL.note_heads,
        {
            "tenants": [tenant for tenant, _, _ in anchor.heads],
            "numbers": [number for _, number, _ in anchor.heads],
        },
    )
