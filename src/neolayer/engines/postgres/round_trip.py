"""Several statements in one round trip, in fewer steps than psycopg's pipeline takes.

    results = await connection.round_trip([(enter, {"context": context}), (query, params)])

Statements are sent in libpq's pipeline mode up to one Sync, so without BEGIN they are one implicit
transaction. psycopg's own pipeline makes a cursor a statement and waits several times, each wait a
task and a timer; for a point read that costs more than the read. Values are adapted by psycopg all
the same, and its errors pass through. A statement that comes back is prepared.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from secrets import token_hex
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import pq
from psycopg.abc import Buffer, Params
from psycopg.adapt import Transformer
from psycopg.rows import TupleRow
from psycopg.sql import Composable

from neolayer.engines.postgres.instants import Bounded
from neolayer.engines.postgres.parameters import (
    BinaryTexts,
    Encoded,
    RawTexts,
    Texts,
    convert,
    require_texts,
)

Statement = LiteralString | Composable
Sent = tuple[Statement, Params | None]
_PREPARE_AT = 3  # when a statement comes for the third time
_LONGEST_PREPARED = 20_000
_MOST_KEPT = 300
_CANCEL_TIMEOUT_S = 2.0
_FAILED = pq.ExecStatus.FATAL_ERROR
_SYNC = pq.ExecStatus.PIPELINE_SYNC
_READY = pq.ExecStatus.COMMAND_OK
_RESET = b"RESET ALL"
_COMMITTED = b"COMMIT"
_NEVER = -(1 << 62)
# The server's words for what changes nothing of a session but what is looked at elsewhere: settings
# are reset, and a role, temporary tables and cursors are seen by core.enter().
_PLAIN = frozenset(
    b"SELECT INSERT UPDATE DELETE MERGE COPY BEGIN START COMMIT ROLLBACK SAVEPOINT RELEASE"
    b" SET RESET SHOW LOCK NOTIFY DECLARE FETCH MOVE CLOSE EXPLAIN".split()
)
_PLAIN_WHOLE = frozenset((b"", b"CREATE TABLE", b"CREATE TABLE AS", b"DROP TABLE"))

Key = tuple[bytes, tuple[int, ...]]
_Adapted = tuple[Key, Sequence[Buffer | None], Sequence[pq.Format] | None, Params | None]
T = TypeVar("T")


class Rows:
    """What one statement answered: its rows, already here, read like a cursor of psycopg."""

    __slots__ = ("_next", "_result", "rows")

    def __init__(self, rows: list[TupleRow], result: pq.abc.PGresult) -> None:
        self.rows = rows
        self._result = result
        self._next = 0

    @property
    def rowcount(self) -> int:
        """How many rows were read or changed; -1 where the statement counts none."""
        count = self._result.command_tuples
        return -1 if count is None else count

    @property
    def statusmessage(self) -> str | None:
        """The server's word for what was done, such as `INSERT 0 1`."""
        status = self._result.command_status
        return None if status is None else status.decode()

    @property
    def first(self) -> TupleRow | None:
        """The first row, or None."""
        return self.rows[0] if self.rows else None

    async def fetchone(self) -> TupleRow | None:
        """The next row, or None."""
        self._next += 1
        return self.rows[self._next - 1] if self._next <= len(self.rows) else None

    async def fetchall(self) -> list[TupleRow]:
        """All rows that were not fetched yet."""
        rest, self._next = self.rows[self._next :], len(self.rows)
        return rest

    async def __aiter__(self) -> AsyncIterator[TupleRow]:
        for row in await self.fetchall():
            yield row


