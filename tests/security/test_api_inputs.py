"""D: requests that no client of ours would send, field by field and byte by byte."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest

from neolayer.engines.endpoints import Role
from tests.fixtures.fix_api import OPERATOR_TOKEN
from tests.fixtures.fix_served_api import Served

MIB = 1024 * 1024


@dataclass(slots=True)
class Owner:
    """An owner of a tenant, who sends what they like."""

    served: Served
    client: httpx.Client
    id: UUID
    token: str

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.token}"} | options.pop("headers", {})
        return self.client.request(method, path, headers=headers, **options)

    def send(self, method: str, path: str, body: str | bytes) -> httpx.Response:
        """A body as it is, said to be JSON."""
        return self.ask(method, path, content=body, headers={"content-type": "application/json"})


@pytest.fixture(scope="module")
def owner(served: Served) -> Iterator[Owner]:
    with psycopg.connect(served.endpoints.postgres.dsn(Role.INGEST)) as ingest:
        ingest.execute(
            "INSERT INTO blockchain.networks (name, chain_id, network_type)"
            " VALUES ('ethereum', 1, 'evm')"
        )
    acme = served.tenant()
    user = served.person(acme, "ann", "owner")
    with httpx.Client(base_url=served.url) as client:
        yield Owner(served, client, user, served.token(acme, user))


def require_refused(answer: httpx.Response, *statuses: int) -> None:
    assert answer.status_code in (statuses or (400, 422)), answer.text
    assert answer.headers["content-type"] == "application/problem+json"


# JSON escapes, so that what reaches the server is exactly this.
UNFIT = {
    "NUL": r"a\u0000b",
    "escape": r"a\u001b[31mb",
    "lone surrogate": r"a\ud800b",
    "reversed surrogates": r"\udc00\ud800",
    "bidi override": r"a\u202eb",
    "bidi isolate": r"a\u2066b",
    "zero width": r"a\u200bb",
    "byte order mark": r"\ufeffab",
    "last newline": r"ab\n",
    "CR/LF": r"ab\r\nSet-Cookie: x=y",
    "300 characters": "a" * 300,
    "nothing": "",
}
FIELDS = {
    "user name": ("POST", "/v1/users", '{"email":"e@example.com","password":"x","username":"%s"}'),
    "email": ("POST", "/v1/users", '{"email":"%s","password":"x","username":"eve"}'),
    "role": ("POST", "/v1/roles", '{"name":"%s","permissions":[]}'),
    "permission": ("POST", "/v1/roles", '{"name":"r","permissions":["%s"]}'),
    "service": ("POST", "/v1/services", '{"name":"%s"}'),
    "wallet": ("POST", "/v1/wallets", '{"network":"ethereum","name":"%s"}'),
    "network": ("POST", "/v1/wallets", '{"network":"%s"}'),
    "tenant": ("PATCH", "/v1/tenant", '{"name":"%s"}'),
    "enclave": ("POST", "/v1/attestations/nonces", '{"enclave_id":"%s"}'),
}


@pytest.mark.parametrize("name", FIELDS)
def test_D_text_that_is_not_what_it_looks_like_is_refused(owner: Owner, name: str) -> None:
    """Nothing unseen, torn, too long or empty becomes somebody's or something's name."""
    method, path, body = FIELDS[name]
    for what, text in UNFIT.items():
        answer = owner.send(method, path, body % text)
        assert answer.status_code in (400, 422), (what, answer.text)


def test_D_no_text_is_a_fault(owner: Owner) -> None:
    """Where text is free (notes, settings, messages, passwords) it is taken or refused."""
    for text in UNFIT.values():
        for method, path, body in (
            ("POST", "/v1/roles", '{"name":"r","permissions":[],"description":"%s"}'),
            ("PATCH", "/v1/tenant", '{"settings":{"a":"%s"}}'),
            ("PATCH", "/v1/tenant", '{"settings":{"%s":1}}'),
            ("POST", "/v1/users", '{"email":"e@example.com","username":"eve","password":"%s"}'),
            ("POST", "/v1/sessions", '{"tenant":"%s","name":"%s","password":"%s"}'),
            ("POST", "/v1/password-resets", '{"tenant":"%s","email":"%s"}'),
        ):
            answer = owner.send(method, path, body.replace("%s", text))
            assert answer.status_code < 500, (path, text, answer.text)


@pytest.mark.parametrize(
    "body",
    [
        '{"name":"a","name":"b"}',
        '{"name":"a","settings":{"x":[{"y":1,"y":1}]}}',
        '{"name":"a","\\u006eame":"b"}',
        '{"settings":{"a":1,"\\u0061":2}}',
    ],
)
def test_D_a_key_that_stands_twice_is_refused(owner: Owner, body: str) -> None:
    """Also deep inside, and spelled in two ways: two readers would read two bodies."""
    answer = owner.send("PATCH", "/v1/tenant", body)
    require_refused(answer, 400)
    assert "twice" in answer.json()["detail"]


def test_D_depth_and_size_of_json_are_bounded(owner: Owner) -> None:
    """64 levels are taken, 65 not, nor 100,000; 1 MiB and more is 413, said or streamed."""

    def nested(levels: int) -> str:
        return '{"settings":{"a":%s1%s}}' % ("[" * levels, "]" * levels)  # noqa: UP031

    assert owner.send("PATCH", "/v1/tenant", nested(62)).status_code == 200
    for levels in (63, 1000, 100_000, 500_000):
        require_refused(owner.send("PATCH", "/v1/tenant", nested(levels)), 400)
    brackets = '{"settings":{"a":"%s"}}' % ("[{" * 100)
    assert owner.send("PATCH", "/v1/tenant", brackets).status_code == 200
    require_refused(owner.send("PATCH", "/v1/tenant", b" " * (MIB + 1)), 413)

    def trickle() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * 65_536

    streamed = owner.ask(
        "PATCH",
        "/v1/tenant",
        content=trickle(),
        headers={"content-type": "application/json"},
    )
    require_refused(streamed, 413)


def test_D_a_message_may_be_as_long_as_documented_however_it_is_written(owner: Owner) -> None:
    """64 KiB, and what is longer is told as that: in escapes, too, it is read to its end."""
    path = f"/v1/wallets/{uuid4()}/messages"

    def sent(letter: str, times: int) -> httpx.Response:
        return owner.send("POST", path, json.dumps({"message": letter * times}))

    require_refused(sent("a", 65_536), 404)
    require_refused(sent("a", 65_537), 400)
    helix = "\N{DNA DOUBLE HELIX}"  # 4 bytes, and 12 where JSON escapes it
    require_refused(sent(helix, 16_384), 404)
    require_refused(sent(helix, 16_385), 422)
    require_refused(sent(helix, 65_537), 400)


@pytest.mark.parametrize(
    "number", ["1e400000", "-1e999", "9" * 400, "9" * 5000, "NaN", "Infinity", "01", "1.", "0x1"]
)
def test_D_numbers_that_are_none_or_too_large(owner: Owner, number: str) -> None:
    """In free settings and in typed fields: taken or refused, never a fault."""
    assert owner.send("PATCH", "/v1/tenant", f'{{"settings":{{"n":{number}}}}}').status_code < 500
    made = owner.send(
        "POST", "/v1/attestations/nonces", f'{{"enclave_id":"e","lifetime_seconds":{number}}}'
    )
    require_refused(made, 400)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "x"])
def test_D_other_media_types_are_no_way_around(owner: Owner, kind: str) -> None:
    """A body under another name is read as JSON or refused, and its keys are still counted."""
    answer = owner.ask(
        "PATCH", "/v1/tenant", content=b'{"name":"a","name":"b"}', headers={"content-type": kind}
    )
    require_refused(answer, 400, 415)
    packed = owner.ask(
        "PATCH",
        "/v1/tenant",
        content=b"\x1f\x8b\x08\x00" + b"\x00" * 40,
        headers={"content-type": "application/json", "content-encoding": "gzip"},
    )
    require_refused(packed, 400, 415)


def test_D_ids_are_ids(owner: Owner) -> None:
    """Nil and absent alike; what is no UUID is no route; letter case is no matter."""
    nil = owner.ask("GET", f"/v1/users/{UUID(int=0)}")
    absent = owner.ask("GET", f"/v1/users/{UUID(int=2**128 - 1)}")
    assert (nil.status_code, nil.text) == (absent.status_code, absent.text)
    assert nil.status_code == 404
    known = owner.ask("GET", f"/v1/users/{owner.id}")
    assert known.status_code == 200
    assert owner.ask("GET", f"/v1/users/{str(owner.id).upper()}").text == known.text
    for text in ("1", "null", "%00", "..%2f..", "%27%3bselect", "a" * 5000, "%ff", "%ed%a0%80"):
        for path in ("/v1/users/", "/v1/wallets/", "/v1/sessions/", "/v1/attestations/"):
            answer = owner.ask("GET", path + text)
            assert answer.status_code in (400, 404, 405, 414), (path, text, answer.text)


@pytest.mark.parametrize("limit", ["-1", "0", "1001", "1000000000", "9" * 40, "", "x", "1.5"])
@pytest.mark.parametrize("path", ["/v1/users", "/v1/wallets", "/v1/attestations"])
def test_D_pages_have_a_size(owner: Owner, path: str, limit: str) -> None:
    """From 1 to 1000, and a whole number."""
    require_refused(owner.ask("GET", path, params={"limit": limit}), 400)


@pytest.mark.parametrize(
    "cursor",
    ["x", "W10", "WzEsMiwzXQ", "%00", "null", "é", "A" * 499, "A" * 501, "WzllOTksMSwiYSJd"],
)
@pytest.mark.parametrize(
    "path", ["/v1/wallets", "/v1/users", "/v1/audit", "/v1/attestations", "/v1/tenants"]
)
def test_D_forged_cursors_are_refused(owner: Owner, path: str, cursor: str) -> None:
    """Whatever was not handed out as a place is none."""
    headers = {"authorization": f"Bearer {OPERATOR_TOKEN}"} if path == "/v1/tenants" else {}
    # "%00" as it stands here: httpx would escape the % again.
    written = cursor if cursor.startswith("%") else quote(cursor)
    require_refused(owner.ask("GET", f"{path}?after={written}", headers=headers))


def test_D_a_parameter_that_a_route_has_not_is_refused(owner: Owner) -> None:
    """A misspelt filter would answer with everything; a page that goes nowhere, for ever."""
    for path in ("/v1/audit", "/v1/users", "/v1/roles", "/v1/users/me", f"/v1/users/{owner.id}"):
        require_refused(owner.ask("GET", path, params={"ressource": "wallet"}), 400)
    assert owner.ask("GET", "/v1/audit", params={"resource": "wallet"}).status_code == 200


@pytest.mark.parametrize(
    ("instant", "statuses"),
    [
        ("2030-01-01T00:00:00", (400,)),
        ("0000-01-01T00:00:00Z", (400,)),
        ("0001-01-01T00:00:00Z", (400, 422)),
        ("1969-12-31T23:59:59Z", (400, 422)),
        ("2263-01-01T00:00:00Z", (400, 422)),
        ("9999-12-31T23:59:59-14:00", (400, 422)),
        ("10000-01-01T00:00:00Z", (400,)),
        ("infinity", (400,)),
        ("now", (400,)),
        ("2030-02-30T00:00:00Z", (400,)),
        ("2030-01-01T24:00:00Z", (400,)),
        ("2030-01-01T00:00:00+99:00", (400,)),
    ],
)
def test_D_instants_have_a_zone_and_a_range(
    owner: Owner, instant: str, statuses: tuple[int, ...]
) -> None:
    """1970 to 2262, as the database has it."""
    path = f"/v1/users/{owner.id}/roles/member"
    require_refused(owner.ask("PUT", path, json={"expires_at": instant}), *statuses)
    good = {"expires_at": "2030-01-01T00:00:00+14:00"}
    assert owner.ask("PUT", path, json=good).status_code == 204


@contextmanager
def proxies(owner: Owner, depth: int) -> Iterator[None]:
    layer = owner.served.app.state["layer"]
    layer.proxy_depth = depth
    try:
        yield
    finally:
        layer.proxy_depth = 0


@pytest.mark.parametrize(
    ("depth", "lines", "seen"),
    [
        (0, ["203.0.113.9"], "127.0.0.1"),
        (1, [], "127.0.0.1"),
        (1, ["198.51.100.1, 203.0.113.9"], "203.0.113.9"),
        (1, ["198.51.100.1", "203.0.113.9"], "203.0.113.9"),
        (2, ["192.0.2.1, 198.51.100.1, 203.0.113.9"], "198.51.100.1"),
        (2, ["192.0.2.1, 198.51.100.1", "203.0.113.9"], "198.51.100.1"),
        (2, ["203.0.113.9"], "203.0.113.9"),
        (1, ["198.51.100.1,  2001:db8::1"], "2001:db8::1"),
    ],
)
def test_D_a_caller_does_not_choose_their_address(
    owner: Owner, depth: int, lines: list[str], seen: str
) -> None:
    """What our own proxies added counts, in one line or in several; the rest was made up."""
    body = {"tenant": "nowhere", "name": "ann", "password": "x"}
    headers = [("x-forwarded-for", line) for line in lines]
    with proxies(owner, depth):
        answer = owner.client.post("/v1/sessions", json=body, headers=headers)
    assert answer.status_code == 401
    dsn = owner.served.endpoints.postgres.dsn(Role.ADMIN)
    with psycopg.connect(dsn) as admin:
        row = admin.execute(
            "SELECT host(ip_address) FROM audit.entries WHERE action = 'LOGIN'"
            " ORDER BY occurred_at DESC LIMIT 1"
        ).fetchone()
    assert row == (seen,)


def test_D_an_address_that_is_none_is_refused(owner: Owner) -> None:
    """Behind a proxy that writes nonsense nobody logs in under a made-up address."""
    body = {"tenant": "nowhere", "name": "ann", "password": "x"}
    for text in ("unknown", "203.0.113.9:80:80", "", "1.2.3", "203.0.113.9,", "';--", "a" * 4000):
        with proxies(owner, 1):
            answer = owner.client.post("/v1/sessions", json=body, headers={"x-forwarded-for": text})
        require_refused(answer, 422)


RAW = {
    "64 KB header": b"GET /v1/users/me HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 65_536 + b"\r\n\r\n",
    "1,000 headers": b"GET /v1/users/me HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 1000 + b"\r\n",
    "two hosts": b"GET /v1/users/me HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "CR in a header": b"GET /v1/users/me HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
    "NUL in a header": b"GET /v1/users/me HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
    "folded header": b"GET /v1/users/me HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
    "Latin-1 token": b"GET /v1/users/me HTTP/1.1\r\nHost: a\r\n"
    b"Authorization: Bearer \xe9\xff\r\n\r\n",
    "two tokens": b"GET /v1/users/me HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a\r\n"
    b"Authorization: Bearer b\r\n\r\n",
    "no path": b"GET  HTTP/1.1\r\nHost: a\r\n\r\n",
    "32 KB path": b"GET /v1/" + b"a" * 32_768 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "two lengths": b"POST /v1/sessions HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n"
    b"Content-Length: 3\r\n\r\n{}",
    "length and chunks": b"POST /v1/sessions HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "length below zero": b"POST /v1/sessions HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    "length beyond all": b"POST /v1/sessions HTTP/1.1\r\nHost: a\r\n"
    b"Content-Length: 99999999999999999999\r\n\r\n",
    "chunk beyond all": b"POST /v1/sessions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
    b"\r\nffffffffffffffffff\r\n",
    "garbage": bytes(range(256)) * 4,
    "half a request": b"POST /v1/sessions HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{",
}


@pytest.mark.parametrize("name", RAW)
def test_D_bytes_that_are_no_request(owner: Owner, name: str) -> None:
    """Refused or dropped by the real server, which goes on serving others."""
    with socket.create_connection(("127.0.0.1", owner.served.port), timeout=10) as connection:
        try:
            connection.sendall(RAW[name])
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(4096)
        except OSError:  # closed before all was said
            answer = b""
    if answer:
        assert answer.startswith(b"HTTP/1.1 4"), answer[:200]
    assert owner.client.get("/health/live").status_code == 200


def test_D_a_user_agent_is_shown_as_text(owner: Owner) -> None:
    """Whatever bytes it was, what its owner sees is printable and short."""
    acme = owner.served.tenant()
    owner.served.person(acme, "bob", "owner")
    assert acme.scope.tenant is not None
    tenant = owner.served.run(acme.tenants.get(acme.scope.tenant)).identifier
    body = {"tenant": tenant, "name": "bob", "password": "correct horse battery staple, twice"}
    agent = b"\xe2\x80\xae<script>\x9b" + b"a" * 3000
    made = owner.client.post("/v1/sessions", json=body, headers={b"user-agent": agent})
    assert made.status_code == 201, made.text
    headers = {"authorization": f"Bearer {made.json()['access_token']}"}
    (shown,) = owner.client.get("/v1/sessions", headers=headers).json()
    assert shown["user_agent"].isprintable()
    assert len(shown["user_agent"]) <= 512


def _require_later(answer: httpx.Response) -> None:
    require_refused(answer, 503)
    assert int(answer.headers["retry-after"]) >= 1
    assert "port" not in answer.text


def test_C11_callers_are_told_when_to_come_back_to_a_busy_database(owner: Owner) -> None:
    """With every connection lent: 503 with Retry-After once patience is over, then 200 again."""
    lender: Any = owner.served.platform.core._connections
    patience, taken = lender._patience_s, 0

    async def take_all() -> int:
        count = 0
        while not lender._places.locked():
            await lender._places.acquire()
            count += 1
        return count

    async def give_back() -> None:
        for _ in range(taken):
            lender._places.release()

    lender._patience_s = 0.05
    taken = owner.served.run(take_all())
    try:
        _require_later(owner.ask("GET", "/v1/roles"))
    finally:
        owner.served.run(give_back())
        lender._patience_s = patience
    assert owner.ask("GET", "/v1/roles").status_code == 200


def test_C2_callers_are_told_when_to_come_back_to_a_lost_database(owner: Owner) -> None:
    """PostgreSQL away, or gone in the middle of a statement: 503 with Retry-After, then 200."""
    lender: Any = owner.served.platform.core._connections
    dsn = lender._dsn

    async def leave() -> None:
        while lender._idle:
            await lender._idle.pop().close()
        lender._dsn = "host=127.0.0.1 port=1"

    owner.served.run(leave())
    try:
        _require_later(owner.ask("GET", "/v1/roles"))
    finally:
        lender._dsn = dsn
    assert owner.ask("GET", "/v1/roles").status_code == 200
    dsn = owner.served.endpoints.postgres.dsn(Role.ADMIN)
    with (
        psycopg.connect(dsn) as locking,
        psycopg.connect(dsn, autocommit=True) as admin,
        ThreadPoolExecutor(1) as pool,
    ):
        locking.execute("LOCK TABLE auth.roles IN ACCESS EXCLUSIVE MODE")
        waiting = pool.submit(owner.ask, "GET", "/v1/roles", timeout=30)
        while not waiting.done():
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'neolayer api' AND wait_event_type = 'Lock'"
            )
        _require_later(waiting.result())
    assert owner.ask("GET", "/v1/roles").status_code == 200
