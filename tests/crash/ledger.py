"""Two sinks that keep a table in SQLite, so that a killed process leaves what it had written.

`VersionedSink` is a sink as the protocol wants it: idempotent by version, checkpoint after data.
`OnceSink` is not idempotent on purpose: it stores rows and checkpoint in one transaction, notes an
insert of what is there as doubled and a change of what is not there as lost. So it takes a copy at
once or not at all: it keeps no note of one, and each starts over.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from tests.fixtures.fix_relay import COLUMNS

from neolayer.crash_points import crash_point
from neolayer.relay.changes import DELETE, INSERT, NULL, Batch, Change, TableChanges, Truncation
from neolayer.relay.comparable import Shape
from neolayer.relay.sinks.sink import Park, Rejected, Snapshot, note_of

TABLE = "public.accounts"
SCHEMA = """
CREATE TABLE IF NOT EXISTS held (
    sink TEXT, id TEXT, version INTEGER, deleted INTEGER, held TEXT, PRIMARY KEY (sink, id));
CREATE TABLE IF NOT EXISTS checkpoints (sink TEXT PRIMARY KEY, version INTEGER);
CREATE TABLE IF NOT EXISTS wrong (sink TEXT, what TEXT, id TEXT, version INTEGER);
"""
_NOTE = note_of("versioned")
_ESCAPED = re.compile(rb"\\([\\tnrbfv])")
_CHARACTERS = {b"\\": b"\\", b"t": b"\t", b"n": b"\n", b"r": b"\r", b"b": b"\b", b"f": b"\f"}
_PUT = "INSERT OR REPLACE INTO held VALUES (?, ?, ?, ?, ?)"


def from_copy(line: bytes) -> list[str | None]:
    """A line of COPY text as values."""
    return [
        None if cell == rb"\N" else _ESCAPED.sub(lambda found: _CHARACTERS[found[1]], cell).decode()
        for cell in line.rstrip(b"\n").split(b"\t")
    ]


def connect(path: Path) -> sqlite3.Connection:
    """The ledger; what is committed outlives the process, if not the machine."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    connection.executescript("PRAGMA synchronous = OFF;" + SCHEMA)
    return connection


def file_of(folder: Path, sink: str) -> Path:
    """Each sink has its own, because a copy holds its transaction open while it waits."""
    return folder / f"{sink}.sqlite"


def held(folder: Path, sink: str) -> dict[str, list[str | None]]:
    """The rows a sink holds, by id."""
    with closing(connect(file_of(folder, sink))) as connection:
        rows = connection.execute(
            "SELECT id, held FROM held WHERE sink = ? AND deleted = 0", [sink]
        )
        return {name: json.loads(row) for name, row in rows}


def wrong(folder: Path) -> list[tuple[str, ...]]:
    """What should not have happened, each once told."""
    with closing(connect(file_of(folder, OnceSink.name))) as connection:
        found = connection.execute("SELECT sink, what, id, version FROM wrong").fetchall()
        connection.execute("DELETE FROM wrong")
        return found


