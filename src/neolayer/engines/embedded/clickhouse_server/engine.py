"""The door to chDB: the only file that calls it, and the types it does not bring along.

What the engine allows, as measured on chDB 4.4 (ClickHouse 26.9): any number of links (chDB calls
them connections) to one folder in one process; a call releases Python's lock, so links work in
parallel; a link runs one statement at a time and keeps its own settings, database, roles and
temporary tables. Opening a link costs 0.15 ms.

chDB refuses CREATE USER, but it reads roles and grants from a configuration file given at the
first opening (`config.xml`, `users.xml`): the owner's role has every right, the reader's has SELECT
and SHOW and no right on any source (files, URLs, other databases).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol, cast
from urllib.parse import quote

from neolayer.engines.embedded.clickhouse_server.faults import ClickHouseFault
from neolayer.engines.embedded.clickhouse_server.folder import OwnFolder
from neolayer.engines.embedded.clickhouse_server.room import require_room
from neolayer.errors import EngineUnavailable

READER_ROLE = "neolayer_reader"
_FAILURES = (RuntimeError, UnicodeDecodeError)


class Kind(StrEnum):
    """What the engine's parser says a text would do."""

    READ = "read"
    WRITE = "write"
    CONTROL = "control"
    UNPARSED = "unparsed"


@dataclass(frozen=True, slots=True)
class Verdict:
    kind: Kind
    statements: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a statement did. `seconds` is the engine's own clock."""

    body: bytes
    read_rows: int
    read_bytes: int
    result_rows: int
    written_rows: int
    written_bytes: int
    seconds: float


class _Result(Protocol):
    def bytes(self) -> bytes: ...
    def rows_read(self) -> int: ...
    def storage_rows_read(self) -> int: ...
    def storage_bytes_read(self) -> int: ...
    def rows_written(self) -> int: ...
    def bytes_written(self) -> int: ...
    def elapsed(self) -> float: ...


class _InsertResult(Protocol):
    rows_written: int
    bytes_written: int
    elapsed: float


class _Inserter(Protocol):
    def append(self, data: bytes) -> None: ...
    def finish(self) -> _InsertResult: ...
    def cancel(self) -> None: ...


class _QueryClass(Protocol):
    name: str


class _Raw(Protocol):
    def classify_query(self, sql: bytes) -> Mapping[str, object]: ...


class _Connection(Protocol):
    _conn: _Raw

    def query(
        self, query: bytes, fmt: str, /, *, params: Mapping[str, str] | None = None
    ) -> _Result: ...
    def send_insert(self, query: bytes, fmt: str, /) -> _Inserter: ...
    def close(self) -> None: ...


class _Chdb(Protocol):
    def connect(self, connection_string: str) -> _Connection: ...


class _Functions(Protocol):
    def create_function(
        self, name: str, func: object, arg_types: list[str], return_type: str
    ) -> None: ...


class Insert:
    """An open INSERT that takes bytes of one format piece by piece."""

    def __init__(self, inserter: _Inserter) -> None:
        self._inserter = inserter

    def append(self, data: bytes) -> None:
        try:
            self._inserter.append(data)
        except _FAILURES as exc:
            raise _fault(exc) from exc

    def finish(self) -> Outcome:
        """Commit. Rows are on disk (fsync) when this returns."""
        try:
            done = self._inserter.finish()
        except _FAILURES as exc:
            raise _fault(exc) from exc
        rows, size = done.rows_written, done.bytes_written
        return Outcome(b"", rows, size, 0, rows, size, done.elapsed)

    def cancel(self) -> None:
        """Abort; parts that were already full stay, as on a server. Never raises."""
        try:
            self._inserter.cancel()
        except RuntimeError:
            return


