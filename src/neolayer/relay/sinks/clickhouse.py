"""The ClickHouse sink: few, large, versioned inserts.

Every change becomes a row of a ReplacingMergeTree: the key, the columns, the version (commit
position) and a deletion mark. The newest version of a key wins whenever it arrives, so a batch may
come twice. Two rows of one key under one version, as of a table that is altered inside a
transaction or beyond its fortieth part, are inserts of their own: their order tells them apart.

A row that the server cannot read (a number below zero for an unsigned column) fails its whole
insert: then halves are tried, down to the row itself, which is given back as rejected.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import aiohttp
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import ClickHouseError

from neolayer.catalogue import ClickHouseCopy, DataClass
from neolayer.crash_points import crash_point
from neolayer.engines.clickhouse.client import connect, explain
from neolayer.engines.endpoints import ClickHouseEndpoint
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import EngineUnavailable
from neolayer.relay.changes import Batch, Relation, TableChanges, Truncation
from neolayer.relay.comparable import Shape
from neolayer.relay.sinks.clickhouse_declared import MARKS, require_declared
from neolayer.relay.sinks.integers import Held, require_wide
from neolayer.relay.sinks.sink import CopyLost, Park, Rejected, Snapshot, note_of
from neolayer.relay.sinks.tabs import LIVE, encode, rejected_line

_sql = load_queries(__name__, "clickhouse.sql")
_CHECKPOINTS = "relay_checkpoints"
_SETTINGS: dict[str, Any] = {
    "date_time_input_format": "best_effort",
    "input_format_null_as_default": 1,  # a delete knows only the key of its row
    "async_insert": 0,  # the answer must mean that the rows are stored
}
_BLOCK_BYTES = 16 << 20
# The server's codes for a value that does not fit its column: trying again does not help.
_UNREADABLE = frozenset(
    {6, 26, 27, 32, 38, 41, 53, 69, 70, 72, 117, 131, 321, 349, 376, 407, 441, 467, 691}
)


# And for a table or a column that is not there, whose declared shape is then looked at again.
_UNKNOWN = frozenset({10, 16, 47, 60})


class _Unreadable(Exception):
    """A line of an insert cannot be read."""


class ClickHouseSink:
    """Copies the declared tables, and its own checkpoint, into one ClickHouse database."""

    name = "clickhouse"
    database = "neolayer"

    def __init__(
        self, endpoint: ClickHouseEndpoint, classes: Iterable[DataClass], *, wait_s: float
    ) -> None:
        self._endpoint = endpoint
        self._copies = {
            one.table: copy
            for one in classes
            for copy in one.copies
            if isinstance(copy, ClickHouseCopy)
        }
        self.tables = frozenset(self._copies)
        self._client: AsyncClient | None = None
        self._left = 0
        self._held_by: set[Relation] = set()  # whose numbers our columns are wide enough for
        self.wait_s = wait_s

    async def open(self, confirmed: int) -> int | None:
        if self._client is None:
            self._client = await connect(self._endpoint)
        self._held_by.clear()
        checkpoint = self._left = await self._checkpoint()
        return checkpoint if checkpoint and checkpoint >= confirmed else None

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _checkpoint(self) -> int:
        return await self._stored(self.name)

    async def _require_what_was_left(self) -> None:
        """Tables may be emptied under us (a migration taken back, a restore): the checkpoint, which
        lies beside the rows, then says less than we left. Raises CopyLost."""
        if await self._checkpoint() < self._left:
            raise CopyLost(self.name)

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        await self._require_what_was_left()
        rejected: list[Rejected] = []
        waiting: dict[str, list[bytes]] = {}
        last_version: dict[str, int] = {}
        for changes in (changes for batch in batches for changes in batch.changes):
            table = changes.relation.table
            copy = self._copies.get(table)
            if copy is None:
                continue
            if isinstance(changes, Truncation):
                rejected += await self._insert_all(waiting)
                await self._held(table)
                await self._delete_below(copy, changes.version + 1)
                continue
            if last_version.get(table) == changes.versions[0]:  # altered inside a transaction
                rejected += await self._insert_all(waiting)
            await self._require_wide(changes.relation)
            waiting.setdefault(table, []).append(await _encode(changes, copy))
            last_version[table] = changes.versions[-1]
        rejected += await self._insert_all(waiting)
        crash_point("clickhouse.before_checkpoint")
        await self.reflect(batches[-1].position)
        return rejected

    def shape(self, table: str) -> Shape:
        copy = self._copies[table]
        target = f"{self._endpoint.database}.{copy.table}"
        return Shape(copy.key, copy.columns, target=(target,))

    async def begin_copy(self, version: int) -> None:
        await self._store(note_of(self.name), version)

    async def copy_began(self) -> int:
        return await self._stored(note_of(self.name))

    async def reflect(self, version: int) -> None:
        await self._store(self.name, version)
        self._left = max(self._left, version)

    async def require_types(self, relation: Relation) -> None:
        copy = self._copies[relation.table]
        require_wide(relation, copy.columns, copy.table, await self._held(relation.table))
        self._held_by.add(relation)

    async def _held(self, table: str) -> dict[str, Held]:
        """The columns of the copy. Raises Misfit where it is not there, RelayError where it lacks
        some."""
        copy = self._copies[table]
        found = await self._rows(_sql.column_types, {"table": copy.table})
        held = {name: Held(type_, bool(is_key)) for name, type_, is_key in found}
        require_declared(table, copy, held)
        return held

    async def _require_wide(self, relation: Relation) -> None:
        if relation not in self._held_by:
            await self.require_types(relation)

    async def copy_part(self, part: Snapshot, table: str, park: Park) -> None:
        copy = self._copies[table]
        await self._require_wide(await part.describe(table, copy.columns))
        tail = b"\t%d\t%s\n" % (part.version, LIVE)
        async for block in _blocks(part.rows(table, copy.columns), tail):
            await park(await self._insert(table, block))

    async def drop_below(self, table: str, version: int) -> None:
        await self._held(table)
        await self._delete_below(self._copies[table], version)

    async def put(self, table: str, changes: TableChanges) -> Sequence[Rejected]:
        """Apply changes of one table and leave the checkpoint alone: for the reconciler."""
        if self._client is None:
            self._client = await connect(self._endpoint)
        await self._require_wide(changes.relation)
        return await self._insert(table, await _encode(changes, self._copies[table]))

    async def _insert_all(self, waiting: dict[str, list[bytes]]) -> list[Rejected]:
        rejected: list[Rejected] = []
        for table, parts in waiting.items():
            rejected += await self._insert(table, b"".join(parts))
        waiting.clear()
        return rejected

    async def _insert(self, table: str, lines: bytes) -> list[Rejected]:
        """Insert lines, and give back those that the server cannot read."""
        copy = self._copies[table]
        try:
            await self._raw_insert(copy.table, (*copy.columns, *MARKS), lines)
        except _Unreadable as exc:
            rows = lines.split(b"\n")[:-1]
            if len(rows) == 1:
                return [rejected_line(rows[0], table, copy, cause=str(exc))]
            middle = len(rows) // 2
            halves = (b"\n".join([*half, b""]) for half in (rows[:middle], rows[middle:]))
            return [one for half in halves for one in await self._insert(table, half)]
        except EngineUnavailable as exc:
            if getattr(exc.__cause__, "code", None) in _UNKNOWN:
                await self._held(table)
            raise
        return []

    async def _stored(self, name: str) -> int:
        return int(await self._command(_sql.checkpoint, {"sink": name}))

    async def _store(self, name: str, version: int) -> None:
        line = b"%s\t%d\n" % (name.encode(), version)
        await self._raw_insert(_CHECKPOINTS, ("sink", "version"), line)

    async def _raw_insert(self, table: str, columns: Sequence[str], lines: bytes) -> None:
        if not lines:
            return
        try:
            await self._connected().raw_insert(  # pyright: ignore[reportUnknownMemberType]
                table, columns, lines, settings=_SETTINGS, fmt="TabSeparated"
            )
        except (ClickHouseError, aiohttp.ClientError, OSError) as exc:
            if getattr(exc, "code", None) in _UNREADABLE:
                raise _Unreadable(_cause(str(exc))) from exc
            raise explain(exc, self._endpoint) from exc

    async def _delete_below(self, copy: ClickHouseCopy, version: int) -> None:
        parameters = {"table": copy.table, "version": version}
        if int(await self._command(_sql.count_below, parameters)):
            await self._command(_sql.delete_below, parameters)

    async def _rows(self, statement: str, parameters: dict[str, Any]) -> Sequence[Sequence[Any]]:
        try:
            found = await self._connected().query(  # pyright: ignore[reportUnknownMemberType]
                statement, parameters
            )
        except (ClickHouseError, aiohttp.ClientError, OSError) as exc:
            raise explain(exc, self._endpoint) from exc
        return found.result_rows

    async def _command(self, statement: str, parameters: dict[str, Any]) -> Any:
        try:
            return await self._connected().command(  # pyright: ignore[reportUnknownMemberType]
                statement, parameters
            )
        except (ClickHouseError, aiohttp.ClientError, OSError) as exc:
            raise explain(exc, self._endpoint) from exc

    def _connected(self) -> AsyncClient:
        assert self._client is not None, "open() comes first"
        return self._client


def _cause(text: str) -> str:
    """What the server says of a value, without the row that it quotes."""
    found = re.search(r"Code: (\d+)\. DB::Exception: (.*?)(?: before:|: \(|: While|$)", text)
    return f"{found[2]} (ClickHouse code {found[1]})" if found else "ClickHouse cannot read it"


async def _encode(changes: TableChanges, copy: ClickHouseCopy) -> bytes:
    """Off the event loop, so that another sink's small writes need not wait for it."""
    return await asyncio.to_thread(encode, changes, columns=copy.columns, key=copy.key)


async def _blocks(rows: AsyncIterator[bytes], tail: bytes) -> AsyncIterator[bytes]:
    """Lines with version and mark added, in blocks of an insert's size."""
    held: list[bytes] = []
    size = 0
    async for line in rows:
        held.append(line[:-1] + tail)
        size += len(line)
        if size >= _BLOCK_BYTES:
            yield b"".join(held)
            held.clear()
            size = 0
    if held:
        yield b"".join(held)
