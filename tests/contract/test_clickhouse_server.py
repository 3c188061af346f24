"""An unmodified clickhouse-connect against the embedded ClickHouse, as against a server."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import random
import socket
import subprocess
import sys
import threading
import time
import uuid
import zoneinfo
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import clickhouse_connect
import pyarrow as pa
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError, StreamFailureError
from clickhouse_connect.driver.external import ExternalData
from tests.fixtures.fix_clickhouse_process import OWNER, OWNER_PASSWORD, ClickHouseProcess
from tests.fixtures.patience import PATIENCE_S

TYPED_VALUES: list[tuple[str, Any]] = [
    ("UInt256", 2**256 - 1),
    ("Nullable(UInt256)", None),
    ("Int128", -(2**127)),
    ("Float64", 0.1),
    ("Decimal(38, 18)", Decimal("12345.000000000000000001")),
    ("Bool", True),
    ("String", "zwölf 🚀 \t\n\\'"),
    ("FixedString(3)", b"abc"),
    ("Nullable(String)", None),
    ("LowCardinality(String)", "rare"),
    ("LowCardinality(Nullable(String))", None),
    ("UUID", uuid.UUID(int=7)),
    ("Date", dt.date(2024, 2, 29)),
    ("DateTime64(6, 'UTC')", dt.datetime(2024, 2, 29, 1, 2, 3, 456789)),
    (
        "DateTime64(3, 'Asia/Tokyo')",
        dt.datetime(2024, 2, 29, 1, 2, 3, 456000, tzinfo=zoneinfo.ZoneInfo("Asia/Tokyo")),
    ),
    ("Enum8('a' = 1, 'b' = 2)", "b"),
    ("IPv4", ipaddress.IPv4Address("10.1.2.3")),
    ("IPv6", ipaddress.IPv6Address("fe80::1")),
    ("Array(Nullable(UInt64))", [1, None, 2**64 - 1]),
    ("Map(String, UInt64)", {"a": 1, "b": 2}),
    ("Tuple(UInt8, String)", (1, "x")),
    ("JSON", {"a": {"b": 1}, "c": "d"}),
]


@pytest.fixture
def client(clickhouse_owner: Client) -> Client:
    return clickhouse_owner


def make_table(client: Client, name: str, columns: str, *, order_by: str = "tuple()") -> str:
    client.command(f"CREATE TABLE {name} ({columns}) ENGINE = MergeTree ORDER BY {order_by}")
    return name


def running_queries(client: Client, mark: str) -> int:
    condition = "query LIKE {m:String} AND query NOT LIKE '%system.processes%'"
    sql = f"SELECT count() FROM system.processes WHERE {condition}"
    return int(client.command(sql, parameters={"m": f"%{mark}%"}))


def test_a_client_learns_version_timezone_and_settings(client: Client) -> None:
    """What clickhouse-connect asks at its start is answered, settings and functions included."""
    assert int(client.server_version.split(".")[0]) >= 25
    assert str(client.server_tz) == "UTC"
    assert "max_threads" in client.server_settings
    assert client.command("SELECT count() > 1000 FROM system.functions") == 1
    assert client.ping()


@pytest.mark.parametrize(("kind", "value"), TYPED_VALUES, ids=[kind for kind, _ in TYPED_VALUES])
def test_a_value_comes_back_as_it_went_in(client: Client, kind: str, value: Any) -> None:
    """Every common type survives INSERT and SELECT unchanged."""
    name = make_table(client, "typed_" + uuid.uuid4().hex, f"n UInt8, v {kind}")
    client.insert(name, [[1, value]], column_names=["n", "v"])
    assert client.query(f"SELECT v FROM {name}").result_rows == [(value,)]


def test_rows_columns_frames_and_arrow_go_in_and_out(client: Client) -> None:
    """Each of the client's ways to insert and to read moves the same rows."""
    name = make_table(client, "ways", "a UInt64, b String", order_by="a")
    client.insert(name, [[1, "x"]], column_names=["a", "b"])
    client.insert(name, [[2], ["y"]], column_names=["a", "b"], column_oriented=True)
    client.insert_arrow(name, pa.table({"a": pa.array([3], pa.uint64()), "b": ["z"]}))
    client.insert_df(name, client.query_df("SELECT toUInt64(4) AS a, 'w' AS b"))
    expected = [(1, "x"), (2, "y"), (3, "z"), (4, "w")]
    ordered = f"SELECT * FROM {name} ORDER BY a"
    assert client.query(ordered).result_rows == expected
    assert client.query_df(ordered)["a"].tolist() == [1, 2, 3, 4]
    assert client.query_np(f"SELECT a FROM {name} ORDER BY a").ravel().tolist() == [1, 2, 3, 4]
    assert client.query_arrow(ordered, use_strings=True)["b"].to_pylist() == ["x", "y", "z", "w"]


