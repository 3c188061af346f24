"""The text of a PostgreSQL value, as the value a document holds.

The log and COPY bring every value as the text its type prints. ClickHouse takes that text as it
is; stores of documents want JSON's kinds of values, and each has its own words for what JSON lacks:
whole numbers beyond 2**53, decimals, instants. `Notation` names those words, and `value_of` gives
for a column's type a function from text to value. Sessions that print these texts are set to UTC,
ISO dates and hexadecimal bytes (`replication.py`, `snapshot.py`); another offset is understood too.

| type | value |
| --- | --- |
| bool | true, false |
| int2, int4, oid; int8 | a number; a number as the notation writes large ones |
| numeric | as the notation writes decimals: never a rounded one |
| float4, float8 | a number; NaN and infinities as the notation writes them |
| timestamptz | an instant in UTC; what no calendar of ours holds (BC, `infinity`) as text |
| bytea | `0x` and lower-case hexadecimal digits |
| json, jsonb | the value itself, numbers by the same rules |
| arrays of these | lists, nested as the array is |
| anything else (text, uuid, date, timestamp, inet, enums ...) | text |
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, TypeAlias

from neolayer.errors import RelayError
from neolayer.relay.changes import NULL, UNCHANGED, Incomplete, Relation, Row, Value

Decode: TypeAlias = Callable[[bytes], Any]

LARGEST_EXACT: Final = 2**53 - 1
"""The largest whole number that every reader of JSON keeps exact."""


class UnfitValue(RelayError):
    """A value cannot be written as the destination's kind of value."""


@dataclass(frozen=True, slots=True)
class Notation:
    """How a destination writes what JSON has no word for."""

    whole: Callable[[int], Any]
    decimal: Callable[[str], Any]
    real: Callable[[float], Any]
    instant: Callable[[datetime], Any]


def _exact_or_text(number: int) -> int | str:
    return number if -LARGEST_EXACT <= number <= LARGEST_EXACT else str(number)


def _finite_or_text(number: float) -> float | str:
    if number - number == 0.0:
        return number
    return "NaN" if number != number else "Infinity" if number > 0 else "-Infinity"


def _iso(instant: datetime) -> str:
    return instant.isoformat().removesuffix("+00:00") + "Z"


JSON: Final = Notation(whole=_exact_or_text, decimal=str, real=_finite_or_text, instant=_iso)
"""Whole numbers beyond 2**53 and all decimals as text, instants as ISO 8601 with a Z."""


# Columns and rows


def document_of(
    relation: Relation, columns: Sequence[str], notation: Notation
) -> Callable[[Row], dict[str, Any]]:
    """A function that makes a dict of these columns from a row of the relation.

    It raises UnfitValue for a value that cannot be read, and RelayError where a long value was left
    out.
    """
    return document_at(
        relation.table,
        [
            (name, place, value_of(relation.types[place], notation))
            for name, place in zip(columns, relation.places(columns), strict=True)
        ],
    )


def document_at(
    table: str, parts: Sequence[tuple[str, int, Decode]]
) -> Callable[[Row], dict[str, Any]]:
    """The same from (name, place in the row, function) of each column."""

    def build(row: Row) -> dict[str, Any]:
        document: dict[str, Any] = {}
        for name, place, decode in parts:
            value = row[place]
            if isinstance(value, int):
                document[name] = _mark(value, table)
                continue
            try:
                document[name] = decode(value)
            except UnfitValue as exc:
                raise UnfitValue(f"column {name} of table {table}: {exc.message}") from exc
        return document

    return build


def _mark(value: int, table: str) -> None:
    if value == NULL:
        return
    if value == UNCHANGED:
        raise Incomplete(table)
    raise RelayError(f"the log's row of table {table} has a value of unknown kind {value}")


# COPY text

_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)
_MEANING: Final = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


def copied_rows(block: bytes) -> Iterator[list[Value]]:
    """The rows of a block of whole lines of COPY text, as the log's rows look."""
    for line in block.split(b"\n")[:-1]:
        if b"\\" in line:
            yield [_copied(field) for field in line.split(b"\t")]
        else:
            yield list(line.split(b"\t"))


def _copied(field: bytes) -> Value:
    if field == rb"\N":
        return NULL
    if b"\\" not in field:
        return field
    return _ESCAPED.sub(lambda found: _MEANING.get(found[1], found[1]), field)


# Types


def value_of(type_id: int, notation: Notation) -> Decode:
    """The function that reads the text of this type (pg_type.oid).

    It raises UnfitValue for text that is not of the type.
    """
    element = _ARRAYS.get(type_id)
    if element is not None:
        return _guarded(_array(_scalar(element, notation), b";" if element == _BOX else b","))
    return _guarded(_scalar(type_id, notation))


def _scalar(type_id: int, notation: Notation) -> Decode:
    make = _SCALARS.get(type_id)
    return _text if make is None else make(notation)


def _guarded(decode: Decode) -> Decode:
    def read(text: bytes) -> Any:
        try:
            return decode(text)
        except (ValueError, ArithmeticError, RecursionError) as exc:
            shown = text[:40].decode("utf-8", "replace")
            raise UnfitValue(f"cannot read the value {shown!r}: {exc}") from exc

    return read


