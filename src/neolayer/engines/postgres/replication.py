"""PostgreSQL's replication protocol over libpq: one slot, read in commit order.

psycopg 3 has no replication API, but its libpq wrapper is all it takes. `START_REPLICATION` turns
a connection into two streams. From the server come `XLogData` (one pgoutput message each, in
commit order) and keepalives, which say how far the server has read its log; a reader that holds
nothing back may confirm that far. To the server go status updates: how far we have received, made
durable and applied. The server keeps its log from the confirmed position on, and starts there
after a break, so what is confirmed must be safe in every sink.

A server that hears nothing for `wal_sender_timeout` hangs up: confirm every few seconds, also
while there is nothing to read or no room to read it. And we hang up on a server that says nothing
for `SILENCE_S` although it was asked to: a half-open connection never ends by itself. Nothing here
holds up the event loop, however long a server takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import struct
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import pq, sql
from psycopg.conninfo import make_conninfo

from neolayer.engines.postgres.connections import address_of, connect
from neolayer.errors import EngineError, EngineUnavailable
from neolayer.position import format_lsn, parse_lsn

# Values arrive as text: the same text whatever the server's own settings are.
_SESSION = (
    "-c TimeZone=UTC -c DateStyle=ISO,YMD -c IntervalStyle=iso_8601 "
    "-c extra_float_digits=1 -c bytea_output=hex -c client_encoding=UTF8 "
    "-c client_min_messages=warning"
)
_POSTGRES_EPOCH_S = 946_684_800
_STATUS = struct.Struct(">cQQQqB")

# As long as PostgreSQL's own receivers wait (`wal_receiver_timeout`). A server that is busy with a
# transaction of which it sends nothing shows signs of life all the same.
SILENCE_S: Final = 60.0

# The server sends every message by itself. On the same machine each send() carries its message all
# the way to us, unless our window is full: then it only appends, which costs half. Left alone, the
# kernel widens the window until it never is.
_NEAR_WINDOW_BYTES: Final = 64 << 10

Handler = Callable[[memoryview], bool | None]


class SlotError(EngineError):
    """A replication slot cannot be used."""


class SlotMissing(SlotError):
    """The replication slot does not exist."""


class SlotLost(SlotError):
    """The server threw away log that the replication slot still needed."""


class SlotActive(SlotError):
    """Another connection reads the replication slot."""


class PublicationMissing(EngineUnavailable):
    """The publication was not there when what the slot reads next was written."""


_MIGRATE = "run: neolayer migrate up"
# SQLSTATE, the server's functions that raise it ("": any other) -> what it means, and the way out.
# Messages are in the server's language; these are not.
_REFUSALS: tuple[tuple[str, str, type[EngineError], str | None], ...] = (
    ("42704", "get_publication_oid GetPublicationByName", PublicationMissing, _MIGRATE),
    ("42704", "", SlotMissing, None),
    ("55006", "", SlotActive, "another relay is running; this one takes over when that ends"),
    (
        "55000",
        "CheckLogicalDecodingRequirements",
        EngineUnavailable,
        "set wal_level = logical and restart the server",
    ),
    ("55000", "", SlotLost, "raise max_slot_wal_keep_size, or keep the relay running"),
)


@dataclass(frozen=True, slots=True)
class CreatedSlot:
    """A new slot: it sends every transaction that commits after `consistent_lsn`.

    `snapshot` names the state exactly there, for other sessions to read, until the connection
    that made the slot runs its next command.
    """

    name: str
    consistent_lsn: int
    snapshot: str | None


@dataclass(frozen=True, slots=True)
class Server:
    """Who answers: the cluster's own number, its timeline, and how far its log is on its disk."""

    system: str
    timeline: int
    flushed_lsn: int


