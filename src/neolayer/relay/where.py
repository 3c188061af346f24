"""Where is it? Every copy of a row, in every engine, with the position each copy reflects.

The row is looked for in PostgreSQL by the columns that a person knows it by (`known_by` of its
class), as the operator or as one tenant may see it; from the row follow its places in every store
that the catalogue names. What PostgreSQL does not have is looked for in ClickHouse, which has
public data only: a copy of a row that is gone is worth knowing. Of archived rows the object that
has them is read and compared with its hash. Columns that no operator may read, and sealed texts,
are never shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any, Final, Protocol, runtime_checkable
from uuid import UUID

from neolayer.catalogue import CacheCopy, DataClass
from neolayer.engines.endpoints import Database, Endpoints
from neolayer.engines.postgres.queries import load_queries
from neolayer.engines.silence import LOOK_S, answers_within
from neolayer.errors import EngineUnavailable, InvalidInput, NeolayerError
from neolayer.events.segments import Segment, SegmentDamaged, SegmentMissing, SegmentStore
from neolayer.freshness import Store, position_of, stores_at
from neolayer.position import Position
from neolayer.relay.comparable import AGE, Comparable, Key, Shape, StoredRow
from neolayer.relay.comparing.redis import CachedRows
from neolayer.relay.comparing.stores import OPENERS, cached_rows
from neolayer.relay.digests import row_digest
from neolayer.relay.known_rows import (
    MOST,
    KnownRow,
    KnownTable,
    Read,
    described,
    known_rows,
    reading,
    require_network,
)

_SEARCH_S: Final = 30.0  # through rows by something else than their key, or for a whole object

_sql = load_queries(__name__, "where.sql")


class State(StrEnum):
    """What a place has of a row."""

    SAME = "same"  # as PostgreSQL
    BEHIND = "behind"  # not as PostgreSQL, and there is log that the store has not read
    DIFFERS = "differs"  # not as PostgreSQL, although the store has read everything
    MISSING = "missing"
    ARCHIVED = "archived"  # taken out of the table into the object store
    EXPIRED = "expired"  # older than what the store keeps, so it may be gone
    DELETED = "deleted"  # only the trace of a deletion
    NOT_CACHED = "not cached"
    MARKED = "marked"  # a tombstone: readers go to PostgreSQL
    UNKNOWN = "unknown"  # the engine does not answer


@dataclass(frozen=True, slots=True)
class Copy:
    """One place where a row is, or should be.

    `position` is that of the row there, `reached` what the store reflects, `lag_bytes` the log
    between that and now.
    """

    engine: str
    place: str
    state: State
    position: Position | None = None
    reached: Position | None = None
    lag_bytes: int | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Located:
    """One row: its key, what may be shown of it, and its places, PostgreSQL first."""

    name: str
    table: str
    key: dict[str, str | None]
    values: dict[str, str | None] = field(repr=False)
    copies: tuple[Copy, ...]


@runtime_checkable
class _Findable(Protocol):
    async def find(self, table: str, column: str, value: str, limit: int) -> list[Key]: ...


def class_of(kind: str, classes: Collection[DataClass]) -> DataClass:
    """The class of that name, in the plural, the singular, or as its table.

    Raises InvalidInput naming all kinds.
    """
    wanted = kind.lower().replace("-", "_")
    for one in classes:
        if wanted in (one.name, _singular(one.name), one.table):
            return one
    for one in classes:  # a contract is a smart_contract
        if _singular(one.name).endswith(f"_{wanted}"):
            return one
    raise InvalidInput(
        f"there is no kind {kind!r}", hint=f"one of: {', '.join(one.name for one in classes)}"
    )


def _singular(name: str) -> str:
    return f"{name[:-3]}y" if name.endswith("ies") else name.removesuffix("s")


async def where(
    at: Endpoints,
    one: DataClass,
    value: str,
    *,
    tenant: UUID | None = None,
    network: str | None = None,
) -> list[Located]:
    """The rows that a person means, at most twenty, each with all its places; none: an empty list.

    With `tenant` only what that tenant may see. Raises InvalidInput where there is no such network,
    or the class is of none, and EngineUnavailable where PostgreSQL is away;
    another engine that is away is a copy of state unknown.
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"{value!r} is not text", hint="it has half of a character") from None
    async with reading(at, Database(one.database), tenant) as read, _open(at, one) as places:
        table = await described(read, one)
        if network is not None:
            await require_network(read, table, network)
        rows = await known_rows(read, table, value, network)
        ((version,),) = await read(_sql.log_end, None)
        end = Position.from_version(version, one.database)
        found = [await _located(table, row, places, end) for row in rows]
        if not rows and one.archived_in is not None:
            found = [row async for row in _archived(read, at, table, value, end)]
        if not rows and one.tenant_key is None:
            found = [row async for row in _orphans(table, value, places, end)]
        return found


