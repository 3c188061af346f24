"""The Redis sink: what changed in the commit log is no longer believed in the cache.

A changed or deleted row leaves a tombstone with its version under its cache key. A reader puts a
row only over something older (`chain/cache.py`), so one that read before the change and comes late
is refused, as long as the tombstone lives: readers that took longer do not try. Inserts leave
nothing, because the absence of a row is never cached. What lies under a cache key and is no entry
of ours, be it of another type, is nothing to believe or to keep: the tombstone takes its place.

Entries below the floor are never believed: it is raised where single entries cannot be named, on
TRUNCATE and after the server lost what it had been told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from string import Formatter
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from neolayer.catalogue import CacheCopy, DataClass
from neolayer.engines.endpoints import RedisEndpoint
from neolayer.engines.redis.client import connect, explain
from neolayer.engines.redis.scripts import Script, load_script
from neolayer.freshness.cache_versions import (
    CHECKPOINT_KEY,
    FLOOR_KEY,
    TOMBSTONE_TTL,
    read_version,
    version_text,
)
from neolayer.relay.changes import (
    INSERT,
    UPDATE,
    Batch,
    Relation,
    Row,
    TableChanges,
    Truncation,
    Unnamed,
)
from neolayer.relay.sinks.sink import Rejected

_KEYS_PER_CALL = 1_024
TOMBSTONES = load_script(__name__, "lua/tombstones.lua")
_RAISE_FLOOR = load_script(__name__, "lua/raise_floor.lua")
_MARKS_AND_CHECKPOINT = load_script(__name__, "lua/marks_and_checkpoint.lua")


class RedisSink:
    """Invalidates the declared cache keys; its checkpoint lies beside them."""

    name = "redis"
    database = "neolayer"
    wait_s = 0.0

    def __init__(self, endpoint: RedisEndpoint, classes: Iterable[DataClass]) -> None:
        self._endpoint = endpoint
        self._keys = {
            one.table: copy.key
            for one in classes
            for copy in one.copies
            if isinstance(copy, CacheCopy)
        }
        self.tables = frozenset(self._keys)
        self._client: Redis | None = None
        self._left = ""

    async def open(self, confirmed: int) -> int | None:
        """Never asks for a copy: where changes were missed, the floor rises instead."""
        if self._client is None:
            self._client = connect(self._endpoint)
        try:
            # MGET gives nothing, where GET fails, for a key of another type.
            (stored,) = cast("list[bytes | None]", await self._client.mget(CHECKPOINT_KEY))
        except RedisError as exc:
            raise explain(exc, self._endpoint) from exc
        checkpoint = read_version(stored)
        self._left = version_text(checkpoint) if checkpoint else ""
        if checkpoint < confirmed:
            await self.forget_below(confirmed)
        return max(checkpoint, confirmed)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def forget_below(self, version: int) -> None:
        await self._run(_RAISE_FLOOR, [FLOOR_KEY], [version_text(version)])

    async def reflect(self, version: int) -> None:
        await self._move_to(version)

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        """However many batches come together, it is a call or two: what a cache waits for is us."""
        marks: dict[bytes, int] = {}
        for changes in (changes for batch in batches for changes in batch.changes):
            template = self._keys.get(changes.relation.table)
            if template is None:
                continue
            if isinstance(changes, Truncation):
                await self.forget_below(changes.version)
                continue
            for key, version in changed_keys(changes, template):
                if len(marks) == _KEYS_PER_CALL and key not in marks:
                    await self._run(TOMBSTONES, list(marks), _marking(marks))
                    marks = {}
                marks[key] = version
        await self._move_to(batches[-1].position, marks)
        return ()

    async def _move_to(self, version: int, marks: dict[bytes, int] | None = None) -> None:
        """Mark the last entries and move the checkpoint, both or neither."""
        reached = version_text(version)
        keys = [CHECKPOINT_KEY, FLOOR_KEY, *(marks or ())]
        await self._run(_MARKS_AND_CHECKPOINT, keys, [self._left, reached, *_marking(marks or {})])
        self._left = reached

    async def _run(
        self, script: Script, keys: Sequence[bytes | str], arguments: Sequence[int | str]
    ) -> None:
        assert self._client is not None, "open() comes first"
        try:
            await script.run(self._client, keys, arguments)
        except RedisError as exc:
            raise explain(exc, self._endpoint) from exc


def _marking(marks: dict[bytes, int]) -> list[int | str]:
    """How long the marks live, and the version of each."""
    ttl_ms = int(TOMBSTONE_TTL.total_seconds() * 1000)
    texts = {version: version_text(version) for version in set(marks.values())}
    return [ttl_ms, *(texts[version] for version in marks.values())]


def changed_keys(changes: TableChanges, template: str) -> Iterator[tuple[bytes, int]]:
    """(cache key, version) of every row that was updated or deleted, in order. Raises Unnamed."""
    if changes.inserts_only:
        return
    name = _key_of(template, changes.relation)
    columns = [column for _, column, _, _ in Formatter().parse(template) if column]
    if UPDATE in changes.kinds and changes.relation.hides(columns):
        raise Unnamed(changes.relation.table, columns)
    for version, kind, row, old in changes.changes():
        if kind == INSERT:
            continue
        yield name(row), version
        if old is not None:
            yield name(old), version


def _key_of(template: str, relation: Relation) -> Callable[[Row], bytes]:
    """A function that fills `transaction:{network_id}:{hash}` from a row."""
    parts = [(text.encode(), column) for text, column, _, _ in Formatter().parse(template)]
    columns = [column for _, column in parts if column]
    places = relation.places(columns)
    pattern = b"%b".join([*(text.replace(b"%", b"%%") for text, column in parts if column), b""])
    pattern += b"".join(text.replace(b"%", b"%%") for text, column in parts if not column)

    def fill(row: Row) -> bytes:
        try:
            return pattern % tuple(row[place] for place in places)
        except TypeError:
            raise Unnamed(relation.table, columns) from None

    return fill