@pytest.mark.parametrize("compression", [None, "gzip", "zstd", "lz4"])
def test_raw_inserts_take_any_format_and_encoding(client: Client, compression: str | None) -> None:
    """Bytes the caller made go in as they are, compressed or not, with a column list."""
    import gzip

    import lz4.frame
    from backports import zstd

    encode = {
        None: bytes,
        "gzip": gzip.compress,
        "zstd": zstd.compress,
        "lz4": lz4.frame.compress,
    }[compression]
    name = make_table(client, f"raw_{compression}", "a UInt64, b String", order_by="a")
    for fmt, data in [
        ("TabSeparated", b"x\t1\n"),
        ("CSV", b'"x",2\n'),
        ("JSONEachRow", b'{"b":"x","a":3}\n'),
        ("Values", b"('x', 4), (concat('', 'x'), 5)"),
    ]:
        block = encode(data)
        client.raw_insert(name, ["b", "a"], block, fmt=fmt, compression=compression)
    assert client.command(f"SELECT sum(a), countIf(b = 'x') FROM {name}") == ["15", "5"]


@pytest.mark.parametrize("compress", [False, "gzip", "zstd", "lz4", "deflate"])
def test_answers_come_in_the_encoding_asked_for(
    clickhouse_process: ClickHouseProcess, compress: str | bool
) -> None:
    """The same rows arrive under every compression a client may negotiate, also long answers."""
    with contextlib.closing(clickhouse_process.client(compress=compress)) as client:
        found = client.query("SELECT number FROM numbers(300000)")
    assert found.result_columns[0][-1] == 299_999
    assert found.row_count == 300_000


@pytest.mark.parametrize(
    "fmt", ["Native", "CSVWithNames", "JSON", "Arrow", "ArrowStream", "Parquet"]
)
def test_a_long_raw_answer_is_one_document(client: Client, fmt: str) -> None:
    """An answer longer than all buffers is whole and well-formed, whatever its format."""
    sql = "SELECT number, toString(number) AS text FROM numbers(200000)"
    whole = client.raw_query(sql, fmt=fmt)
    with client.raw_stream(sql, fmt=fmt) as stream:
        streamed = stream.read()
    assert len(whole) == len(streamed) or fmt == "JSON"
    if fmt == "Arrow":
        assert pa.ipc.open_file(pa.BufferReader(streamed)).read_all().num_rows == 200_000
    if fmt == "ArrowStream":
        assert pa.ipc.open_stream(streamed).read_all().num_rows == 200_000
    if fmt == "CSVWithNames":
        assert streamed.count(b'"number"') == 1


