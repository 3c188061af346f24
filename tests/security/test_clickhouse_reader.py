"""Attacks on the embedded ClickHouse's read-only user. Each must be refused by the engine or before
it, change nothing, and show nothing of a file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ProgrammingError

from tests.fixtures.fix_clickhouse_process import READER, ClickHouseProcess

CANARY = "canary-7f3a"

WRITES = [
    "INSERT INTO target VALUES (2, 'y')",
    "INSERT INTO target FORMAT TSV\n2\ty\n",
    "/**/insert/**/into target values (2, 'y')",
    "INSERT INTO target SELECT 2, 'y'",
    "WITH x AS (SELECT 2, 'y') INSERT INTO target SELECT * FROM x",
    "INSERT INTO FUNCTION file('{out}') SELECT 1",
    "INSERT INTO FUNCTION null('a Int8') VALUES (1)",
    "INSERT INTO target FROM INFILE '{secret}' FORMAT CSV",
    "DROP TABLE target",
    "TRUNCATE TABLE target",
    "ALTER TABLE target DELETE WHERE 1",
    "DELETE FROM target WHERE 1",
    "UPDATE target SET b = 'q' WHERE 1",
    "OPTIMIZE TABLE target",
    "CREATE TABLE made (a Int8) ENGINE = Memory",
    "CREATE TEMPORARY TABLE made (a Int8)",
    "CREATE VIEW made AS SELECT 1",
    "CREATE FUNCTION made AS x -> x",
    "CREATE DATABASE made",
    "CREATE DICTIONARY made (a Int8) PRIMARY KEY a SOURCE(FILE(path '{secret}' format CSV))"
    " LAYOUT(FLAT()) LIFETIME(1)",
    "DETACH TABLE target",
    "RENAME TABLE target TO made",
    "EXCHANGE TABLES target AND made",
    "BACKUP TABLE target TO File('{out}')",
    "RESTORE TABLE target FROM File('{out}')",
    "EXPLAIN PIPELINE INSERT INTO target SELECT 2, 'y'",
]

POWERS = [
    "SET readonly = 0",
    "SET max_execution_time = 0",
    "SET ROLE neolayer_owner",
    "SET ROLE ALL",
    "SET DEFAULT ROLE ALL TO default",
    "SYSTEM FLUSH LOGS",
    "SYSTEM SHUTDOWN",
    "SYSTEM STOP MERGES",
    "KILL QUERY WHERE 1",
    "KILL MUTATION WHERE 1",
    "CREATE USER made",
    "GRANT ALL ON *.* TO default",
    "REVOKE ALL ON *.* FROM default",
    "CREATE NAMED COLLECTION made AS a = 1",
    "EXECUTE AS default SELECT 1",
    "BEGIN TRANSACTION",
    "USE system",
    "SELECT * FROM system.users",
]

FILES = [
    "SELECT * FROM file('{secret}', LineAsString)",
    "SELECT file('{secret}')",
    "SELECT file('{secret}', 'default')",
    "SELECT `fil\\x65`('{secret}')",
    "SELECT * APPLY(file) FROM (SELECT '{secret}' AS x)",
    "SELECT * APPLY(x -> file(x)) FROM (SELECT '{secret}' AS x)",
    "SELECT arrayMap(x -> file(x), ['{secret}'])",
    "WITH x -> file(x) AS f SELECT f('{secret}')",
    "SELECT file({{p:String}})",
    "DESCRIBE TABLE file('{secret}')",
    "DESCRIBE TABLE file('{secret}', LineAsString)",
    "EXPLAIN SELECT * FROM file('{secret}', LineAsString)",
    "EXPLAIN QUERY TREE SELECT file('{secret}')",
    "SELECT * FROM '{secret}'",
    "SELECT * FROM `{secret}`",
    "SELECT * FROM {{p:Identifier}}",
    "SELECT * FROM viewExplain('EXPLAIN', '', (SELECT * FROM file('{secret}', LineAsString)))",
    "SELECT * FROM eval('SELECT * FROM file(''{secret}'', LineAsString)')",
    "SELECT * FROM view(SELECT * FROM file('{secret}', LineAsString))",
    "SELECT * FROM merge('default', '.*') UNION ALL SELECT 1, file('{secret}')",
    "SELECT * FROM (SELECT * FROM file('{secret}', LineAsString) SETTINGS readonly = 0)",
    "SELECT * FROM fileCluster('default', '{secret}', LineAsString)",
    "SELECT * FROM filesystem('{folder}')",
    "SELECT * FROM sqlite('{secret}', 't')",
    "SELECT * FROM icebergLocal('{folder}')",
    "SELECT * FROM deltaLakeLocal('{folder}')",
    "SELECT * FROM url('file://{secret}', LineAsString)",
    "SELECT * FROM executable('cat {secret}', LineAsString, 'a String')",
    "SELECT 1 FORMAT Template SETTINGS format_template_row = '{secret}'",
]

NETWORK = [
    "SELECT * FROM url('http://127.0.0.1:{port}/ping', LineAsString)",
    "DESCRIBE TABLE url('http://127.0.0.1:{port}/ping', LineAsString)",
    "SELECT * FROM s3('http://127.0.0.1:{port}/bucket/key', 'CSV', 'a String')",
    "SELECT * FROM remote('127.0.0.1', system.one)",
    "SELECT * FROM mysql('127.0.0.1:{port}', 'a', 'b', 'c', 'd')",
    "SELECT * FROM postgresql('127.0.0.1:{port}', 'a', 'b', 'c', 'd')",
    "SELECT * FROM mongodb('127.0.0.1:{port}', 'a', 'b', 'c', 'd', 'a Int8')",
    "SELECT * FROM redis('127.0.0.1:{port}', 'a', 'a Int8')",
    "SELECT * FROM hdfs('hdfs://127.0.0.1:{port}/x', 'CSV', 'a Int8')",
    "SELECT * FROM odbc('x', 'y', 'z')",
    "SELECT * FROM Python(params)",
]

TRICKS = [
    "SELECT 1 INTO OUTFILE '{out}'",
    "SELECT 1 INTO/**/OUTFILE '{out}' TRUNCATE",
    "SHOW TABLES INTO OUTFILE '{out}'",
    "EXPLAIN SELECT 1 INTO OUTFILE '{out}'",
    "SELECT 1 FORMAT CSV INTO OUTFILE '{out}'",
    "(SELECT 1) INTO OUTFILE '{out}' APPEND",
    "SELECT 1; DROP TABLE target",
    "SELECT 1;\nSET readonly = 0; DROP TABLE target",
    "SELECT 'a' -- \n; DROP TABLE target",
    "SELECT 1 FORMAT `JSON`; DROP TABLE target",
    "SELECT 1 PARALLEL WITH DROP TABLE target",
    "SELECT 1\x00; DROP TABLE target",
    "SELECT 1 SETTINGS readonly = 0",
    "SELECT 1 FORMAT CSV SETTINGS readonly = 0",
    "SELECT 1 SETTINGS max_execution_time = 0",
    "SELECT 1 /*",
    "SELECT '",
    ";",
]

URLS = [
    "?query=SELECT+1&readonly=0",
    "?query=SELECT+1&readonly=2",
    "?query=SELECT+1&max_execution_time=0",
    "?query=SELECT+1&max_memory_usage=0",
    "?query=SELECT+1&format_schema=/etc/passwd",
    "?query=SELECT+1&role=neolayer_owner",
    "?query=SELECT+1&session_id=a&readonly=0",
    "?query=SELECT+1&default_format=CSV+INTO+OUTFILE",
    "?query=SELECT+1&database=x`;DROP+TABLE+target",
    "?query=SELECT+1&final=1%27,readonly%3D%270",
    "?query=SELECT+1&session_timezone=%5C%27,readonly%3D%270",
    "?query=SELECT+1&a%3D1,readonly=0",
    "?query=DROP+TABLE+target&user=neolayer",
]


@pytest.fixture(scope="module")
def bait(clickhouse_process: ClickHouseProcess) -> Iterator[dict[str, object]]:
    """A table that must stay as it is, and a file that must stay unread."""
    with contextlib.closing(clickhouse_process.client()) as client:
        client.command("CREATE TABLE target (a UInt64, b String) ENGINE = MergeTree ORDER BY a")
        client.command("INSERT INTO target VALUES (1, 'x')")
    folder = clickhouse_process.folder / "bait"
    folder.mkdir()
    secret = folder / "secret.csv"
    secret.write_text(f"{CANARY},b\n")
    yield {
        "secret": secret,
        "out": folder / "out.csv",
        "folder": folder,
        "port": clickhouse_process.port,
    }


def assert_nothing_happened(server: ClickHouseProcess, bait: dict[str, object]) -> None:
    assert server.send("SELECT * FROM target").data == b"1\tx\n"
    assert server.send("SELECT count() FROM system.tables WHERE name = 'made'").data == b"0\n"
    assert not Path(str(bait["out"])).exists()


@pytest.mark.parametrize("attack", [*WRITES, *POWERS, *FILES, *NETWORK, *TRICKS])
def test_an_attack_is_refused(
    clickhouse_process: ClickHouseProcess, bait: dict[str, object], attack: str
) -> None:
    """The statement fails, the table is as it was, no file was written and none was shown."""
    parameter = f"?param_p={bait['secret']}"
    answer = clickhouse_process.send(attack.format(**bait), url=parameter, reader=True)
    assert answer.status >= 400
    assert int(answer.headers["X-ClickHouse-Exception-Code"]) > 0
    assert CANARY.encode() not in answer.data
    assert_nothing_happened(clickhouse_process, bait)


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_attack_by_url_is_refused(
    clickhouse_process: ClickHouseProcess, bait: dict[str, object], method: str, url: str
) -> None:
    """Parameters cannot lift a limit, change the role or carry a second statement."""
    assert clickhouse_process.send(url=url, method=method, reader=True).status >= 400
    assert_nothing_happened(clickhouse_process, bait)


def test_limits_hold_inside_subqueries(clickhouse_process: ClickHouseProcess) -> None:
    """SETTINGS of a subquery are ignored by the engine where they would lift a limit."""
    inner = "SELECT getSetting('readonly'), getSetting('max_execution_time')"
    for sql in (
        f"SELECT * FROM ({inner} SETTINGS readonly = 0, max_execution_time = 0)",
        f"WITH a AS ({inner} SETTINGS readonly = 0, max_execution_time = 0) SELECT * FROM a",
        f"SELECT * FROM view({inner} SETTINGS readonly = 0, max_execution_time = 0)",
    ):
        assert clickhouse_process.send(sql, reader=True).data == b"1\t300\n"


def test_forms_carry_no_other_rights(
    clickhouse_process: ClickHouseProcess, bait: dict[str, object]
) -> None:
    """A form can neither name another user nor bring tables for the reader."""
    fields = {"query": "DROP TABLE target", "user": "neolayer"}
    assert clickhouse_process.send(fields=fields, reader=True).status >= 400
    extra = {"query": "SELECT * FROM extra", "extra": ("extra", "1\n")}
    answer = clickhouse_process.send(fields=extra, url="?extra_structure=a+UInt8", reader=True)
    assert answer.headers["X-ClickHouse-Exception-Code"] == "164"
    assert_nothing_happened(clickhouse_process, bait)


def test_a_readers_link_is_never_an_owners(
    clickhouse_process: ClickHouseProcess, bait: dict[str, object]
) -> None:
    """Requests of both users in turn keep their own rights: pooled links do not mix."""
    for _ in range(5):
        assert clickhouse_process.send("SELECT getSetting('readonly')").data == b"0\n"
        refused = clickhouse_process.send("TRUNCATE TABLE target", reader=True)
        assert refused.headers["X-ClickHouse-Exception-Code"] == "164"
        assert clickhouse_process.send("SELECT getSetting('readonly')", reader=True).data == b"1\n"
    assert_nothing_happened(clickhouse_process, bait)


def test_a_client_of_the_reader_reads(clickhouse_owner: Client, clickhouse_reader: Client) -> None:
    """What the reader may do works with an unmodified client, and FINAL is implied."""
    clickhouse_owner.command(
        "CREATE TABLE versions (k UInt8, v UInt64) ENGINE = ReplacingMergeTree(v) ORDER BY k"
    )
    clickhouse_owner.command("INSERT INTO versions VALUES (1, 1)")
    clickhouse_owner.command("INSERT INTO versions VALUES (1, 2)")
    found = clickhouse_reader.query("SELECT v FROM versions WHERE k = {k:UInt8}", {"k": 1})
    assert found.result_rows == [(2,)]
    assert clickhouse_reader.query_df("SELECT * FROM versions")["v"].tolist() == [2]
    assert "versions" in clickhouse_reader.command("SHOW TABLES LIKE 'versions'")
    with pytest.raises(ProgrammingError):
        clickhouse_reader.query("SELECT 1", settings={"max_memory_usage": 0})
    assert clickhouse_reader.command("SELECT 1") == 1
    assert READER == "neolayer_read"
