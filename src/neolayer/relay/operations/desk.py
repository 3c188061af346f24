"""Where people ask and the relay looks: a few tables of the core database.

Whoever can reach that database can pause a sink or have a table rebuilt, from any machine; what was
asked for outlives both sides. Dead letters lie here too. They are bounded: the oldest are kept, for
they tell of the cause, and what finds no room is counted. Whoever has the most letters gives way to
others: a tenant's poison rows may use up its share of the room, and what nobody else needs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Final, LiteralString, Self

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Json

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.connections import Connection, connect, explain
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import NeolayerError, RelayError
from neolayer.relay.comparable import Bound, Key
from neolayer.relay.copying.progress import Range, Wanted
from neolayer.relay.operations.masks import Masks
from neolayer.relay.operations.shares import Shares
from neolayer.relay.sinks.sink import Rejected

LETTERS: Final = 10_000
_REPLAYED_AT_ONCE: Final = 500

_sql = load_queries(__name__, "queries.sql")


@dataclass(frozen=True, slots=True)
class Letter:
    """A change that a sink refused for ever. `row` is what it was sent, secrets masked."""

    sink: str
    table: str
    key: tuple[str | None, ...]
    database: str
    version: int
    deleted: bool
    cause: str
    row: dict[str, str | None]
    tenant: str | None
    tries: int
    parked_at: datetime


@dataclass(frozen=True, slots=True)
class Standing:
    """What is asked of a sink, how many letters it has, and for how many there was no room.

    `most_of` is the tenant that has the most letters, `most` their number.
    """

    sink: str
    paused_at: datetime | None
    unparked: int
    letters: int
    most_of: str | None
    most: int

    def alarms(self, log_bytes: int) -> Iterator[str]:
        """A sentence for each thing that needs a person; `log_bytes`: what a sink may miss."""
        if self.paused_at:
            yield (
                f"{self.sink} is paused since {self.paused_at:%Y-%m-%d %H:%M}: what it misses is"
                f" kept up to {log_bytes >> 20} MB, beyond that its tables are copied anew."
            )
        if self.letters:
            changes = f"{self.letters} change{'' if self.letters == 1 else 's'}"
            yield f"{self.sink} refused {changes}{self._whose}: neolayer relay letters {self.sink}"
        if self.unparked:
            yield (
                f"For {self.unparked} more of {self.sink} there was no room: mend the cause, then"
                f" rebuild."
            )

    @property
    def _whose(self) -> str:
        if self.most_of is None:
            return ""
        share = "all" if self.most == self.letters else f"{self.most}"
        return f" ({share} of tenant {self.most_of})"


@dataclass(frozen=True, slots=True)
class RebuildStatus:
    """How far a table's copy is: `requested`, `copying`, `done` or `failed`.

    `whole`: nobody asked for it, the relay copies all tables of the sink."""

    sink: str
    table: str
    whole: bool
    state: str
    error: str | None
    requested_at: datetime
    finished_at: datetime | None
    ranges: int
    ranges_done: int
    rows: int

    @property
    def ended(self) -> bool:
        return self.state in ("done", "failed")


class Desk:
    """The verbs, over one connection that is made when it is needed.

    Every failure is EngineUnavailable, or RelayError where the tables are not as they should be.
    """

    def __init__(self, dsn: str, *, masks: Masks | None = None, room: int = LETTERS) -> None:
        self._dsn = dsn
        self._masks = masks or Masks(())
        self._room = room
        self._connection: Connection | None = None
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    # Pauses

    async def pauses(self) -> frozenset[str]:
        """The sinks that are held."""
        return frozenset(row["sink"] for row in await self._rows(_sql.pauses))

    async def pause(self, sink: str) -> None:
        await self._rows(_sql.pause, {"sink": sink})

    async def resume(self, sink: str) -> bool:
        """Whether it was held."""
        return bool(await self._rows(_sql.resume, {"sink": sink}))

    async def standings(self) -> list[Standing]:
        """Every sink of which something is asked, or that refused something."""
        return [Standing(**row) for row in await self._rows(_sql.standing)]

    # Letters

    async def park(self, sink: str, database: str, rejected: Sequence[Rejected]) -> None:
        """Keep these, all or none: whoever passes them by has them here first."""
        if not rejected:
            return
        async with self._transaction() as connection:
            await connection.execute(_sql.lock_letters)
            kept, shares = await self._kept(connection, sink, rejected)
            async with connection.cursor() as cursor:
                await cursor.executemany(
                    _sql.park, [self._values(sink, database, one) for one in kept]
                )
            for tenant, letters in shares.evicted.items():
                values = {"sink": sink, "tenant": tenant, "letters": letters}
                await connection.execute(_sql.take_away_newest, values)
            if shares.missing:
                unparked = {"sink": sink, "count": shares.missing}
                await connection.execute(_sql.count_unparked, unparked)

    async def _kept(
        self, connection: Connection, sink: str, rejected: Sequence[Rejected]
    ) -> tuple[list[Rejected], Shares]:
        """Those that are kept, and what that means for others; one over an older one of its key
        needs no room."""
        held = await (await connection.execute(_sql.held_letters, {"sink": sink})).fetchall()
        asked = [{"table_name": one.table, "key": one.key} for one in rejected]
        values = {"sink": sink, "asked": Json(asked)}
        found = await (await connection.execute(_sql.known_letters, values)).fetchall()
        shares, known = Shares(self._room, dict(held)), {(table, *key) for table, key in found}
        kept = list[Rejected]()
        for one in rejected:
            at = (one.table, *one.key)
            if at in known or shares.let_in(self._masks.tenant_of(one)):
                known.add(at)
                kept.append(one)
        return kept, shares

    def _values(self, sink: str, database: str, one: Rejected) -> dict[str, Any]:
        masked = self._masks.of(one)
        return {
            "sink": sink,
            "table": one.table,
            "key": list(one.key),
            "database": database,
            "version": one.version,
            "deleted": one.deleted,
            "cause": _storable(masked.cause)[:1000],
            "row": Json({name: _storable(text) for name, text in masked.row.items()}),
            "tenant": self._masks.tenant_of(one),
        }

    async def letters(self, sink: str, *, limit: int = 1_000) -> list[Letter]:
        """What a sink refused, oldest first."""
        rows = await self._rows(_sql.letters, {"sink": sink, "limit": limit})
        return [Letter(key=tuple(row.pop("key")), **row) for row in rows]

    async def request_replay(
        self, sink: str, *, table: str | None = None, key: Key | None = None
    ) -> int:
        """Ask that letters be sent again; how many there are."""
        wanted = {"sink": sink, "table": table, "key": None if key is None else list(key)}
        return len(await self._rows(_sql.request_replay, wanted))

    async def still_requested(self, sink: str) -> int:
        """How many of them have still to be sent."""
        (row,) = await self._rows(_sql.still_requested, {"sink": sink})
        return int(row["count"])

    async def requested_letters(
        self, sinks: Collection[str]
    ) -> dict[tuple[str, str], list[tuple[str | None, ...]]]:
        """The next keys to send again, by sink and table: some of each."""
        values = {"sinks": list(sinks), "limit": _REPLAYED_AT_ONCE}
        found: dict[tuple[str, str], list[tuple[str | None, ...]]] = {}
        for row in await self._rows(_sql.requested_letters, values):
            found.setdefault((row["sink"], row["table_name"]), []).append(tuple(row["key"]))
        return found

    async def end_replay(self, sink: str, table: str) -> None:
        """Nothing of that table can be sent again: its letters stay, and are asked for no more."""
        await self._rows(_sql.end_replay, {"sink": sink, "table": table})

    async def remove_letters(
        self, sink: str, table: str, keys: Iterable[tuple[str | None, ...]], *, version: int
    ) -> None:
        """The sink has these rows as of that version."""
        async with self._transaction() as connection:
            for key in keys:
                values = {"sink": sink, "table": table, "key": list(key), "version": version}
                await connection.execute(_sql.remove_letter, values)

    # Rebuilds

    async def request_rebuild(self, sink: str, table: str) -> bool:
        """Whether it is a new one; one that is under way goes on."""
        named = _named(Wanted(sink, table, None))
        async with self._transaction() as connection:
            found = await connection.execute(_sql.request_rebuild, named)
            if await found.fetchone() is None:
                return False
            await connection.execute(_sql.forget_ranges, named)
            return True

    async def wanted_rebuilds(self, sinks: Collection[str]) -> list[Wanted]:
        """Those that have not ended, oldest first."""
        return _wanted(await self._rows(_sql.wanted_rebuilds, {"sinks": list(sinks)}))

    async def begin_table(
        self, wanted: Wanted, version: int, bounds: Iterable[tuple[Bound, Bound]]
    ) -> None:
        """Its shape, its version and its parts, at once."""
        named = _named(wanted)
        async with self._transaction() as connection:
            await connection.execute(_sql.forget_ranges, named)
            for number, (low, high) in enumerate(bounds):
                ends = {"low": _listed(low), "high": _listed(high)}
                await connection.execute(_sql.add_range, {**named, "number": number, **ends})
            begun = {"version": version, "shape": wanted.shape}
            await connection.execute(_sql.begin_table, {**named, **begun})

    async def ranges_left(self, wanted: Wanted) -> list[Range]:
        """The parts that are not in the sink yet."""
        named = _named(wanted)
        return [
            Range(row["number"], _bound(row["low"]), _bound(row["high"]))
            for row in await self._rows(_sql.ranges_left, named)
        ]

    async def range_done(self, wanted: Wanted, number: int, *, rows: int) -> None:
        await self._rows(_sql.range_done, {**_named(wanted), "number": number, "rows": rows})

    async def end_rebuild(self, wanted: Wanted, error: str | None = None) -> None:
        """It is done; with an error, it never will be."""
        state = "failed" if error else "done"
        await self._rows(_sql.end_rebuild, {**_named(wanted), "state": state, "error": error})

    async def rebuilds(
        self, sink: str | None = None, table: str | None = None
    ) -> list[RebuildStatus]:
        """Every rebuild that was asked for and every copy under way, or the rebuild of one table
        in one sink."""
        rows = await self._rows(_sql.rebuilds, {"sink": sink, "table": table})
        return [RebuildStatus(**row) for row in rows]

    # Copies of all tables

    async def begin_copy(self, sink: str, tables: Collection[str]) -> None:
        """What was known of an earlier one is forgotten."""
        async with self._transaction() as connection:
            await connection.execute(_sql.forget_copy, {"sink": sink, "version": None})
            wanted = {"sink": sink, "tables": sorted(tables)}
            await connection.execute(_sql.begin_copy, wanted)

    async def copy_of(self, sink: str) -> list[Wanted]:
        """The tables of the one that has not ended."""
        return _wanted(await self._rows(_sql.copy_of, {"sink": sink}))

    async def end_copy(self, sink: str, version: int) -> None:
        """The one that began with that version is complete."""
        await self._rows(_sql.forget_copy, {"sink": sink, "version": version})

    # The connection

    async def _rows(
        self, query: LiteralString, values: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        async with (
            self._connected() as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            await cursor.execute(query, values)
            return await cursor.fetchall() if cursor.description else []

    @asynccontextmanager
    async def _transaction(self) -> AsyncGenerator[Connection]:
        async with self._connected() as connection, connection.transaction():
            yield connection

    @asynccontextmanager
    async def _connected(self) -> AsyncGenerator[Connection]:
        """The connection, for one at a time; one that met an error is not used again."""
        async with self._turn:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = await connect(
                        self._dsn, autocommit=True, application_name="relay operations"
                    )
                    # Operators only read unless told otherwise; grants say what they may write.
                    await self._connection.execute("SET default_transaction_read_only = off")
                yield self._connection
            except psycopg.Error as exc:
                await self.close()
                raise _explained(exc, self._dsn) from exc
            except asyncio.CancelledError:
                await self.close()
                raise


def desk_of(at: Endpoints, role: Role, *, masks: Masks | None = None) -> Desk:
    """The desk of a layer; every sink's is in the core database."""
    return Desk(at.cluster(Database.CORE).dsn(role, Database.CORE), masks=masks)


def _explained(exc: psycopg.Error, dsn: str) -> NeolayerError:
    if isinstance(exc, psycopg.OperationalError):
        return explain(exc, dsn)
    if isinstance(exc, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn):
        return RelayError("the relay's tables are not there", hint="neolayer migrate up")
    return RelayError(f"the relay's tables: {str(exc).splitlines()[0]}")


def _named(wanted: Wanted) -> dict[str, Any]:
    return {"sink": wanted.sink, "table": wanted.table, "whole": wanted.whole}


def _wanted(rows: Iterable[dict[str, Any]]) -> list[Wanted]:
    return [
        Wanted(row["sink"], row["table_name"], row["version"], row["whole"], row["shape"])
        for row in rows
    ]


def _listed(bound: Bound) -> list[str] | None:
    return None if bound is None else list(bound)


def _bound(texts: Sequence[str] | None) -> Bound:
    return None if texts is None else tuple(texts)


def _storable(text: Any) -> Any:
    """PostgreSQL's text has no NUL, and what a store says of one may quote it."""
    return text.replace("\0", "\\0") if isinstance(text, str) else text