@dataclass(frozen=True, slots=True)
class _Places:
    """The opened stores that have copies of a class, and what each reflects; `away` are those that
    did not say, and why: they are asked for nothing more."""

    rows: tuple[Comparable, ...]
    cache: CachedRows | None
    reached: dict[str, Position | None]
    away: dict[str, EngineUnavailable]


@asynccontextmanager
async def _open(at: Endpoints, one: DataClass) -> AsyncGenerator[_Places]:
    there = stores_at(at)
    opened = {store: opener(at, [one]) for store, opener in OPENERS.items() if store in there}
    has_cache = any(isinstance(copy, CacheCopy) for copy in one.copies)
    cache = cached_rows(at, [one]) if has_cache else None
    rows = tuple(rows for rows in opened.values() if one.table in rows.tables)
    names = [*(rows.name for rows in rows), *(["redis"] if cache else [])]
    try:
        found = await asyncio.gather(*(_reached(Store(name), at, one.database) for name in names))
        reached = {name: position for name, (position, _) in zip(names, found, strict=True)}
        away = {name: why for name, (_, why) in zip(names, found, strict=True) if why is not None}
        yield _Places(rows, cache, reached, away)
    finally:
        for each in (*opened.values(), *([cache] if cache else [])):
            await each.close()


async def _reached(
    store: Store, at: Endpoints, database: str
) -> tuple[Position | None, EngineUnavailable | None]:
    try:
        return await position_of(store, at, database), None
    except EngineUnavailable as exc:
        return None, exc
    except NeolayerError:  # its copies say so themselves
        return None, None


async def _located(table: KnownTable, row: KnownRow, places: _Places, end: Position) -> Located:
    copies = [Copy("postgres", f"{end.database}.{row.part}", State.SAME, end, end, 0)]
    for rows in places.rows:
        look = partial(_row_copy, table, row, rows, places, end)
        copies.append(await _guarded(look, rows.name, places))
    if places.cache is not None:
        look = partial(_cached_copy, table, row, places.cache, places, end)
        copies.append(await _guarded(look, places.cache.name, places))
    key = {name: row.texts.get(name) for name in table.key}
    return Located(table.one.name, table.one.table, key, _shown(table, row), tuple(copies))


async def _guarded(look: Callable[[], Awaitable[Copy]], engine: str, places: _Places) -> Copy:
    """An engine that is away is said so, beside what the others have."""
    try:
        async with _answering(engine, places):
            return await look()
    except NeolayerError as exc:
        return Copy(engine, "", State.UNKNOWN, None, places.reached[engine], None, exc.message)


@asynccontextmanager
async def _answering(engine: str, places: _Places, seconds: float = LOOK_S) -> AsyncGenerator[None]:
    """Raises EngineUnavailable where it is away, or the block takes longer."""
    if (why := places.away.get(engine)) is not None:
        raise why
    async with answers_within(engine, seconds):
        yield


def _shown(table: KnownTable, row: KnownRow) -> dict[str, str | None]:
    sealed = {one.column for one in table.one.sealed_fields}
    return {
        name: "***" if name in sealed and text is not None else text
        for name, text in row.texts.items()
    }


async def _row_copy(
    table: KnownTable, row: KnownRow, rows: Comparable, places: _Places, end: Position
) -> Copy:
    shape = rows.shape(table.one.table)
    key = tuple(row.texts[name] or "" for name in shape.key)
    stored = await rows.entry(table.one.table, key)
    reached = places.reached[rows.name]
    place = f"{table.one.table.partition('.')[2]} {' '.join(key)}"
    lag = _lag(reached, end)
    if stored is None:
        state = State.EXPIRED if _is_expired(row, shape) else State.MISSING
        return Copy(rows.name, place, state, None, reached, lag)
    position = Position.from_version(stored.version, end.database)
    if stored.deleted:
        state = State.BEHIND if lag else State.DELETED
    elif _digest_of(stored, shape.columns) == _digest(row.texts, shape.columns):
        state = State.SAME
    else:
        state = State.BEHIND if lag else State.DIFFERS
    return Copy(rows.name, place, state, position, reached, lag)


def _is_expired(row: KnownRow, shape: Shape) -> bool:
    created = row.typed.get(AGE)
    return shape.since is not None and created is not None and created < shape.since