def _text(text: bytes) -> str:
    return text.decode()


def _bool(_: Notation) -> Decode:
    meaning = {b"t": True, b"f": False}

    def read(text: bytes) -> bool:
        try:
            return meaning[text]
        except KeyError:
            raise ValueError("neither t nor f") from None

    return read


def _small_whole(_: Notation) -> Decode:
    return int


def _whole(notation: Notation) -> Decode:
    return lambda text: notation.whole(int(text))


def _decimal(notation: Notation) -> Decode:
    return lambda text: notation.decimal(text.decode())


def _real(notation: Notation) -> Decode:
    return lambda text: notation.real(float(text))


def _instant(notation: Notation) -> Decode:
    def read(text: bytes) -> Any:
        instant = _calendar(text.decode())
        return notation.instant(instant) if isinstance(instant, datetime) else instant

    return read


def _calendar(text: str) -> datetime | str:
    """The instant in UTC, or its text where it lies outside the years 1 to 9999."""
    if text in ("infinity", "-infinity") or text.endswith(" BC") or text.index("-") > 4:
        return text
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except OverflowError:  # within a day of either end, in another zone
        return text


def _bytes(_: Notation) -> Decode:
    def read(text: bytes) -> str:
        if not text.startswith(rb"\x"):
            raise ValueError("not hexadecimal: set bytea_output to hex")
        return "0x" + text[2:].decode("ascii")

    return read


def _document(notation: Notation) -> Decode:
    def whole(text: str) -> Any:
        return notation.whole(int(text)) if len(text) <= 20 else notation.decimal(text)

    def number(text: str) -> Any:
        value = float(text)
        if value - value == 0.0 and Decimal(repr(value)) == Decimal(text):
            return value
        return notation.decimal(text)

    decoder = json.JSONDecoder(parse_int=whole, parse_float=number)
    return lambda text: decoder.decode(text.decode())


# Arrays: `{1,2}`, `{{a,b},{c,d}}`, `{"with, comma",NULL}`, `[0:1]={...}` where the first is not 1

_QUOTED: Final = rb'"((?:[^"\\]|\\.)*)"'
_BARE: Final = rb'([^{}"%b]+)'
_TOKENS: Final = {
    separator: re.compile(
        rb"([{}%b])|" % separator + _QUOTED + rb"|" + _BARE % separator, re.DOTALL
    )
    for separator in (b",", b";")
}
_QUOTED_ESCAPE: Final = re.compile(rb"\\(.)", re.DOTALL)


def _array(decode: Decode, separator: bytes) -> Decode:
    tokens = _TOKENS[separator]

    def read(text: bytes) -> list[Any]:
        if text.startswith(b"["):
            _, _, text = text.partition(b"=")
        outer: list[Any] = []
        open_lists = [outer]
        end = 0
        for token in tokens.finditer(text):
            if token.start() != end:
                break
            end = token.end()
            if token[1] is None:
                open_lists[-1].append(_element(token, decode))
            elif token[1] == b"{":
                inner: list[Any] = []
                open_lists[-1].append(inner)
                open_lists.append(inner)
            elif token[1] == b"}":
                open_lists.pop()
        if end != len(text) or len(open_lists) != 1 or len(outer) != 1:
            raise ValueError("not an array")
        return outer[0]

    return read


def _element(token: re.Match[bytes], decode: Decode) -> Any:
    if token[2] is not None:
        return decode(_QUOTED_ESCAPE.sub(rb"\1", token[2]))
    return None if token[3] == b"NULL" else decode(token[3])


# pg_type.oid of the built-in types, which never change.

_BOX: Final = 603
_SCALARS: Final[dict[int, Callable[[Notation], Decode]]] = {
    16: _bool,
    17: _bytes,
    20: _whole,
    21: _small_whole,
    23: _small_whole,
    26: _small_whole,
    114: _document,
    700: _real,
    701: _real,
    1184: _instant,
    1700: _decimal,
    3802: _document,
}
_ARRAYS: Final = {
    143: 142,  # xml
    199: 114,  # json
    629: 628,  # line
    651: 650,  # cidr
    719: 718,  # circle
    775: 774,  # macaddr8
    791: 790,  # money
    1000: 16,  # bool
    1001: 17,  # bytea
    1002: 18,  # "char"
    1003: 19,  # name
    1005: 21,  # int2
    1007: 23,  # int4
    1009: 25,  # text
    1014: 1042,  # character
    1015: 1043,  # varchar
    1016: 20,  # int8
    1017: 600,  # point
    1018: 601,  # lseg
    1019: 602,  # path
    1020: _BOX,
    1021: 700,  # float4
    1022: 701,  # float8
    1027: 604,  # polygon
    1028: 26,  # oid
    1040: 829,  # macaddr
    1041: 869,  # inet
    1115: 1114,  # timestamp
    1182: 1082,  # date
    1183: 1083,  # time
    1185: 1184,  # timestamptz
    1187: 1186,  # interval
    1231: 1700,  # numeric
    1270: 1266,  # timetz
    1561: 1560,  # bit
    1563: 1562,  # varbit
    2951: 2950,  # uuid
    3807: 3802,  # jsonb
}
