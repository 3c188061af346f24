"""The transaction that is bound to a tenant and a principal: the only way to a connection.

    scope = core.scope(tenant_id, by=Principal.user(user_id))          # or event_store.scope(...)
    async with scope.transaction() as tx:
        await tx.execute(sql.rename_tenant, {"name": name})

Round trips decide the cost of row-level security here, so none is made for the context alone: it
travels with the first statement, and what may wait (`defer`) travels with COMMIT. The core database
and the event store are entered alike: by the same signed context, at the same door.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, LiteralString, TypeVar
from uuid import UUID

import orjson
import psycopg
from psycopg import sql
from psycopg.abc import Params
from psycopg.rows import TupleRow

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.copy import copy_rows
from neolayer.engines.postgres.queries import load_queries
from neolayer.engines.postgres.round_trip import Rows, Sent, Statement
from neolayer.errors import AccessDenied, InvalidInput
from neolayer.position import Position
from neolayer.tenancy.context import LIFETIME, ContextSigner, Principal, read_signer
from neolayer.tenancy.lending import CoreConnection, Lender, Loan, open_lender
from neolayer.tenancy.model import TenantLimitExceeded
from neolayer.tenancy.retrying import GIVING_WAY, done_again

QUERIES = load_queries(__name__)
T = TypeVar("T")
_LIMIT_REACHED = "NL402"  # raised by core.count_usage()
_NO_PERMISSION = "no_permission"  # raised by auth.admit_verb()
_TOO_LARGE = "_size_check"  # how the constraints end that bound a value: TABLE_COLUMN_size_check
_COMMIT: Sent = (QUERIES.commit, None)
_REACHED: Sent = (QUERIES.reached, None)


@dataclass(slots=True)
class Written:
    """How far a scope has written, for whoever wants to read their own writes elsewhere.

    Asking costs a commit a few percent, so it is done where `is_wanted`, or later by
    `Scope.position`. What is known is an upper bound of the commit's own position.
    """

    database: Database
    is_wanted: bool = False
    position: Position | None = None

    def note(self, version: int | None) -> None:
        """What was sent is committed, at or below this place in the log, if that is known."""
        self.position = None if version is None else Position.from_version(version, self.database)


@dataclass(slots=True)
class Transaction:
    """An open transaction of one tenant and principal.

    Where `written.is_wanted`, COMMIT brings the position along, in the same round trip.
    """

    tenant: UUID | None
    by: Principal
    _connection: CoreConnection
    _context: str
    _signer: ContextSigner
    _written: Written
    _begun: bool = False
    _deferred: list[Sent] = field(default_factory=list[Sent])

    async def execute(self, query: Statement, params: Params | None = None) -> Rows:
        """Run one statement. Psycopg's errors pass through."""
        return (await self._send((query, params)))[-1]

    async def _send(
        self,
        *statements: Sent,
        after: Sequence[Sent] = (),
        leaving: bool = False,
    ) -> list[Rows]:
        if self._begun:
            return await self._connection.round_trip(statements, after=after, leaving=leaving)
        self._begun = True
        try:
            return await self._connection.enter_and(
                self._context, *statements, begin=True, after=after, leaving=leaving
            )
        except Exception:
            self._begun = not self._connection.is_idle  # a value that could not be sent
            raise

    async def fetch(self, query: Statement, params: Params | None = None) -> list[TupleRow]:
        """All rows of one statement."""
        return (await self.execute(query, params)).rows

    async def one(self, query: Statement, params: Params | None = None) -> TupleRow | None:
        """The first row of one statement, or None."""
        return (await self.execute(query, params)).first

    async def execute_as(
        self, by: Principal, query: Statement, params: Params | None = None
    ) -> Rows:
        """The same, done by another principal of the tenant: what `by` may not do for itself."""
        results = await self._send(
            (QUERIES.switch, {"context": self._signer.sign(self.tenant, by)}),
            (query, params),
            (QUERIES.switch, {"context": self._context}),
        )
        return results[-2]

    def defer(self, query: Statement, params: Params | None = None) -> None:
        """Send this statement with COMMIT; where it fails, the transaction does."""
        self._deferred.append((query, params))

    def defer_as(self, by: Principal, query: Statement, params: Params | None = None) -> None:
        """The same as `execute_as`."""
        self.defer(QUERIES.switch, {"context": self._signer.sign(self.tenant, by)})
        self.defer(query, params)
        self.defer(QUERIES.switch, {"context": self._context})

    async def copy_in(
        self,
        table: str,
        columns: Sequence[str],
        types: Sequence[str],
        rows: Iterable[Sequence[Any]],
        *,
        on_conflict: LiteralString = "",
    ) -> int:
        """Bulk rows into `schema.table` under its policy; the number of rows stored.

        COPY itself is refused under row-level security, so rows are copied into a temporary table
        and inserted from there. `on_conflict` is the INSERT's clause of that name.
        """
        names = sql.SQL(", ").join(map(sql.Identifier, columns))
        target = sql.Identifier(*table.split("."))
        stage = sql.SQL(
            "CREATE TEMPORARY TABLE staging ON COMMIT DROP AS SELECT {} FROM {} WITH NO DATA"
        )
        await self._send((QUERIES.forget_staging, None), (stage.format(names, target), None))
        cursor = self._connection.cursor()
        copy = sql.SQL("COPY pg_temp.staging ({}) FROM STDIN (FORMAT BINARY)").format(names)
        await copy_rows(cursor, copy, types, rows)
        insert = sql.SQL("INSERT INTO {} ({}) SELECT {} FROM pg_temp.staging {}")
        clause = sql.SQL(on_conflict)
        return (await self.execute(insert.format(target, names, names, clause))).rowcount

    async def commit(self) -> None:
        """Send what was deferred, and COMMIT; called at the end of the block.

        Raises InFailedSqlTransaction where the block went on after a statement had failed: the
        server would answer COMMIT with ROLLBACK, and no error.
        """
        if not self._begun and not self._deferred:
            return
        asked = (_REACHED,) if self._written.is_wanted else ()
        results = await self._send(*self._deferred, _COMMIT, after=asked, leaving=True)
        if results[-1 - len(asked)].statusmessage != "COMMIT":
            raise psycopg.errors.InFailedSqlTransaction("a statement had failed: nothing is stored")
        self._written.note(results[-1].rows[0][0] if asked else None)


