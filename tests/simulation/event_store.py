"""An event store in memory, as far as a projector needs it: locks, savepoints, lost connections.

What stands in it changes only by a commit. A connection may be lost at any statement, and at COMMIT
before or after the server has done it, which the client cannot tell. The queries are the package's
own and are told apart by their text.
"""

from __future__ import annotations

import asyncio
import json
import random
from bisect import bisect_left, bisect_right, insort
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg

from neolayer.events.projections import pages, projector
from neolayer.events.projections.pages import Target

LARGEST = 10**9  # what a column of this store holds
Place = tuple[int, int]


@dataclass(frozen=True)
class StoredEvent:
    """A row of `events`."""

    place: Place
    tenant: UUID
    event_id: UUID
    stream: UUID
    version: int
    kind: str
    data: str
    schema_version: int


@dataclass
class ReadModel:
    """A projection's state, table and what it has put aside; copied by whoever changes it."""

    mark: str
    status: str = "active"
    place: Place = (0, 0)
    rows: dict[tuple[str, ...], str] = field(default_factory=dict)
    parked: dict[tuple[UUID, UUID], tuple[int, UUID]] = field(default_factory=dict)

    def copy(self) -> ReadModel:
        return replace(self, rows=dict(self.rows), parked=dict(self.parked))


@dataclass
class EventStore:
    """What is committed. `running` are the transactions of writers that have a number."""

    dice: random.Random
    events: list[StoredEvent] = field(default_factory=list)
    running: set[int] = field(default_factory=set)
    models: dict[str, ReadModel] = field(default_factory=dict)
    locks: dict[str, Connection] = field(default_factory=dict)
    statements: dict[int, tuple[str, str]] = field(default_factory=dict)
    faults: float = 0.0
    transactions: int = 0
    lost: int = 0

    def begin(self) -> int:
        self.transactions += 1
        self.running.add(self.transactions)
        return self.transactions

    def end(self, transaction: int, events: Sequence[StoredEvent] = ()) -> None:
        self.running.discard(transaction)
        for event in events:
            insort(self.events, event, key=lambda event: event.place)

    def settled(self, after: Place) -> list[StoredEvent]:
        """Events behind a place, below the oldest running transaction."""
        horizon = min(self.running, default=self.transactions + 1)
        first = bisect_right(self.events, after, key=lambda event: event.place)
        last = bisect_left(self.events, (horizon, 0), key=lambda event: event.place)
        return self.events[first:last]

    def know(self, target: Target) -> None:
        """The statements of a projection's table."""
        for what in ("read", "put", "remove"):
            self.statements[id(getattr(target.at, what))] = (target.name, what)


class Cursor:
    def __init__(self, rows: list[tuple[Any, ...]]) -> None:
        self._rows = rows

    async def fetchone(self) -> tuple[Any, ...] | None:
        return self._rows[0] if self._rows else None

    async def fetchall(self) -> list[tuple[Any, ...]]:
        return self._rows


