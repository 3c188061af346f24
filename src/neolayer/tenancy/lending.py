"""Connections of the application's role, lent one at a time, clean each time.

`core.enter()`, which sets the context, first compares the session (role, search_path, time zone,
time limits, any context) with what it was when the connection was made, and looks for temporary
objects and cursors left open; so it is the server that says no, in the round trip of the first
statement, before anything else is done. Such a session is wiped and asked again. That comes second:
a borrower's last round trip resets all settings, and a connection whose statements may have changed
more (PREPARE, LISTEN, DO) is closed when it comes back; see `round_trip.py`.

psycopg's own pool awaits a lock when a connection comes back: a borrower who is cancelled just
there takes it along, and a storm of cancelled calls leaves a pool with nothing to lend. Here
taking and giving back are single steps of the event loop, in which nothing can come between.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import psycopg
from psycopg import pq

from neolayer.engines.postgres.connections import explain
from neolayer.engines.postgres.parameters import RawTexts
from neolayer.engines.postgres.queries import load_queries
from neolayer.engines.postgres.round_trip import RoundTripConnection, Rows, Sent
from neolayer.errors import EngineUnavailable
from neolayer.telemetry import log_warning
from neolayer.tenancy.session import SETTINGS, begin_session, require_settings

QUERIES = load_queries(__name__)
_ENTER = QUERIES.enter
_BEGIN: Sent = (QUERIES.begin, None)
_CLEANING_TIMEOUT_S = 2
_PATIENCE_S = 10.0


class CoreConnection(RoundTripConnection):
    """A connection that knows what its session was like when it was made."""

    clean_state = ""
    can_look = False

    async def enter_and(
        self,
        context: str | None,
        *statements: Sent,
        begin: bool,
        after: Sequence[Sent] = (),
        leaving: bool = False,
    ) -> list[Rows]:
        """Say who is asking, and run the statements in the same round trip; see `round_trip`.

        Without a context they bring their own.
        """
        before = self._entering(context, begin)
        try:
            return await self.round_trip([*before, *statements], after=after, leaving=leaving)
        except psycopg.Error as exc:
            if self.closed or not (self._is_refused(before) or self._is_for_lack_of_name(exc)):
                raise
            # Nothing was done but to notice: core.enter() says so, or is out of reach (SET ROLE).
            found = exc.diag.message_detail or exc.diag.message_primary
            log_warning("a session was left changed and is wiped", found=found)
        await self.wipe()
        before = self._entering(context, begin)
        return await self.round_trip([*before, *statements], after=after, leaving=leaving)

    def _entering(self, context: str | None, begin: bool) -> list[Sent]:
        entering = [_BEGIN] if begin else []
        if context is not None:
            entering.append((_ENTER, RawTexts(context=context, state=self.clean_state)))
        return entering

    def _is_refused(self, before: Sequence[Sent]) -> bool:
        return 0 <= self.failed_at < len(before)

    def _is_for_lack_of_name(self, exc: psycopg.Error) -> bool:
        """Somebody took a prepared statement away, and nothing that was sent stays."""
        return self.is_undone and isinstance(exc, psycopg.errors.InvalidSqlStatementName)

    async def wipe(self) -> None:
        """Make the session what it was at the beginning.

        A migration may have changed what is told of one: so that is asked anew, of a session to
        which nothing was said.
        """
        await self.rollback()
        await self.execute(QUERIES.discard)
        self.forget_prepared()
        await self.learn()

    async def learn(self) -> None:
        """Note what the session is like, while nobody has told it anything.

        Raises EngineUnavailable where it is not as `session.py` has it.
        """
        asked = (QUERIES.session_state, {"settings": list(SETTINGS)})
        (state,) = await self.round_trip([asked])
        assert state.first is not None
        self.clean_state, self.can_look, found = state.first
        require_settings(dict(zip(SETTINGS, found, strict=True)))
        self.is_reset = True

    async def clear(self) -> bool:
        """End what is open and reset the session; whether it is as it was when it was new."""
        if self.is_idle and self.is_as_it_was:
            return True
        looking = self.is_in_doubt and self.can_look
        seen = await self.round_trip(
            [] if self.is_idle else [(QUERIES.rollback, None)],
            after=[(QUERIES.look, {"prepared": self.prepared})] if looking else (),
            leaving=True,
        )
        if looking and seen[-1].first != (True,):
            self.is_altered = True
        self.is_in_doubt = False
        return self.is_as_it_was


class Loan:
    """A connection for the length of a block: a class, since a generator costs three times as much
    and every statement that stands alone pays for it."""

    __slots__ = ("_connection", "_lender")

    def __init__(self, lender: Lender) -> None:
        self._lender = lender

    async def __aenter__(self) -> CoreConnection:
        self._connection = await self._lender.take()
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        await self._lender.take_back(self._connection, error)


class Lender:
    """Up to `size` connections; who comes when all are lent waits in line."""

    def __init__(self, dsn: str, *, size: int, application_name: str, patience_s: float) -> None:
        self._dsn = dsn
        self._application_name = application_name
        self._patience_s = patience_s
        self._places = asyncio.Semaphore(size)
        self._idle: list[CoreConnection] = []
        self._lent: set[CoreConnection] = set()
        self._closed = False

    @property
    def open(self) -> int:
        """How many connections there are now, lent or not."""
        return len(self._idle) + len(self._lent)

    def lend(self) -> Loan:
        """An idle connection, idle again afterwards or closed. Raises EngineUnavailable."""
        return Loan(self)

    async def take(self) -> CoreConnection:
        """What a loan begins with."""
        await self._take_place()
        try:
            connection = self._take_idle() or await self._connect()
        except BaseException:
            self._places.release()
            raise
        self._lent.add(connection)
        return connection

    async def take_back(self, connection: CoreConnection, error: BaseException | None) -> None:
        """What it ends with, whatever the borrower met."""
        try:
            if error is None:
                await _settle(connection)
            elif isinstance(error, Exception):
                await _clear(connection)
            else:  # cancelled: what the server still does is not known
                await connection.close()
        finally:
            self._give_back(connection)
            self._places.release()

    async def close(self) -> None:
        """Close what is not lent; what is will be closed when it comes back."""
        self._closed = True
        while self._idle:
            await self._idle.pop().close()

    async def _take_place(self) -> None:
        if not self._places.locked():
            await self._places.acquire()  # at once
            return
        try:
            async with asyncio.timeout(self._patience_s):
                await self._places.acquire()
        except TimeoutError:
            raise EngineUnavailable(
                "postgres",
                f"no connection came free within {self._patience_s:g} s",
                hint="raise postgres.pool_size, or look for long transactions",
            ) from None

    def _take_idle(self) -> CoreConnection | None:
        """The connection used last whose server still speaks to us."""
        while self._idle:
            connection = self._idle.pop()
            try:
                connection.pgconn.consume_input()  # what a closing server said meanwhile
                _require_idle(connection)
            except psycopg.Error:
                connection.pgconn.finish()
                continue
            return connection
        return None

    async def _connect(self) -> CoreConnection:
        connection = await begin_session(
            CoreConnection, self._dsn, application_name=self._application_name
        )
        try:
            await connection.learn()
        except psycopg.OperationalError as exc:  # the server ended it before its first answer
            await connection.close()
            raise explain(exc, self._dsn) from exc
        except BaseException:
            await connection.close()
            raise
        return connection

    def _give_back(self, connection: CoreConnection) -> None:
        self._lent.discard(connection)
        if self._closed:
            connection.pgconn.finish()
        elif not connection.closed:
            self._idle.append(connection)


def _require_idle(connection: CoreConnection) -> None:
    status = connection.pgconn.transaction_status
    if status != pq.TransactionStatus.IDLE:
        raise psycopg.OperationalError(
            f"a connection is {pq.TransactionStatus(status).name}, not idle"
        )


async def _settle(connection: CoreConnection) -> None:
    """See that nothing is open. Raises OperationalError where something was."""
    try:
        _require_idle(connection)
    except psycopg.OperationalError:
        await _clear(connection)
        raise
    if not connection.is_as_it_was:
        await _clear(connection)


async def _clear(connection: CoreConnection) -> None:
    """End what is open and forget what the session was told, or close the connection."""
    if (
        connection.closed
        or connection.is_altered
        or connection.pgconn.pipeline_status != pq.PipelineStatus.OFF
    ):
        await connection.close()
        return
    try:
        async with asyncio.timeout(_CLEANING_TIMEOUT_S):
            if not await connection.clear():
                log_warning("a session was left changed and is closed")
                await connection.close()
    except BaseException as exc:
        await connection.close()
        if not isinstance(exc, Exception):
            raise


@asynccontextmanager
async def open_lender(
    dsn: str,
    *,
    size: int,
    application_name: str,
    patience_s: float = _PATIENCE_S,
    lazily: bool = False,
) -> AsyncGenerator[Lender]:
    """A lender with its first connection made (`lazily`: when it is asked for), closed at the end.

    Raises EngineUnavailable.
    """
    lender = Lender(dsn, size=size, application_name=application_name, patience_s=patience_s)
    try:
        if not lazily:
            async with lender.lend():
                pass
        yield lender
    finally:
        await lender.close()
