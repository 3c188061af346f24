"""D, E: a stranger whose sockets say half of something stops nobody."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import httpx
import pytest

from neolayer.engines.endpoints import Endpoints, RedisEndpoint
from neolayer.settings import ServeSettings
from neolayer.workers.connections import Bounds, surplus
from tests.fixtures.fix_served_api import Served, serving
from tests.fixtures.patience import PATIENCE_S

MOST = 100
SHORT_S = 5  # in which an answer has to come, and after which a stranger is closed
STRANGERS = 300
HEAD = b"POST /v1/sessions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
HALVES = {
    "nothing": b"",
    "half a head": HEAD + b"X:",
    "half a body": HEAD + b'Content-Length: 1000\r\n\r\n{"a":',
    "half a chunk": HEAD + b'Transfer-Encoding: chunked\r\n\r\nff\r\n{"a":',
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.fixture(scope="module")
def strict(
    module_databases: Endpoints,
    redis_server: RedisEndpoint,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    """A server with short times and few places."""
    endpoints = replace(module_databases, redis=redis_server)
    serve = ServeSettings(
        header_seconds=SHORT_S,
        body_seconds=SHORT_S,
        connections=400,
        connections_per_address=MOST,
    )
    yield from serving(endpoints, tmp_path_factory.mktemp("strict"), serve)


def slow(
    stack: ExitStack, port: int, count: int, said: bytes, host: str = "127.0.0.1"
) -> list[socket.socket]:
    """Sockets from an address, on each of which only that much was said."""
    made = []
    for _ in range(count):
        one = socket.create_connection(("127.0.0.1", port), timeout=5, source_address=(host, 0))
        made.append(stack.enter_context(one))
        one.sendall(said)
    return made


def still_open(sockets: list[socket.socket], *, within_s: float) -> int:
    """How many the server has not ended by then."""
    left, until = set(sockets), time.monotonic() + within_s
    while left and (wait := until - time.monotonic()) > 0:
        for one in select.select(left, (), (), wait)[0]:
            try:
                ended = not one.recv(4096)
            except OSError:
                ended = True
            if ended:
                left.discard(one)
    return len(left)


@pytest.mark.parametrize("half", HALVES)
def test_D_half_sent_requests_stop_nobody(strict: Served, half: str) -> None:
    """300 from one address: health and who has a token are answered at once, even from that very
    address; what is beyond its share is closed at once, the rest when its time is over."""
    acme = strict.tenant()
    token = strict.token(acme, strict.person(acme, "ann", "owner"))
    headers = {"authorization": f"Bearer {token}"}
    with ExitStack() as stack:
        sockets = slow(stack, strict.port, STRANGERS, HALVES[half])
        for path in ("/health/live", "/v1/users/me"):
            answer = httpx.get(strict.url + path, headers=headers, timeout=SHORT_S)
            assert answer.status_code == 200, (path, answer.text)
        assert half == "HTTP/2" or still_open(sockets, within_s=0.2), "answered after they went"
        assert still_open(sockets, within_s=SHORT_S - 1) <= MOST
        assert still_open(sockets, within_s=PATIENCE_S) == 0


def test_D_a_slow_body_is_told(strict: Served) -> None:
    """A problem document says 408, and the connection ends, however steadily bytes come."""
    with socket.create_connection(("127.0.0.1", strict.port), timeout=10) as one:
        one.sendall(HALVES["half a body"])
        while not select.select([one], (), (), 0.2)[0]:
            one.sendall(b" ")
        said = b"".join(iter(lambda: one.recv(4096), b""))
    assert said.startswith(b"HTTP/1.1 408")
    assert b"application/problem+json" in said


def test_D_strangers_bodies_are_small(strict: Served) -> None:
    """Who has no token fills no memory with bodies that never end: 64 KiB, said or streamed; the
    longest password fits."""
    url = f"{strict.url}/v1/sessions"
    asked = {"tenant": "nowhere", "name": "ann", "password": "\U0001f511" * 4096}
    assert httpx.post(url, json=asked).status_code == 401
    with ExitStack() as stack:
        (one,) = slow(stack, strict.port, 1, HEAD + b"Content-Length: 70000\r\n\r\n")
        assert one.recv(4096).startswith(b"HTTP/1.1 413")
    streamed = httpx.post(url, content=iter([b" " * 10_000] * 10))
    assert streamed.status_code == 413


def test_D_many_addresses_leave_room(strict: Served) -> None:
    """Ten addresses with a full share each: whoever comes is answered."""
    with ExitStack() as stack:
        for last in range(10):
            slow(stack, strict.port, MOST, HALVES["half a body"], f"127.0.1.{last + 1}")
        answer = httpx.get(f"{strict.url}/health/live", timeout=SHORT_S)
        assert answer.status_code == 200


@dataclass(frozen=True)
class Quiet:
    source: str
    silent_ms: int


def test_D_the_longest_silent_go_first() -> None:
    """Beyond a source's bound, then of whoever has the most; who has few keeps them."""
    noisy = [Quiet("a", n) for n in range(10)]
    others = [Quiet("b", 1000), Quiet("c", 2000)]
    closed = list(surplus([*noisy, *others], Bounds(in_all=6, per_source=8)))
    assert [one.silent_ms for one in closed] == [9, 8, 7, 6, 5, 4]
    assert list(surplus(others, Bounds(in_all=2, per_source=1))) == []
    assert list(surplus(noisy, Bounds(in_all=10, per_source=None))) == []
