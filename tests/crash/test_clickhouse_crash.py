"""The embedded ClickHouse under kill -9, SIGTERM, a second owner and wrong arguments."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from tests.fixtures.fix_clickhouse_process import (
    OWNER,
    OWNER_PASSWORD,
    ClickHouseProcess,
    server_arguments,
)
from tests.fixtures.patience import PATIENCE_S, STOPS_S

from neolayer.engines.embedded.clickhouse_server.auth import load_users
from neolayer.errors import SettingsError

Start = Callable[[], ClickHouseProcess]
ROUNDS = 5
KEPT = "kept (n UInt64) ENGINE = MergeTree ORDER BY n"


def insert_until_killed(client: Client, first: int, acknowledged: set[int]) -> int:
    """Insert batches of many sizes until the server is gone; the next number nobody tried."""
    chosen = random.Random(first)
    with contextlib.suppress(ClickHouseError, OSError):
        while True:
            numbers = range(first, first + chosen.choice([1, 50, 5000]))
            first = numbers.stop
            client.raw_insert("kept", ["n"], "".join(f"{n}\n" for n in numbers), fmt="TSV")
            acknowledged.update(numbers)
    return first


def test_acknowledged_rows_survive_kill_9(start_clickhouse: Start) -> None:
    """After each kill at a random moment all acknowledged rows are there, each once."""
    acknowledged: set[int] = set()
    first = 0
    chosen = random.Random(20)
    for _ in range(ROUNDS):
        server = start_clickhouse()
        with contextlib.closing(server.client()) as client:
            client.command(
                "CREATE TABLE IF NOT EXISTS kept (n UInt64) ENGINE = MergeTree ORDER BY n"
            )
            killer = threading.Timer(chosen.uniform(0.01, 0.5), server.process.kill)
            killer.start()
            first = insert_until_killed(client, first, acknowledged)
            killer.join()
        server.process.wait()
    server = start_clickhouse()
    with contextlib.closing(server.client()) as client:
        kept = client.query("SELECT n FROM kept").result_columns[0]
        assert client.command("CHECK TABLE kept SETTINGS check_query_single_value_result = 1") == 1
    stop(server)
    assert acknowledged
    assert len(kept) == len(set(kept))
    assert acknowledged <= set(kept)


def stop(server: ClickHouseProcess) -> int:
    server.process.terminate()
    return server.process.wait(timeout=STOPS_S)


def test_sigterm_stops_cleanly_in_the_middle_of_work(start_clickhouse: Start) -> None:
    """SIGTERM ends running queries and leaves with 0; the data open again."""
    server = start_clickhouse()
    server.send("CREATE TABLE t (a UInt8) ENGINE = MergeTree ORDER BY a")
    endless = "SELECT sum(cityHash64(number)) FROM numbers(1000000000000)"

    def ask() -> None:
        with contextlib.suppress(Exception):  # the connection is cut, in any of several ways
            server.send(endless)

    asking = threading.Thread(target=ask)
    asking.start()
    assert stop(server) == 0
    asking.join()
    again = start_clickhouse()
    assert again.send("SELECT count() FROM t").data == b"0\n"
    assert stop(again) == 0


def test_sigterm_stops_cleanly_while_a_client_still_sends(start_clickhouse: Start) -> None:
    """A statement that never came whole keeps nobody from leaving with 0."""
    server = start_clickhouse()
    head = (
        "POST /?query_id=slow HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n"
        f"X-ClickHouse-User: {OWNER}\r\nX-ClickHouse-Key: {OWNER_PASSWORD}\r\n\r\n"
    )
    for _ in range(100):
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(head.encode() + b"SELECT 1")
            # Whichever of the two comes first refuses the other; it has to be the unfinished one.
            if b"already running" in server.send("SELECT 1", url="?query_id=slow").data:
                assert stop(server) == 0
                return
    pytest.fail("the statement never began")


def refused(arguments: list[str]) -> str:
    """Start, expect a failure, and return what it says: one line without a traceback."""
    done = subprocess.run(
        arguments, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode not in {0, -signal.SIGKILL}
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    return done.stderr


def test_a_second_owner_is_refused(start_clickhouse: Start, traversable_tmp: Path) -> None:
    """Only one process may own a folder; the second says so in one sentence, the first goes on."""
    first = start_clickhouse()
    said = refused(server_arguments(traversable_tmp))
    assert "another process owns" in said
    assert first.send("SELECT 1").data == b"1\n"
    stop(first)


def test_wrong_arguments_get_one_sentence(traversable_tmp: Path) -> None:
    """A port that is taken, another host than loopback, a user without a password."""
    arguments = server_arguments(traversable_tmp)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert "cannot listen" in refused([*arguments, "--port", port])
    assert "loopback only" in refused([*arguments, "--host", "0.0.0.0"])
    assert "no password for user" in refused([*arguments, "--username", "stranger"])


@pytest.mark.parametrize("content", ["", "{", '{"neolayer": ""}', '{"other": "x"}', "other:x"])
def test_an_unusable_password_file_is_refused(traversable_tmp: Path, content: str) -> None:
    """Empty, malformed, without the owner or with an empty password; never quoting it."""
    file = traversable_tmp / "passwords"
    file.write_text(content)
    with pytest.raises(SettingsError, match="password file"):
        load_users(file, owner="neolayer")


def test_a_folder_that_cannot_be_written_gets_one_sentence(traversable_tmp: Path) -> None:
    """A file where the folder should be."""
    (traversable_tmp / "data").write_text("not a folder")
    assert str(traversable_tmp) in refused(server_arguments(traversable_tmp))


@pytest.mark.parametrize("lines", ["owner-secret", "neolayer:owner-secret\nneolayer_read:x:y"])
def test_the_password_file_may_be_lines(traversable_tmp: Path, lines: str) -> None:
    """Besides JSON: one line with the password, or lines of user:password."""
    file = traversable_tmp / "passwords"
    file.write_text(lines + "\n")
    users = load_users(file, owner="neolayer")
    assert users.passwords["neolayer"] == "owner-secret"
    assert users.passwords.get("neolayer_read", "x:y") == "x:y"
