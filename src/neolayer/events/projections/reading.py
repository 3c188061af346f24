"""Reading read models: a tenant's rows, typed, opened, and as fresh as the reader asks for.

    row = await acme.read_models.get(BALANCES, account_id, at_least=written.position)

An inline projection is always up to date. An asynchronous one may lag; `at_least` waits until it
has folded whatever the tenant had committed when the read began, which holds every position given
out before, and for nothing that is written meanwhile. A position that the log has not reached yet
is waited for first, whatever the projection's mode. Of `acme.position()` the event store's counts.
Reads below go through row-level security, as every read of a tenant does.
"""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast
from uuid import UUID

import msgspec
import psycopg
from psycopg import sql

from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import InvalidInput, NeolayerError
from neolayer.events.codec import TenantCodec, open_fields, subjects_in
from neolayer.events.errors import ProjectionFailed, ProjectionNotReady
from neolayer.events.model import BEGINNING, Place
from neolayer.events.personal import personal_fields
from neolayer.events.projections.model import AnyProjection, Key, Mode, Projection, of_stream
from neolayer.events.projections.pages import place_of
from neolayer.events.projections.selection import Selection, checked_key, rows_of
from neolayer.events.projections.shape import keys_json, reading, shape_of
from neolayer.freshness import AsOf
from neolayer.position import Position, Positions, of_database
from neolayer.tenancy import Scope

QUERIES = load_queries(__name__)
_DATABASE = "event_store"
_PATIENCE = timedelta(seconds=5)
_POLL_S = 0.01
_LONGEST_POLL_S = 0.1

_OTHER_TABLE = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedFunction,  # it would compare two types
)

R = TypeVar("R", bound=msgspec.Struct)


class NotFoldedYet(NeolayerError):
    """A read model does not reflect what was asked for yet."""

    exit_code = 4


class _Waiting:
    """Ever longer pauses, until a time is over."""

    def __init__(self, within: timedelta) -> None:
        self._deadline = asyncio.get_running_loop().time() + within.total_seconds()
        self._pause_s = _POLL_S

    async def goes_on(self) -> bool:
        """Whether there was time left, after a pause."""
        if asyncio.get_running_loop().time() >= self._deadline:
            return False
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(self._pause_s * 1.5, _LONGEST_POLL_S)
        return True