class Connection:
    """One session."""

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self.closed = False
        self._work: dict[str, ReadModel] | None = None
        self._failed = False

    async def close(self) -> None:
        self.closed = True
        self._roll_back()

    def _roll_back(self) -> None:
        self._work, self._failed = None, False
        mine = [name for name, holder in self.store.locks.items() if holder is self]
        for name in mine:
            del self.store.locks[name]

    async def _step(self) -> None:
        """Time passes, and the connection may be lost."""
        await asyncio.sleep(self.store.dice.choice((0.0, 0.001, 0.02)))
        if self.closed:
            raise psycopg.OperationalError("the connection is closed")
        if self.store.dice.random() < self.store.faults:
            self.store.lost += 1
            self.closed = True
            self._roll_back()
            raise psycopg.OperationalError("the connection was lost")

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[None]:
        if self._work is not None:
            before = {name: model.copy() for name, model in self._work.items()}
            try:
                yield
            except BaseException:
                if self._work is not None:
                    self._work, self._failed = before, False
                raise
            return
        self._work = {}
        try:
            yield
            await self._step()
            self._commit()
            await self._step()  # lost now, it is committed all the same
        finally:
            self._roll_back()

    def _commit(self) -> None:
        if self._failed or self._work is None:
            raise psycopg.errors.InFailedSqlTransaction("a statement had failed")
        for name, model in self._work.items():
            before = self.store.models[name]
            assert self.store.locks.get(name) is self, "written without its lock"
            assert model.place >= before.place, "a checkpoint went back"
            assert before.parked.items() <= model.parked.items(), "a parked event is gone"
        self.store.models |= self._work
        self._work = None

    async def execute(self, query: Any, params: dict[str, Any]) -> Cursor:
        await self._step()
        if self._failed:
            raise psycopg.errors.InFailedSqlTransaction("a statement had failed")
        try:
            return Cursor(self._answer(query, params))
        except psycopg.Error:
            self._failed = self._work is not None
            raise

    def _answer(self, query: Any, params: dict[str, Any]) -> list[tuple[Any, ...]]:
        if id(query) in self.store.statements:
            name, what = self.store.statements[id(query)]
            return self._table(self._model(name), what, params)
        match query:
            case projector.QUERIES.behind:
                models = self.store.models
                names = [n for n in params["names"] if models[n].status == "active"]
                return [(n,) for n in names if self.store.settled(models[n].place)]
            case projector.QUERIES.checkpoint:
                return self._checkpoint(params["name"])
            case pages.QUERIES.page:
                return self._page(params)
            case pages.QUERIES.put_aside:
                parked = self._model(params["name"]).parked
                asked = zip(params["tenants"], params["streams"], strict=True)
                return [(*s, parked[s][1], False) for s in asked if s in parked]
            case pages.QUERIES.put_aside_events:
                self._park(params)
            case pages.QUERIES.save:
                place = int(params["transaction"]), params["position"]
                self._model(params["name"]).place = place
            case _:
                raise AssertionError(f"not known: {query}")
        return []

    def _model(self, name: str) -> ReadModel:
        assert self._work is not None
        if name not in self._work:
            self._work[name] = self.store.models[name].copy()
        return self._work[name]

    def _checkpoint(self, name: str) -> list[tuple[Any, ...]]:
        if self.store.locks.setdefault(name, self) is not self:
            return []
        model = self._model(name)
        return [(model.status, model.mark, str(model.place[0]), model.place[1])]

    def _page(self, params: dict[str, Any]) -> list[tuple[Any, ...]]:
        after = int(params["transaction"]), params["position"]
        has_parked = bool(self._model(params["name"]).parked)
        at = datetime(2026, 1, 1, tzinfo=UTC)
        return [
            (
                str(e.place[0]),
                e.place[1],
                e.tenant,
                e.event_id,
                e.stream,
                "account",
                e.kind,
                e.version,
                e.schema_version,
                at + timedelta(seconds=e.place[0]),
                None,
                e.data if e.kind in params["types"] else None,
                has_parked,
            )
            for e in self.store.settled(after)[: params["limit"]]
        ]

    def _park(self, params: dict[str, Any]) -> None:
        parked = self._model(params["name"]).parked
        columns = ("tenants", "streams", "versions", "events")
        for tenant, stream, version, event in zip(*(params[c] for c in columns), strict=True):
            if (tenant, stream) in parked:
                raise psycopg.errors.UniqueViolation("a stream stands still once")
            parked[tenant, stream] = version, event

    def _table(self, model: ReadModel, what: str, params: dict[str, Any]) -> list[tuple[Any, ...]]:
        if what == "put":
            for row in json.loads(params["rows"]):
                if any(isinstance(v, int) and v > LARGEST for v in row.values()):
                    raise psycopg.errors.NumericValueOutOfRange("out of range")
                tenant = row.pop("tenant_id")
                model.rows[tenant, next(iter(row.values()))] = json.dumps(row)
            return []
        keys = [(key.pop("n"), tuple(key.values())) for key in json.loads(params["keys"])]
        if what == "read":
            return [(n, model.rows[key]) for n, key in keys if key in model.rows]
        for _, key in keys:
            del model.rows[key]
        return []