class VersionedSink:
    """See the module."""

    name = "versioned"
    database = "neolayer"
    tables = frozenset({TABLE})
    wait_s = 0.0

    def __init__(self, folder: Path) -> None:
        self.path = file_of(folder, self.name)
        self.reached = 0
        self._connection: sqlite3.Connection | None = None

    @property
    def db(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = connect(self.path)
        return self._connection

    async def open(self, confirmed: int) -> int | None:
        if self.db.in_transaction:  # a write that was cut short
            self.db.execute("ROLLBACK")
        query = "SELECT version FROM checkpoints WHERE sink = ?"
        found = self.db.execute(query, [self.name]).fetchone()
        self.reached = found[0] if found else 0
        return self.reached if self.reached and self.reached >= confirmed else None

    def shape(self, table: str) -> Shape:
        return Shape(("id",), COLUMNS)

    async def begin_copy(self, version: int) -> None:
        self.db.execute("INSERT OR REPLACE INTO checkpoints VALUES (?, ?)", [_NOTE, version])

    async def copy_began(self) -> int:
        query = "SELECT version FROM checkpoints WHERE sink = ?"
        found = self.db.execute(query, [_NOTE]).fetchone()
        return found[0] if found else 0

    async def copy_part(self, part: Snapshot, table: str, park: Park) -> None:
        rows = [from_copy(line) async for line in part.rows(TABLE, COLUMNS)]
        self.db.execute("BEGIN IMMEDIATE")
        for row in rows:
            self.put(row, part.version)
        self.db.execute("COMMIT")

    async def drop_below(self, table: str, version: int) -> None:
        self.db.execute("DELETE FROM held WHERE sink = ? AND version < ?", [self.name, version])

    async def reflect(self, version: int) -> None:
        self.save(version)

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        self.db.execute("BEGIN IMMEDIATE")
        for part in (part for batch in batches for part in batch.changes):
            if isinstance(part, Truncation):
                self.truncate(part)
                continue
            for change, row, old in rows_of(part):
                self.apply(change, row, old)
        self.between()
        self.save(batches[-1].position)
        self.db.execute("COMMIT")
        return ()

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def between(self) -> None:
        """Data and checkpoint are two commits."""
        self.db.execute("COMMIT")
        crash_point("ledger.before_checkpoint")
        self.db.execute("BEGIN IMMEDIATE")

    def save(self, version: int) -> None:
        version = max(version, self.reached)
        self.db.execute("INSERT OR REPLACE INTO checkpoints VALUES (?, ?)", [self.name, version])
        self.reached = version

    def put(self, row: list[str | None], version: int) -> None:
        self.db.execute(
            "INSERT INTO held VALUES (?, ?, ?, 0, ?) ON CONFLICT DO UPDATE SET"
            " version = excluded.version, deleted = 0, held = excluded.held"
            " WHERE excluded.version >= version",
            [self.name, row[0], version, json.dumps(row)],
        )

    def truncate(self, part: Truncation) -> None:
        self.db.execute(
            "UPDATE held SET deleted = 1, version = ? WHERE sink = ? AND version <= ?",
            [part.version, self.name, part.version],
        )

    def apply(self, change: Change, row: list[str | None], old: list[str | None] | None) -> None:
        if old is not None and old[0] != row[0]:
            self.bury(old[0], change.version)
        if change.kind == DELETE:
            self.bury(row[0], change.version)
        else:
            self.put(row, change.version)

    def bury(self, name: str | None, version: int) -> None:
        self.db.execute(
            "INSERT INTO held VALUES (?, ?, ?, 1, '') ON CONFLICT DO UPDATE SET"
            " version = excluded.version, deleted = 1 WHERE excluded.version >= version",
            [self.name, name, version],
        )


class OnceSink(VersionedSink):
    """See the module. A transaction that comes in pieces is kept until its end is there."""

    name = "once"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._pieces: list[TableChanges | Truncation] = []
        self._copied: list[tuple[list[str | None], int]] = []
        self._began = 0

    async def open(self, confirmed: int) -> int | None:
        self._pieces.clear()
        self._began = 0
        return await super().open(confirmed)

    async def begin_copy(self, version: int) -> None:
        self._began = version
        self._copied.clear()

    async def copy_began(self) -> int:
        return self._began

    async def copy_part(self, part: Snapshot, table: str, park: Park) -> None:
        self._copied += [
            (from_copy(line), part.version) async for line in part.rows(TABLE, COLUMNS)
        ]

    async def drop_below(self, table: str, version: int) -> None:
        pass

    async def reflect(self, version: int) -> None:
        self.db.execute("BEGIN IMMEDIATE")
        self.db.execute("DELETE FROM held WHERE sink = ?", [self.name])
        for row, at in self._copied:
            self.put(row, at)
        self.save(version)
        self.db.execute("COMMIT")

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        self.db.execute("BEGIN IMMEDIATE")
        for batch in batches:
            self._pieces += batch.changes
            if batch.unfinished is None:
                for part in self._pieces:
                    self._apply_part(part)
                self._pieces.clear()
                self.save(batch.position)
        self.db.execute("COMMIT")
        return ()

    def _apply_part(self, part: TableChanges | Truncation) -> None:
        if isinstance(part, Truncation):
            if part.version > self.reached:
                self.db.execute("DELETE FROM held WHERE sink = ?", [self.name])
            return
        for change, row, old in rows_of(part):
            if change.version > self.reached:
                self.apply(change, row, old)

    def apply(self, change: Change, row: list[str | None], old: list[str | None] | None) -> None:
        if change.kind == INSERT:
            if self._remove(row[0]):
                self._note("doubled", row[0], change)
        elif not self._remove((old or row)[0]):
            self._note("lost", (old or row)[0], change)
        if change.kind != DELETE:
            self.db.execute(_PUT, [self.name, row[0], change.version, 0, json.dumps(row)])

    def _remove(self, name: str | None) -> bool:
        gone = self.db.execute("DELETE FROM held WHERE sink = ? AND id = ?", [self.name, name])
        return gone.rowcount == 1

    def _note(self, what: str, name: str | None, change: Change) -> None:
        self.db.execute(
            "INSERT INTO wrong VALUES (?, ?, ?, ?)", [self.name, what, name, change.version]
        )


def rows_of(
    part: TableChanges,
) -> Iterator[tuple[Change, list[str | None], list[str | None] | None]]:
    """Changes with the copied columns of the new and the old row, as text."""
    if part.relation.table != TABLE:
        return
    places = part.relation.places(COLUMNS)
    for change in part.changes():
        old = None if change.old is None else _texts(change.old, places)
        yield change, _texts(change.row, places), old


def _texts(row: Sequence[bytes | int], places: Sequence[int]) -> list[str | None]:
    texts: list[str | None] = []
    for place in places:
        value = row[place]
        assert isinstance(value, bytes) or value == NULL
        texts.append(value.decode() if isinstance(value, bytes) else None)
    return texts
