"""What a replication connection makes of the server's warnings, played on a libpq connection."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from psycopg import pq, sql

from neolayer.engines.postgres import replication
from neolayer.engines.postgres.replication import (
    PublicationMissing,
    ReplicationConnection,
    SlotActive,
    SlotLost,
    SlotMissing,
    prepare_socket,
)
from neolayer.errors import EngineUnavailable

FIELD = pq.DiagnosticField


class Warned:
    """A warning, or an error, as libpq hands it over."""

    status = pq.ExecStatus.FATAL_ERROR

    def __init__(self, state: str, text: str, function: str = "") -> None:
        self._fields = {
            FIELD.SQLSTATE: state.encode(),
            FIELD.MESSAGE_PRIMARY: text.encode(),
            FIELD.SOURCE_FUNCTION: function.encode(),
        }

    def error_field(self, field: pq.DiagnosticField) -> bytes | None:
        return self._fields.get(field)


class Idle:
    """A libpq connection in a stream on which nothing arrives but warnings."""

    notice_handler: Any = None

    def __init__(self, *warnings: Warned) -> None:
        self._warnings = warnings

    def consume_input(self) -> None:
        for warning in self._warnings:
            self.notice_handler(warning)

    def get_copy_data(self, _: int) -> tuple[int, memoryview]:
        return 0, memoryview(b"")

    answer: Any = type("Result", (), {"status": pq.ExecStatus.COPY_BOTH, "ntuples": 0})()

    def send_query(self, _: bytes) -> None:
        self._answers = [self.answer]

    def flush(self) -> int:
        return 0

    def is_busy(self) -> int:
        return 0

    def get_result(self) -> Any:
        return self._answers.pop() if self._answers else None


async def receive(*warnings: Warned) -> int:
    connection: Any = Idle(*warnings)
    stream = ReplicationConnection(connection, "host=127.0.0.1 port=1")
    await stream.start("slot", publication="ours")
    return stream.receive(lambda message: None, limit=10)


@pytest.mark.parametrize(
    "words", ['skipped loading publication "ours"', 'Publikation "ours" fehlt']
)
async def test_a_publication_that_the_server_skips(words: str) -> None:
    """PostgreSQL 18 leaves out what a missing publication would have brought, and only warns: that
    ends the stream before anything behind it is confirmed, in whatever language."""
    with pytest.raises(PublicationMissing, match='publication "ours" does not exist') as caught:
        await receive(Warned("55000", words))
    assert caught.value.hint == "run: neolayer migrate up"


async def test_other_warnings() -> None:
    """Anything else the server warns of ends nothing."""
    assert await receive(Warned("01000", 'about "ours"'), Warned("55000", "about others")) == 0


@pytest.mark.parametrize(
    ("refused", "means"),
    [
        (
            Warned("42704", "нет слота", "ReplicationSlotAcquire"),
            SlotMissing,
        ),
        (
            Warned("42704", "Publikation fehlt", "get_publication_oid"),
            PublicationMissing,
        ),
        (Warned("55006", "レプリケーションスロット使用中", "ReplicationSlotAcquire"), SlotActive),
        (Warned("55000", "il faut logical", "CheckLogicalDecodingRequirements"), EngineUnavailable),
        (Warned("55000", "Slot wurde ungültig", "CreateDecodingContext"), SlotLost),
        (Warned("42501", "verboten", "check_permissions"), EngineUnavailable),
    ],
)
async def test_a_refusal_means_the_same_in_every_language(
    refused: Warned, means: type[Exception]
) -> None:
    """What the server refuses is told by its code and the function that raised it; the message is
    in whatever language lc_messages says."""
    connection: Any = Idle()
    connection.answer = refused
    stream = ReplicationConnection(connection, "host=127.0.0.1 port=1")
    with pytest.raises(means) as caught:
        await stream.start("slot", publication="ours")
    assert type(caught.value) is means


async def test_C5_a_server_that_says_nothing_although_it_was_asked_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A half-open connection never ends by itself. What arrives in time counts as an answer."""
    now, keepalive = [0.0], memoryview(b"k" + bytes(17))
    monkeypatch.setattr(replication.time, "monotonic", lambda: now[0])
    connection: Any = Idle()
    connection.put_copy_data = lambda _: 1
    stream = ReplicationConnection(connection, "host=127.0.0.1 port=1")
    stream.confirm(received=1, durable=1)
    now[0] += 10 * replication.SILENCE_S  # nothing was asked, so nothing is missing
    stream.confirm(received=1, durable=1, ask=True)
    now[0] += replication.SILENCE_S
    stream.confirm(received=1, durable=1, ask=True)
    arrived = [(17, keepalive)]
    connection.get_copy_data = lambda _: arrived.pop() if arrived else (0, memoryview(b""))
    assert stream.receive(lambda message: None, limit=10) == 1
    stream.confirm(received=1, durable=1, ask=True)
    now[0] += replication.SILENCE_S + 1
    stream.confirm(received=1, durable=1)  # nobody has listened meanwhile: sinks were waited for
    with pytest.raises(EngineUnavailable, match="has said nothing for 60 s"):
        stream.confirm(received=1, durable=1, ask=True)


async def test_C5_a_command_that_is_not_answered_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But for the making of a slot, which waits for transactions that others have open."""
    connection: Any = Idle()
    connection.is_busy = lambda: 1
    monkeypatch.setattr(replication, "SILENCE_S", 0.01)
    here, there = socket.socketpair()
    with here, there:
        connection.socket = here.fileno()
        stream = ReplicationConnection(connection, "host=127.0.0.1 port=1")
        with pytest.raises(EngineUnavailable, match=r"has said nothing for 0\.01 s"):
            await stream._run(sql.SQL("IDENTIFY_SYSTEM").format())


def test_a_near_server_has_a_window_that_stays_narrow() -> None:
    """However wide it was; 131,072 is how Linux counts the 65,536 that it was told."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as opened,
    ):
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        assert prepare_socket(opened.fileno())
        assert opened.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) in (65_536, 131_072)
        server.accept()[0].close()
        assert opened.recv(1) == b""  # it is still open here


def test_a_unix_socket_has_no_room_for_what_nobody_receives() -> None:
    """A server on it stands still while its reader rests."""
    one, other = socket.socketpair()
    with one, other:
        assert not prepare_socket(one.fileno())
        other.sendall(b"x")
        assert one.recv(1) == b"x"
