"""ClickHouse's side of a comparison: digests over the columns themselves, newest versions only.

Each column is written as PostgreSQL writes it, so a value that was altered here is found, not only
one that never came. UUIDs are ordered by their text, because ClickHouse orders them by their second
half; where both ends of a range agree on the leading columns they are compared as they are, so that
the primary index prunes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import structlog
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import ClickHouseError

from neolayer.catalogue import ClickHouseCopy, DataClass
from neolayer.engines.clickhouse.client import connect, explain
from neolayer.engines.endpoints import ClickHouseEndpoint
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import NotSupported, RelayError
from neolayer.relay.changes import TableChanges
from neolayer.relay.comparable import AGE, Bound, Entry, Key, Shape, StoredRow
from neolayer.relay.comparing.keys import bytes_of, is_utf8, text_of
from neolayer.relay.digests import NOTHING, Summary, join_halves
from neolayer.relay.sinks.clickhouse import ClickHouseSink
from neolayer.relay.sinks.clickhouse_declared import lack, way_back

_sql = load_queries(__name__, "clickhouse.sql")
_WRAPPED = re.compile(r"(?:Nullable|LowCardinality)\((.*)\)")
_DECIMAL = re.compile(r"Decimal\(\d+, (\d+)\)")
_MARGIN = timedelta(days=1)
_log = structlog.get_logger()


class ClickHouseRows:
    """The copies in one ClickHouse database, as `Comparable`."""

    name = "clickhouse"

    def __init__(self, endpoint: ClickHouseEndpoint, classes: Iterable[DataClass]) -> None:
        classes = tuple(classes)
        self._endpoint = endpoint
        self._copies = {
            one.table: copy
            for one in classes
            for copy in one.copies
            if isinstance(copy, ClickHouseCopy)
        }
        self._sink = ClickHouseSink(endpoint, classes, wait_s=0)
        self._client: AsyncClient | None = None
        self._texts: dict[str, dict[str, _Column]] = {}
        self._now = datetime.now(UTC)
        self.tables = frozenset(self._copies)

    def shape(self, table: str) -> Shape:
        copy = self._copies[table]
        return Shape(copy.key, copy.columns, self._since(copy))

    def _since(self, copy: ClickHouseCopy) -> datetime | None:
        """From when on a row must be there: what goes within a day may be gone already."""
        return None if copy.keeps is None else self._now + _MARGIN - copy.keeps

    async def summaries(self, table: str, bounds: Sequence[Bound]) -> list[Summary]:
        key, _ = await self._columns(table)
        asked = _Asked()
        where = self._where(table, bounds[0], bounds[-1], asked, key)
        inner = [bound for bound in bounds[1:-1] if bound is not None]
        # Names come from the catalogue, values go as parameters.
        found = await self._query(
            f"SELECT {_bucket(key, inner, asked)} AS bucket, count(),"  # noqa: S608
            " sum(reinterpretAsUInt32(reverse(substring(digest, 1, 4)))),"
            " sum(reinterpretAsUInt32(reverse(substring(digest, 5, 4))))"
            f" FROM (SELECT {_names(key)}, MD5({await self._row_text(table)}) AS digest"
            f" FROM {self._table(table)} FINAL WHERE {where}) GROUP BY bucket",
            asked.values,
        )
        sums = [NOTHING] * (len(bounds) - 1)
        for place, rows, high, low in found:
            sums[int(place)] = Summary(int(rows), int(high), int(low))
        return sums

    async def entries(self, table: str, low: Bound, high: Bound, limit: int) -> list[Entry]:
        key, _ = await self._columns(table)
        asked = _Asked()
        found = await self._query(
            f"SELECT {_key(key)},"  # noqa: S608
            " reinterpretAsUInt32(reverse(substring(digest, 1, 4))),"
            " reinterpretAsUInt32(reverse(substring(digest, 5, 4))), _version"
            f" FROM (SELECT {_names(key)}, _version, MD5({await self._row_text(table)}) AS digest"
            f" FROM {self._table(table)} FINAL WHERE {self._where(table, low, high, asked, key)}"
            f" ORDER BY {', '.join(one.order for one in key)} LIMIT {limit:d})",
            asked.values,
        )
        return [
            Entry(_read(*names), join_halves(int(high), int(low)), int(version))
            for *names, high, low, version in found
        ]

    async def entry(self, table: str, key: Key) -> StoredRow | None:
        names, columns = await self._columns(table)
        asked = _Asked()
        same = " AND ".join(
            f"{one.name} = {asked.value(part, one)}" for one, part in zip(names, key, strict=True)
        )
        rows = await self._query(
            f"SELECT [{_texts(columns)}], _version, _deleted"  # noqa: S608
            f" FROM {self._table(table)} WHERE {same} ORDER BY _version DESC LIMIT 1",
            asked.values,
        )
        for texts, version, deleted in rows:
            values = dict(zip(self._copies[table].columns, texts, strict=True))
            return StoredRow(key, values, int(version), bool(deleted))
        return None

    async def find(self, table: str, column: str, value: str, limit: int) -> list[Key]:
        """Keys of rows that have a value in one of the copied columns."""
        key, columns = await self._columns(table)
        asked = _Asked()
        place = self._copies[table].columns.index(column)
        found = await self._query(
            f"SELECT DISTINCT {_key(key)} FROM {self._table(table)} FINAL"  # noqa: S608
            f" WHERE {columns[place].name} = {asked.value(value, columns[place])} LIMIT {limit:d}",
            asked.values,
        )
        return [_read(*names) for names in found]

    async def put_right(self, table: str, changes: TableChanges) -> None:
        for one in await self._sink.put(table, changes):
            _log.error("a row is refused for ever", table=one.table)

    async def newest(self, table: str, limit: int) -> list[tuple[Key, int]]:
        key, _ = await self._columns(table)
        found = await self._query(
            f"SELECT {_key(key)}, _version FROM {self._table(table)}"  # noqa: S608
            f" ORDER BY _version DESC LIMIT {limit:d}",
            {},
        )
        newest: dict[Key, int] = {}
        for *names, version in found:  # a key may have several versions still
            newest.setdefault(_read(*names), int(version))
        return list(newest.items())

    async def forget(self, table: str, keys: Sequence[Key], above: int) -> None:
        names, _ = await self._columns(table)
        asked = _Asked()
        wanted = ", ".join("(" + ", ".join(map(asked.value, key, names)) + ")" for key in keys)
        await self._query(
            f"ALTER TABLE {self._table(table)} DELETE WHERE _version > {above:d}"
            f" AND ({', '.join(one.name for one in names)}) IN ({wanted})"
            " SETTINGS mutations_sync = 2",
            asked.values,
        )

    async def close(self) -> None:
        client, self._client = self._client, None
        await self._sink.close()
        if client is not None:
            await client.close()

    async def _columns(self, table: str) -> tuple[list[_Column], list[_Column]]:
        """The columns of the key, and all that were copied."""
        copy = self._copies[table]
        if table not in self._texts:
            rows = await self._query(_sql.columns, {"table": copy.table})
            if lacks := lack(copy, {name for name, _ in rows}):
                again = f"neolayer relay rebuild {self.name} {table}"
                raise RelayError(lacks, hint=f"{way_back(copy)}; then: {again}")
            self._texts[table] = {name: _column(name, kind) for name, kind in rows}
        found = self._texts[table]
        return [found[name] for name in copy.key], [found[name] for name in copy.columns]

    def _where(
        self, table: str, low: Bound, high: Bound, asked: _Asked, key: Sequence[_Column]
    ) -> str:
        """The condition of a range, of rows that are young enough."""
        since = self._since(self._copies[table])
        young = "" if since is None else f"`{AGE}` >= {asked.instant(since)} AND "
        return young + _range(key, low, high, asked)

    async def _row_text(self, table: str) -> str:
        """The text that is hashed: see `relay/digests.py`."""
        _, columns = await self._columns(table)
        parts = (
            f"ifNull(concat(toString(length({one.text})), ':', {one.text}), ':')" for one in columns
        )
        return f"concat({', '.join(parts)}, '')"

    def _table(self, table: str) -> str:
        return f"`{self._copies[table].table}`"

    async def _query(self, text: str, values: dict[str, Any]) -> list[tuple[Any, ...]]:
        client = await self._connected()
        try:
            if text.startswith("ALTER"):
                await client.command(text, values)  # pyright: ignore[reportUnknownMemberType]
                return []
            found = await client.query(text, values)  # pyright: ignore[reportUnknownMemberType]
        except (ClickHouseError, aiohttp.ClientError, OSError) as exc:
            raise explain(exc, self._endpoint) from exc
        return [tuple(row) for row in found.result_rows]

    async def _connected(self) -> AsyncClient:
        if self._client is None:
            self._client = await connect(self._endpoint)
        return self._client


@dataclass(frozen=True, slots=True)
class _Column:
    """A column: its type without wrappers, its text as PostgreSQL's, and what it is ordered by."""

    name: str
    type: str
    text: str

    @property
    def order(self) -> str:
        return f"toString({self.name})" if self.type == "UUID" else self.name

    @property
    def compared_as(self) -> str:
        return "String" if self.type == "UUID" else self.type


