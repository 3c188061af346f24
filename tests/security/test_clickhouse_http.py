"""The embedded ClickHouse's door: who is let in, and what malformed input does (nothing)."""

from __future__ import annotations

import base64
import gzip
import socket

import pytest
from backports import zstd

from tests.fixtures.fix_clickhouse_process import OWNER, OWNER_PASSWORD, ClickHouseProcess

HOST = b"Host: 127.0.0.1\r\n"
AUTH = f"X-ClickHouse-User: {OWNER}\r\nX-ClickHouse-Key: {OWNER_PASSWORD}\r\n".encode()
CLOSE = b"Connection: close\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nConnection: close\r\n" + HOST + AUTH
FORM = b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 8\r\n\r\nselect 1"


def talk(server: ClickHouseProcess, request: bytes, *, hang_up: bool = False) -> tuple[int, bytes]:
    """Send raw bytes; the status and the answer, until the server closes the connection.

    `hang_up` ends our side at once; the server may then just close (status 0).
    """
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(request)
        if hang_up:
            sock.shutdown(socket.SHUT_WR)
        answer = b""
        while part := sock.recv(65536):
            answer += part
    return (int(answer.split()[1]) if answer else 0), answer


MALFORMED = {
    "not HTTP": b"\x16\x03\x01\x02\x00 garbage\r\n\r\n",
    "unknown method": b"FOO / HTTP/1.1\r\n" + HOST + b"\r\n",
    "no Host": b"GET /ping HTTP/1.1\r\n\r\n",
    "bad length": POST + b"Content-Length: abc\r\n\r\nSELECT 1",
    "negative length": POST + b"Content-Length: -5\r\n\r\nSELECT 1",
    "two framings": POST
    + b"Content-Length: 8\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nSELECT 1\r\n",
    "bad chunk": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nSELECT 1",
    "header too long": b"GET /ping HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 20_000 + b"\r\n\r\n",
    "too many headers": b"GET /ping HTTP/1.1\r\n" + HOST + b"X: a\r\n" * 200 + b"\r\n",
    "URL too long": b"GET /?query=" + b"a" * (1 << 20) + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "NUL in URL": b"GET /?query=SELECT\x001 HTTP/1.1\r\n" + HOST + b"\r\n",
    "too many parameters": b"POST /?" + b"a=1&" * 5000 + b" HTTP/1.1\r\n" + HOST + AUTH + CLOSE,
    "unknown encoding": POST + b"Content-Encoding: x\r\nContent-Length: 8\r\n\r\nSELECT 1",
    "not gzip": POST + b"Content-Encoding: gzip\r\nContent-Length: 8\r\n\r\nSELECT 1",
    "not zstd": POST + b"Content-Encoding: zstd\r\nContent-Length: 8\r\n\r\nSELECT 1",
    "not lz4": POST + b"Content-Encoding: lz4\r\nContent-Length: 8\r\n\r\nSELECT 1",
    "not a form": POST + FORM,
    "no boundary": POST + FORM.replace(b"; boundary=x", b""),
    "query id": b"GET /?query=SELECT+1&query_id=a%0d%0aX:1 HTTP/1.1\r\n" + HOST + AUTH + CLOSE,
    "session timeout": b"GET /?query=SELECT+1&session_id=a&session_timeout=0 HTTP/1.1\r\n"
    + HOST
    + AUTH
    + CLOSE,
}


@pytest.mark.parametrize("name", list(MALFORMED))
def test_malformed_input_is_refused(clickhouse_process: ClickHouseProcess, name: str) -> None:
    """It gets 400 and no traceback, and the server goes on."""
    status, answer = talk(clickhouse_process, MALFORMED[name])
    assert status == 400
    assert b"Traceback" not in answer
    assert clickhouse_process.send(url="ping", method="GET").data == b"Ok.\n"


