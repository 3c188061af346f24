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

from neolayer.engines.embedded.clickhouse_server import runner
from neolayer.engines.embedded.clickhouse_server.auth import User
from neolayer.engines.embedded.clickhouse_server.body import Body
from neolayer.engines.embedded.clickhouse_server.engine import Engine, Link, Outcome
from neolayer.engines.embedded.clickhouse_server.faults import (
    TOO_MANY_SIMULTANEOUS_QUERIES,
    ClickHouseFault,
)
from neolayer.engines.embedded.clickhouse_server.links import Lease
from neolayer.engines.embedded.clickhouse_server.pipe import Pipe
from neolayer.engines.embedded.clickhouse_server.reply import Reply
from neolayer.engines.embedded.clickhouse_server.request import read_request
from neolayer.engines.embedded.clickhouse_server.runner import Runner
from neolayer.engines.embedded.clickhouse_server.threads import Threads


class SlowConnection:
    """chDB's connection, and the engine's way to stop what runs there: a call that has begun ends
    when it may, and so does a kill."""

    def __init__(self, kind: str) -> None:
        self._conn, self._kind = self, kind
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.killing, self.may_kill = threading.Event(), threading.Event()
        self.open_inserts = 0
        self.marks: list[str] = []
        self.kill_fails = 0

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

    def kill(self, _: str, *, mark: str = "") -> None:
        self.marks.append(mark)
        self.killing.set()
        if self.kill_fails:
            self.kill_fails -= 1
            raise ClickHouseFault.of(TOO_MANY_SIMULTANEOUS_QUERIES, "not now")
        assert self.may_kill.wait(PATIENCE_S)

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


@pytest.fixture
def connection(threads: Threads) -> Iterator[SlowConnection]:
    connection = SlowConnection("READ_ONLY")
    yield connection
    connection.may_end.set()
    connection.may_kill.set()


class Requests:
    """What one server is asked, over one link."""

    def __init__(self, connection: SlowConnection, threads: Threads) -> None:
        self.connection, self.threads = connection, threads
        self.runner = Runner(cast(Engine, connection), threads)
        self.link = Link(cast(Any, connection))

    def send(self, sql: str, query_id: str = "") -> asyncio.Task[Outcome]:
        stream = asyncio.StreamReader()
        stream.feed_eof()
        running = self.runner.run(
            read_request({"query": sql, "query_id": query_id}, {}),
            Body(cast(Any, SimpleNamespace(readany=stream.read)), self.threads, encoding=None),
            Lease(self.link, User("neolayer", may_write=True)),
            cast(Reply, SimpleNamespace(set_format=str, started=False, discard=bool)),
            may_write=True,
        )
        return asyncio.create_task(running)

    async def begun(self, sql: str, query_id: str = "") -> asyncio.Task[Outcome]:
        running = self.send(sql, query_id)
        assert await asyncio.to_thread(self.connection.begun.wait, PATIENCE_S)
        return running


@pytest.fixture
def requests(connection: SlowConnection, threads: Threads) -> Requests:
    return Requests(connection, threads)


async def test_an_insert_whose_client_dies_while_it_begins_is_aborted(
    requests: Requests, connection: SlowConnection
) -> None:
    """Its link goes back to be used by others, and runs nothing while an INSERT is open on it."""
    connection._kind = "MUTATING"
    running = await requests.begun("INSERT INTO t FORMAT TabSeparated")
    running.cancel()
    connection.may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert connection.open_inserts == 0


async def test_a_kill_that_comes_late_finds_no_query_but_its_own(
    requests: Requests, connection: SlowConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query is killed by the name of its pipe, which is no other's until the kill is over."""
    pipes: list[Pipe] = []
    monkeypatch.setattr(runner, "Pipe", lambda: pipes.append(Pipe()) or pipes[-1])
    running = await requests.begun("SELECT 1")
    running.cancel()
    assert await asyncio.to_thread(connection.killing.wait, PATIENCE_S)
    connection.may_end.set()
    await asyncio.sleep(0.05)  # the query ends, and whoever waits for it is told
    (pipe,) = pipes
    assert connection.marks[0] == f"'{pipe.path}'" and pipe._writer in pipe._open
    connection.may_kill.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert pipe._open == set()


async def test_a_kill_that_fails_is_tried_again(
    requests: Requests, connection: SlowConnection
) -> None:
    """A link is not let go of while its query runs."""
    connection.kill_fails = 1
    running = await requests.begun("SELECT 1")
    running.cancel()
    assert await asyncio.to_thread(connection.killing.wait, PATIENCE_S)
    connection.killing.clear()
    assert await asyncio.to_thread(connection.killing.wait, PATIENCE_S)
    assert not running.done()
    connection.may_end.set()
    connection.may_kill.set()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_kill_by_id_is_over_before_the_link_is_anothers(
    requests: Requests, connection: SlowConnection
) -> None:
    """The engine knows links, not ids: a kill still on its way would find who comes next."""
    running = await requests.begun("SELECT 1", "mine")
    connection._kind = "MUTATING"
    killing = requests.send("KILL QUERY WHERE query_id = 'mine'")
    assert await asyncio.to_thread(connection.killing.wait, PATIENCE_S)
    connection.may_end.set()
    await asyncio.wait([running], timeout=0.1)
    assert not running.done()
    connection.may_kill.set()
    with pytest.raises(ClickHouseFault, match="cancelled"):
        await running
    await killing
