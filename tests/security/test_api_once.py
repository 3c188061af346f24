"""D: what stands in a request twice, or cannot stand in text at all, byte by byte as it is sent."""

from __future__ import annotations

import http.client
import json
import random
from collections.abc import Iterator
from uuid import UUID

import httpx
import pytest

from neolayer.identity.session_tokens import Kind, new_token
from tests.fixtures.fix_api import OPERATOR_TOKEN
from tests.fixtures.fix_served_api import Served


@pytest.fixture(scope="module")
def bearer(served: Served) -> str:
    """An owner's token."""
    acme = served.tenant()
    return f"Bearer {served.token(acme, served.person(acme, 'ann', 'owner'))}"


class Line:
    """A connection on which requests are sent as they are written."""

    def __init__(self, served: Served) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)

    def ask(
        self, method: str, path: str, *headers: tuple[str, str], body: bytes = b""
    ) -> tuple[int, str]:
        """The status, and the detail of a problem document."""
        self._connection.putrequest(method, path, skip_host=True)
        for name, value in headers:
            self._connection.putheader(name, value)
        if body:
            self._connection.putheader("Content-Type", "application/json")
        self._connection.putheader("Content-Length", str(len(body)))
        self._connection.endheaders(body)
        answer = self._connection.getresponse()
        said = answer.read()
        return answer.status, json.loads(said)["detail"] if answer.status >= 400 else ""

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def line(served: Served) -> Iterator[Line]:
    made = Line(served)
    yield made
    made.close()


HOST = ("Host", "a")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/audit?resource=%00", "resource"),
        ("/v1/audit?resource_id=a%00b", "resource_id"),
        ("/v1/audit?principal=%00", "principal"),
        ("/v1/audit?after=%00", "after"),
        ("/v1/wallets?network=%00", "network"),
        ("/v1/users?status=%00", "status"),
    ],
)
def test_D_a_NUL_in_an_address_is_refused_by_name(
    line: Line, bearer: str, path: str, name: str
) -> None:
    """%00 as it is sent, not escaped again: 422 that names the parameter, 50 times in a row."""
    for _ in range(50):
        status, detail = line.ask("GET", path, HOST, ("Authorization", bearer))
        assert (status, detail.partition(":")[0]) == (422, name), detail


def test_D_a_NUL_in_a_path_is_refused_by_name(line: Line, bearer: str) -> None:
    """Where the path names something by text."""
    token = ("Authorization", bearer)
    status, detail = line.ask("DELETE", "/v1/roles/a%00b", HOST, token)
    assert (status, detail.partition(":")[0]) == (422, "name")


def test_D_a_NUL_in_the_operators_pages_is_refused_by_name(line: Line) -> None:
    """Also where no tenant is bound."""
    token = ("Authorization", f"Bearer {OPERATOR_TOKEN}")
    status, detail = line.ask("GET", "/v1/tenants?after=%00", HOST, token)
    assert (status, detail.partition(":")[0]) == (422, "after")


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (r'{"name":"a\u0000b"}', "body.name"),
        (r'{"settings":{"a":[1,{"b":"\u0000"}]}}', "body.settings.a[1].b"),
        (r'{"settings":{"a\u0000":1}}', r'body.settings["a\u0000"]'),
    ],
)
def test_D_a_NUL_in_a_body_is_refused_by_name(
    line: Line, bearer: str, body: str, path: str
) -> None:
    """422 says which field, however deep; what only looks like one is taken."""
    token = ("Authorization", bearer)
    status, detail = line.ask("PATCH", "/v1/tenant", HOST, token, body=body.encode())
    assert (status, detail.partition(":")[0]) == (422, path), detail
    looks = rb'{"settings":{"a":"\\u0000"}}'
    assert line.ask("PATCH", "/v1/tenant", HOST, token, body=looks)[0] == 200


def test_D_what_may_stand_once_stands_once(line: Line, bearer: str) -> None:
    """Two tokens, two hosts, two equal parameters are refused, though each alone is good."""
    token = ("Authorization", bearer)
    assert line.ask("GET", "/v1/users?limit=1", HOST, token)[0] == 200
    for path, headers, name in (
        ("/v1/users", (HOST, token, token), "authorization"),
        ("/v1/users", (HOST, token, ("Authorization", "Bearer x")), "authorization"),
        ("/v1/users", (HOST, HOST, token), "host"),
        ("/health/live", (HOST, HOST), "host"),
        ("/v1/users?limit=1&limit=2", (HOST, token), "limit"),
        ("/v1/audit?resource=wallet&resource=user", (HOST, token), "resource"),
    ):
        status, detail = line.ask("GET", path, *headers)
        assert (status, detail) == (400, f"{name}: stands there twice"), path


def test_D_a_head_has_a_size(line: Line, bearer: str) -> None:
    """Below 32 KiB it is taken, and the bearer known; beyond it is refused whoever sends it."""
    token = ("Authorization", bearer)
    assert line.ask("GET", "/v1/users", HOST, token, ("X", "a" * 16_000))[0] == 200
    connection = line._connection
    connection.request("GET", "/v1/users", headers={"authorization": bearer, "x": "a" * 40_000})
    assert connection.getresponse().status == 431


def test_D_refusals_say_what_to_do(line: Line, bearer: str) -> None:
    """An absent body is called missing; no regular expression of ours is shown."""
    token = ("Authorization", bearer)
    assert line.ask("POST", "/v1/users", HOST, token) == (400, "body: it is missing")
    status, detail = line.ask("POST", "/v1/services", HOST, token, body=rb'{"name":"a\u202eb"}')
    assert status == 400
    assert detail == "body: Expected `str` of permitted characters - at `$.name`"


def test_D_a_flood_of_tokens_that_nobody_has_is_stopped(served: Served, bearer: str) -> None:
    """Beyond the limit 429 with a time to wait, without a look in the database; who bears a token
    that was good a moment ago is let through from the same address, and another address too."""
    strangers, access = served.platform.strangers, served.platform.access
    limit, strangers.unknown_tokens_per_minute = strangers.unknown_tokens_per_minute, 20
    url, known = f"{served.url}/v1/users/me", {"authorization": bearer}
    try:
        with httpx.Client() as client:
            assert client.get(url, headers=known).status_code == 200
            sent = access.statements
            answers = [client.get(url, headers=unknown()) for _ in range(200)]
            looked = access.statements - sent
            refused = [answer for answer in answers if answer.status_code == 429]
            assert {answer.status_code for answer in answers} == {401, 429}
            assert len(refused) > 150
            assert looked < 50
            assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
            assert client.get(url, headers=known).status_code == 200
        elsewhere = httpx.HTTPTransport(local_address="127.0.0.3")
        with httpx.Client(transport=elsewhere) as client:
            assert client.get(url, headers=unknown()).status_code == 401
    finally:
        strangers.unknown_tokens_per_minute = limit


def unknown() -> dict[str, str]:
    """A token as ours are, which nobody has."""
    token = new_token(Kind.ACCESS, UUID(int=random.getrandbits(128)))
    return {"authorization": f"Bearer {token.text}"}
