"""Redis's side of a comparison: is every cached row still what PostgreSQL has?

A cache need not hold a row, but what it holds must be right. An entry of version V, still there
when the cache reflects P, says that its row has not changed from V to P: so up to P it must be
equal to the row. Tombstones, and what lies at or below the floor, are never believed by a reader,
so they are not looked at. An entry above P is looked at again under a later snapshot. What is no
entry of ours (a key of another type, a text of another form) is not believed either, but wrong in
any case: it keeps the row from being cached until something of ours takes its place.

A cached value is a MessagePack map of column names to values, as `msgspec` writes a row.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from string import Formatter
from typing import Any, cast

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from neolayer.catalogue import CacheCopy, DataClass
from neolayer.engines.endpoints import RedisEndpoint
from neolayer.engines.redis.client import connect, explain
from neolayer.freshness.cache_versions import (
    FLOOR_KEY,
    TOMBSTONE_TTL,
    is_entry,
    is_tombstone,
    read_entry,
    version_of,
    version_text,
)
from neolayer.relay.comparable import Key
from neolayer.relay.sinks.redis import TOMBSTONES

_PER_SCAN = 500
_GLOB = re.compile(r"([\\*?\[\]^])")


@dataclass(frozen=True, slots=True)
class Cached:
    """One believed entry: where it lies, the row it is of, what it says of it.

    `foreign` says what lies in its place where that is no entry; it has version 0 and no value.
    """

    place: bytes
    key: Key
    version: int
    value: bytes = field(repr=False)
    foreign: str | None = None


class CachedRows:
    """The cached rows of every class that has a cache key."""

    name = "redis"

    def __init__(self, endpoint: RedisEndpoint, classes: Iterable[DataClass]) -> None:
        self._endpoint = endpoint
        self._copies = {
            one.table: copy for one in classes for copy in one.copies if isinstance(copy, CacheCopy)
        }
        self._client: Redis | None = None
        self.tables = frozenset(self._copies)

    def key_columns(self, table: str) -> tuple[str, ...]:
        """The columns that the cache key names."""
        return tuple(column for _, column in _parsed(self._copies[table].key) if column)

    def is_equal(self, table: str, cached: Cached, row: Mapping[str, Any]) -> bool:
        """Whether an entry says of its row what PostgreSQL says."""
        if cached.foreign is not None:
            return False
        try:
            said = msgspec.msgpack.decode(cached.value)
            ours = msgspec.msgpack.decode(msgspec.msgpack.encode(row))
        except (msgspec.DecodeError, OverflowError):
            return False
        if not isinstance(said, dict):
            return False
        told = cast("dict[Any, Any]", said)
        skipped = self._copies[table].computed
        return all(
            _is_same(ours[name], value)
            for name, value in told.items()
            if name in ours and name not in skipped
        )

    async def scan(self, table: str) -> AsyncIterator[list[Cached]]:
        """Every believed entry of a table, and what is none, in parts; one may come twice."""
        client = self._connected()
        template = self._copies[table].key
        glob, named = _pattern(template)
        cursor = 0
        try:
            while True:
                cursor, places = cast(
                    "tuple[int, list[bytes]]",
                    await client.scan(cursor, match=glob, count=_PER_SCAN),  # pyright: ignore
                )
                found = [place for place in places if named.fullmatch(place)]
                if found:
                    yield await self._read(found, template)
                if not cursor:
                    return
        except RedisError as exc:
            raise explain(exc, self._endpoint) from exc

    async def read(self, table: str, places: Sequence[bytes]) -> list[Cached]:
        """These entries again, those that are still believed, and what is still none."""
        try:
            return await self._read(places, self._copies[table].key)
        except RedisError as exc:
            raise explain(exc, self._endpoint) from exc

    async def of_row(self, table: str, row: Mapping[str, Any]) -> tuple[str, Cached | None, bool]:
        """Where a row is cached; what a reader would believe of it, or what lies there that is no
        entry; whether a tombstone lies there.

        `row` holds texts, as they stand in the key.
        """
        place = self._copies[table].key.format_map(row)
        try:
            (entry,) = cast("list[bytes | None]", await self._connected().mget(place))
            found = await self._read([place.encode()], self._copies[table].key)
        except RedisError as exc:
            raise explain(exc, self._endpoint) from exc
        return place, found[0] if found else None, entry is not None and is_tombstone(entry)

    async def mark(self, places: Sequence[bytes], version: int) -> None:
        """Leave a tombstone of that version wherever nothing newer lies."""
        ttl_ms = int(TOMBSTONE_TTL.total_seconds() * 1000)
        texts = [version_text(version)] * len(places)
        try:
            await TOMBSTONES.run(self._connected(), places, [ttl_ms, *texts])
        except RedisError as exc:
            raise explain(exc, self._endpoint) from exc

    async def remove(self, places: Sequence[bytes]) -> None:
        """Remove entries of a version that was never committed."""
        try:
            await self._connected().unlink(*places)
        except RedisError as exc:
            raise explain(exc, self._endpoint) from exc

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _read(self, places: Sequence[bytes], template: str) -> list[Cached]:
        named = _pattern(template)[1]
        answer = cast("list[bytes | None]", await self._connected().mget(FLOOR_KEY, *places))
        floor, entries = answer[0], dict(zip(places, answer[1:], strict=True))
        foreign = await self._foreign(entries)
        read: list[Cached] = []
        for place, entry in entries.items():
            value, match = read_entry(entry, floor), named.fullmatch(place)
            if match is None:
                continue
            parsed = tuple(part.decode(errors="replace") for part in match.groups())
            if place in foreign:
                read.append(Cached(place, parsed, 0, b"", foreign[place]))
            elif entry is not None and value is not None:
                key = _told_key(template, place, value) or parsed
                read.append(Cached(place, key, version_of(entry), value))
        return read

    async def _foreign(self, entries: Mapping[bytes, bytes | None]) -> dict[bytes, str]:
        """What lies there that is no entry. A key of another type comes as none, as do those that
        are gone: only of these it costs a call to tell."""
        found = {
            place: "a string of another form"
            for place, entry in entries.items()
            if entry is not None and not is_entry(entry)
        }
        unread = [place for place, entry in entries.items() if entry is None]
        if unread:
            async with self._connected().pipeline(transaction=False) as pipeline:
                for place in unread:
                    pipeline.type(place)
                types = cast("list[bytes]", await pipeline.execute())
            for place, kind in zip(unread, types, strict=True):
                if kind not in (b"none", b"string"):  # gone, or put there a moment ago
                    found[place] = f"a {kind.decode()}"
        return found

    def _connected(self) -> Redis:
        if self._client is None:
            self._client = connect(self._endpoint)
        return self._client


def _is_same(ours: Any, said: Any) -> bool:
    """By their bytes where Python's word is no (NaN), or too generous (true and 1)."""
    if isinstance(ours, dict) and isinstance(said, dict):
        mine, theirs = cast("dict[Any, Any]", ours), cast("dict[Any, Any]", said)
        return mine.keys() == theirs.keys() and all(
            _is_same(value, theirs[name]) for name, value in mine.items()
        )
    if isinstance(ours, list) and isinstance(said, list):
        items, others = cast("list[Any]", ours), cast("list[Any]", said)
        return len(items) == len(others) and all(map(_is_same, items, others))
    return msgspec.msgpack.encode(ours) == msgspec.msgpack.encode(said)


