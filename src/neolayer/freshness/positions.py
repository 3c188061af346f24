"""Which position a derived store reflects, and waiting until it reflects one.

The relay leaves each store's checkpoint in the store itself; these functions only read it. Nothing
here needs the relay to run: a store that stands still is simply never fresh enough. What a store
reflects is believed only where PostgreSQL was not put back (`put_back.py`): one look at the server
more, when the stores are there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Generic, TypeVar, cast

from redis.exceptions import RedisError

from neolayer.engines.endpoints import Endpoints
from neolayer.engines.redis import client as redis
from neolayer.engines.silence import LOOK_S, answers_within
from neolayer.errors import EngineUnavailable, InvalidInput, NeolayerError, NotSupported
from neolayer.freshness.cache_versions import CHECKPOINT_KEY, read_version
from neolayer.freshness.put_back import require_not_ahead, require_not_refused
from neolayer.freshness.streams import Stream, version_reader
from neolayer.position import Position, Positions

T = TypeVar("T")
Reader = Callable[[], Awaitable[Position | None]]

_POLL_S = 0.05
_NO_NOTES: Mapping[str, Path] = MappingProxyType({})
_CORE = "neolayer"


class Store(StrEnum):
    """The stores fed from the commit log that are read; see `Stream` for what goes out."""

    CLICKHOUSE = "clickhouse"
    REDIS = "redis"
    MONGODB = "mongodb"
    ELASTICSEARCH = "elasticsearch"


ALL_STORES = tuple(Store)
# Which databases' logs a store is fed from.
FED_FROM: dict[Store | Stream, tuple[str, ...]] = {
    Store.CLICKHOUSE: ("neolayer",),
    Store.REDIS: ("neolayer",),
    Store.MONGODB: ("neolayer",),
    Store.ELASTICSEARCH: ("neolayer",),
    **dict.fromkeys(Stream, ("neolayer", "event_store")),
}


def checkpoint_of(store: Store | Stream, database: str) -> str:
    """The name of a store's checkpoint for what it is fed from one database."""
    return str(store) if database == _CORE else f"{store}:{database}"


def stores_at(endpoints: Endpoints) -> tuple[Store, ...]:
    """The stores for which there is a server."""
    absent = {
        store
        for store, at in (
            (Store.MONGODB, endpoints.mongodb),
            (Store.ELASTICSEARCH, endpoints.elasticsearch),
        )
        if at is None
    }
    return tuple(store for store in ALL_STORES if store not in absent)


@dataclass(frozen=True, slots=True)
class AsOf(Generic[T]):
    """What a store answered, and the position that the answer reflects at least.

    None: the store does not know of any.
    """

    value: T
    position: Position | None


class NotFresh(NeolayerError):
    """A store does not reflect the position yet."""

    exit_code = 4

    def __init__(self, wanted: Position, reached: Mapping[Store | Stream, Position | None]) -> None:
        states = (f"{store} is {_distance(wanted, at)}" for store, at in reached.items())
        super().__init__(
            f"not everywhere as of {wanted} yet: {', '.join(states)}",
            hint="see the relay's state: neolayer status",
        )
        self.wanted = wanted
        self.reached = dict(reached)


async def position_of(
    store: Store | Stream, endpoints: Endpoints, database: str = _CORE
) -> Position | None:
    """The position of a database that a store reflects now, or None.

    Raises EngineUnavailable, also where it says nothing for `LOOK_S`.
    """
    async with answers_within(str(store), LOOK_S), _reading(store, endpoints, database) as read:
        return await read()


async def wait_for(
    position: Position | Positions,
    endpoints: Endpoints,
    *,
    stores: Iterable[Store | Stream] | None = None,
    timeout: timedelta,  # noqa: ASYNC109  over all stores, and it says how far each is
    notes: Mapping[str, Path] = _NO_NOTES,
) -> dict[Store | Stream, Position]:
    """Return when every store (None: all that are read) reflects `position`, with their positions.

    `notes` are where a relay on this machine notes, by database, which server it read.

    Of several databases' positions a store waits for those that it is fed from; a store that is
    fed from none of them is left out. Raises NotFresh at the time limit, saying how far each store
    is, PutBack where what a store reflects is not what this server writes, EngineUnavailable, and
    InvalidInput where it is given no position. A store that says nothing is waited for until the
    limit, and for `LOOK_S` at least.
    """
    deadline = asyncio.get_running_loop().time() + timeout.total_seconds()
    wanted = _each_of(position)
    chosen: tuple[Store | Stream, ...]
    chosen = stores_at(endpoints) if stores is None else tuple(stores)
    reached: dict[Store | Stream, Position] = {}
    for one in wanted:
        fed = [store for store in chosen if one.database in FED_FROM[store]]
        if fed:
            require_not_refused(one, notes)
        there: dict[str, Position] = {}
        for store in fed:
            found = await _wait_until(store, one, endpoints, deadline)
            if found is None:
                raise NotFresh(one, await _how_far(fed, endpoints, one.database))
            reached[store] = there[store] = found
        await require_not_ahead(there, endpoints)
    return reached


