"""What a replication connection makes of the server's warnings, played on a libpq connection."""

from __future__ import annotations

from typing import Any

import pytest
from psycopg import pq

from neolayer.engines.postgres.replication import (
    PublicationMissing,
    ReplicationConnection,
    SlotActive,
    SlotLost,
    SlotMissing,
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

    def exec_(self, _: bytes) -> Any:
        return type("Result", (), {"status": pq.ExecStatus.COPY_BOTH, "ntuples": 0})()


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
    connection.exec_ = lambda _: refused
    stream = ReplicationConnection(connection, "host=127.0.0.1 port=1")
    with pytest.raises(means) as caught:
        await stream.start("slot", publication="ours")
    assert type(caught.value) is means