class ReplicationConnection:
    """One connection in replication mode. Not safe to share between tasks.

    `gathers`: whether messages find room while nobody receives. A Unix socket holds 200 of them;
    then the server stands still.
    """

    def __init__(
        self, connection: pq.abc.PGconn, dsn: str, owner: psycopg.AsyncConnection[Any] | None = None
    ) -> None:
        self.gathers = True
        self._connection = connection
        self._owner = owner  # of the connection: it would close it on being forgotten
        self._dsn = dsn
        self._publication = ""
        self._skipped: str | None = None
        self._asked_at: float | None = None
        connection.notice_handler = self._notice

    @classmethod
    async def connect(cls, dsn: str, *, application_name: str) -> ReplicationConnection:
        """Connect as a role with REPLICATION. Raises EngineUnavailable."""
        opened = await connect(replicating(dsn), autocommit=True, application_name=application_name)
        stream = cls(opened.pgconn, dsn, opened)
        stream.gathers = prepare_socket(opened.pgconn.socket)
        return stream

    async def create_slot(
        self, name: str, *, temporary: bool = False, export_snapshot: bool = False
    ) -> CreatedSlot:
        """Make a pgoutput slot; waits until transactions now open have ended. Raises SlotError."""
        statement = sql.SQL("CREATE_REPLICATION_SLOT {} {} LOGICAL pgoutput (SNAPSHOT {})").format(
            sql.Identifier(name),
            sql.SQL("TEMPORARY" if temporary else ""),
            sql.Literal("export" if export_snapshot else "nothing"),
        )
        row = await self._run(statement, patient=True)
        return CreatedSlot(row[0] or name, parse_lsn(row[1] or "0/0"), row[2])

    async def timeline(self) -> int:
        """The history this server writes: one higher after each promotion or restore.

        Raises EngineUnavailable as `identify` does.
        """
        return (await self.identify()).timeline

    async def identify(self) -> Server:
        """Which server this is, and where it is.

        Raises EngineUnavailable for a standby: it has none of its own until it is promoted.
        """
        if (await self._run(sql.SQL("SELECT pg_is_in_recovery()").format()))[0] != "f":
            raise EngineUnavailable(
                "postgres",
                f"{address_of(self._dsn)} is a standby",
                hint="point the DSN at the primary, or promote the standby",
            )
        row = await self._run(sql.SQL("IDENTIFY_SYSTEM").format())
        return Server(row[0] or "", int(row[1] or 0), parse_lsn(row[2] or "0/0"))

    async def drop_slot(self, name: str) -> None:
        """Drop a slot nobody reads. Raises SlotMissing or SlotActive."""
        await self._run(sql.SQL("DROP_REPLICATION_SLOT {}").format(sql.Identifier(name)))

    async def start(
        self, slot: str, *, publication: str, lsn: int = 0, streaming: bool = False
    ) -> None:
        """Begin the stream after `lsn`, or after the confirmed position where that is later.

        With `streaming` a large transaction is sent in pieces before it commits; otherwise the
        server spills it to its disk and sends all of it after the commit. Raises SlotError.
        """
        statement = sql.SQL(
            "START_REPLICATION SLOT {} LOGICAL {}"
            " (proto_version '2', publication_names {}, streaming {})"
        ).format(
            sql.Identifier(slot),
            sql.SQL(format_lsn(lsn)),  # pyright: ignore[reportArgumentType]
            sql.Literal(f'"{publication}"'),
            sql.Literal("on" if streaming else "off"),
        )
        self._publication = publication
        await self._run(statement, expected=pq.ExecStatus.COPY_BOTH)

    def receive(self, handle: Handler, *, limit: int) -> int:
        """Hand over up to `limit` messages that have arrived, and say how many; never waits.

        Stops early where `handle` returns true. Raises EngineUnavailable when the stream has ended,
        and PublicationMissing where changes were left out of it.
        """
        get, received, pulled = self._connection.get_copy_data, 0, False
        try:
            while received < limit:
                size, message = get(1)
                if size > 0:
                    received += 1
                    pulled = False
                    if handle(message):
                        break
                elif size < 0:
                    raise self._ended()
                elif pulled:
                    break
                else:
                    self._connection.consume_input()
                    pulled = True
        except psycopg.Error as exc:
            raise self._lost(exc) from exc
        if self._skipped is not None:
            raise PublicationMissing("postgres", self._skipped, hint=_MIGRATE)
        if received:
            self._asked_at = None
        return received

    def _notice(self, result: pq.abc.PGresult) -> None:
        """From 18 on a publication that is not there ends nothing: the server warns, and skips."""
        state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
        text = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode()
        if state == "55000" and self._publication and f'"{self._publication}"' in text:
            name = f'publication "{self._publication}"'
            self._skipped = f"{address_of(self._dsn)}: {name} does not exist, or did not then"

    async def wait(self, timeout_s: float | None) -> None:
        """Return when something may have arrived, or after `timeout_s`."""
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        socket = self._connection.socket
        loop.add_reader(socket, readable.set)
        try:
            async with asyncio.timeout(timeout_s):
                await readable.wait()
        except TimeoutError:
            return
        finally:
            loop.remove_reader(socket)

    def confirm(self, *, received: int, durable: int, ask: bool = False) -> None:
        """Tell the server how far we are; with `ask` it answers with a keepalive.

        Ask where nothing was there to be received: then its silence is counted. Raises
        EngineUnavailable, also where it has answered nothing for long.
        """
        if ask:
            self._require_an_answer()
        now_us = int((time.time() - _POSTGRES_EPOCH_S) * 1_000_000)
        try:
            self._connection.put_copy_data(
                _STATUS.pack(b"r", received, durable, durable, now_us, ask)
            )
            self._connection.flush()
        except psycopg.Error as exc:
            raise self._lost(exc) from exc

    def _require_an_answer(self) -> None:
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
        elif now - self._asked_at > SILENCE_S:
            raise self._silent()

    def _silent(self) -> EngineUnavailable:
        return EngineUnavailable(
            "postgres", f"{address_of(self._dsn)} has said nothing for {SILENCE_S:g} s"
        )

    async def close(self) -> None:
        """Hang up; safe to call twice."""
        if self._owner is None:
            self._connection.finish()
        else:
            await self._owner.close()

    async def _run(
        self,
        statement: sql.Composed,
        *,
        expected: pq.ExecStatus = pq.ExecStatus.TUPLES_OK,
        patient: bool = False,
    ) -> list[str | None]:
        """Run a replication command and return its first row as text."""
        limit_s = None if patient else SILENCE_S
        try:
            self._connection.send_query(statement.as_string().encode())
            self._connection.flush()
            async with asyncio.timeout(limit_s):
                results = [result async for result in self._results()]
        except psycopg.Error as exc:
            raise self._lost(exc) from exc
        except TimeoutError as exc:
            raise self._silent() from exc
        if not results:
            raise self._ended()
        for result in results:
            if result.status not in (expected, pq.ExecStatus.COMMAND_OK):
                raise self._refused(result)
        return _first_row(results[0])

    async def _results(self) -> AsyncGenerator[pq.abc.PGresult]:
        """All that the server answers to one command, up to the stream that it begins."""
        while True:
            while self._connection.is_busy():
                await self.wait(None)
                self._connection.consume_input()
            result = self._connection.get_result()
            if result is None:
                return
            yield result
            if result.status == pq.ExecStatus.COPY_BOTH:
                return

    def _refused(self, result: pq.abc.PGresult) -> EngineError:
        state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
        text = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode()
        where = address_of(self._dsn)
        function = (result.error_field(pq.DiagnosticField.SOURCE_FUNCTION) or b"").decode()
        for code, functions, kind, hint in _REFUSALS:
            if code == state and (not functions or function in functions.split()):
                return kind("postgres", f"{where}: {text}", hint=hint)
        return EngineUnavailable("postgres", f"{where} refuses to replicate: {text}")

    def _ended(self) -> EngineError:
        """The server closed the stream: its last word says why."""
        result = self._connection.get_result()
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            return self._refused(result)
        return EngineUnavailable(
            "postgres", f"{address_of(self._dsn)} ended the replication stream"
        )

    def _lost(self, exc: BaseException) -> EngineUnavailable:
        return EngineUnavailable(
            "postgres", f"{address_of(self._dsn)} broke the replication stream: {str(exc).strip()}"
        )


def prepare_socket(descriptor: int) -> bool:
    """Narrow the window where the server is near; true where there is one."""
    with socket.socket(fileno=os.dup(descriptor)) as opened:
        if opened.family not in (socket.AF_INET, socket.AF_INET6):
            return False
        with contextlib.suppress(OSError):  # it broke; who reads from it will be told
            if ipaddress.ip_address(opened.getpeername()[0]).is_loopback:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _NEAR_WINDOW_BYTES)
        return True


def replicating(dsn: str) -> str:
    """The same DSN for a connection in replication mode."""
    return make_conninfo(dsn, replication="database", options=_SESSION)


def _first_row(result: pq.abc.PGresult) -> list[str | None]:
    if result.ntuples == 0:
        return []
    values = (result.get_value(0, column) for column in range(result.nfields))
    return [None if value is None else value.decode() for value in values]