class Link:
    """One session inside the engine. Not for two threads at once; methods block."""

    _numbers = itertools.count(1)

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._insert: Insert | None = None
        self.token = f"neolayer-link-{next(self._numbers)}"

    def run(
        self, sql: bytes, *, output: str = "TabSeparated", params: Mapping[str, str] | None = None
    ) -> Outcome:
        """Run one statement to its end and return all it printed."""
        try:
            done = self._connection.query(sql, output, params=params)
        except _FAILURES as exc:
            raise _fault(exc) from exc
        return Outcome(
            body=done.bytes() or b"",
            read_rows=done.storage_rows_read(),
            read_bytes=done.storage_bytes_read(),
            result_rows=done.rows_read(),
            written_rows=done.rows_written(),
            written_bytes=done.bytes_written(),
            seconds=done.elapsed(),
        )

    def classify(self, sql: bytes) -> Verdict:
        """Ask the engine's own parser; runs nothing and takes microseconds."""
        report = self._connection._conn.classify_query(sql)  # pyright: ignore[reportPrivateUsage]
        name = cast(_QueryClass, report["query_class"]).name
        kinds = {"READ_ONLY": Kind.READ, "MUTATING": Kind.WRITE, "UNKNOWN": Kind.UNPARSED}
        return Verdict(kinds.get(name, Kind.CONTROL), cast(int, report["statement_count"]))

    def insert(self, head: bytes, *, data_format: str) -> Insert:
        """Begin an INSERT; `head` has neither FORMAT nor data."""
        self._insert = None
        try:
            self._insert = Insert(self._connection.send_insert(head, data_format))
        except _FAILURES as exc:
            raise _fault(exc) from exc
        return self._insert

    def abandon_insert(self) -> None:
        """Abort the INSERT that was begun last, also one whose beginning nobody waited for: until
        it ends, the link runs nothing else. Never raises."""
        insert, self._insert = self._insert, None
        if insert is not None:
            insert.cancel()

    def close(self) -> None:
        self._insert = None
        self._connection.close()


class Engine:
    """The engine on one folder. Keeps a first link open, for the engine stops with the last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder = OwnFolder(path)
        self._target = f"{path}?config-file={quote(str(self._folder.configuration))}"
        self._chdb = _import_chdb()
        self._keeper = self._connect_first(path)
        self._forbid_file_function()
        found = self._keeper.run(b"SELECT version(), timezone()").body.decode().split()
        self.version, self.timezone = found[0], found[1]

    def connect(self) -> Link:
        """A new link with the owner's rights and default settings."""
        link = Link(self._chdb.connect(self._target))
        link.run(f"SET log_comment = '{link.token}'".encode())
        return link

    def require_room(self, taken: int) -> None:
        """Raises ClickHouseFault where the disk has no room for so many bytes of an INSERT."""
        require_room(self._path, taken)

    def kill(self, token: str, *, mark: str = "") -> None:
        """Ask what the link with this token runs to stop, or what has `mark` in its text.

        A statement may set its own `log_comment`, which hides the token. Does not wait.
        """
        condition = "Settings['log_comment'] = {token:String}"
        if mark:
            condition += " OR position(query, {mark:String}) > 0"
        sql = f"KILL QUERY WHERE ({condition}) AND query NOT LIKE 'KILL QUERY%' ASYNC".encode()
        self._keeper.run(sql, params={"token": token, "mark": mark})

    def close(self) -> None:
        self._keeper.close()
        self._folder.release()

    def _connect_first(self, path: Path) -> Link:
        try:
            return Link(self._chdb.connect(self._target))
        except RuntimeError as exc:
            reason = ClickHouseFault.from_engine(str(exc)).text
            raise EngineUnavailable("clickhouse", f"cannot open {path}: {reason}") from exc

    def _forbid_file_function(self) -> None:
        """Replace `file(path)`, which reads any file of this process's user and asks no grant.

        The table function of that name needs a right that the reader lacks; this one does not.
        """
        from chdb import _chdb  # type: ignore[import-untyped, reportAttributeAccessIssue]

        functions = cast(_Functions, _chdb)
        functions.create_function("file", _no_file, ["String"], "String")


def _fault(exc: BaseException) -> ClickHouseFault:
    """The engine's error. Its text may quote data that are not UTF-8; chDB then fails to make the
    exception it meant, and the text is inside the exception it made instead."""
    inner = exc.__cause__ if isinstance(exc.__cause__, UnicodeDecodeError) else exc
    if isinstance(inner, UnicodeDecodeError):
        return ClickHouseFault.from_engine(inner.object.decode(errors="replace"))
    return ClickHouseFault.from_engine(str(exc))


def _no_file(_: str) -> str:
    raise PermissionError("the function file() is switched off on this server")


def _import_chdb() -> _Chdb:
    try:
        import chdb  # type: ignore[import-untyped]
    except ImportError as exc:
        raise EngineUnavailable(
            "clickhouse", f"chDB is not installed ({exc})", hint="pip install 'neolayer[embedded]'"
        ) from exc
    return cast(_Chdb, chdb)
