"""What a real PostgreSQL prints, read back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb
from tests.fixtures.fix_databases import drop_databases, execute

from neolayer.engines.endpoints import PostgresEndpoint, Role
from neolayer.errors import RelayError
from neolayer.relay.changes import NULL
from neolayer.relay.snapshot import export_snapshot
from neolayer.relay.values import JSON, Notation, copied_rows, document_of, value_of

PLAIN = Notation(
    whole=lambda number: number, decimal=Decimal, real=lambda real: real, instant=lambda at: at
)
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
whole = st.integers(-(2**63), 2**63 - 1)
numbers = st.decimals(allow_nan=False, allow_infinity=False) | st.sampled_from([Decimal("NaN")])
instants = st.datetimes(
    datetime(2, 1, 1),
    datetime(9998, 12, 31),
    timezones=st.integers(-720, 840).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)
documents = st.recursive(
    st.none() | st.booleans() | text | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
VALUES: dict[str, tuple[int, st.SearchStrategy[Any]]] = {
    "bool": (16, st.booleans()),
    "bytea": (17, st.binary(max_size=80)),
    "int8": (20, whole),
    "int4": (23, st.integers(-(2**31), 2**31 - 1)),
    "text": (25, text),
    "float8": (701, st.floats()),
    "timestamptz": (1184, instants),
    "numeric": (1700, numbers),
    "uuid": (2950, st.uuids()),
    "jsonb": (3802, documents),
    "int8[]": (1016, st.lists(st.none() | whole, max_size=4)),
    "text[]": (1009, st.lists(st.none() | text | st.sampled_from(["NULL", "", "{}", '"', "\\"]))),
    "text[][]": (1009, st.lists(st.tuples(text, text).map(list), max_size=3)),
    "timestamptz[]": (1185, st.lists(st.none() | instants, max_size=3)),
    "numeric[]": (1231, st.lists(numbers, max_size=3)),
    "jsonb[]": (3807, st.lists(documents, max_size=3)),
}


@pytest.fixture(scope="module")
def printing(postgres_server: PostgresEndpoint) -> Iterator[psycopg.Connection]:
    """A session that prints as the relay's does, but in another time zone."""
    dsn = postgres_server.dsn(Role.ADMIN, "postgres")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SET TimeZone = 'Asia/Kolkata'")
        yield connection


def printed(connection: psycopg.Connection, kind: str, value: Any) -> bytes | int:
    """The value's text, carried by COPY."""
    base = kind.removesuffix("[]").removesuffix("[]")
    if base == "jsonb":
        value = list(map(Jsonb, value)) if kind.endswith("[]") else Jsonb(value)
    table = f'"printed {kind}"'
    connection.execute(f"CREATE TEMPORARY TABLE IF NOT EXISTS {table} (value {kind})")
    connection.execute(f"DELETE FROM {table}")
    connection.execute(f"INSERT INTO {table} SELECT %s", (value,))
    with connection.cursor().copy(f"COPY {table} TO STDOUT") as copy:
        rows = [row for block in copy for row in copied_rows(bytes(block))]
    ((text,),) = rows
    return text


def same(read: Any, value: Any) -> bool:
    """Equal, where NaN is one value, bytes are hexadecimal, instants mean a moment."""
    if isinstance(value, list):
        return len(read) == len(value) and all(map(same, read, value))
    if isinstance(value, dict):
        return read.keys() == value.keys() and all(same(read[key], value[key]) for key in value)
    if isinstance(value, bytes):
        return read == "0x" + value.hex()
    if isinstance(value, UUID):
        return read == str(value)
    if isinstance(value, float) and isinstance(read, int | Decimal):  # jsonb knows decimals only
        return bool(read == Decimal(repr(value)))
    if isinstance(value, float | Decimal) and math.isnan(value):
        return math.isnan(read)
    if isinstance(value, datetime):
        return read == value and read.tzinfo is UTC
    if isinstance(value, bool) or value is None:
        return read is value
    return bool(read == value)


