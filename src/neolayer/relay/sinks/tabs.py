"""Rows as ClickHouse's TabSeparated text, straight from PostgreSQL's.

The two agree on the text of numbers, booleans, UUIDs, instants and `\\N`, so a value is passed on
as it came. What must not stand in a value unescaped (tab, line feed, carriage return, backslash)
is rare in chain data: a page is put together in C without looking, then counted, and only a page
whose count is wrong is put together again with escapes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice, repeat
from operator import itemgetter
from typing import TypeAlias, cast

from neolayer.catalogue import ClickHouseCopy
from neolayer.relay.changes import (
    DELETE,
    NULL,
    ROWS_PER_PAGE,
    UPDATE,
    UPDATE_WITH_KEY,
    Incomplete,
    Relation,
    Row,
    TableChanges,
    Unnamed,
    Value,
)
from neolayer.relay.sinks.sink import Rejected

LIVE, DEAD = b"0", b"1"
Column: TypeAlias = Sequence[Value]
Latest: TypeAlias = tuple[Row, int, bytes]

_MARKS = {NULL: rb"\N"}
_ESCAPED = re.compile(rb"\\([\\tnr])")
_CHARACTERS = {b"\\": b"\\", b"t": b"\t", b"n": b"\n", b"r": b"\r"}
_ESCAPES = ((b"\\", rb"\\"), (b"\t", rb"\t"), (b"\n", rb"\n"), (b"\r", rb"\r"))


def encode(changes: TableChanges, *, columns: Sequence[str], key: Sequence[str]) -> bytes:
    """The changes as lines of `columns`, version and deletion mark, the last one of each key.

    Of a row that is gone only its key is told: what else it had, ClickHouse may not take.
    Inserts alone need no look at their keys: what the source holds unique, they do not repeat.
    Raises Incomplete where a value is not known, Unnamed where a key is not in the old row.
    """
    relation = changes.relation
    places = relation.places(columns)
    if changes.inserts_only:
        versions = _version_texts(changes)
        return b"".join(
            _lines(page, places, list(islice(versions, len(page))), repeat(LIVE), relation)
            for page in changes.rows()
        )
    latest = list(latest_by_key(changes, key).values())
    named = frozenset(relation.places(key))
    return b"".join(
        _latest_lines(latest[start : start + ROWS_PER_PAGE], places, relation, named)
        for start in range(0, len(latest), ROWS_PER_PAGE)
    )


def rejected_line(line: bytes, table: str, copy: ClickHouseCopy, *, cause: str) -> Rejected:
    """A line as `encode` made it, for those who must look at it."""
    *values, version, mark = line.split(b"\t")
    row = dict(zip(copy.columns, map(_unescape, values), strict=True))
    key = tuple(row[column] for column in copy.key)
    kept = row if mark == LIVE else dict(zip(copy.key, key, strict=True))
    return Rejected(table, key, int(version), mark == DEAD, cause, kept)


def _unescape(text: bytes) -> str | None:
    if text == rb"\N":
        return None
    return _ESCAPED.sub(lambda found: _CHARACTERS[found[1]], text).decode(errors="replace")


def latest_by_key(changes: TableChanges, key: Sequence[str]) -> dict[tuple[Value, ...], Latest]:
    """The last state of every key that was touched: (row, version, LIVE or DEAD).

    Within a part of a transaction changes share a version, so only the last may be told. A row
    whose key changed leaves its old key behind, deleted. Raises Unnamed where an old key may be
    one that the log does not tell.
    """
    if UPDATE in changes.kinds and changes.relation.hides(key):
        raise Unnamed(changes.relation.table, key)
    pick = _picker(changes.relation.places(key))
    latest: dict[tuple[Value, ...], Latest] = {}
    for version, kind, row, old in changes.changes():
        name = pick(row)
        if old is not None and (before := pick(old)) != name:
            if NULL not in before:
                latest[before] = (old, version, DEAD)
            elif kind == UPDATE_WITH_KEY:
                raise Unnamed(changes.relation.table, key)
        if kind == DELETE:
            if NULL in name:
                raise Unnamed(changes.relation.table, key)
            latest[name] = (row, version, DEAD)
        else:
            latest[name] = (row, version, LIVE)
    return latest


def _picker(places: tuple[int, ...]) -> Callable[[Row], tuple[Value, ...]]:
    if len(places) == 1:
        place = places[0]
        return lambda row: (row[place],)
    return cast(Callable[[Row], tuple[Value, ...]], itemgetter(*places))


def _version_texts(changes: TableChanges) -> Iterator[bytes]:
    runs = (repeat(b"%d" % version, count) for version, count in changes.version_runs())
    return chain.from_iterable(runs)


def _latest_lines(
    latest: Sequence[Latest], places: Sequence[int], relation: Relation, named: frozenset[int]
) -> bytes:
    rows = [row if mark == LIVE else _only(row, named) for row, _, mark in latest]
    versions = [b"%d" % version for _, version, _ in latest]
    return _lines(rows, places, versions, [mark for _, _, mark in latest], relation)


def _only(row: Row, named: frozenset[int]) -> Row:
    return tuple(value if place in named else NULL for place, value in enumerate(row))


def _lines(
    rows: Sequence[Row],
    places: Sequence[int],
    versions: Sequence[bytes],
    marks: Iterable[bytes],
    relation: Relation,
) -> bytes:
    by_place = list(zip(*rows, strict=True))
    columns = [by_place[place] for place in places]
    nulls = 0
    texts: list[Sequence[bytes]] = []
    for column in columns:
        text, missing = _without_marks(column, relation)
        texts.append(text)
        nulls += missing
    page = _join(texts, versions, marks)
    if _is_plain(page, rows=len(rows), tabs=len(rows) * (len(places) + 1), nulls=nulls):
        return page
    return _join([_escaped(column) for column in columns], versions, marks)


def _join(
    columns: Sequence[Sequence[bytes]], versions: Sequence[bytes], marks: Iterable[bytes]
) -> bytes:
    # The constant column may be endless, and stops with the others.
    return b"\n".join(map(b"\t".join, zip(*columns, versions, marks, strict=False))) + b"\n"


def _is_plain(page: bytes, *, rows: int, tabs: int, nulls: int) -> bool:
    return (
        page.count(b"\\") == nulls
        and page.count(b"\t") == tabs
        and page.count(b"\n") == rows
        and b"\r" not in page
    )


def _without_marks(column: Column, relation: Relation) -> tuple[Sequence[bytes], int]:
    """The column as text, and how many nulls it has. Raises Incomplete."""
    missing = len(column) - list(map(type, column)).count(bytes)
    if not missing:
        return column, 0  # pyright: ignore[reportReturnType]
    try:
        return [v if isinstance(v, bytes) else _MARKS[v] for v in column], missing
    except KeyError:
        raise Incomplete(relation.table) from None


def _escaped(column: Column) -> Sequence[bytes]:
    return [_escape(v) if isinstance(v, bytes) else _MARKS[v] for v in column]


def _escape(text: bytes) -> bytes:
    for character, escape in _ESCAPES:
        text = text.replace(character, escape)
    return text
