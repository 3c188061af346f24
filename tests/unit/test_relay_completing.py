"""What is looked up for a stream comes in pieces, and no kill between two of them loses a change.

The source is a labelled stand-in whose rows have the sizes that a test gives them.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.fixtures.batches import CLASSES, COINS, at, batch, changes

from neolayer.errors import EngineUnavailable
from neolayer.relay import completing
from neolayer.relay.changes import (
    INSERT,
    NULL,
    UNCHANGED,
    UPDATE,
    UPDATE_WITH_KEY,
    Batch,
    Relation,
    TableChanges,
    Truncation,
    Value,
    pack_changes,
)
from neolayer.relay.comparable import Key, Shape
from neolayer.relay.completing import Completing
from neolayer.relay.envelope import Outgoing, Reached, unpublished
from neolayer.relay.enveloping import Envelopes
from neolayer.relay.sinks.null import NullSink
from neolayer.relay.sinks.sink import Rejected
from neolayer.relay.snapshot import ExportedSnapshot

STAMPS = Relation(3, "public", "stamps", COINS.columns, COINS.types)
BOTH = (*CLASSES, dataclasses.replace(CLASSES[-1], name="stamps", table="public.stamps"))
NOTE = COINS.columns.index("note")


class Rows:
    """The source's tables: every row is there, and its note has so many bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.size = 1
        self.gone: set[str] = set()
        self.lookups = 0
        monkeypatch.setattr(completing, "open_source", self._open)

    async def _open(self, snapshot: object, table: str, shape: Shape) -> Any:
        return SimpleNamespace(columns=shape.columns, sizes=self._sizes, rows=self._rows)

    async def _sizes(self, keys: Sequence[Key]) -> dict[Key, int]:
        return {key: self.size for key in keys if key[0] not in self.gone}

    async def _rows(self, keys: Sequence[Key]) -> dict[Key, list[Value]]:
        self.lookups += 1
        return {key: [b'"%d"' % self.size] for key in keys if key[0] not in self.gone}

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncIterator[ExportedSnapshot]:
        yield ExportedSnapshot(cast(Any, None), "", at(99), "")


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Rows:
    return Rows(monkeypatch)


class Killed(BaseException):
    """The process is gone."""


class Stream(NullSink):
    """A labelled stand-in for NATS: what it took, it keeps one by one, whatever ends the write."""

    tables = frozenset({COINS.table, STAMPS.table})

    def __init__(self, stored: list[Outgoing], *, dies_at: int | None = None) -> None:
        super().__init__()
        self.envelopes = Envelopes(BOTH, "neolayer")
        self.stored = stored
        self.dies_at = dies_at
        self.fails_at: int | None = None
        self.sent: Reached | None = None
        self.pieces: list[Sequence[Batch]] = []
        self.connect()

    def connect(self) -> None:
        last = self.stored[-1] if self.stored else None
        self.last = None if last is None else Reached(last.id, str(last.version))

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        made = cast(list[Outgoing], self.envelopes.of(batches))
        waiting, self.last = unpublished(made, self.last, sent=self.sent)
        for one in waiting:
            if len(self.stored) == self.dies_at:
                raise Killed
            if len(self.stored) == self.fails_at:
                self.fails_at = None
                self.connect()
                raise EngineUnavailable("nats", "not now")
            self.stored.append(one)
        self.pieces.append(batches)
        self.envelopes.accept()
        if self.last is None and self.stored:
            self.sent = Reached(self.stored[-1].id, str(self.stored[-1].version))
        return await super().write(batches)


def touching(*commits: int) -> Batch:
    """Commits that each update three rows of either table, in a batch as the log has it."""
    told = [
        (at(commit), UPDATE, [str(commit % 3 + key), "ann", str(commit), UNCHANGED])
        for commit in commits
        for key in (0, 10, 20)
    ]
    return batch(changes(COINS, *told), changes(STAMPS, *told), position=at(commits[-1]))


BATCHES = [touching(1, 2, 3), touching(4, 5)]


def given(sink: Stream) -> Completing:
    return Completing(sink, sink.envelopes.shape, BATCHES, at(0))


def in_order(stored: Sequence[Outgoing]) -> dict[tuple[str, str], list[str]]:
    told: dict[tuple[str, str], list[str]] = {}
    for one in stored:
        ids = told.setdefault((one.topic, one.key), [])
        if one.id not in ids:
            ids.append(one.id)
    return told


