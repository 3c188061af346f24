"""The embedded ClickHouse's runner over a stand-in for chDB's connection, which holds a call as
long as the test wants; the engine itself is in `tests/contract/test_clickhouse_server.py`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.fixtures.patience import PATIENCE_S

from neolayer.engines.embedded.clickhouse_server.auth import User
from neolayer.engines.embedded.clickhouse_server.body import Body
from neolayer.engines.embedded.clickhouse_server.engine import Engine, Link, Outcome
from neolayer.engines.embedded.clickhouse_server.links import Lease
from neolayer.engines.embedded.clickhouse_server.pipe import Pipe
from neolayer.engines.embedded.clickhouse_server.reply import Reply
from neolayer.engines.embedded.clickhouse_server.request import read_request
from neolayer.engines.embedded.clickhouse_server.runner import Runner
from neolayer.engines.embedded.clickhouse_server.threads import Threads


class SlowConnection:
    """chDB's connection, and the engine's way to stop what runs there: a call that has begun ends
    when it may."""

    def __init__(self, kind: str) -> None:
        self._conn, self._kind = self, kind
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.killing, self.killed = threading.Event(), threading.Event()
        self.open_inserts = 0
        self.marks: list[str] = []

    def classify_query(self, _: bytes) -> dict[str, object]:
        return {"query_class": SimpleNamespace(name=self._kind), "statement_count": 1}

    def send_insert(self, *_: object) -> SlowConnection:
        self._take_time()
        self.open_inserts += 1
        return self

    def cancel(self) -> None:
        self.open_inserts -= 1

    def query(self, *_: object, **__: object) -> SlowConnection:
        self._take_time()
        raise RuntimeError("Code: 394. DB::Exception: Query was cancelled. (QUERY_WAS_CANCELLED)")

    def kill(self, _: str, *, mark: str) -> None:
        self.marks.append(mark)
        self.killing.set()
        assert self.killed.wait(PATIENCE_S)

    def require_room(self, _: int) -> None:
        """There is some."""

    def _take_time(self) -> None:
        self.begun.set()
        assert self.may_end.wait(PATIENCE_S)


@pytest.fixture
def threads() -> Iterator[Threads]:
    threads = Threads()
    yield threads
    threads.close()


async def begin(sql: str, connection: SlowConnection, threads: Threads) -> asyncio.Task[Outcome]:
    """A request whose statement is on its way."""
    stream = asyncio.StreamReader()
    stream.feed_eof()
    running = asyncio.create_task(
        Runner(cast(Engine, connection), threads).run(
            read_request({"query": sql}, {}),
            Body(cast(Any, SimpleNamespace(readany=stream.read)), threads, encoding=None),
            Lease(Link(cast(Any, connection)), User("neolayer", may_write=True)),
            cast(Reply, SimpleNamespace(set_format=str)),
            may_write=True,
        )
    )
    assert await asyncio.to_thread(connection.begun.wait, PATIENCE_S)
    return running


async def test_an_insert_whose_client_dies_while_it_begins_is_aborted(threads: Threads) -> None:
    """Its link goes back to be used by others, and runs nothing while an INSERT is open on it."""
    connection = SlowConnection("MUTATING")
    running = await begin("INSERT INTO t FORMAT TabSeparated", connection, threads)
    running.cancel()
    connection.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert connection.open_inserts == 0


async def test_a_kill_that_comes_late_finds_no_query_but_its_own(threads: Threads) -> None:
    """A query is killed by the name of its pipe, which is no other's until the kill is over."""
    connection = SlowConnection("READ_ONLY")
    running = await begin("SELECT 1", connection, threads)
    running.cancel()
    assert await asyncio.to_thread(connection.killing.wait, PATIENCE_S)
    connection.may_end.set()
    await asyncio.sleep(0.05)  # the query ends meanwhile, and whoever waits for it is told
    others = [Pipe() for _ in range(4)]
    assert not {f"'{pipe.path}'" for pipe in others} & {*connection.marks}
    connection.killed.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    for pipe in others:
        pipe.close_reader()
        pipe.close_writer()
