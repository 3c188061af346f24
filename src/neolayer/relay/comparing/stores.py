"""Every store that can be compared, opened together, and all of their tables compared.

One line here for each engine.
"""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    Callable,
    Collection,
    Iterable,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial

from neolayer.catalogue import DataClass
from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.errors import NeolayerError, NotSupported, RelayError, SettingsError
from neolayer.freshness import Store, position_of, stores_at, wait_for
from neolayer.freshness.positions import FED_FROM
from neolayer.position import Position
from neolayer.relay.comparable import Comparable
from neolayer.relay.comparing.as_of import Reaches, SnapshotMaker
from neolayer.relay.comparing.caches import ComparedCache, reconcile_cache
from neolayer.relay.comparing.redis import CachedRows
from neolayer.relay.comparing.report import Progress, TableReport
from neolayer.relay.reconcile import Compared, reconcile_table
from neolayer.relay.snapshot import export_snapshot


def _clickhouse(at: Endpoints, classes: Iterable[DataClass]) -> Comparable:
    from neolayer.relay.comparing.clickhouse import ClickHouseRows

    return ClickHouseRows(at.clickhouse, classes)


def _mongodb(at: Endpoints, classes: Iterable[DataClass]) -> Comparable:
    from neolayer.relay.comparing.mongodb import MongoRows

    assert at.mongodb is not None, "only stores that are there are opened"
    return MongoRows(at.mongodb, classes)


def _elasticsearch(at: Endpoints, classes: Iterable[DataClass]) -> Comparable:
    from neolayer.relay.comparing.elasticsearch import ElasticsearchRows

    assert at.elasticsearch is not None, "only stores that are there are opened"
    return ElasticsearchRows(at.elasticsearch, classes)


def cached_rows(at: Endpoints, classes: Iterable[DataClass]) -> CachedRows:
    """The cached rows of these classes; to be closed."""
    return CachedRows(at.redis, classes)


OPENERS: dict[Store, Callable[[Endpoints, Iterable[DataClass]], Comparable]] = {
    Store.CLICKHOUSE: _clickhouse,
    Store.MONGODB: _mongodb,
    Store.ELASTICSEARCH: _elasticsearch,
}


@asynccontextmanager
async def open_cache(
    at: Endpoints, classes: Collection[DataClass], *, patience: timedelta
) -> AsyncGenerator[ComparedCache]:
    """The cache of these classes' rows, for the length of the block."""
    rows = cached_rows(at, classes)
    try:
        yield ComparedCache(rows, _reaching(at, Store.REDIS, patience))
    finally:
        await rows.close()


@asynccontextmanager
async def open_compared(
    at: Endpoints,
    classes: Collection[DataClass],
    *,
    stores: Collection[Store] | None = None,
    patience: timedelta,
) -> AsyncGenerator[list[Compared]]:
    """Every store of rows that holds copies of these classes, for the length of the block."""
    async with AsyncExitStack() as stack:
        opened: list[Compared] = []
        for store, opener in OPENERS.items():
            if store not in stores_at(at) or (stores is not None and store not in stores):
                continue
            rows = opener(at, classes)
            stack.push_async_callback(rows.close)
            if rows.tables:
                answers = partial(position_of, store, at)
                opened.append(Compared(rows, _reaching(at, store, patience), answers))
        yield opened


def _reaching(at: Endpoints, store: Store, patience: timedelta) -> Reaches:
    async def reaches(position: Position) -> None:
        if position.database not in FED_FROM[store]:
            raise RelayError(f"{store} is declared to hold copies of {position.database}, unfed")
        await wait_for(position, at, stores=[store], timeout=patience)

    return reaches


async def reconcile(
    at: Endpoints,
    classes: Collection[DataClass],
    *,
    stores: Collection[Store] | None = None,
    repair: bool = False,
    deep: bool = False,
    patience: timedelta,
    on_progress: Progress = lambda _: None,
) -> AsyncGenerator[TableReport]:
    """Compare the copies of these classes, table by table, each as of a position of its own.

    A table that cannot be compared keeps no other from it, nor a store another store: what was
    wrong is raised at the end.

    Raises SettingsError where a store is not configured, NotFresh where one does not get there
    within `patience`, EngineUnavailable where one says nothing, and what engines say.
    """
    for store in stores or ():
        if store not in stores_at(at):
            raise SettingsError(f"no {store} is configured")
    async with (
        open_compared(at, classes, stores=stores, patience=patience) as opened,
        open_cache(at, classes, patience=patience) as cache,
    ):
        asked = [*opened, cache] if stores is None or Store.REDIS in stores else opened
        failed: list[NeolayerError] = []
        given_up: list[Compared | ComparedCache] = []
        for one in classes:
            snapshots = _snapshots(at, Database(one.database))
            for store in asked:
                if one.table not in store.rows.tables or store in given_up:
                    continue
                if isinstance(store, ComparedCache):
                    comparing = partial(reconcile_cache, store)
                else:
                    comparing = partial(reconcile_table, store, deep=deep)
                try:
                    report = await comparing(
                        one.table, one.database, snapshots, repair=repair, on_progress=on_progress
                    )
                except NeolayerError as exc:
                    failed.append(exc)
                    if not isinstance(exc, RelayError | NotSupported):  # it is not about the table
                        given_up.append(store)
                else:
                    yield report
    if failed:
        raise _together(failed)


def _together(failed: Sequence[NeolayerError]) -> NeolayerError:
    """One error of all; the way out is that of the first."""
    messages = dict.fromkeys(one.message for one in failed)
    if len(messages) == 1:
        return failed[0]
    error = RelayError("; ".join(messages), hint=failed[0].hint)
    error.exit_code = max(one.exit_code for one in failed)
    return error


def _snapshots(at: Endpoints, database: Database) -> SnapshotMaker:
    dsn = at.cluster(database).dsn(Role.RELAY, database)
    return lambda: export_snapshot(dsn)