async def _cached_copy(
    table: KnownTable, row: KnownRow, cache: CachedRows, places: _Places, end: Position
) -> Copy:
    place, cached, is_marked = await cache.of_row(table.one.table, row.texts)
    reached = places.reached[cache.name]
    lag = _lag(reached, end)
    if cached is None:
        state = State.MARKED if is_marked else State.NOT_CACHED
        return Copy(cache.name, place, state, None, reached, lag)
    if cached.foreign is not None:
        detail = f"{cached.foreign} lies there, which nobody believes: readers go to PostgreSQL"
        return Copy(cache.name, place, State.DIFFERS, None, reached, lag, detail)
    position = Position.from_version(cached.version, end.database)
    if cache.is_equal(table.one.table, cached, row.typed):
        return Copy(cache.name, place, State.SAME, position, reached, lag)
    state = State.BEHIND if lag else State.DIFFERS
    return Copy(cache.name, place, state, position, reached, lag)


async def _orphans(
    table: KnownTable, value: str, places: _Places, end: Position
) -> AsyncGenerator[Located]:
    """Copies of rows that PostgreSQL has not, and the stores that may have some."""
    text = value.lower() if value[:2].lower() == "0x" else value
    absent = Copy("postgres", f"{end.database}.{table.one.table}", State.MISSING, end, end)
    for rows, names in _searched(table, places, text):
        try:
            async with _answering(rows.name, places, _SEARCH_S):
                found = [one for name in names for one in await _found(rows, table, name, text)]
        except NeolayerError as exc:
            reached = places.reached[rows.name]
            unknown = Copy(rows.name, "", State.UNKNOWN, None, reached, None, exc.message)
            yield Located(table.one.name, table.one.table, {names[0]: text}, {}, (absent, unknown))
            continue
        for stored in found:
            copy = _orphan(table, rows.name, stored, places, end)
            key = dict(zip(rows.shape(table.one.table).key, stored.key, strict=True))
            yield Located(table.one.name, table.one.table, dict(key), {}, (absent, copy))


async def _found(rows: Comparable, table: KnownTable, name: str, text: str) -> list[StoredRow]:
    """The rows of a store that have this value."""
    assert isinstance(rows, _Findable), "only those are searched"
    keys = await rows.find(table.one.table, name, text, MOST)
    found = [await rows.entry(table.one.table, key) for key in keys]
    return [stored for stored in found if stored is not None]


def _orphan(
    table: KnownTable, engine: str, stored: StoredRow, places: _Places, end: Position
) -> Copy:
    reached = places.reached[engine]
    lag = _lag(reached, end)
    place = f"{table.one.table.partition('.')[2]} {' '.join(stored.key)}"
    state = State.BEHIND if lag else State.DIFFERS
    version = Position.from_version(stored.version, end.database)
    return Copy(engine, place, state, version, reached, lag)


async def _archived(
    read: Read, at: Endpoints, table: KnownTable, value: str, end: Position
) -> AsyncGenerator[Located]:
    """Streams that went to the object store."""
    if not any(table.fits(name, value) for name in table.one.known_by):
        return
    store = SegmentStore(at.objects)
    for tenant, stream, version, *where in await read(
        _sql.archived_streams, {"id": value, "most": MOST}
    ):
        gone = Copy("postgres", f"{end.database}.{table.one.table}", State.ARCHIVED, end, end)
        key = {"tenant_id": tenant, "aggregate_id": stream}
        copy = await _segment_copy(store, Segment(*where), version)
        yield Located(table.one.name, table.one.table, key, {}, (gone, copy))


async def _segment_copy(store: SegmentStore, segment: Segment, events: int) -> Copy:
    state, detail = State.SAME, f"all {events} events of the stream"
    try:
        async with answers_within("objects", _SEARCH_S):
            await store.lines(segment, fresh=True)
    except NeolayerError as exc:
        detail = exc.message
        match exc:
            case SegmentMissing():
                state = State.MISSING
            case SegmentDamaged():
                state = State.DIFFERS
            case _:
                state = State.UNKNOWN
    return Copy("objects", segment.key, state, detail=detail)


def _searched(
    table: KnownTable, places: _Places, text: str
) -> Iterator[tuple[Comparable, list[str]]]:
    """The stores that can be searched, and the columns whose type can have such a value."""
    for rows in places.rows:
        copied = rows.shape(table.one.table).columns
        names = [name for name in table.one.known_by if name in copied and table.fits(name, text)]
        if isinstance(rows, _Findable) and names:
            yield rows, names


def _digest_of(stored: StoredRow, columns: Sequence[str]) -> int:
    """Of a store that writes values in another way than PostgreSQL, what the sink left with it."""
    return _digest(stored.values, columns) if stored.digest is None else stored.digest


def _digest(values: Any, columns: Sequence[str]) -> int:
    texts = (values.get(name) for name in columns)
    return row_digest(None if text is None else text.encode() for text in texts)


def _lag(reached: Position | None, end: Position) -> int | None:
    return None if reached is None else max(0, end.lsn - reached.lsn)
