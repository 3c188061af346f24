"""The reader lets changes gather inside a transaction, and rests nowhere else."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.unit import pgoutput_encoder as pg

from neolayer.engines.postgres.replication import Handler
from neolayer.relay.decoder import Decoder
from neolayer.relay.reader import Reader
from neolayer.relay.segments import SegmentLog
from neolayer.relay.spool import Spool

THING = pg.relation(1, ["id"])
ROW = pg.insert(1, [b"1"])
STARTS_AT, ENDS_AT = 2_000, 2_100


class FakeStream:
    """A server that sends `gulps`; whoever rests finds the next one, whoever waits is woken."""

    def __init__(
        self, gulps: Sequence[Sequence[memoryview]], stop: asyncio.Event, *, gathers: bool
    ) -> None:
        self.gathers = gathers
        self._gulps = deque(gulps)
        self._stop = stop
        self.wakes = 0

    def receive(self, handle: Handler, *, limit: int) -> int:
        if not self._gulps:
            return 0
        gulp = self._gulps.popleft()
        for message in gulp:
            handle(message)
        return len(gulp)

    async def wait(self, timeout_s: float) -> None:
        if not self._gulps:
            self._stop.set()
        self.wakes += 1

    def confirm(self, *, received: int, durable: int, ask: bool = False) -> None:
        pass


async def rests_of(
    gulps: Sequence[Sequence[memoryview]],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    gathers: bool = True,
) -> tuple[FakeStream, list[float], int]:
    """Read what a server sends: the stream, how long each rest was, and the rows in the log."""
    stop = asyncio.Event()
    stream, spool = FakeStream(gulps, stop, gathers=gathers), Spool(folder / "open")
    log = await SegmentLog.open(folder, bound=1 << 30)
    log.resume(1_000, new_slot=False)
    rests: list[float] = []
    sleep = asyncio.sleep

    async def rest(seconds: float) -> None:
        rests.append(seconds)
        await sleep(0)

    monkeypatch.setattr("neolayer.relay.reader.asyncio.sleep", rest)
    decoder = Decoder(epoch=1, spool=spool)
    await Reader(stream, decoder, log, ()).run(stop)  # type: ignore[arg-type]
    spool.close()
    return stream, rests, log.rows


async def test_changes_gather_inside_a_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that sends row by row wakes nobody before its transaction ends. A rest is longer
    where there is a backlog. After the end nothing is waited for."""
    gulps = [[pg.begin(STARTS_AT), THING], [ROW], [ROW] * 500, [pg.commit(STARTS_AT, ENDS_AT)]]
    stream, rests, rows = await rests_of(gulps, tmp_path, monkeypatch)
    assert rows == 501
    assert stream.wakes == 1  # when all was read
    first, second, in_backlog, last = rests
    assert 0 < first == second < in_backlog < 0.01
    assert last == 0


async def test_pieces_of_an_open_transaction_gather_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside a piece the reader rests; between two of them it waits, however long that takes."""
    start, *_, end = pg.piece(7, ROW)
    rows = [pg.inside(THING, 7), pg.inside(ROW, 7)]
    commit = pg.piece_commit(7, STARTS_AT, ENDS_AT)
    gulps = [[start, rows[0]], [rows[1], end], [commit]]
    stream, rests, rows_read = await rests_of(gulps, tmp_path, monkeypatch)
    assert rows_read == 1
    assert rests[0] > 0 and rests[1] == 0
    assert stream.wakes == 1


async def test_a_full_gulp_is_not_rested_upon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where more has arrived than is taken at once, the rest of it is taken at once."""
    gulps = [[pg.begin(STARTS_AT), THING, *[ROW] * 1_998], [ROW, pg.commit(STARTS_AT, ENDS_AT)]]
    _, rests, rows = await rests_of(gulps, tmp_path, monkeypatch)
    assert rows == 1_999
    assert rests == [0, 0]


async def test_nobody_rests_where_messages_find_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Unix socket that is not read makes the server stand still."""
    gulps = [[pg.begin(STARTS_AT), THING], [ROW] * 200, [pg.commit(STARTS_AT, ENDS_AT)]]
    _, rests, rows = await rests_of(gulps, tmp_path, monkeypatch, gathers=False)
    assert rows == 200
    assert rests == [0, 0, 0]
