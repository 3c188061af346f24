"""Where the parts of a ClickHouse statement lie, in the spellings that mislead a simple search."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neolayer.engines.embedded.clickhouse_server import coding, statement
from neolayer.engines.embedded.clickhouse_server.auth import is_loopback
from neolayer.engines.embedded.clickhouse_server.faults import ClickHouseFault

ENCODINGS = ["gzip", "zstd", "lz4", "deflate"]


@pytest.mark.parametrize(
    ("sql", "head", "name", "data"),
    [
        (b"INSERT INTO t FORMAT TSV\n1\t2", b"INSERT INTO t", "TSV", b"1\t2"),
        (b"INSERT INTO t FORMAT TSV\r\n1", b"INSERT INTO t", "TSV", b"1"),
        (b"INSERT INTO t FORMAT TSV  \n  1", b"INSERT INTO t", "TSV", b"  1"),
        (b"insert into t (a, b) values (1)", b"insert into t (a, b)", "Values", b" (1)"),
        (b"INSERT INTO values VALUES (1)", b"INSERT INTO values", "Values", b" (1)"),
        (b"INSERT INTO a.format FORMAT CSV 1", b"INSERT INTO a.format", "CSV", b"1"),
        (b"INSERT INTO `FORMAT x` FORMAT CSV\n1", b"INSERT INTO `FORMAT x`", "CSV", b"1"),
        (b"/* INSERT */ INSERT INTO t FORMAT CSV\n1", b"/* INSERT */ INSERT INTO t", "CSV", b"1"),
        (b"INSERT INTO FUNCTION f('FORMAT X') FORMAT CSV\n", None, "CSV", b""),
        (b"INSERT INTO TABLE t -- FORMAT X\n FORMAT CSV\nSELECT", None, "CSV", b"SELECT"),
        (
            b"INSERT INTO t SETTINGS a = 1 FORMAT CSV\n1",
            b"INSERT INTO t SETTINGS a = 1",
            "CSV",
            b"1",
        ),
    ],
)
def test_the_data_of_an_insert_are_found(
    sql: bytes, head: bytes | None, name: str, data: bytes
) -> None:
    """The head ends before FORMAT or VALUES, the data begin after one line break."""
    found = statement.insert_head(sql)
    assert found is not None
    assert found.format == name
    assert sql[found.data_at :] == data
    assert head is None or found.text == head


@pytest.mark.parametrize(
    "sql",
    [
        b"INSERT INTO t SELECT 1",
        b"INSERT INTO t (a) SELECT 1 FORMAT CSV",
        b"INSERT INTO t WITH x AS (SELECT 1) SELECT * FROM x",
        b"INSERT INTO t FROM INFILE 'x' FORMAT CSV",
        b"SELECT 'INSERT INTO t VALUES (1)'",
        b"WITH 1 AS x SELECT x",
        b"INSERT",
        b"",
    ],
)
def test_a_statement_without_data_has_no_head(sql: bytes) -> None:
    """A SELECT in an INSERT, a file, and anything else take no data from the request."""
    assert statement.insert_head(sql) is None


@pytest.mark.parametrize(
    ("sql", "text", "tail"),
    [
        (b"SELECT 1", b"SELECT 1", b"FORMAT CSV"),
        (b"SELECT 1 ; ", b"SELECT 1", b"FORMAT CSV"),
        (b"SELECT 1 FORMAT JSON", b"SELECT 1 ", b"FORMAT JSON"),
        (b"SELECT 1 format JSON -- x\n;", b"SELECT 1 ", b"format JSON"),
        (b"SELECT 1 FORMAT JSON SETTINGS a=1", b"SELECT 1 ", b"FORMAT JSON SETTINGS a=1"),
        (b"SELECT 1 SETTINGS a=1", b"SELECT 1 SETTINGS a=1", b"FORMAT CSV"),
        (b"SELECT 'a FORMAT JSON'", b"SELECT 'a FORMAT JSON'", b"FORMAT CSV"),
        (b"SELECT $x$ FORMAT JSON $x$", b"SELECT $x$ FORMAT JSON $x$", b"FORMAT CSV"),
        (b"SELECT (SELECT 1 FORMAT JSON)", b"SELECT (SELECT 1 FORMAT JSON)", b"FORMAT CSV"),
        (b"SELECT format AS a FROM t", b"SELECT format AS a FROM t", b"FORMAT CSV"),
        (b"SELECT format('{}', 1)", b"SELECT format('{}', 1)", b"FORMAT CSV"),
        (b"SELECT 1 -- FORMAT JSON", b"SELECT 1", b"FORMAT CSV"),
        (b"SELECT 1 /* ; */ FORMAT `JSON`", b"SELECT 1 /* ; */ FORMAT `JSON`", b"FORMAT CSV"),
    ],
)
def test_the_format_clause_is_found(sql: bytes, text: bytes, tail: bytes) -> None:
    """FORMAT counts where it ends the statement, not in texts, comments, names or brackets."""
    found = statement.query(sql, default_format="CSV")
    assert (found.text, found.tail) == (text, tail)


@given(st.binary(max_size=200))
def test_any_bytes_can_be_cut(sql: bytes) -> None:
    """Nothing makes the cutting fail, and no byte outside blanks and comments is lost."""
    statement.insert_head(sql)
    statement.first_word(sql)
    found = statement.query(sql, default_format="CSV")
    assert sql.startswith(found.text)


@given(
    st.binary(max_size=5000),
    st.integers(1, 64),
    st.sampled_from(["gzip", "zstd", "lz4", "deflate"]),
)
def test_encodings_are_undone_in_any_cut(data: bytes, size: int, encoding: str) -> None:
    """What an encoder made, also twice over, decodes to the same bytes however it is cut."""
    encoder = coding.new_encoder(encoding)
    packed = encoder.compress(data) + encoder.flush()
    decoder = coding.Decoder(encoding)
    twice = packed + packed
    cuts = [twice[at : at + size] for at in range(0, len(twice), size)]
    assert b"".join(piece for cut in cuts for piece in decoder.feed(cut)) == data + data
    decoder.finish()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_body_cut_short_is_refused(encoding: str) -> None:
    """An encoded body that ends early is an error, not a shorter body."""
    encoder = coding.new_encoder(encoding)
    packed = encoder.compress(b"x" * 5000) + encoder.flush()
    decoder = coding.Decoder(encoding)
    list(decoder.feed(packed[:-6]))
    with pytest.raises(ClickHouseFault, match="ends early"):
        decoder.finish()


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [("", None), ("identity", None), ("br, zstd;q=0, gzip", "gzip"), ("lz4,zstd", "lz4")],
)
def test_the_first_encoding_we_have_is_chosen(accepted: str, chosen: str | None) -> None:
    """In the client's order, leaving out what it weighs with zero."""
    assert coding.choose_encoding(accepted) == chosen


@pytest.mark.parametrize(
    ("text", "code", "shown"),
    [
        ("Code: 60. DB::Exception: no (UNKNOWN_TABLE)", 60, "no (UNKNOWN_TABLE)"),
        (
            "Code: 164. DB::Exception: Code: 164. DB::Exception: no. (READONLY) (version 26.9.2.1)."
            " (READONLY)",
            164,
            "no. (READONLY)",
        ),
        ("something else", 1002, "something else. (UNKNOWN_EXCEPTION)"),
        ("", 1002, "the engine failed without a reason. (UNKNOWN_EXCEPTION)"),
    ],
)
def test_the_engines_errors_are_read(text: str, code: int, shown: str) -> None:
    """One code, said once, without the version."""
    fault = ClickHouseFault.from_engine(text)
    assert fault.code == code
    assert fault.text == f"Code: {code}. DB::Exception: {shown}"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:1", "LOCALHOST:1", "[::1]", "[::1]:1"])
def test_loopback_names(host: str) -> None:
    """Every spelling of loopback that clients send."""
    assert is_loopback(host)
    assert not is_loopback(host + ".evil")
    assert not is_loopback("")