def _column(name: str, kind: str) -> _Column:
    while wrapped := _WRAPPED.fullmatch(kind):
        kind = wrapped[1]
    quoted = f"`{name}`"
    return _Column(quoted, kind, _text(quoted, kind))


def _text(name: str, kind: str) -> str:
    """The value as PostgreSQL writes it; null stays null. Raises NotSupported."""
    if kind == "String":
        return name
    if kind == "UUID" or kind.startswith(("Int", "UInt", "Enum")) or kind in ("Date", "Date32"):
        return f"toString({name})"
    if kind == "Bool":
        return f"multiIf(isNull({name}), NULL, {name}, 't', 'f')"
    if kind.startswith("DateTime64"):
        return f"concat(replaceRegexpOne(toString({name}, 'UTC'), '\\\\.?0+$', ''), '+00')"
    if kind.startswith("DateTime"):
        return f"concat(toString({name}, 'UTC'), '+00')"
    if decimal := _DECIMAL.fullmatch(kind):
        return f"toDecimalString({name}, {decimal[1]})"
    raise NotSupported(
        "clickhouse",
        f"column {name} of type {kind} has no text that is the same in PostgreSQL",
        hint="keep it as String",
    )


@dataclass(slots=True)
class _Asked:
    """The values of a statement, each under a name of its own."""

    values: dict[str, Any] = field(default_factory=dict[str, Any])

    def text(self, value: str) -> str:
        name = f"v{len(self.values)}"
        if not is_utf8(value):  # a parameter is text
            self.values[name] = bytes_of(value).hex()
            return f"unhex({{{name}:String}})"
        self.values[name] = value
        return f"{{{name}:String}}"

    def instant(self, moment: datetime) -> str:
        """A moment, compared as such."""
        text = moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
        return f"CAST({self.text(text)}, 'DateTime64(6, \\'UTC\\')')"

    def value(self, part: str, column: _Column) -> str:
        """The value as the column's own type."""
        if column.type == "String":
            return self.text(part)
        return f"CAST({self.text(part)}, '{_escaped(column.type)}')"

    def ordered(self, part: str, column: _Column) -> str:
        """The value as what the column is ordered by."""
        return self.text(part) if column.type == "UUID" else self.value(part, column)