class RoundTripConnection(psycopg.AsyncConnection[TupleRow]):
    """A connection that can send several statements at once.

    Connect with `prepare_threshold=None`: psycopg's own preparing says DEALLOCATE ALL after a DROP
    or a ROLLBACK, which would take the statements prepared here along. After an error that the
    server told `failed_at` is the place of its statement, and `is_undone` says that nothing of the
    round trip stays.

    Whoever borrows the connection may run SQL that prepares under the name of one of our
    statements, and the next borrower would run it. So names cannot be guessed; a statement gets
    its name when the session has just been reset, so that no setting changes what it means; and
    names are used only while every statement has said what it was. One that failed has not
    (`is_in_doubt`: a DO block prepares and then fails), and one that may change more of a session
    than RESET ALL mends makes it `is_altered`.
    """

    failed_at = -1
    is_undone = False
    is_reset = True
    is_in_doubt = False
    is_altered = False

    def __init__(self, pgconn: pq.abc.PGconn, *args: Any, **options: Any) -> None:
        super().__init__(pgconn, *args, **options)
        self._times = _Recent[int]()
        self._names = _Recent[bytes]()
        self._wanted: list[Key] = []
        self._forgotten: list[bytes] = []
        self._number = 0
        self._secret = token_hex(8).encode()

    @property
    def is_as_it_was(self) -> bool:
        """Nothing that was done since the session was reset can have changed it."""
        return self.is_reset and not self.is_in_doubt and not self.is_altered

    @property
    def is_idle(self) -> bool:
        """No transaction is open."""
        return self.pgconn.transaction_status == pq.TransactionStatus.IDLE

    @property
    def prepared(self) -> int:
        """How many prepared statements the server should hold."""
        return len(self._names) + len(self._forgotten)

    async def round_trip(
        self,
        statements: Sequence[Sent],
        *,
        after: Sequence[Sent] = (),
        leaving: bool = False,
    ) -> list[Rows]:
        """The answers in order. The first error is raised; nothing after it was done.

        `after` is sent along and run once the statements' transaction has ended, however it did.
        `leaving` tells that they are the borrower's last: the session's settings are reset in the
        same round trip, when that transaction has ended: what it puts off to its end needs them.
        `after` follows in the transaction of that, which began as the borrower's settings had it.
        Raises InvalidInput on a text that PostgreSQL has no place for; nothing was sent then.
        Cancelled, it asks the server to stop; the connection must then be closed.
        """
        async with self.lock:
            self.failed_at, self.is_undone = -1, False
            first = [self._adapted(*each) for each in statements]
            second = [self._adapted(*each) for each in after]
            self.is_reset = False
            self.pgconn.enter_pipeline_mode()
            syncs, preparing = self._send_all(first, second, leaving=leaving)
            try:
                told = await self._receive(syncs)
            except asyncio.CancelledError:
                with suppress(psycopg.Error, TimeoutError):
                    await self.cancel_safe(timeout=_CANCEL_TIMEOUT_S)
                raise
            self.pgconn.exit_pipeline_mode()
            done, then = told[0], told[1] if leaving or second else []
            reset, further = then[:leaving], then[leaving:]
            tidied = told[2] if len(told) > 2 else []
            self._note([*done, *then])
            self.is_reset = leaving and not any(answer.status == _FAILED for answer in then)
            self._note_prepared(preparing, tidied)
            # A reset that fails is for who has the connection next, but it takes `after` along.
            self._raise_first_error(done, [*further, *reset] if second else [])
            forms = [each[-1] for each in (*first, *second)]
            return list(map(self._rows, [*done, *further], forms))

    def forget_prepared(self) -> None:
        """To be called when the server was told to forget (DISCARD ALL)."""
        self._names.clear()
        self._forgotten.clear()
        self._wanted.clear()
        self.is_in_doubt = self.is_altered = False

    def _adapted(self, query: Statement, params: Params | None) -> _Adapted:
        """A statement and its values as they are sent. Raises InvalidInput."""
        text = query if isinstance(query, str) else query.as_string(self)
        if params is None:
            return (text.encode(), ()), (), None, params
        converted = convert(text)
        if isinstance(params, Encoded):
            return (converted.command, ()), params, None, params
        if isinstance(params, Texts):
            return (converted.command, ()), params.ordered(converted.names or ()), None, params
        transformer = Transformer(self)
        ordered = converted.ordered(params)
        try:
            values = transformer.dump_sequence(ordered, converted.formats)
        except (psycopg.DataError, UnicodeEncodeError):
            require_texts(ordered, converted.names)
            raise
        return (converted.command, transformer.types or ()), values, transformer.formats, params

    def _send_all(
        self, first: Sequence[_Adapted], second: Sequence[_Adapted], *, leaving: bool
    ) -> tuple[int, list[tuple[Key, bytes]]]:
        """Put everything on its way; how many Syncs to wait for, and what is being prepared."""
        syncs = 1
        for each in first:
            self._send(*each)
        self.pgconn.pipeline_sync()
        if leaving or second:
            if leaving:
                self.pgconn.send_query_params(_RESET, None)
            for each in second:
                self._send(*each)
            self.pgconn.pipeline_sync()
            syncs += 1
        if not leaving or not (self._wanted or self._forgotten):
            return syncs, []
        return syncs + 1, self._send_tidying()

    def _send(
        self,
        key: Key,
        values: Sequence[Buffer | None],
        formats: Sequence[pq.Format] | None,
        params: Params | None,
    ) -> None:
        """Put one statement on its way: by its name where it has one, which is to be trusted."""
        name = None if self.is_in_doubt or self.is_altered else self._names.find(key)
        form = _form_of(params)
        if name is not None:
            self.pgconn.send_query_prepared(name, values, param_formats=formats, result_format=form)
            return
        command, types = key
        self.pgconn.send_query_params(
            command,
            values,
            param_types=types or None,
            param_formats=formats,
            result_format=form,
        )
        times = (self._times.find(key) or 0) + 1
        self._times.put(key, times)
        if times >= _PREPARE_AT and len(command) <= _LONGEST_PREPARED and key not in self._names:
            self._wanted.append(key)

    def _send_tidying(self) -> list[tuple[Key, bytes]]:
        """Prepare what came often, drop what was prepared long ago; it may fail by itself."""
        preparing: list[tuple[Key, bytes]] = []
        for key in dict.fromkeys(self._wanted):
            self._number += 1
            name = b"neolayer_%s_%d" % (self._secret, self._number)
            self.pgconn.send_prepare(name, key[0], param_types=key[1] or None)
            preparing.append((key, name))
        for name in self._forgotten:
            self.pgconn.send_query_params(b"DEALLOCATE " + name, None)
        self._wanted, self._forgotten = [], []
        self.pgconn.pipeline_sync()
        return preparing

    def _note(self, answers: Sequence[pq.abc.PGresult]) -> None:
        """What the session is like now, as far as the server's answers tell."""
        for answer in answers:
            if answer.status == _FAILED:
                self.is_in_doubt = True
            elif not _is_plain(answer.command_status or b""):
                self.is_altered = True

    def _note_prepared(
        self, preparing: Sequence[tuple[Key, bytes]], results: Sequence[pq.abc.PGresult]
    ) -> None:
        for (key, name), result in zip(preparing, results, strict=False):
            if result.status == _READY:
                self._forgotten += self._names.put(key, name) if self.is_reset else [name]
            elif result.status == _FAILED and self.is_reset:
                self._times.put(key, _NEVER)  # such as one about a temporary table

    def _raise_first_error(
        self, done: Sequence[pq.abc.PGresult], further: Sequence[pq.abc.PGresult]
    ) -> None:
        """`done` may end with an error that is no statement's: what was put off to the end of a
        transaction without COMMIT is refused when the Sync ends it."""
        answers = [*done, *further]
        failed = next((n for n, answer in enumerate(answers) if answer.status == _FAILED), None)
        if failed is None:
            return
        has_committed = _COMMITTED in [answer.command_status for answer in answers[:failed]]
        self.failed_at = failed
        self.is_undone = failed < len(done) and not has_committed
        raise psycopg.errors.error_from_result(answers[failed], self.info.encoding)

    async def _receive(self, syncs: int) -> list[list[pq.abc.PGresult]]:
        """All results, Sync by Sync."""
        pgconn = self.pgconn
        while pgconn.flush():  # a large parameter: the server may want to speak meanwhile
            await self._ready(writing=True)
            pgconn.consume_input()
        told: list[list[pq.abc.PGresult]] = [[]]
        while True:
            while pgconn.is_busy():
                await self._ready(writing=False)
                try:
                    pgconn.consume_input()
                except psycopg.OperationalError:
                    self._raise_last_words(told[-1][-1:])
                    raise
            result = pgconn.get_result()
            if result is None:
                continue  # the end of one statement's answer
            if result.status != _SYNC:
                told[-1].append(result)
            elif len(told) == syncs:
                return told
            else:
                told.append([])

    def _raise_last_words(self, results: Sequence[pq.abc.PGresult]) -> None:
        """Why the server closed the connection, if it said so before it did."""
        for last in results:
            if last.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED) == b"FATAL":
                raise psycopg.errors.error_from_result(last, self.info.encoding)

    async def _ready(self, *, writing: bool) -> None:
        """Until the socket can be read, or written where that is what we wait for."""
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        socket = self.pgconn.socket
        loop.add_reader(socket, _wake, ready)
        if writing:
            loop.add_writer(socket, _wake, ready)
        try:
            await ready
        finally:
            loop.remove_reader(socket)
            if writing:
                loop.remove_writer(socket)

    def _rows(self, result: pq.abc.PGresult, params: Params | None) -> Rows:
        if not result.ntuples:
            return Rows([], result)
        if params.__class__ is RawTexts:
            columns, lines = range(result.nfields), range(result.ntuples)
            return Rows([tuple(result.get_value(n, c) for c in columns) for n in lines], result)
        transformer = Transformer(self)
        if isinstance(params, BinaryTexts):
            transformer.set_pgresult(result, set_loaders=False)
            transformer.set_loader_types(params.columns, pq.Format.BINARY)
            return Rows(transformer.load_rows(0, result.ntuples, tuple), result)
        transformer.set_pgresult(result)
        try:
            rows = transformer.load_rows(0, result.ntuples, tuple)
        except psycopg.DataError:
            transformer = Transformer(Bounded(self))
            transformer.set_pgresult(result)
            rows = transformer.load_rows(0, result.ntuples, tuple)
        return Rows(rows, result)


class _Recent(OrderedDict[Key, T]):
    """The few hundred entries that were used last."""

    def find(self, key: Key) -> T | None:
        value = self.get(key)
        if value is not None:
            self.move_to_end(key)
        return value

    def put(self, key: Key, value: T) -> list[T]:
        """Add an entry; what had to go for it."""
        self[key] = value
        self.move_to_end(key)
        return [self.popitem(last=False)[1]] if len(self) > _MOST_KEPT else []


def _is_plain(status: bytes) -> bool:
    return status.partition(b" ")[0] in _PLAIN or status in _PLAIN_WHOLE


def _form_of(params: Params | None) -> pq.Format:
    return pq.Format.BINARY if isinstance(params, BinaryTexts) else pq.Format.TEXT


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
