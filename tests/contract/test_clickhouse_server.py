"""An unmodified clickhouse-connect against the embedded ClickHouse, as against a server."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError
from tests.fixtures.fix_postgres import traversable_folder

OWNER, OWNER_PASSWORD = "neolayer", "owner-secret"
READER, READER_PASSWORD = "neolayer_read", "reader-secret"


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    port: int
    path: Path

    def client(self, *, reader: bool = False, **options: Any) -> Client:
        return clickhouse_connect.get_client(**self.address(reader=reader), **options)

    def address(self, *, reader: bool = False) -> dict[str, Any]:
        return {
            "host": "127.0.0.1",
            "port": self.port,
            "username": READER if reader else OWNER,
            "password": READER_PASSWORD if reader else OWNER_PASSWORD,
        }


def start_server(folder: Path) -> Server:
    passwords = folder / "passwords.json"
    passwords.write_text(json.dumps({OWNER: OWNER_PASSWORD, READER: READER_PASSWORD}))
    port_file = folder / "port"
    port_file.unlink(missing_ok=True)
    module = "neolayer.engines.embedded.clickhouse_server"
    arguments = ["--path", str(folder / "data"), "--password-file", str(passwords)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments, "--port-file", str(port_file)],
            stdout=log,
            stderr=log,
        )
    deadline = time.monotonic() + 30
    while not port_file.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"the server did not start:\n{(folder / 'log').read_text()}")
        time.sleep(0.02)
    return Server(process, int(port_file.read_text()), folder / "data")


@contextlib.contextmanager
def running_server() -> Iterator[Server]:
    with traversable_folder() as folder:
        server = start_server(folder)
        try:
            yield server
        finally:
            server.process.terminate()
            server.process.wait(timeout=30)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server() as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with contextlib.closing(server.client()) as connected:
        yield connected


def test_a_client_inserts_and_reads_with_parameters(client: Client) -> None:
    """Rows inserted come back equal, also the widest integer, and {x:Type} is filled in."""
    client.command("CREATE TABLE first (a UInt64, v UInt256) ENGINE = MergeTree ORDER BY a")
    client.insert("first", [[1, 2**256 - 1], [2, 0]], column_names=["a", "v"])
    found = client.query("SELECT v FROM first WHERE a = {a:UInt64}", parameters={"a": 1})
    assert found.result_rows == [(2**256 - 1,)]


def test_the_reader_cannot_write(server: Server) -> None:
    """The read-only user's INSERT fails with ClickHouse's READONLY code."""
    with (
        contextlib.closing(server.client(reader=True)) as reader,
        pytest.raises(DatabaseError) as e,
    ):
        reader.command("CREATE TABLE forbidden (a UInt8) ENGINE = Memory")
    assert e.value.code == 164
