"""What people who are not logged in may ask: so often from where they are, and alike for all."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg
import pytest
from pydantic import SecretStr
from tests.fixtures.fix_api import OPERATOR_TOKEN, PASSWORD, Api

from neolayer.engines.endpoints import Endpoints, Role
from neolayer.identity import Client
from neolayer.identity.strangers import TooManyTries
from neolayer.settings import ServeSettings, Settings

LIMIT = 6
Entry = tuple[str, str | None, dict[str, int] | None, str | None]


@pytest.fixture
def api_settings(tmp_path: Path) -> Settings:
    """Six tries and six refreshes a minute, behind one proxy."""
    serve = ServeSettings(
        operator_token=SecretStr(OPERATOR_TOKEN),
        tries_per_minute=LIMIT,
        refreshes_per_minute=LIMIT,
        proxy_depth=1,
    )
    return Settings(data_dir=tmp_path, serve=serve)


@pytest.fixture
def source() -> str:
    """An address that no other test comes from: they share one Redis."""
    groups = (f"{uuid4().int & 0xFFFF:x}" for _ in range(3))
    return f"fd{uuid4().int & 0xFF:02x}:{':'.join(groups)}::1"


async def stray(api: Api, source: str, path: str = "/v1/sessions", **body: str) -> httpx.Response:
    asked = {"tenant": f"absent-{uuid4()}", "name": "ann", "password": "not the password"}
    if path != "/v1/sessions":
        asked = {"tenant": asked["tenant"], "email": "ann@example.com"}
    # What the caller wrote into the header himself stands left of what our proxy saw.
    headers = {"x-forwarded-for": f"192.0.2.{uuid4().int % 250}, {source}"}
    return await api.client.post(path, json=asked | body, headers=headers)


def entries(at: Endpoints) -> list[Entry]:
    """The trail of no tenant."""
    with psycopg.connect(at.postgres.dsn(Role.ADMIN)) as admin:
        rows = admin.execute(
            "SELECT resource, error_message, changes, host(ip_address) FROM audit.entries"
            " WHERE tenant_id IS NULL AND principal = 'anonymous:-' ORDER BY occurred_at"
        )
        return [(str(row[0]), row[1], row[2], row[3]) for row in rows.fetchall()]


@pytest.mark.parametrize("path", ["/v1/sessions", "/v1/password-resets"])
async def test_E8_a_source_that_floods_waits_and_no_other(
    api: Api, layer_databases: Endpoints, source: str, path: str
) -> None:
    """429 with Retry-After beyond the limit, also where a /64 is used as a whole; somebody else's
    tries go on. The trail holds one entry for each try that was made, and one for all others."""
    neighbour = source.removesuffix("1") + "2"
    answers = [await stray(api, source, path) for _ in range(LIMIT)]
    answers += [await stray(api, neighbour, path) for _ in range(14)]
    made = 401 if path == "/v1/sessions" else 202
    assert [answer.status_code for answer in answers] == [made] * LIMIT + [429] * 14
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60 / LIMIT
    assert answers[-1].headers["content-type"] == "application/problem+json"
    assert (await stray(api, "203.0.113.77", path)).status_code == made
    before = entries(layer_databases)
    assert len(before) == LIMIT + 1
    await api.platform.strangers.write_down()
    await api.platform.strangers.write_down()
    (added,) = entries(layer_databases)[len(before) :]
    assert added == (
        "source",
        "more tries than one source may make",
        {"tries": 14, "within_seconds": 60},
        neighbour,
    )


async def test_E8_a_site_floods_as_four_lines_and_no_more(api: Api, source: str) -> None:
    """Whoever has a /48 has 65,536 lines; a site beside it is not held up."""
    provider = source.split(":")[:2]
    site, beside = (":".join([*provider, group]) for group in ("1", "2"))
    admitted = 0
    for line in range(20 * LIMIT):
        with suppress(TooManyTries):
            await api.platform.strangers.admit(Client(f"{site}:{line:x}::1"))
            admitted += 1
    assert 4 * LIMIT <= admitted < 10 * LIMIT
    await api.platform.strangers.admit(Client(f"{beside}::1"))


async def test_E8_a_proxy_that_we_do_not_know_of_is_told(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With proxy_depth 0 its header proves nothing, and everybody comes from it: the log says so,
    once an hour; without the header, or behind a proxy we know of, there is nothing to say."""
    told: list[str] = []
    monkeypatch.setattr(
        "neolayer.api.layer.log_warning", lambda _, **values: told.append(values["setting"])
    )
    layer = api.app.state["layer"]
    assert (await stray(api, "203.0.113.9")).status_code == 401
    assert told == []
    layer.proxy_depth = 0
    assert (await api.client.get("/v1/users/me")).status_code == 401
    assert told == []
    for _ in range(3):
        await stray(api, "203.0.113.9")
    assert told == ["serve.proxy_depth"]