def test_streams_yield_blocks(client: Client) -> None:
    """Row blocks and Arrow batches arrive bit by bit and add up."""
    sql = "SELECT number FROM numbers(300000)"
    with client.query_row_block_stream(sql) as blocks:
        sizes = [len(block) for block in blocks]
    assert len(sizes) > 1
    assert sum(sizes) == 300_000
    with client.query_arrow_stream(sql) as batches:
        assert sum(len(batch) for batch in batches) == 300_000


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("UInt256", 2**256 - 1),
        ("String", "it's\t\\ \n 'quoted' é"),
        ("Nullable(String)", None),
        ("Array(String)", ["a'b", "c"]),
        ("DateTime64(6, 'UTC')", dt.datetime(2024, 1, 2, 3, 4, 5, 678901)),
    ],
)
def test_query_parameters_reach_the_engine(client: Client, kind: str, value: Any) -> None:
    """`{x:Type}` is filled in by the engine, whatever the text holds."""
    found = client.query(f"SELECT {{x:{kind}}} AS v", parameters={"x": value}).first_row[0]
    assert found == value or found == value.replace(tzinfo=None)


def test_parameters_bound_by_the_client_work_too(client: Client) -> None:
    """`%(x)s` is bound before the server sees it; both may stand for names and values."""
    found = client.query("SELECT %(x)s, %(y)s", parameters={"x": "a'b", "y": 3})
    assert found.result_rows == [("a'b", 3)]
    named = "SELECT count() FROM {d:Identifier}.{t:Identifier}"
    assert client.command(named, parameters={"d": "system", "t": "one"}) == 1


def test_insert_values_may_use_parameters(client: Client) -> None:
    """Parameters work in INSERT ... VALUES as well, and do not outlive the request."""
    name = make_table(client, "with_parameters", "a UInt64, b String")
    client.command(f"INSERT INTO {name} VALUES ({{a:UInt64}}, {{b:String}})", {"a": 7, "b": "q'\t"})
    assert client.query(f"SELECT * FROM {name}").result_rows == [(7, "q'\t")]


def test_a_long_query_goes_as_a_form(client: Client) -> None:
    """Parameters too long for a URL are sent form-encoded by the client, and arrive."""
    numbers = list(range(20_000))
    found = client.query("SELECT length({n:Array(UInt64)})", parameters={"n": numbers})
    assert found.result_rows == [(20_000,)]


def test_external_data_are_a_table_for_one_query(client: Client) -> None:
    """Data sent along with a query can be joined, and are gone afterwards."""
    data = ExternalData(
        file_name="extra.csv", data=b"1,x\n2,y\n", fmt="CSV", structure=["a UInt8", "b String"]
    )
    assert client.query("SELECT b FROM extra ORDER BY a", external_data=data).result_columns == [
        ["x", "y"]
    ]
    with pytest.raises(DatabaseError):
        client.query("SELECT * FROM extra")


def test_external_data_that_cannot_be_read_leave_the_link_usable(client: Client) -> None:
    """The fault is theirs, and of nobody who comes next."""
    broken = ExternalData(
        file_name="extra.csv", data=b"1\nno number\n" * 1000, fmt="CSV", structure=["a UInt8"]
    )
    for _ in range(3):
        with pytest.raises(DatabaseError, match="code: 117"):
            client.query("SELECT sum(a) FROM extra", external_data=broken)
        assert client.query("SELECT 1").result_rows == [(1,)]


def test_settings_hold_for_one_request(client: Client) -> None:
    """A request's settings apply to it, not to the session; SET applies to the session."""
    asked = "SELECT getSetting('max_block_size')"
    before = client.command(asked)
    assert client.command(asked, settings={"max_block_size": 1234}) == 1234
    assert client.command(asked) == before
    client.command("SET max_block_size = 77")
    assert client.command(asked) == 77
    assert client.command(asked, settings={"max_block_size": 1234}) == 1234
    assert client.command(asked) == 77


def test_an_unknown_setting_is_refused_with_the_servers_code(
    clickhouse_process: ClickHouseProcess,
) -> None:
    """As on a server, a setting nobody knows is error 115."""
    answer = clickhouse_process.send("SELECT 1", url="?no_such_setting=1")
    assert answer.headers["X-ClickHouse-Exception-Code"] == "115"
    assert answer.status == 404
    assert answer.data.startswith(b"Code: 115. DB::Exception: Unknown setting")


