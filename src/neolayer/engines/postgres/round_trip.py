"""Several statements in one round trip, in fewer steps than psycopg's pipeline takes.

    results = await connection.round_trip([(enter, {"context": context}), (query, params)])

Statements are sent in libpq's pipeline mode up to one Sync, so without BEGIN they are one implicit
transaction. psycopg's own pipeline makes a cursor a statement and waits several times, each wait a
task and a timer; for a point read that costs more than the read. Values are adapted by psycopg all
the same, and its errors pass through. A statement is prepared when it comes back.
"""

from __future__ import annotations

import asyncio
import re
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, LiteralString, TypeVar, cast

import psycopg
from psycopg import pq
from psycopg.abc import Buffer, Params
from psycopg.adapt import PyFormat, Transformer
from psycopg.rows import TupleRow
from psycopg.sql import Composable

from neolayer.engines.postgres.instants import Bounded

Statement = LiteralString | Composable
_PLACEHOLDER = re.compile(r"%(?:\((?P<name>\w+)\))?(?P<format>[sbt%])")
_FORMATS = {"s": PyFormat.AUTO, "b": PyFormat.BINARY, "t": PyFormat.TEXT}
_PREPARE_AT = 3  # when a statement comes for the third time
_LONGEST_PREPARED = 20_000
_MOST_KEPT = 300
_CANCEL_TIMEOUT_S = 2.0
_FAILED = pq.ExecStatus.FATAL_ERROR
_SYNC = pq.ExecStatus.PIPELINE_SYNC
_READY = pq.ExecStatus.COMMAND_OK

Key = tuple[bytes, tuple[int, ...]]
T = TypeVar("T")


class Texts(dict[str, str | bytes | None]):
    """Values by name that are PostgreSQL's text already, such as `t` for true: nothing to adapt.

    The server tells their types by where they stand. What psycopg takes 40 us for takes 2.
    """

    def ordered(self, names: Iterable[str]) -> list[bytes | None]:
        """As they are sent. Raises DataError on what would end such a text early."""
        sent = list[bytes | None]()
        for name in names:
            value = self[name]
            if isinstance(value, str):
                value = value.encode()
            if value is not None and b"\0" in value:
                raise psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
            sent.append(value)
        return sent


class Encoded(tuple[bytes | None, ...]):
    """Such texts in the order in which the statement first names them, encoded and without NUL: for
    a statement that goes with so many others that looking names up is felt."""

    __slots__ = ()


class RawTexts(Texts):
    """Such values for a statement whose answer is read as it came: cells are bytes."""


