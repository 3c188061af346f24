"""Rows as MongoDB's documents: what a field holds, what `_id` is, and what cannot be a document.

    {"_id": {"tenant_id": "0190...", "data_id": "0191..."}, ...fields...,
     "_version": 281474999999, "_digest_high": 1234, "_digest_low": 5678}

A null column has no field. `_digest_*` is the row's checksum over PostgreSQL's texts
(`digests.py`), in halves because a server adds them up as doubles. `_id` must sort as the key does
in PostgreSQL: whole numbers as numbers, everything else by the bytes of its text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, DecimalException
from typing import Any, Final, TypeAlias

import bson
from bson import Decimal128, Int64
from bson.errors import InvalidBSON, InvalidDocument

from neolayer.catalogue import MongoCopy
from neolayer.relay.changes import Misfit, Relation, Row, Unnamed, Value
from neolayer.relay.digests import halves, row_digest
from neolayer.relay.values import JSON, Notation, UnfitValue, document_at, value_of

Id: TypeAlias = "str | int | dict[str, str | int]"

MOST_BYTES: Final = 16 << 20
TOMBSTONE_LIFE: Final = timedelta(days=1)
_WHOLE: Final = frozenset({20, 21, 23, 26})  # int8, int2, int4, oid
_UNORDERED: Final = frozenset({700, 701, 1700, 790, 1186})  # as text they sort otherwise
_LARGEST: Final = 2**63


def _whole(number: int) -> Any:
    return Int64(number) if -_LARGEST <= number < _LARGEST else _decimal(str(number))


def _decimal(text: str) -> Any:
    """As Decimal128 where it has the digits (34), else as text: never rounded."""
    try:
        return Decimal128(Decimal(text))
    except DecimalException:
        return text


def notation(*, decimals: bool) -> Notation:
    """How a server's documents hold what JSON has no word for.

    Without `decimals` (FerretDB): neither Decimal128 nor NaN and infinities, but their texts.
    """
    if decimals:
        return Notation(whole=_whole, decimal=_decimal, real=lambda x: x, instant=lambda at: at)
    return Notation(
        whole=lambda number: Int64(number) if -_LARGEST <= number < _LARGEST else str(number),
        decimal=str,
        real=lambda x: x + 0.0 if math.isfinite(x) else JSON.real(x),  # it keeps no -0.0
        instant=lambda at: at,
    )


@dataclass(frozen=True, slots=True)
class Document:
    """A row on its way: the encoded document, or why there is none.

    A `fresh` one is most likely not there yet: it is inserted, which costs less than looking.
    """

    id: Any
    version: int
    deleted: bool
    encoded: bytes
    row: Row
    relation: Relation
    refusal: str = ""
    fresh: bool = False


class Encoder:
    """Makes documents of one table's rows, as the log describes the table now."""

    def __init__(self, relation: Relation, copy: MongoCopy, words: Notation) -> None:
        self._relation = relation
        self._places = relation.places(copy.columns)
        self._key = [
            (copy.names.get(name, name), place, _key_part(relation, name, relation.types[place]))
            for name, place in zip(copy.key, relation.places(copy.key), strict=True)
        ]
        self._fields = document_at(
            relation.table,
            [
                (copy.names.get(name, name), place, value_of(relation.types[place], words))
                for name, place in zip(copy.columns, self._places, strict=True)
            ],
        )

    def id(self, row: Row) -> Any:
        """The document's `_id`. Raises Unnamed where the row does not name its key."""
        parts: dict[str, str | int] = {}
        for name, place, read in self._key:
            value = row[place]
            if isinstance(value, int):
                raise Unnamed(self._relation.table, [name])
            parts[name] = read(value)
        return parts if len(self._key) > 1 else parts[self._key[0][0]]

    def live(self, row: Row, version: int, *, fresh: bool = False) -> Document:
        """A row that is there. Raises RelayError where a long value was left out."""
        name = self.id(row)
        try:
            present = {
                field: value for field, value in self._fields(row).items() if value is not None
            }
            encoded = bson.encode({"_id": name, **present, **self._marks(row, version)})
        except UnfitValue as exc:
            return self._refused(name, version, row, exc.message)
        except (InvalidDocument, InvalidBSON, OverflowError, UnicodeError, RecursionError) as exc:
            return self._refused(name, version, row, f"cannot be a document: {exc}"[:300])
        if len(encoded) > MOST_BYTES:
            why = f"the document has {len(encoded)} bytes; MongoDB takes {MOST_BYTES}"
            return self._refused(name, version, row, why)
        return Document(name, version, False, encoded, row, self._relation, fresh=fresh)

    def dead(self, row: Row, version: int) -> Document:
        """The trace of a row that is gone; it keeps older changes from bringing the row back."""
        name = self.id(row)
        trace = {
            "_id": name,
            "_version": Int64(version),
            "_deleted": True,
            "_expires_at": datetime.now(UTC) + TOMBSTONE_LIFE,
        }
        return Document(name, version, True, bson.encode(trace), row, self._relation)

    def _marks(self, row: Row, version: int) -> dict[str, Int64]:
        high, low = halves(row_digest(_bytes(row[place]) for place in self._places))
        return {
            "_version": Int64(version),
            "_digest_high": Int64(high),
            "_digest_low": Int64(low),
        }

    def _refused(self, name: Any, version: int, row: Row, why: str) -> Document:
        return Document(name, version, False, b"", row, self._relation, why)


def _bytes(value: Value) -> bytes | None:
    return value if isinstance(value, bytes) else None


def text_of(value: Value) -> str | None:
    """A value for people: None for NULL, and for a long one that was left out."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else None


def _key_part(relation: Relation, name: str, type_id: int) -> Callable[[bytes], str | int]:
    if type_id in _UNORDERED:
        raise Misfit(
            relation.table,
            [name],
            f"column {name} of table {relation.table} cannot be a document's key: "
            "its texts sort otherwise than its values",
            "give it another type, or the copy another key",
        )
    if type_id in _WHOLE:
        return lambda text: Int64(int(text))
    return lambda text: text.decode()


def id_from_texts(names: Sequence[str], texts: Sequence[str], like: Id) -> Id:
    """The `_id` of a key's texts, its parts of the kinds that `like`, a stored one, has."""
    kinds = [like[name] for name in names] if isinstance(like, dict) else [like]
    parts = [
        Int64(int(text)) if isinstance(kind, int) else text
        for text, kind in zip(texts, kinds, strict=True)
    ]
    return dict(zip(names, parts, strict=True)) if isinstance(like, dict) else parts[0]


def texts_from_id(stored: Id) -> tuple[str, ...]:
    """The inverse: PostgreSQL's texts of a key."""
    return tuple(map(str, stored.values())) if isinstance(stored, dict) else (str(stored),)