def test_a_session_keeps_its_temporary_tables(clickhouse_process: ClickHouseProcess) -> None:
    """A temporary table is seen in its session and in no other."""
    with (
        contextlib.closing(clickhouse_process.client(session_id="one")) as one,
        contextlib.closing(clickhouse_process.client(session_id="two")) as two,
    ):
        one.command("CREATE TEMPORARY TABLE mine (a UInt8)")
        one.insert("mine", [[1]], column_names=["a"], column_type_names=["UInt8"])
        assert one.command("SELECT sum(a) FROM mine") == 1
        with pytest.raises(DatabaseError) as refused:
            two.command("SELECT sum(a) FROM mine")
    assert refused.value.code == 60


def test_a_busy_session_is_locked(clickhouse_process: ClickHouseProcess, client: Client) -> None:
    """Two requests at once in one session: the second is refused with 373."""
    mark = uuid.uuid4().hex
    slow = threading.Thread(
        target=clickhouse_process.send,
        args=(f"SELECT sum(cityHash64(number, '{mark}')) FROM numbers(100000000000)",),
        kwargs={"url": f"?session_id=locked&query_id={mark}"},
    )
    slow.start()
    while not running_queries(client, mark):
        time.sleep(0.01)
    answer = clickhouse_process.send("SELECT 1", url="?session_id=locked")
    assert answer.headers["X-ClickHouse-Exception-Code"] == "373"
    while slow.is_alive():
        client.command(f"KILL QUERY WHERE query_id = '{mark}'")
        slow.join(0.1)
    assert clickhouse_process.send("SELECT 1", url="?session_id=locked").data == b"1\n"
    answer = clickhouse_process.send("SELECT 1", url="?session_id=nobody&session_check=1")
    assert answer.headers["X-ClickHouse-Exception-Code"] == "372"


def test_the_database_of_a_client_is_its_context(clickhouse_process: ClickHouseProcess) -> None:
    """Names without a database mean the client's; a database that is not there is error 81."""
    with contextlib.closing(clickhouse_process.client()) as client:
        client.command("CREATE DATABASE other")
        client.command("CREATE TABLE other.here (a UInt8) ENGINE = MergeTree ORDER BY a")
    with contextlib.closing(clickhouse_process.client(database="other")) as client:
        client.insert("here", [[1]], column_names=["a"])
        assert client.command("SELECT currentDatabase(), count() FROM here") == ["other", "1"]
    answer = clickhouse_process.send("SELECT 1", url="?database=nowhere")
    assert answer.headers["X-ClickHouse-Exception-Code"] == "81"


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("SELECT * FROM no_such_table", 60),
        ("SELECT no_such_column", 47),
        ("SELEC 1 FRO", 62),
        ("SELECT 1; SELECT 2", 62),
        ("SELECT throwIf(1)", 395),
        ("SELECT 1 INTO OUTFILE '/tmp/never'", 308),
        ("CREATE TABLE system.one (a UInt8) ENGINE = Memory", 57),
        ("", 62),
    ],
)
def test_errors_carry_clickhouses_code(
    clickhouse_process: ClickHouseProcess, sql: str, code: int
) -> None:
    """The code is in the header and at the body's start; the status is 4xx or 5xx."""
    answer = clickhouse_process.send(sql)
    assert answer.headers["X-ClickHouse-Exception-Code"] == str(code)
    assert answer.data.startswith(f"Code: {code}. DB::Exception: ".encode())
    assert answer.status >= 400


def test_a_client_raises_the_code_and_name(client: Client) -> None:
    """clickhouse-connect's DatabaseError has the structured code and name."""
    with pytest.raises(DatabaseError) as refused:
        client.query("SELECT * FROM no_such_table")
    assert (refused.value.code, refused.value.name) == (60, "UNKNOWN_TABLE")


