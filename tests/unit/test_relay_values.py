"""The text of a PostgreSQL value, read as a document's value."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from neolayer.errors import RelayError
from neolayer.relay.changes import NULL, UNCHANGED, Relation
from neolayer.relay.values import JSON, Notation, UnfitValue, copied_rows, document_of, value_of

BOOL, BYTEA, INT8, INT4, TEXT, FLOAT8, TIMESTAMPTZ = 16, 17, 20, 23, 25, 701, 1184
NUMERIC, JSONB, UUID, BOX_ARRAY, INT4_ARRAY, TEXT_ARRAY = 1700, 3802, 2950, 1020, 1007, 1009


@pytest.mark.parametrize(
    ("type_id", "text", "value"),
    [
        (BOOL, b"t", True),
        (BOOL, b"f", False),
        (INT4, b"-7", -7),
        (INT8, b"9007199254740991", 9007199254740991),
        (INT8, b"9007199254740992", "9007199254740992"),
        (INT8, b"-9223372036854775808", "-9223372036854775808"),
        (NUMERIC, b"1.10", "1.10"),
        (NUMERIC, b"NaN", "NaN"),
        (FLOAT8, b"1e-07", 1e-07),
        (FLOAT8, b"-Infinity", "-Infinity"),
        (TEXT, "ünï\n{}".encode(), "ünï\n{}"),
        (UUID, b"0190163d-8694-739b-aea5-966c26f8ad91", "0190163d-8694-739b-aea5-966c26f8ad91"),
        (BYTEA, rb"\xde00", "0xde00"),
        (BYTEA, rb"\x", "0x"),
        (TIMESTAMPTZ, b"2024-02-29 12:00:00+00", "2024-02-29T12:00:00Z"),
        (TIMESTAMPTZ, b"2024-02-29 12:00:00.5+05:30", "2024-02-29T06:30:00.500000Z"),
        (TIMESTAMPTZ, b"infinity", "infinity"),
        (TIMESTAMPTZ, b"0044-03-15 12:00:00+00 BC", "0044-03-15 12:00:00+00 BC"),
        (TIMESTAMPTZ, b"12000-01-01 00:00:00+00", "12000-01-01 00:00:00+00"),
        (TIMESTAMPTZ, b"0001-01-01 00:00:00+14", "0001-01-01 00:00:00+14"),
        (JSONB, b'{"n": 9007199254740993, "f": 0.1, "a": [null, true]}',
         {"n": "9007199254740993", "f": 0.1, "a": [None, True]}),
        (JSONB, b"0.1234567890123456789", "0.1234567890123456789"),
        (JSONB, b"1" * 40, "1" * 40),
        (INT4_ARRAY, b"{}", []),
        (INT4_ARRAY, b"{1,NULL,-3}", [1, None, -3]),
        (INT4_ARRAY, b"[0:1][5:6]={{1,2},{3,4}}", [[1, 2], [3, 4]]),
        (TEXT_ARRAY, rb'{"NULL",NULL,"a,b","q\"\\","","{}",x y}',
         ["NULL", None, "a,b", 'q"\\', "", "{}", "x y"]),
        (BOX_ARRAY, b"{(1,1),(0,0);(2,2),(0,0)}", ["(1,1),(0,0)", "(2,2),(0,0)"]),
        (999_999, b"anything", "anything"),
    ],
)  # fmt: skip
def test_a_value_is_read_by_its_type(type_id: int, text: bytes, value: object) -> None:
    """Each type's text becomes the JSON value that loses nothing."""
    read = value_of(type_id, JSON)(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("type_id", "text"),
    [
        (BOOL, b"true"),
        (INT4, b"x"),
        (TEXT, b"\xff"),
        (TIMESTAMPTZ, b"yesterday"),
        (BYTEA, b"raw"),
        (JSONB, b"{"),
        (JSONB, b"[" * 100_000),
        (INT4_ARRAY, b"{1"),
        (INT4_ARRAY, b"1}"),
        (INT4_ARRAY, b"{1}}"),
        (INT4_ARRAY, b"{1}{2}"),
        (TEXT_ARRAY, b'{"a}'),
    ],
)
def test_text_that_is_not_of_its_type_is_refused(type_id: int, text: bytes) -> None:
    """Nonsense never becomes a value, nor an error of another kind."""
    with pytest.raises(UnfitValue, match="cannot read the value"):
        value_of(type_id, JSON)(text)


def test_a_destination_has_its_own_words() -> None:
    """Whole numbers, decimals, reals and instants are written as the notation says, nested too."""
    notation = Notation(
        whole=lambda n: ("whole", n),
        decimal=lambda d: ("decimal", d),
        real=lambda r: ("real", r),
        instant=lambda at: ("instant", at),
    )
    assert value_of(INT8, notation)(b"5") == ("whole", 5)
    assert value_of(NUMERIC, notation)(b"0.50") == ("decimal", "0.50")
    assert value_of(FLOAT8, notation)(b"0.5") == ("real", 0.5)
    noon = datetime(2024, 1, 1, 12, tzinfo=UTC)
    assert value_of(TIMESTAMPTZ, notation)(b"2024-01-01 13:00:00+01") == ("instant", noon)
    assert value_of(JSONB, notation)(b"[[7]]") == [[("whole", 7)]]


def test_a_row_becomes_a_document() -> None:
    """Only the chosen columns, nulls kept; a value that was left out is never taken for null."""
    relation = Relation(
        1, "public", "things", ("id", "note", "secret", "done"), (INT8, TEXT, TEXT, BOOL)
    )
    build = document_of(relation, ("done", "id", "note"), JSON)
    assert build([b"1", NULL, b"s", b"t"]) == {"done": True, "id": 1, "note": None}
    with pytest.raises(RelayError, match="leaves out a long value") as refused:
        build([b"1", UNCHANGED, b"s", b"t"])
    assert not isinstance(refused.value, UnfitValue)
    with pytest.raises(UnfitValue, match=r"column id of table public\.things"):
        build([b"one", NULL, b"s", b"t"])


def test_copy_text_is_split_and_unescaped() -> None:
    r"""\N is null and nothing else; tabs, line feeds and backslashes come back."""
    block = b"1\t\\N\tplain\n2\ta\\tb\\nc\\\\N\t\n"
    assert list(copied_rows(block)) == [[b"1", NULL, b"plain"], [b"2", b"a\tb\nc\\N", b""]]