async def test_C1_a_kill_between_pieces_loses_no_change_of_another_table(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it comes, and whatever sizes the values have by the next try: what a stream passes
    over as told, it has."""
    monkeypatch.setattr(completing, "PIECE_BYTES", 6)
    whole: list[Outgoing] = []
    await given(Stream(whole)).write(rows.snapshot)
    assert len({one.id for one in whole}) == len(whole) == 30
    assert [one.version for one in whole] == sorted(one.version for one in whole)
    for dies_at in range(30):
        for before, after in ((1, 1), (1, 2), (2, 1), (1, 6), (6, 1)):
            stored: list[Outgoing] = []
            rows.size = before
            with pytest.raises(Killed):
                await given(Stream(stored, dies_at=dies_at)).write(rows.snapshot)
            rows.size = after
            await given(Stream(stored)).write(rows.snapshot)
            assert in_order(stored) == in_order(whole), f"killed after {dies_at}"
            assert len(stored) == 30


async def test_C5_a_piece_that_fails_goes_on_under_other_sizes(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same of a process that lives: each change once, from where the stream ends."""
    monkeypatch.setattr(completing, "PIECE_BYTES", 6)
    for fails_at in range(30):
        for before, after in ((1, 2), (2, 1), (1, 6), (6, 1)):
            sink = Stream([])
            sink.fails_at, rows.size = fails_at, before
            write = given(sink)
            with pytest.raises(EngineUnavailable):
                await write.write(rows.snapshot)
            rows.size = after
            await write.write(rows.snapshot)
            assert len({one.id for one in sink.stored}) == len(sink.stored) == 30


async def test_C7_a_piece_has_one_table_after_another_and_stops_at_its_last_commit(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store inserts as often as there are tables in it, not as often as commits go to and fro;
    the checkpoint moves when the batch is whole."""
    monkeypatch.setattr(completing, "PIECE_BYTES", 9)
    sink = Stream([])
    await given(sink).write(rows.snapshot)
    pieces = [one for piece in sink.pieces for one in piece]
    assert all(len(one.changes) <= 2 for one in pieces)
    assert [(one.position, one.unfinished) for one in pieces] == [
        (at(0), at(2)),
        (at(3), None),
        (at(3), at(5)),
        (at(5), None),
    ]
    assert rows.lookups == sum(len(one.changes) for one in pieces)


async def test_C14_a_row_that_is_gone_is_counted_as_one_that_is_there(rows: Rows) -> None:
    """Else what comes behind it would bear another identity when it is told again."""
    of_other = [NULL, NULL, b"1", NULL], [b"1", b"ann", b"2", UNCHANGED]
    same = [b"1", NULL, NULL, NULL], [b"1", b"ann", b"2", UNCHANGED]
    moved = [b"2", NULL, NULL, NULL], [b"1", b"ann", b"2", UNCHANGED]
    told = changes(
        COINS,
        *((at(1), UPDATE_WITH_KEY, _packed(*one)) for one in (of_other, same, moved)),
        (at(1), INSERT, ["3", "ann", "1", None]),
    )
    made = []
    for gone in (set[str](), {"1"}):
        rows.gone = gone
        sink = Stream([])
        one = batch(told, position=at(1))
        await Completing(sink, sink.envelopes.shape, [one], at(0)).write(rows.snapshot)
        made.append([(one.id, one.key) for one in sink.stored])
    assert made[0] == made[1] and len(made[0]) == 5


def _packed(old: Sequence[Value], new: Sequence[Value]) -> list[Value]:
    return [0, len(old), *old, ord("N"), 0, 0, *new]


async def test_what_was_emptied_stands_where_it_was(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between what came before it and what came behind, also where pieces end there."""
    lacking = [b"1", b"ann", b"1", UNCHANGED]
    one = batch(
        _update(COINS, at(1), lacking),
        _update(STAMPS, at(1), lacking),
        Truncation(COINS, at(2)),
        pack_changes(COINS, _update(COINS, at(3), lacking).changes()),
        position=at(3),
    )
    for size in (1, 2, 3, 9):
        monkeypatch.setattr(completing, "PIECE_BYTES", size)
        sink = Stream([])
        await Completing(sink, sink.envelopes.shape, [one], at(0)).write(rows.snapshot)
        told = [(one.type, one.version) for one in sink.stored]
        assert told == [
            ("coins.updated", at(1)),
            ("stamps.updated", at(1)),
            ("coins.truncated", at(2)),
            ("coins.updated", at(3)),
        ]


def _update(relation: Relation, version: int, row: Sequence[Value]) -> TableChanges:
    return changes(relation, (version, UPDATE, row))