def test_an_error_in_the_middle_of_a_stream_is_seen(client: Client) -> None:
    """A query that fails after its first megabytes fails in the reader, never ends early."""
    sql = "SELECT number, throwIf(number = 2000000) FROM numbers(3000000) SETTINGS max_threads = 1"
    with pytest.raises(StreamFailureError, match="throwIf"), client.query_rows_stream(sql) as rows:
        for _ in rows:
            pass
    assert client.command("SELECT 1") == 1


def test_bytes_that_are_not_text_pass_and_are_reported(
    clickhouse_process: ClickHouseProcess,
) -> None:
    """A String may hold any bytes; an error message that quotes them is still delivered."""
    assert clickhouse_process.send(b"SELECT '\xff\xfe'").data == b"\xff\xfe\n"
    answer = clickhouse_process.send(b"SELECT '\xff', nowhere")
    assert answer.headers["X-ClickHouse-Exception-Code"] == "47"


def test_the_summary_counts_what_was_done(clickhouse_process: ClickHouseProcess) -> None:
    """X-ClickHouse-Summary tells rows written and read, as texts; the query id is echoed."""
    import json

    clickhouse_process.send("CREATE TABLE counted (a UInt64) ENGINE = MergeTree ORDER BY a")
    answer = clickhouse_process.send(
        b"1\n2\n3\n", url="?query=INSERT+INTO+counted+FORMAT+TSV&query_id=mine"
    )
    assert json.loads(answer.headers["X-ClickHouse-Summary"])["written_rows"] == "3"
    assert answer.headers["X-ClickHouse-Query-Id"] == "mine"
    answer = clickhouse_process.send("SELECT * FROM counted")
    assert json.loads(answer.headers["X-ClickHouse-Summary"])["read_rows"] == "3"
    assert answer.headers["X-ClickHouse-Format"] == "TabSeparated"
    assert answer.headers["X-ClickHouse-Timezone"] == "Etc/UTC"
    assert answer.data == b"1\n2\n3\n"


@pytest.mark.parametrize(
    ("url", "body", "expected"),
    [
        ("?query=SELECT+1", None, b"1\n"),
        ("?query=SELECT", b"2", b"2\n"),
        ("", b"SELECT 3 FORMAT CSV", b"3\n"),
        ("", b"SELECT 'FORMAT x' AS format -- FORMAT y\n;", b"FORMAT x\n"),
        ("", b"(SELECT 4) FORMAT JSONEachRow SETTINGS max_threads = 1", b'{"4":4}\n'),
        ("?default_format=JSONCompactEachRow", b"SELECT 5, 'a'", b'[5, "a"]\n'),
        ("", b"SELECT 6 AS format ORDER BY format DESC", b"6\n"),
        ("", b"1 + 6", b"7\n"),
        ("", b"SELECT 8 FORMAT `CSV`", b"8\n"),
        ("", b"EXPLAIN AST SELECT 1 FORMAT Null", b""),
        ("", b"SHOW DATABASES LIKE 'system'", b"system\n"),
    ],
)
def test_a_statement_may_stand_in_url_and_body(
    clickhouse_process: ClickHouseProcess, url: str, body: bytes | None, expected: bytes
) -> None:
    """The URL's part and the body's part are one statement; its FORMAT is found where it is."""
    answer = clickhouse_process.send(body, url=url, method="POST" if body else "GET")
    assert (answer.status, answer.data) == (200, expected)


def test_get_does_not_write(clickhouse_process: ClickHouseProcess) -> None:
    """GET implies readonly, as on a server."""
    answer = clickhouse_process.send(url="?query=CREATE+DATABASE+by_get", method="GET")
    assert answer.headers["X-ClickHouse-Exception-Code"] == "164"


