"""A flow's loop over its sessions: it ends when it is told to, and of nothing else."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.fixtures.patience import PATIENCE_S

from neolayer.errors import RelayError
from neolayer.freshness import PutBack
from neolayer.relay import run
from neolayer.relay.sinks.null import NullSink
from neolayer.settings import RelaySettings

FOLDER: Any = SimpleNamespace(path=Path(), hold_on=lambda: None)


class GivenUp(NullSink):
    """A labelled stand-in for a cache whose client cancels what it is asked."""

    opened = 0

    async def open(self, confirmed: int) -> int | None:
        self.opened += 1
        raise asyncio.CancelledError

    async def forget_below(self, version: int) -> None: ...


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_FIRST_RETRY_S", 0.001)
    monkeypatch.setattr(run, "_LAST_RETRY_S", 0.001)


def flow(*sinks: NullSink) -> run._Flow:
    return run._Flow(run.Source("core", "", "slot", ""), sinks, RelaySettings(), None)


async def test_a_cache_that_gives_up_what_is_asked_ends_no_flow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server was put back, and the cache cannot be told: tried again with the next session."""
    sink, stop = GivenUp(), asyncio.Event()

    async def session(*_: object) -> None:
        if sink.opened == 3:
            stop.set()
            return
        raise PutBack("the server was put back")

    monkeypatch.setattr(run._Flow, "_session", session)
    async with asyncio.timeout(PATIENCE_S):
        await flow(sink).run(stop, FOLDER)
    assert sink.opened >= 3


async def test_a_flow_that_is_cancelled_ends_whatever_its_session_makes_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A group of tasks prefers what its tasks failed of to the cancellation of who waits for it."""
    is_running = asyncio.Event()

    async def session(*_: object) -> None:
        is_running.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as exc:
            raise RelayError("the disk") from exc

    monkeypatch.setattr(run._Flow, "_session", session)
    running = asyncio.create_task(flow().run(asyncio.Event(), FOLDER))
    await is_running.wait()
    running.cancel()
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(asyncio.CancelledError):
            await running