@pytest.mark.parametrize(
    ("path", "body", "refusal"),
    [
        ("/v1/sessions/refresh", {"refresh_token": "made up"}, 401),
        ("/v1/password-resets/redeem", {"token": "x", "password": "y" * 30}, 401),
        ("/v1/email-verifications/redeem", {"token": "x"}, 401),
    ],
)
async def test_E8_tokens_are_tried_no_oftener_than_passwords(
    api: Api, source: str, path: str, body: dict[str, str], refusal: int
) -> None:
    """Refresh tokens and letters' tokens too: each try asks the database, and some write. A flood
    of refreshes uses up no login, and the other way round."""
    asked = body if "refresh_token" in body else body | {"tenant": f"absent-{uuid4()}"}
    headers = {"x-forwarded-for": f"{source}"}
    answers = [
        (await api.client.post(path, json=asked, headers=headers)).status_code
        for _ in range(LIMIT + 2)
    ]
    assert answers == [refusal] * LIMIT + [429] * 2
    elsewhere = {"x-forwarded-for": "203.0.113.78"}
    assert (await api.client.post(path, json=asked, headers=elsewhere)).status_code == refusal
    others = 401 if "refresh_token" in body else 429
    assert (await stray(api, source)).status_code == others


async def test_E8_the_device_cookie_is_secure_behind_our_proxy_of_https(
    api: Api, source: str
) -> None:
    """By the word of the proxy that we trust, or by the setting; never by the caller's alone."""
    acme = await api.tenant()
    await api.person(acme, "ann", "member")
    assert acme.scope.tenant is not None
    body = {"tenant": str(acme.scope.tenant), "name": "ann", "password": PASSWORD}
    layer = api.app.state["layer"]
    found: list[bool] = []
    for depth, setting, proto in (
        (1, False, "https"),
        (1, False, "http"),
        (1, False, "https, http"),
        (0, False, "https"),
        (0, True, "http"),
    ):
        layer.proxy_depth, layer.https = depth, setting
        headers = {"x-forwarded-for": source, "x-forwarded-proto": proto}
        answer = await api.client.post("/v1/sessions", json=body, headers=headers)
        assert answer.status_code == 201, answer.text
        found.append("secure" in answer.headers["set-cookie"].lower())
    assert found == [True, False, False, False, True]


async def test_E3_a_refused_flood_says_nothing_of_what_was_tried(api: Api, source: str) -> None:
    """Absent tenant, absent person, wrong and right password: one answer beyond the limit; within
    it, one answer for all that are wrong."""
    acme = await api.tenant()
    await api.person(acme, "ann", "member")
    assert acme.scope.tenant is not None
    here = (await acme.tenants.get(acme.scope.tenant)).identifier
    tries = (
        {},
        {"tenant": str(uuid4())},
        {"tenant": "no identifier at all!"},
        {"tenant": here},
        {"tenant": here, "name": "nobody"},
        {"tenant": str(acme.scope.tenant), "name": "nobody"},
    )
    wrong = [await stray(api, source, **one) for one in tries]
    assert {(answer.status_code, answer.text) for answer in wrong} == {(401, wrong[0].text)}
    flood = [await stray(api, source, **one) for one in tries]
    assert {(answer.status_code, answer.text) for answer in flood} == {(429, flood[0].text)}


async def test_C13_without_redis_a_source_is_bounded_by_each_process(api: Api, source: str) -> None:
    """Neither open nor shut: the same limit, counted here."""
    redis = api.platform.strangers.rates.redis
    await redis.connection_pool.aclose()
    redis.connection_pool.connection_kwargs["port"] = 1
    statuses = [
        (await stray(api, source, "/v1/password-resets")).status_code for _ in range(LIMIT + 2)
    ]
    assert statuses == [202] * LIMIT + [429] * 2


async def test_a_flood_from_everywhere_fills_no_trail(api: Api, layer_databases: Endpoints) -> None:
    """Sources have entries of their own up to a hundred; the rest is told in one."""
    strangers = api.platform.strangers
    for number in range(150):
        ip = f"10.{number}.0.1"
        strangers._count(ip, ip)  # pyright: ignore[reportPrivateUsage]
    await strangers.write_down()
    told = entries(layer_databases)
    assert len(told) == 101
    assert sum((changes or {})["tries"] for _, _, changes, _ in told) == 150
    assert [ip for _, _, _, ip in told].count(None) == 1


async def test_what_is_left_is_written_at_the_end(api: Api, layer_databases: Endpoints) -> None:
    strangers = api.platform.strangers
    strangers._count("10.0.0.1", "10.0.0.1")  # pyright: ignore[reportPrivateUsage]
    await strangers.close()
    assert [changes for _, _, changes, _ in entries(layer_databases)] == [
        {"tries": 1, "within_seconds": 60}
    ]