class BinaryTexts(Texts):
    """Such values for a statement whose rows come in PostgreSQL's binary form, each column read as
    the type of `columns`: `bytea` leaves a value as it came, for who decodes it when it is needed.
    """

    columns: ClassVar[tuple[int, ...]]


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
    or a ROLLBACK, which would take the statements prepared here along. `failed_at` is the place of
    the statement whose error was raised last.
    """

    failed_at = -1

    def __init__(self, pgconn: pq.abc.PGconn, *args: Any, **options: Any) -> None:
        super().__init__(pgconn, *args, **options)
        self._times = _Recent[int]()
        self._names = _Recent[bytes]()
        self._forgotten: list[bytes] = []
        self._number = 0

    async def round_trip(
        self,
        statements: Sequence[tuple[Statement, Params | None]],
        *,
        after: Sequence[tuple[Statement, Params | None]] = (),
    ) -> list[Rows]:
        """The answers in order. The first error is raised; nothing after it was done.

        `after` is sent along and run once the statements' transaction has ended, however it did.
        Cancelled, it asks the server to stop; the connection must then be closed.
        """
        async with self.lock:
            pgconn = self.pgconn
            pgconn.enter_pipeline_mode()
            prepared: dict[int, tuple[Key, bytes]] = {}  # place among the results -> statement
            asked: list[int] = []
            forms: list[Params | None] = []
            sent = self._forget()
            for part in (statements, after):
                for query, params in part:
                    if (preparing := self._send(query, params)) is not None:
                        prepared[sent] = preparing
                        sent += 1
                    asked.append(sent)
                    forms.append(params)
                    sent += 1
                if part or part is statements:
                    pgconn.pipeline_sync()
            try:
                results, failed = await self._receive(2 if after else 1)
            except asyncio.CancelledError:
                with suppress(psycopg.Error, TimeoutError):
                    await self.cancel_safe(timeout=_CANCEL_TIMEOUT_S)
                raise
            pgconn.exit_pipeline_mode()
            for place, (key, name) in prepared.items():
                if results[place].status == _READY:
                    self._forgotten += self._names.put(key, name)
            if failed is not None:
                self.failed_at = bisect_left(asked, failed)  # preparing a statement comes before it
                raise psycopg.errors.error_from_result(results[failed], self.info.encoding)
            return [
                self._rows(results[place], params)
                for place, params in zip(asked, forms, strict=True)
            ]

    def _forget(self) -> int:
        """Have the server drop what was prepared long ago; for how many results to wait."""
        forgotten, self._forgotten = self._forgotten, []
        for name in forgotten:
            self.pgconn.send_query_params(b"DEALLOCATE " + name, None)
        return len(forgotten)

    def forget_prepared(self) -> None:
        """To be called when the server was told to forget (DISCARD ALL)."""
        self._names.clear()
        self._forgotten.clear()

    def _send(self, query: Statement, params: Params | None) -> tuple[Key, bytes] | None:
        """Put one statement on its way; what is prepared with it, if it is."""
        text = query if isinstance(query, str) else query.as_string(self)
        values: Sequence[Buffer | None] = ()
        types, formats = (), None
        if params is None:
            command = text.encode()
        else:
            converted = _convert(text)
            command = converted.command
            if isinstance(params, Encoded):
                values = params
            elif isinstance(params, Texts):
                values = params.ordered(converted.names or ())
            else:
                transformer = Transformer(self)
                values = transformer.dump_sequence(converted.ordered(params), converted.formats)
                types, formats = transformer.types or (), transformer.formats
        key, form = (command, types), _form_of(params)
        name = self._names.find(key)
        if name is not None:
            self.pgconn.send_query_prepared(name, values, param_formats=formats, result_format=form)
            return None
        times = (self._times.find(key) or 0) + 1
        self._times.put(key, times)
        if times < _PREPARE_AT or len(command) > _LONGEST_PREPARED:
            self.pgconn.send_query_params(
                command,
                values,
                param_types=types or None,
                param_formats=formats,
                result_format=form,
            )
            return None
        self._number += 1
        name = b"neolayer_%d" % self._number
        self.pgconn.send_prepare(name, command, param_types=types or None)
        self.pgconn.send_query_prepared(name, values, param_formats=formats, result_format=form)
        return key, name

    async def _receive(self, syncs: int) -> tuple[list[pq.abc.PGresult], int | None]:
        """All results up to the last Sync, and which of them is the first error."""
        pgconn = self.pgconn
        while pgconn.flush():  # a large parameter: the server may want to speak meanwhile
            await self._ready(writing=True)
            pgconn.consume_input()
        results: list[pq.abc.PGresult] = []
        failed: int | None = None
        while True:
            while pgconn.is_busy():
                await self._ready(writing=False)
                try:
                    pgconn.consume_input()
                except psycopg.OperationalError:
                    self._raise_last_words(results[-1:])
                    raise
            result = pgconn.get_result()
            if result is None:
                continue  # the end of one statement's answer
            status = result.status
            if status == _SYNC:
                syncs -= 1
                if not syncs:
                    return results, failed
                continue
            if status == _FAILED and failed is None:
                failed = len(results)
            results.append(result)

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


@dataclass(frozen=True, slots=True)
class _Converted:
    """A statement with PostgreSQL's placeholders; `names` is None where they had no names."""

    command: bytes
    formats: tuple[PyFormat, ...]
    names: tuple[str, ...] | None

    def ordered(self, params: Params) -> Sequence[Any]:
        if self.names is None:
            return cast("Sequence[Any]", params)
        values = cast("Mapping[str, Any]", params)
        return [values[name] for name in self.names]


@lru_cache(maxsize=1000)
def _convert(text: str) -> _Converted:
    """`%s` and `%(name)s` as `$1`, one number a name; `%%` as `%`."""
    numbers: dict[str, int] = {}
    formats: list[PyFormat] = []
    named = False

    def number(match: re.Match[str]) -> str:
        nonlocal named
        if match["format"] == "%":
            return "%"
        named = named or match["name"] is not None
        name = match["name"] or str(len(formats))
        if name not in numbers:
            formats.append(_FORMATS[match["format"]])
            numbers[name] = len(formats)
        return f"${numbers[name]}"

    command = _PLACEHOLDER.sub(number, text).encode()
    return _Converted(command, tuple(formats), tuple(numbers) if named else None)


def _form_of(params: Params | None) -> pq.Format:
    return pq.Format.BINARY if isinstance(params, BinaryTexts) else pq.Format.TEXT


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
