"""Large appends: bounded, by themselves, and refused in words where the server takes no more."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from tests.fixtures.fix_events import NewEvents
from tests.fixtures.patience import PATIENCE_S

from neolayer.engines.endpoints import Endpoints
from neolayer.errors import EngineFull, EngineUnavailable, InvalidInput
from neolayer.events import Interfered, NewEvent, grouping, resending


@pytest.fixture(scope="module")
def layer_databases(module_databases: Endpoints) -> Endpoints:
    return module_databases


async def test_D_what_is_too_much_for_one_transaction_is_refused(new_events: NewEvents) -> None:
    """By bytes and by number, before anything is sent; and says what to do."""
    events, stream = new_events(), uuid4()
    large = NewEvent("Noted", {"text": "x" * 500_000})
    for batch, word in (([large] * 34, "16 MiB"), ([NewEvent("Noted", {})] * 50_001, "50,000")):
        with pytest.raises(InvalidInput, match=word) as refused:
            await events.append(stream, batch, category="note")
        assert "parts" in (refused.value.hint or "")
    assert await events.state(stream) is None


async def test_C_a_large_append_keeps_nobody_waiting(
    new_events: NewEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one of more than a megabyte is under way, another tenant's append is stored."""
    under_way, go_on, send = asyncio.Event(), asyncio.Event(), grouping._send

    async def slow(database: Any, turns: Any) -> Any:
        if len(str(turns)) > grouping.MOST_BYTES:
            under_way.set()
            await go_on.wait()
        return await send(database, turns)

    monkeypatch.setattr(grouping, "_send", slow)
    large = [NewEvent("Noted", {"text": "x" * 500_000}) for _ in range(3)]
    appending = asyncio.create_task(new_events().append(uuid4(), large, category="note"))
    await under_way.wait()
    small = new_events().append(uuid4(), [NewEvent("Noted", {})], category="note")
    assert (await asyncio.wait_for(small, PATIENCE_S)).version == 1
    go_on.set()
    assert (await appending).version == 3


@pytest.mark.parametrize(
    ("trouble", "becomes", "word", "tries"),
    [
        (psycopg.errors.ProgramLimitExceeded("jsonb array too large"), InvalidInput, "at once", 1),
        (psycopg.errors.DiskFull("no space left"), EngineFull, "lost", 5),
        (psycopg.OperationalError("server closed"), EngineUnavailable, "connection was lost", 5),
        (psycopg.errors.DeadlockDetected("deadlock"), Interfered, "in the way", 5),
        (psycopg.errors.UniqueViolation("events_version"), Interfered, "in the way", 5),
    ],
)
async def test_C_what_the_server_says_of_an_append_is_told(
    new_events: NewEvents,
    monkeypatch: pytest.MonkeyPatch,
    trouble: psycopg.Error,
    becomes: type[Exception],
    word: str,
    tries: int,
) -> None:
    """Only a lost connection is one; what would be the same again is not sent again, and between
    two tries is a pause."""
    sent, paused = list[int](), list[float]()

    async def pause(seconds: float) -> None:
        paused.append(seconds)

    async def fail(*_: Any) -> Any:
        sent.append(1)
        raise trouble

    monkeypatch.setattr(grouping, "_send", fail)
    monkeypatch.setattr(resending, "sleep", pause)
    with pytest.raises(becomes, match=word):
        await new_events().append(uuid4(), [NewEvent("Noted", {})], category="note")
    assert len(sent) == 1 + tries  # the first was in a group
    assert len(paused) == tries - 1 and all(seconds > 0 for seconds in paused)
