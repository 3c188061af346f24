"""What is asked of one sink holds up no other: each has its own tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.fixtures.patience import PATIENCE_S

from neolayer.errors import EngineUnavailable
from neolayer.relay.copying.progress import Wanted
from neolayer.relay.operations import watch
from neolayer.relay.operations.watch import Watch
from neolayer.relay.sinks.null import NullSink

TABLE = "public.accounts"


class Store(NullSink):
    """A labelled stand-in for a store of rows."""

    tables = frozenset({TABLE})

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def shape(self, table: str) -> None: ...
    async def begin_copy(self, version: int) -> None: ...
    async def copy_began(self) -> None: ...
    async def copy_part(self, part: object, table: str, park: object) -> None: ...
    async def drop_below(self, table: str, version: int) -> None: ...


class Desk:
    """A labelled stand-in: asks the same of every sink until it is done."""

    def __init__(self, *sinks: str) -> None:
        self.left = set(sinks)
        self.asked: list[tuple[str, ...]] = []

    async def pauses(self) -> frozenset[str]:
        return frozenset()

    async def wanted_rebuilds(self, sinks: Collection[str]) -> list[Wanted]:
        self.asked.append(tuple(sinks))
        return [Wanted(name, TABLE, None) for name in sinks if name in self.left]

    async def requested_letters(self, sinks: Collection[str]) -> dict[tuple[str, str], Any]:
        self.asked.append(tuple(sinks))
        return {(name, TABLE): [("1",)] for name in sinks if name in self.left}

    async def end_replay(self, sink: str, table: str) -> None: ...

    async def end_rebuild(self, wanted: Wanted, error: str | None = None) -> None:
        self.left.discard(wanted.sink)


@pytest.fixture(params=["rebuild", "replay"])
async def watched(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[Any], Desk]]:
    """Look at a desk that asks the same of three sinks, the first of which meets that."""
    monkeypatch.setattr(watch, "LOOK_S", 0.001)
    names = ("hung", "second", "third")
    desk, tasks = Desk(*names), list[asyncio.Task[None]]()

    def begin(first: Any) -> Desk:
        async def do(_: Desk, lane: Any, *rest: object) -> None:
            if lane.sink.name == "hung":
                await first()
            desk.left.discard(lane.sink.name)

        async def nothing(*_: object) -> None: ...

        monkeypatch.setattr(watch, "rebuild", do if request.param == "rebuild" else nothing)
        monkeypatch.setattr(watch, "replay", do if request.param == "replay" else nothing)
        lanes: list[Any] = [
            SimpleNamespace(sink=Store(name), working=True, resume=lambda: None) for name in names
        ]
        looking = Watch(desk, lanes, lambda: None)  # type: ignore[arg-type, return-value]
        tasks.append(asyncio.create_task(looking.run()))
        return desk

    yield begin
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_C7_what_is_asked_of_a_sink_that_hangs_holds_up_no_other(
    watched: Callable[[Any], Desk],
) -> None:
    """The others are served, each look after look; the one that hangs is not given it twice."""
    begun = 0

    async def hang() -> None:
        nonlocal begun
        begun += 1
        await asyncio.Event().wait()

    desk = watched(hang)
    async with asyncio.timeout(PATIENCE_S):
        while desk.left != {"hung"}:
            await asyncio.sleep(0.001)
        seen = len(desk.asked)
        while len(desk.asked) < seen + 10:
            await asyncio.sleep(0.001)
    assert begun == 1


async def test_what_failed_is_tried_again_at_a_later_look(
    watched: Callable[[Any], Desk],
) -> None:
    """Trouble, faults of ours and what a client cancels alike; the others had theirs meanwhile."""
    troubles = [
        EngineUnavailable("hung", "not now"),
        KeyError("nothing of this name"),
        asyncio.CancelledError(),
    ]

    async def fail() -> None:
        if troubles:
            raise troubles.pop()

    with capture_logs() as logs:
        desk = watched(fail)
        async with asyncio.timeout(PATIENCE_S):
            while desk.left:
                await asyncio.sleep(0.001)
    assert not troubles
    assert [bool(one) for one in logs] == [True] * 3, logs


async def test_a_desk_that_cancels_what_it_is_asked_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody wished that the looks end."""
    monkeypatch.setattr(watch, "LOOK_S", 0.001)
    asked = 0

    class Cancelling(Desk):
        async def pauses(self) -> frozenset[str]:
            nonlocal asked
            asked += 1
            raise asyncio.CancelledError

    looking = Watch(Cancelling(), [], lambda: None)  # type: ignore[arg-type, return-value]
    task = asyncio.create_task(looking.run())
    async with asyncio.timeout(PATIENCE_S):
        while asked < 3:
            await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()


async def test_C7_letters_that_cannot_be_sent_hold_up_no_other_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of one sink: a table that fails look after look comes first, one that is not copied any more
    is asked for no longer, and the last is served."""
    monkeypatch.setattr(watch, "LOOK_S", 0.001)
    failing, gone, other = "public.a", "public.b", "public.c"
    asked, failed = {failing, gone, other}, 0

    class Letters(Desk):
        async def requested_letters(self, sinks: Collection[str]) -> dict[tuple[str, str], Any]:
            return {("one", table): [("1",)] for table in sorted(asked) if "one" in sinks}

        async def end_replay(self, sink: str, table: str) -> None:
            assert sink == "one"
            asked.discard(table)

    async def replay(_: Desk, lane: Any, table: str, *rest: object) -> None:
        nonlocal failed
        if table == failing:
            failed += 1
            raise EngineUnavailable("one", "not this table")
        assert table == other
        asked.discard(table)

    monkeypatch.setattr(watch, "replay", replay)
    store = Store("one")
    store.tables = frozenset({failing, other})  # type: ignore[misc]
    lane = SimpleNamespace(sink=store, working=True, resume=lambda: None)
    looking = Watch(Letters(), [lane], lambda: None)  # type: ignore[arg-type, list-item, return-value]
    task = asyncio.create_task(looking.run())
    async with asyncio.timeout(PATIENCE_S):
        while asked != {failing} or failed < 2:
            await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