def _escaped(kind: str) -> str:
    return kind.replace("\\", "\\\\").replace("'", "\\'")


def _range(key: Sequence[_Column], low: Bound, high: Bound, asked: _Asked) -> str:
    shared = _shared(low, high)
    conditions = ["1"]
    if low is not None:
        conditions += [
            f"{one.name} = {asked.value(part, one)}"
            for one, part in zip(key[:shared], low[:shared], strict=True)
        ]
    rest = key[shared:]
    for bound, sign, first in ((low, ">=", ">="), (high, "<", "<=")):
        if bound is None:
            continue
        parts = bound[shared:]
        conditions.append(f"{_tuple(rest)} {sign} {_values(rest, parts, asked)}")
        if len(rest) > 1:  # what the primary index understands
            conditions.append(f"{rest[0].order} {first} {asked.ordered(parts[0], rest[0])}")
    return " AND ".join(conditions)


def _shared(low: Bound, high: Bound) -> int:
    """On how many leading columns both ends agree, short of the last."""
    if low is None or high is None:
        return 0
    count = 0
    while count < len(low) - 1 and low[count] == high[count]:
        count += 1
    return count


def _bucket(key: Sequence[_Column], inner: Sequence[Key], asked: _Asked) -> str:
    """In which of the ranges a row lies: how many bounds are at or below it."""
    if not inner:
        return "0"
    shared = _shared(inner[0], inner[-1])
    # Rows with another beginning than all bounds have lie in the first range or in the last.
    rest = key[shared:]
    bounds = ", ".join(_values(rest, bound[shared:], asked) for bound in inner)
    count = f"arrayCount(bound -> bound <= {_tuple(rest)}, [{bounds}])"
    if not shared:
        return count
    head, begin = key[:shared], inner[0][:shared]
    below = f"{_tuple(head)} < {_values(head, begin, asked)}"
    above = f"{_tuple(head)} > {_values(head, begin, asked)}"
    return f"multiIf({below}, 0, {above}, {len(inner)}, {count})"


def _tuple(columns: Sequence[_Column]) -> str:
    return _joined([one.order for one in columns])


def _values(columns: Sequence[_Column], parts: Sequence[str], asked: _Asked) -> str:
    return _joined([asked.ordered(part, one) for part, one in zip(parts, columns, strict=True)])


def _joined(parts: Sequence[str]) -> str:
    """One alone stays bare: the primary index knows it then."""
    return parts[0] if len(parts) == 1 else f"tuple({', '.join(parts)})"


def _names(columns: Sequence[_Column]) -> str:
    return ", ".join(one.name for one in columns)


def _texts(columns: Sequence[_Column]) -> str:
    return ", ".join(f"CAST({one.text}, 'Nullable(String)')" for one in columns)


def _key(columns: Sequence[_Column]) -> str:
    """The texts of a key; and in hexadecimal where one is not UTF-8, for the client reads only that
    as text. See `_read`."""
    texts = ", ".join(f"ifNull({one.text}, '')" for one in columns)
    are_text = " AND ".join(f"isValidUTF8(ifNull({one.text}, ''))" for one in columns)
    return f"if({are_text}, [{texts}], []), if({are_text}, [], arrayMap(x -> hex(x), [{texts}]))"


def _read(texts: Sequence[str], in_hexadecimal: Sequence[str]) -> Key:
    return tuple(texts) or tuple(text_of(bytes.fromhex(one)) for one in in_hexadecimal)