@dataclass(frozen=True, slots=True)
class Scope:
    """One tenant (None: no tenant's rows) and whoever acts in it; what every room is bound to.

    `core` is the database it is a scope of: the core database, or for events the event store.
    """

    core: TenantDatabase
    tenant: UUID | None
    by: Principal
    written: Written = field(compare=False, repr=False)

    def acting_as(self, by: Principal) -> Scope:
        """The same tenant with another principal, such as after a login."""
        return Scope(self.core, self.tenant, by, self.written)

    async def position(self) -> Position:
        """A store that reflects this has all that was written through this scope until now."""
        if self.written.position is not None:
            return self.written.position
        ((version,),) = await self.fetch(QUERIES.reached)
        return Position.from_version(version, self.core.database)

    @asynccontextmanager
    async def transaction(self, *, lifetime: timedelta = LIFETIME) -> AsyncGenerator[Transaction]:
        """A transaction, committed at the end of the block and rolled back on any error.

        `lifetime` is how long the context stays good.
        """
        context = self.core.signer.sign(self.tenant, self.by, lifetime=lifetime)
        async with self.core.connection() as connection:
            tx = Transaction(
                self.tenant, self.by, connection, context, self.core.signer, self.written
            )
            yield tx
            await tx.commit()

    async def run(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """`work` in a transaction, and again from its beginning where it had to give way to
        another, five times at most; so what it does outside of `tx` must be harmless to repeat.
        """

        @done_again
        async def attempt() -> T:
            async with self.transaction() as tx:
                return await work(tx)

        return await attempt()

    async def fetch(self, query: Statement, params: Params | None = None) -> list[TupleRow]:
        """All rows of one statement, which is a transaction of its own: one round trip, and again
        where it had to give way to another, five times at most."""
        return (await self._execute(query, params)).rows

    async def one(self, query: Statement, params: Params | None = None) -> TupleRow | None:
        """The first row of such a statement, or None."""
        return (await self._execute(query, params)).first

    async def _execute(self, query: Statement, params: Params | None) -> Rows:
        try:
            return await self._execute_once(query, params)
        except GIVING_WAY:
            # Writers near a limit may lock its slots in different orders, with one statement too.
            return await done_again(self._execute_once)(query, params)

    async def _execute_once(self, query: Statement, params: Params | None) -> Rows:
        context = self.core.signer.sign(self.tenant, self.by)
        # Statements sent together without BEGIN are one transaction.
        asked = (_REACHED,) if self.written.is_wanted else ()
        async with self.core.connection() as connection:
            results = await connection.enter_and(
                context, (query, params), begin=False, after=asked, leaving=True
            )
        self.written.note(results[-1].rows[0][0] if asked else None)
        return results[-1 - len(asked)]


@dataclass(frozen=True, slots=True)
class TenantDatabase:
    """A database as the application's role, which sees no row without a context."""

    _connections: Lender
    signer: ContextSigner
    database: Database = Database.CORE

    def scope(self, tenant: UUID, *, by: Principal) -> Scope:
        """One tenant's data, for `by`."""
        return Scope(self, tenant, by, Written(self.database))

    def platform(self, *, by: Principal) -> Scope:
        """What is under no tenant: public rows, and audit entries of no tenant."""
        return Scope(self, None, by, Written(self.database))

    @property
    def open_connections(self) -> int:
        """How many connections there are now, lent or not."""
        return self._connections.open

    def connection(self) -> _Borrowed:
        """A clean, idle connection; for this module only.

        Raises TenantLimitExceeded, InvalidInput where a value is too large to be stored, and
        AccessDenied where a permission is missing.
        """
        return _Borrowed(self._connections.lend())


class _Borrowed:
    """A loan in which what the database refuses for limits or permissions is our own error."""

    __slots__ = ("_loan",)

    def __init__(self, loan: Loan) -> None:
        self._loan = loan

    async def __aenter__(self) -> CoreConnection:
        return await self._loan.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        await self._loan.__aexit__(kind, error, trace)
        if not isinstance(error, psycopg.Error):
            return
        if error.sqlstate == _LIMIT_REACHED:
            raise _limit_exceeded(error) from error
        if (error.diag.constraint_name or "").endswith(_TOO_LARGE):
            raise _too_large(error) from error
        if error.diag.constraint_name == _NO_PERMISSION:
            raise _denied(error.diag.message_detail or "") from error


# The core database, by the name that its rooms call it.
CoreDatabase = TenantDatabase


def _limit_exceeded(exc: psycopg.Error) -> TenantLimitExceeded:
    facts = orjson.loads(exc.diag.message_detail or "{}")
    return TenantLimitExceeded(facts["limit"], facts["allowed"])


def _too_large(exc: psycopg.Error) -> InvalidInput:
    table, constraint = exc.diag.table_name or "", exc.diag.constraint_name or ""
    column = constraint.removeprefix(f"{table}_").removesuffix(_TOO_LARGE)
    return InvalidInput(f"{column} of {exc.diag.schema_name}.{table} is too large to be stored")


def _denied(permission: str) -> AccessDenied:
    return AccessDenied(
        f"this needs the permission {permission}",
        hint="neolayer roles explain says which role would give it",
    )


@asynccontextmanager
async def open_database(
    endpoints: Endpoints,
    database: Database,
    *,
    size: int = 8,
    application_name: str = "api",
    lazily: bool = False,
) -> AsyncGenerator[TenantDatabase]:
    """The core database or the event store of a layer; `lazily` without a connection at first.

    Raises EngineUnavailable, MigrationError before migrating.
    """
    signer = await read_signer(endpoints)
    dsn = endpoints.cluster(database).dsn(Role.APP, database)
    async with open_lender(
        dsn, size=size, application_name=application_name, lazily=lazily
    ) as connections:
        yield TenantDatabase(connections, signer, database)


@asynccontextmanager
async def open_core(
    endpoints: Endpoints, *, size: int = 8, application_name: str = "api"
) -> AsyncGenerator[CoreDatabase]:
    """The core database of a layer. Raises EngineUnavailable, MigrationError before migrating."""
    opened = open_database(endpoints, Database.CORE, size=size, application_name=application_name)
    async with opened as database:
        yield database