async def test_async_clients_run_at_once(clickhouse_process: ClickHouseProcess) -> None:
    """Queries of one async client overlap; each gets its own answer."""
    client = await clickhouse_connect.get_async_client(
        **clickhouse_process.address(), autogenerate_session_id=False
    )
    async with client:
        answers = await asyncio.gather(
            *(client.query("SELECT {x:UInt64}", parameters={"x": n}) for n in range(100))
        )
    assert [answer.first_row[0] for answer in answers] == list(range(100))


def test_processes_share_one_server(clickhouse_process: ClickHouseProcess, client: Client) -> None:
    """Three processes insert at once into one table; every row is there once."""
    name = make_table(client, "shared", "writer UInt8, n UInt64", order_by="(writer, n)")
    code = (
        "import sys, clickhouse_connect as c\n"
        f"client = c.get_client(**{clickhouse_process.address()!r})\n"
        "w = int(sys.argv[1])\n"
        "for part in range(5):\n"
        "    rows = ''.join(f'{w},{part * 100 + n}\\n' for n in range(100))\n"
        f"    client.raw_insert('{name}', ['writer', 'n'], rows, fmt='CSV')\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(n)]) for n in range(3)]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0, 0]
    found = client.query(f"SELECT writer, count(), uniqExact(n) FROM {name} GROUP BY 1 ORDER BY 1")
    assert found.result_rows == [(n, 500, 500) for n in range(3)]


def test_a_long_query_does_not_delay_ping(
    clickhouse_process: ClickHouseProcess, client: Client
) -> None:
    """While queries that do not end use all cores, /ping and short queries are answered."""
    ids = [f"endless-{number}" for number in range(3)]
    sql = "SELECT sum(cityHash64(number)) FROM numbers(100000000000)"
    threads = [
        threading.Thread(target=clickhouse_process.send, args=(sql,), kwargs={"url": url})
        for url in (f"?query_id={one}" for one in ids)
    ]
    for thread in threads:
        thread.start()
    while running_queries(client, "100000000000") < 3:
        time.sleep(0.01)
    for _ in range(20):
        assert clickhouse_process.send(url="ping", method="GET").data == b"Ok.\n"
    assert clickhouse_process.send("SELECT 1").data == b"1\n"
    assert running_queries(client, "100000000000") == 3
    for one, thread in zip(ids, threads, strict=True):
        while thread.is_alive():
            client.command(f"KILL QUERY WHERE query_id = '{one}'")
            thread.join(0.1)


@pytest.mark.parametrize("tail", ["", " SETTINGS log_comment = 'hidden'"])
def test_a_client_that_goes_away_stops_its_query(
    clickhouse_process: ClickHouseProcess, client: Client, tail: str
) -> None:
    """A query whose client hung up is killed, and its place is free again."""
    import urllib3

    mark = uuid.uuid4().hex
    sql = f"SELECT sum(cityHash64(number, '{mark}')) FROM numbers(100000000000){tail}"
    with pytest.raises(urllib3.exceptions.TimeoutError):
        clickhouse_process.send(sql, timeout=0.5)
    deadline = time.monotonic() + PATIENCE_S
    while running_queries(client, mark):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_client_that_goes_away_leaves_no_insert_behind(
    clickhouse_process: ClickHouseProcess, client: Client
) -> None:
    """In whatever moment of an INSERT it dies: who comes next, on the same link of the engine,
    can use it. One moment in some dozens is the one while the engine begins."""
    table = make_table(client, "left_alone", "n UInt64")
    head = (
        f"POST /?query=INSERT+INTO+{table}+FORMAT+TabSeparated HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"X-ClickHouse-User: {OWNER}\r\nX-ClickHouse-Key: {OWNER_PASSWORD}\r\n"
        "Content-Length: 2\r\n\r\n1\n"
    )
    dice = random.Random(1)
    for _ in range(300):
        with socket.create_connection(("127.0.0.1", clickhouse_process.port)) as leaving:
            leaving.sendall(head.encode())
            time.sleep(dice.uniform(0, 0.006))
        answer = clickhouse_process.send("SELECT 1")
        assert (answer.status, answer.data) == (200, b"1\n")


def test_a_query_is_killed_by_its_id(clickhouse_process: ClickHouseProcess, client: Client) -> None:
    """KILL QUERY finds the id the client gave, which the engine does not know."""
    codes: list[str | None] = []

    def run() -> None:
        answer = clickhouse_process.send(
            "SELECT sum(cityHash64(number)) FROM numbers(100000000000)", url="?query_id=victim"
        )
        codes.append(answer.headers.get("X-ClickHouse-Exception-Code"))

    running = threading.Thread(target=run)
    running.start()
    while running.is_alive():
        client.command("KILL QUERY WHERE query_id = 'victim'")
        running.join(0.1)
    assert codes == ["394"]


def test_memory_is_bounded_by_neither_side_of_a_transfer(
    clickhouse_process: ClickHouseProcess, client: Client
) -> None:
    """3M rows in one INSERT and 300 MB out in one answer pass without being held."""
    name = make_table(client, "large", "a UInt64, b String", order_by="a")
    block = b"".join(b"%d\tsome text of a row %d\n" % (n, n) for n in range(30_000))

    def blocks(times: int) -> Iterator[bytes]:
        for _ in range(times):
            yield block

    client.raw_insert(name, ["a", "b"], blocks(50), fmt="TSV")  # what the engine keeps anyway
    before = clickhouse_process.memory_mib()
    client.raw_insert(name, ["a", "b"], blocks(100), fmt="TSV")
    assert client.command(f"SELECT count() FROM {name}") == 4_500_000
    size = 0
    with client.raw_stream(f"SELECT *, b AS c FROM {name}", fmt="JSONEachRow") as stream:
        while part := stream.read(1 << 20):
            size += len(part)
    assert size > 300 << 20
    assert clickhouse_process.memory_mib("VmHWM") < before + 350


def test_a_million_rows_go_in_as_arrow(client: Client) -> None:
    """One insert_arrow of a million rows is acknowledged whole."""
    name = make_table(client, "million", "a UInt64, b String", order_by="a")
    numbers = pa.array(range(1_000_000), pa.uint64())
    summary = client.insert_arrow(name, pa.table({"a": numbers, "b": numbers.cast(pa.string())}))
    assert summary.written_rows == 1_000_000
    assert client.command(f"SELECT count(), sum(a) FROM {name}") == ["1000000", "499999500000"]


def test_an_insert_that_fails_leaves_no_row(clickhouse_process: ClickHouseProcess) -> None:
    """A body whose last row is broken is refused whole, and says where."""
    clickhouse_process.send("CREATE TABLE whole (a UInt8) ENGINE = MergeTree ORDER BY a")
    answer = clickhouse_process.send(b"1\n2\nthree\n", url="?query=INSERT+INTO+whole+FORMAT+TSV")
    assert answer.headers["X-ClickHouse-Exception-Code"] == "27"
    assert clickhouse_process.send("SELECT count() FROM whole").data == b"0\n"


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO spelt FORMAT TSV\n1\n",
        "insert into spelt(a)values(1)",
        'INSERT INTO TABLE `spelt` (a) /* FORMAT CSV */ FORMAT JSONEachRow {"a": 1}',
        "INSERT INTO default.spelt SETTINGS max_threads = 1 FORMAT CSV\n1",
        "INSERT INTO spelt SELECT 1",
        "INSERT INTO spelt SELECT a FROM (SELECT 1 AS a)",
        "INSERT INTO spelt (a) VALUES (1);",
    ],
)
def test_inserts_in_every_spelling(client: Client, statement: str) -> None:
    """Where the data of an INSERT begin is found in each spelling of the statement."""
    client.command("CREATE TABLE IF NOT EXISTS spelt (a UInt64) ENGINE = MergeTree ORDER BY a")
    client.command("TRUNCATE TABLE spelt")
    client.command(statement)
    assert client.command("SELECT count(), sum(a) FROM spelt") == ["1", "1"]