def _told_key(template: str, place: bytes, value: bytes) -> Key | None:
    """The row's key as the entry itself tells it, where it does: a separator within a column would
    be read as the end of it. None where it tells of another place."""
    try:
        said = msgspec.msgpack.decode(value)
        columns = [column for _, column in _parsed(template) if column]
        key = tuple(said[column] for column in columns)
        texts = dict(zip(columns, map(str, key), strict=True))
        is_here = template.format_map(texts).encode() == place
    except (msgspec.DecodeError, KeyError, TypeError, IndexError):
        return None
    known = all(isinstance(part, str | int) and not isinstance(part, bool) for part in key)
    return tuple(texts.values()) if is_here and known else None


def _parsed(template: str) -> list[tuple[str, str | None]]:
    return [(text, column) for text, column, _, _ in Formatter().parse(template)]


def _pattern(template: str) -> tuple[str, re.Pattern[bytes]]:
    """How to ask for the entries, and how to read a row's key from an entry's."""
    glob = "".join(
        _GLOB.sub(r"\\\1", text) + ("*" if column else "") for text, column in _parsed(template)
    )
    named = "".join(
        re.escape(text) + ("(.*?)" if column else "") for text, column in _parsed(template)
    )
    return glob, re.compile(named.encode(), re.DOTALL)