@dataclass(frozen=True, slots=True)
class ReadModels:
    """The read models of one tenant. `scope` is one of the event store."""

    scope: Scope
    codec: TenantCodec

    async def get(
        self,
        projection: Projection[R],
        *key: Any,
        at_least: Position | Positions | None = None,
        within: timedelta = _PATIENCE,
    ) -> R | None:
        """The row with that key, or None.

        Raises NotFoldedYet where it does not reflect `at_least` in time, InvalidInput where that is
        a position of another database than the event store's or the key cannot be one,
        ProjectionFailed where it, or a stream that the row may be made of, stands still,
        ProjectionNotReady before it has a table of these fields.
        """
        key = checked_key(projection, key)
        await self._wait(projection, at_least, within, stream=_stream(projection, key))
        shape = shape_of(projection)
        query = reading(shape, rows_of(projection))
        params = {"keys": keys_json(shape, [(self.codec.tenant, key)])}
        found = await self._fetch(projection, query, params)
        rows = await self._opened(projection, [row[1] for row in found])
        return rows[0] if rows else None

    async def list(
        self,
        projection: Projection[R],
        *,
        after: Key | None = None,
        limit: int = 100,
        at_least: Position | Positions | None = None,
        within: timedelta = _PATIENCE,
        **equal: Any,
    ) -> list[R]:
        """Rows in the order of their keys, those behind the key `after`; `equal` are fields and the
        values they must have, None where they must have none. Raises as `get`.
        """
        query, params = Selection(projection, equal, after, limit).query()
        await self._wait(projection, at_least, within)
        found = await self._fetch(projection, query, params)
        return await self._opened(projection, [row[0] for row in found])

    async def get_as_of(
        self,
        projection: Projection[R],
        *key: Any,
        at_least: Position | Positions | None = None,
        within: timedelta = _PATIENCE,
    ) -> AsOf[R | None]:
        """The same row with a position that it reflects, or without one where it lags behind or
        waits: every commit up to there counts in it. Raises as `get`.
        """
        stream = _stream(projection, checked_key(projection, key))
        position = await self._reflected(projection, within, stream=stream)
        return AsOf(await self.get(projection, *key, at_least=at_least, within=within), position)

    async def list_as_of(
        self,
        projection: Projection[R],
        *,
        after: Key | None = None,
        limit: int = 100,
        at_least: Position | Positions | None = None,
        within: timedelta = _PATIENCE,
        **equal: Any,
    ) -> AsOf[builtins.list[R]]:
        """The same rows with a position that they reflect, as `get_as_of`. Raises as `get`."""
        position = await self._reflected(projection, within)
        rows = await self.list(
            projection, after=after, limit=limit, at_least=at_least, within=within, **equal
        )
        return AsOf(rows, position)

    async def _reflected(
        self, projection: AnyProjection, within: timedelta, *, stream: UUID | None = None
    ) -> Position | None:
        """Where the log is, once all that was under way there has ended and is folded; None where
        that takes longer than `within`.
        """
        written = await self.scope.one(QUERIES.written)
        assert written is not None
        waiting = _Waiting(within)
        if not await self._ended(written[1], waiting):
            return None
        _, last = await self._log_end()
        while True:
            row = await self._standing(projection, last, stream)
            if row is None or row[4] is not None or row[0] == "failed":
                return None
            if row[3] or projection.mode is Mode.INLINE:
                return Position.from_version(written[0], _DATABASE)
            if not await waiting.goes_on():
                return None

    async def place(self, projection: AnyProjection) -> Place:
        """How far an asynchronous projection is in reading order: rows reflect every event up to
        there. An inline one reflects all that is committed, wherever this says it is.
        """
        row = await self._standing(projection, BEGINNING, None)
        return BEGINNING if row is None else place_of(row[1], row[2])

    async def _standing(
        self, projection: AnyProjection, up_to: Place, stream: UUID | None
    ) -> tuple[Any, ...] | None:
        """How a projection is, whether it is at `up_to`, and why the tenant or `stream` stands."""
        params = {
            "name": projection.name,
            "tenant": self.codec.tenant,
            "stream": stream,
            "transaction": str(up_to.transaction),
            "position": up_to.index,
        }
        return await self.scope.one(QUERIES.reached, params)

    async def _log_end(self) -> tuple[Position, Place]:
        """How far the log is, and the last event that the tenant has by now."""
        row = await self.scope.one(QUERIES.log_end, {"tenant": self.codec.tenant})
        assert row is not None
        return Position.from_version(row[0], _DATABASE), place_of(row[1], row[2])

    async def _ended(self, transaction: str, waiting: _Waiting) -> bool:
        """Whether all transactions below a number end in time."""
        while True:
            row = await self.scope.one(QUERIES.has_ended, {"ended": transaction})
            if row is not None and row[0]:
                return True
            if not await waiting.goes_on():
                return False

    async def _fetch(
        self, projection: AnyProjection, query: sql.Composed, params: dict[str, Any]
    ) -> Sequence[tuple[Any, ...]]:
        try:
            return await self.scope.fetch(query, params)
        except _OTHER_TABLE as exc:
            raise _not_ready(projection) from exc
        except psycopg.DataError as exc:
            said = exc.diag.message_primary or str(exc)
            raise InvalidInput(f"not a key or value of {projection.name}: {said}") from exc

    async def _opened(self, projection: Projection[R], texts: Sequence[str]) -> list[R]:
        decoder = shape_of(projection).decoder
        try:
            rows = [cast("R", decoder.decode(text)) for text in texts]
        except msgspec.ValidationError as exc:
            raise _not_ready(projection) from exc
        personal = personal_fields(projection.row)
        if not personal:
            return rows
        keys = await self.codec.subjects.keys(subjects_in(rows, personal))
        tenant = self.codec.tenant
        return [cast("R", open_fields(row, personal, keys, tenant=tenant)) for row in rows]

    async def _wait(
        self,
        projection: AnyProjection,
        at_least: Position | Positions | None,
        within: timedelta,
        *,
        stream: UUID | None = None,
    ) -> None:
        """Until it reflects `at_least`; of `stream` alone, where only that one counts."""
        at_least = of_database(at_least, _DATABASE)
        if at_least is None:
            return
        if not isinstance(at_least, Position):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidInput("at_least is a Position, or Positions", hint="see Position.parse")
        if at_least.database != _DATABASE:
            raise InvalidInput(
                f"{projection.name} is made of {_DATABASE}, not of {at_least.database}",
                hint=f"`at_least` is a position of {_DATABASE}, as an append gives it",
            )
        waiting = _Waiting(within)
        last = await self._written(projection, at_least, waiting)
        while True:
            row = await self._standing(projection, last, stream)
            if row is not None and row[4] is not None:
                raise ProjectionFailed(
                    f"a stream stands still in {projection.name}: {row[4]}",
                    hint=f"neolayer projections parked {projection.name}",
                )
            if row is not None and (row[3] or projection.mode is Mode.INLINE):
                return
            if row is not None and row[0] == "failed":
                raise ProjectionFailed(
                    f"{projection.name} stands still and does not reflect {at_least}",
                    hint="neolayer projections list says why",
                )
            if not await waiting.goes_on():
                place = place_of(row[1], row[2]) if row is not None else BEGINNING
                raise NotFoldedYet(
                    f"{projection.name} does not reflect {at_least} yet: it is at {place}",
                    hint="neolayer projections list says how far it is",
                )

    async def _written(
        self, projection: AnyProjection, at_least: Position, waiting: _Waiting
    ) -> Place:
        """Until the log holds the position: the last event that the tenant has then.

        Which includes whatever was committed at the position: at once, where that was given out
        before; where the log had to get there, after all that was under way has ended.
        """
        end, last = await self._log_end()
        if end >= at_least:
            return last
        while end < at_least:
            if not await waiting.goes_on():
                raise NotFoldedYet(
                    f"{projection.name} does not reflect {at_least} yet: the log is at {end}",
                    hint="a position behind the log's end is of a write that is not there",
                )
            end, last = await self._log_end()
        written = await self.scope.one(QUERIES.written)
        assert written is not None
        if not await self._ended(written[1], waiting):
            raise NotFoldedYet(
                f"{projection.name} does not reflect {at_least} yet: a transaction that may hold it"
                " is still under way",
                hint="neolayer status names whoever writes for long",
            )
        return (await self._log_end())[1]


def _stream(projection: AnyProjection, key: Key) -> UUID | None:
    """The one stream that a row is made of, where it is one."""
    return key[0] if projection.keys is of_stream else None


def _not_ready(projection: AnyProjection) -> ProjectionNotReady:
    name = projection.name
    return ProjectionNotReady(
        f"{name} has no table yet, or one of other fields than {projection.row.__name__}",
        hint=f"neolayer projections list says how it is; for other fields:"
        f" neolayer projections rebuild {name}, then: neolayer projections switch {name}",
    )