@pytest.mark.parametrize("kind", VALUES)
def test_what_postgres_prints_is_read_back(kind: str, printing: psycopg.Connection) -> None:
    """For every type: value -> PostgreSQL's text -> value changes nothing."""
    type_id, values = VALUES[kind]
    read = value_of(type_id, PLAIN)

    @settings(
        max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(values)
    def check(value: Any) -> None:
        text = printed(printing, kind, value)
        assert isinstance(text, bytes)
        assert same(read(text), value), (text, value)

    check()


def test_json_keeps_what_a_reader_would_round(printing: psycopg.Connection) -> None:
    """A number that JavaScript would round travels as text; null is not the text NULL."""
    document = {"wei": 2**77, "exact": 12}
    text = printed(printing, "jsonb", document)
    assert isinstance(text, bytes)
    assert value_of(3802, JSON)(text) == {"wei": str(2**77), "exact": 12}
    assert printed(printing, "text", None) == NULL
    assert printed(printing, "text", r"\N") == rb"\N"


@pytest.mark.parametrize(
    ("expression", "type_id", "value"),
    [
        ("'[0:1]={5,6}'::int4[]", 1007, [5, 6]),
        ("'{(1,1),(0,0);(2,2),(0,0)}'::box[]", 1020, ["(1,1),(0,0)", "(2,2),(0,0)"]),
        ("'infinity'::timestamptz", 1184, "infinity"),
        ("'0044-03-15 00:00+00 BC'::timestamptz", 1184, None),
        ("'294276-12-31 00:00+00'::timestamptz", 1184, None),
        ("'1e400'::jsonb", 3802, Decimal("1e400")),
        ("'-Infinity'::numeric", 1700, Decimal("-Infinity")),
        ("interval '1 day'", 1186, "1 day"),
        ("'192.168.0.0/16'::cidr", 650, "192.168.0.0/16"),
        ("ARRAY['x'::\"char\", NULL]", 1002, ["x", None]),
    ],
)
def test_rare_values_of_a_real_server(
    expression: str, type_id: int, value: Any, printing: psycopg.Connection
) -> None:
    """Bounds that do not start at 1, a box's separator, instants outside our calendar (as text)."""
    row = printing.execute(
        f"SELECT format('%%s', {expression}), pg_typeof({expression})::oid", ()
    ).fetchone()
    assert row is not None
    assert row[1] == type_id
    read = value_of(type_id, PLAIN)(row[0].encode())
    assert read == (row[0] if value is None else value)


def test_every_built_in_array_is_known(printing: psycopg.Connection) -> None:
    """The list of array types and their elements is the server's."""
    from neolayer.relay.values import _ARRAYS

    rows = printing.execute(
        "SELECT oid::int, typelem::int FROM pg_type WHERE oid < 10000 AND typcategory = 'A'"
        " AND typlen = -1 AND typname LIKE '\\_%' AND typtype = 'b'"
    ).fetchall()
    theirs = dict(rows)
    assert {array: theirs.get(array) for array in _ARRAYS} == _ARRAYS


async def test_a_snapshot_describes_what_it_reads(postgres_server: PostgresEndpoint) -> None:
    """The columns asked for, in that order, with the types by which their texts are read."""
    name = "values_snapshot"
    execute(postgres_server, f"CREATE DATABASE {name}")
    dsn = postgres_server.dsn(Role.ADMIN, name)
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("CREATE TABLE things (id int8, gone int, took interval, raw bytea)")
            connection.execute("ALTER TABLE things DROP COLUMN gone")
            connection.execute(rf"INSERT INTO things VALUES ({2**60}, '90 s', '\xff')")
            connection.execute("ALTER DATABASE values_snapshot SET bytea_output = 'escape'")
        async with export_snapshot(dsn, epoch=1) as snapshot:
            relation = await snapshot.describe("public.things", ["raw", "took", "id"])
            blocks = [block async for block in snapshot.rows("public.things", relation.columns)]
            with pytest.raises(RelayError, match="no column 'gone'"):
                await snapshot.describe("public.things", ["id", "gone"])
        (row,) = copied_rows(b"".join(blocks))
        document = document_of(relation, ("id", "took", "raw"), JSON)(row)
        assert document == {"id": str(2**60), "took": "PT1M30S", "raw": "0xff"}
    finally:
        drop_databases(postgres_server, [name])