def _each_of(position: object) -> tuple[Position, ...]:
    if isinstance(position, Positions):
        return position.each
    if isinstance(position, Position):
        return (position,)
    raise InvalidInput(
        f"a position is a Position or Positions, as a write returns it, not {repr(position)[:60]}",
        hint="what was kept as text is read by neolayer.position.Positions.parse",
    )


async def _how_far(
    stores: Sequence[Store | Stream], endpoints: Endpoints, database: str
) -> dict[Store | Stream, Position | None]:
    """The position of each; None too where one says nothing."""
    found = await asyncio.gather(
        *(position_of(store, endpoints, database) for store in stores), return_exceptions=True
    )
    reached: dict[Store | Stream, Position | None] = {}
    for store, at in zip(stores, found, strict=True):
        if isinstance(at, BaseException) and not isinstance(at, EngineUnavailable):
            raise at
        reached[store] = None if isinstance(at, BaseException) else at
    return reached


async def _wait_until(
    store: Store | Stream, wanted: Position, endpoints: Endpoints, deadline: float
) -> Position | None:
    clock = asyncio.get_running_loop().time
    delay = _POLL_S
    with contextlib.suppress(TimeoutError):
        async with (
            asyncio.timeout_at(max(deadline, clock() + LOOK_S)),
            _reading(store, endpoints, wanted.database) as read,
        ):
            while True:
                at = await read()
                if at is not None and at >= wanted:
                    return at
                left = deadline - clock()
                if left <= 0:
                    return None
                await asyncio.sleep(min(delay, left))
                delay = min(delay * 1.5, 1.0)
    return None


def _positions_of(read_version: Callable[[], Awaitable[int | None]], database: str) -> Reader:
    async def read() -> Position | None:
        version = await read_version()
        return Position.from_version(version, database) if version else None

    return read


@asynccontextmanager
async def _redis_reader(endpoints: Endpoints, database: str) -> AsyncGenerator[Reader]:
    client = redis.connect(endpoints.redis)
    key = CHECKPOINT_KEY if database == _CORE else f"{CHECKPOINT_KEY}:{database}"

    async def read() -> Position | None:
        try:
            # MGET gives nothing, where GET fails, for a key of another type: the relay mends that.
            (stored,) = cast("list[bytes | None]", await client.mget(key))
        except RedisError as exc:
            raise redis.explain(exc, endpoints.redis) from exc
        version = read_version(stored)
        return Position.from_version(version, database) if version else None

    try:
        yield read
    finally:
        await client.aclose()


@asynccontextmanager
async def _clickhouse_reader(endpoints: Endpoints, database: str) -> AsyncGenerator[Reader]:
    from neolayer.engines.clickhouse import checkpoint  # its driver is slow to load

    sink = checkpoint_of(Store.CLICKHOUSE, database)
    async with checkpoint.reading(endpoints.clickhouse, sink) as read_version:
        yield _positions_of(read_version, database)


@asynccontextmanager
async def _mongodb_reader(endpoints: Endpoints, database: str) -> AsyncGenerator[Reader]:
    at = endpoints.mongodb
    if at is None:
        raise NotSupported("mongodb", "is not configured", hint="set mongodb.dsn")
    from neolayer.engines.mongodb import checkpoint  # its driver is an extra

    sink = checkpoint_of(Store.MONGODB, database)
    async with checkpoint.reading(at, sink) as read_version:
        yield _positions_of(read_version, database)


@asynccontextmanager
async def _elasticsearch_reader(endpoints: Endpoints, database: str) -> AsyncGenerator[Reader]:
    at = endpoints.elasticsearch
    if at is None:
        raise NotSupported("elasticsearch", "is not configured", hint="set elasticsearch.dsn")
    from neolayer.engines.elasticsearch import checkpoint  # its client is slow to load

    sink = checkpoint_of(Store.ELASTICSEARCH, database)
    async with checkpoint.reading(at, sink) as read_version:
        yield _positions_of(read_version, database)


@asynccontextmanager
async def _reading(
    store: Store | Stream, endpoints: Endpoints, database: str
) -> AsyncGenerator[Reader]:
    if isinstance(store, Store):
        async with _READERS[store](endpoints, database) as read:
            yield read
        return
    async with version_reader(store, endpoints, checkpoint_of(store, database)) as read_version:
        yield _positions_of(read_version, database)


_READERS = {
    Store.CLICKHOUSE: _clickhouse_reader,
    Store.REDIS: _redis_reader,
    Store.MONGODB: _mongodb_reader,
    Store.ELASTICSEARCH: _elasticsearch_reader,
}


def _distance(wanted: Position, at: Position | None) -> str:
    if at is None:
        return "at nothing yet"
    if at.epoch != wanted.epoch:
        return f"at {at}, of another epoch"
    if at >= wanted:
        return "there"
    return f"at {at}, {wanted.lsn - at.lsn} bytes of log behind"