def test_a_body_that_breaks_off_is_not_committed(clickhouse_process: ClickHouseProcess) -> None:
    """An INSERT whose connection ends early leaves no row, whatever its framing."""
    clickhouse_process.send("CREATE TABLE broken (a UInt8) ENGINE = MergeTree ORDER BY a")
    insert = b"INSERT INTO broken FORMAT TSV\n1\n2\n"
    talk(clickhouse_process, POST + b"Content-Length: 500\r\n\r\n" + insert, hang_up=True)
    chunk = b"%x\r\n%b\r\n" % (len(insert), insert)
    talk(clickhouse_process, POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunk, hang_up=True)
    half = gzip.compress(insert * 1000)[:-20]
    encoded = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(half)
    status, _ = talk(clickhouse_process, POST + encoded + half)
    assert status == 400
    assert clickhouse_process.send("SELECT count() FROM broken").data == b"0\n"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"127.0.0.1", 200),
        (b"localhost:8123", 200),
        (b"[::1]:8123", 200),
        (b"evil.example", 403),
        (b"localhost.evil.example:8123", 403),
        (b"127.0.0.1.evil.example", 403),
        (b"0.0.0.0", 403),
    ],
)
def test_only_loopback_names_are_answered(
    clickhouse_process: ClickHouseProcess, host: bytes, status: int
) -> None:
    """A page in a browser that resolves its own name to 127.0.0.1 gets nothing."""
    request = b"GET /ping HTTP/1.1\r\nConnection: close\r\nHost: " + host + b"\r\n\r\n"
    assert talk(clickhouse_process, request)[0] == status


def test_browsers_get_no_permission(clickhouse_process: ClickHouseProcess) -> None:
    """A preflight request is refused, and no answer allows another origin."""
    request = b"OPTIONS / HTTP/1.1\r\nConnection: close\r\nOrigin: http://evil.example\r\n" + HOST
    status, answer = talk(clickhouse_process, request + b"\r\n")
    assert status == 405
    assert b"access-control" not in answer.lower()


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def test_the_password_may_come_in_three_ways(clickhouse_process: ClickHouseProcess) -> None:
    """ClickHouse's headers, HTTP Basic, or the URL."""
    nothing = {"X-ClickHouse-User": "", "X-ClickHouse-Key": ""}
    url = f"?query=SELECT+1&user={OWNER}&password={OWNER_PASSWORD}"
    request = b"GET /" + url.encode() + b" HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n"
    assert talk(clickhouse_process, request)[0] == 200
    line = b"GET /?query=SELECT+1 HTTP/1.1\r\nConnection: close\r\n" + HOST
    by_basic = basic(OWNER, OWNER_PASSWORD)["Authorization"].encode()
    assert talk(clickhouse_process, line + b"Authorization: " + by_basic + b"\r\n\r\n")[0] == 200
    assert clickhouse_process.send("SELECT 1").status == 200
    assert clickhouse_process.send("SELECT 1", headers=nothing).status == 401


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"X-ClickHouse-User: neolayer\r\n",
        b"X-ClickHouse-User: neolayer\r\nX-ClickHouse-Key: wrong\r\n",
        b"X-ClickHouse-User: neolayer_read\r\nX-ClickHouse-Key: owner-secret\r\n",
        b"X-ClickHouse-User: default\r\nX-ClickHouse-Key: \r\n",
        b"X-ClickHouse-User: nobody\r\nX-ClickHouse-Key: nobody\r\n",
        b"X-ClickHouse-User: \xff\r\nX-ClickHouse-Key: \xff\r\n",
        b"Authorization: Basic !!!\r\n",
        b"Authorization: Bearer owner-secret\r\n",
    ],
)
def test_wrong_credentials_are_refused(clickhouse_process: ClickHouseProcess, line: bytes) -> None:
    """401 or 403 with ClickHouse's code 516, and the same words for a wrong name and password."""
    request = b"GET /?query=SELECT+1 HTTP/1.1\r\nConnection: close\r\n" + HOST + line + b"\r\n"
    status, answer = talk(clickhouse_process, request)
    assert status in {401, 403}
    assert b"X-ClickHouse-Exception-Code: 516" in answer
    assert b"owner-secret" not in answer


def test_a_bomb_does_not_fill_memory(clickhouse_process: ClickHouseProcess) -> None:
    """512 MiB of one letter, packed into kilobytes, pass through in pieces."""
    clickhouse_process.send("SELECT 1")
    before = clickhouse_process.memory_mib("VmHWM")
    row = b"a" * (1 << 20) + b"\n"
    bomb = zstd.compress(row * 64) * 8
    answer = clickhouse_process.send(
        bomb,
        url="?query=INSERT+INTO+FUNCTION+null('a+String')+FORMAT+TSV",
        headers={"Content-Encoding": "zstd"},
    )
    assert answer.status == 200
    assert clickhouse_process.memory_mib("VmHWM") < before + 500


def test_the_log_has_no_password(clickhouse_process: ClickHouseProcess) -> None:
    """What the server writes about itself names neither passwords nor statements."""
    assert OWNER_PASSWORD not in clickhouse_process.log()
    assert "Traceback" not in clickhouse_process.log()
