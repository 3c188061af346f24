"""One try of one delivery: whom we call, for how long, and what the answer means.

Whoever may write a URL into a webhook could otherwise make this layer call what only it can reach:
a cloud's metadata address, a database on the private network, itself. So only public addresses are
called, over TLS, on the address that was looked at, and redirects are not followed. Networks of
one's own are allowed one by one (`webhooks.private_networks`). Nothing of an answer is kept: no
body and nothing of where a name leads, or a tenant could read with it what it cannot reach; and no
cookies, which would fill our memory and be shown to another tenant's endpoint.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import Enum
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

import httpx
import structlog

from neolayer.engines.outbound import AddressRefused, CheckedTransport, PublicOnly
from neolayer.errors import SettingsError
from neolayer.settings import WebhookSettings

_ANSWER_BYTES: Final = 16_384
_LONGEST_WAIT: Final = timedelta(hours=1)
# What these say is about the delivery and not about the endpoint: it will not change by waiting.
_REFUSALS: Final = frozenset((400, 405, 406, 409, 411, 413, 414, 415, 422, 431))
_GONE: Final = 410

_log = structlog.get_logger()


class Outcome(Enum):
    """What a try led to."""

    TAKEN = "taken"
    FAILED = "failed"  # the endpoint cannot take anything now
    REFUSED = "refused"  # the endpoint does not want this one
    GONE = "gone"  # the endpoint wants nothing any more


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome, in one sentence where it was no success, and how long we were asked to wait."""

    outcome: Outcome
    error: str = ""
    wait: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """How endpoints are treated. `attempts` is tries of one delivery before it is parked."""

    timeout_s: float = 10.0
    attempts: int = 16
    refused_attempts: int = 3
    first_pause_s: float = 2.0
    longest_pause_s: float = 3600.0
    disable_after: timedelta = timedelta(days=3)
    private_networks: tuple[IPv4Network | IPv6Network, ...] = field(default=())


def policy_of(settings: WebhookSettings) -> Policy:
    """The settings as a policy. Raises SettingsError on what is no network."""
    try:
        networks = tuple(ip_network(text) for text in settings.private_networks)
    except ValueError as exc:
        raise SettingsError(f"setting 'webhooks.private_networks': {exc}") from exc
    return Policy(
        timeout_s=settings.timeout_seconds,
        attempts=settings.attempts,
        disable_after=timedelta(hours=settings.disable_after_hours),
        private_networks=networks,
    )


def client(policy: Policy) -> httpx.AsyncClient:
    """The client that calls endpoints; close it."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    return httpx.AsyncClient(
        transport=CheckedTransport(limits=limits, allows=PublicOnly(policy.private_networks)),
        timeout=httpx.Timeout(policy.timeout_s),
        headers={"user-agent": "neolayer-webhooks", "accept-encoding": "identity"},
        follow_redirects=False,
        trust_env=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
    )


async def post(
    http: httpx.AsyncClient, url: str, body: bytes, headers: dict[str, str], policy: Policy
) -> Answer:
    """Try once, within the time limit as a whole. Never raises what the endpoint does."""
    try:
        async with (
            asyncio.timeout(policy.timeout_s),
            http.stream(
                "POST",
                url,
                content=body,
                headers={"content-type": "application/json", **headers},
            ) as response,
        ):
            await _drain(response)
            return _meaning(response)
    except (TimeoutError, httpx.TimeoutException):
        return Answer(Outcome.FAILED, f"no answer within {policy.timeout_s:g} s")
    except httpx.ConnectError as exc:
        return Answer(Outcome.FAILED, _unreached(exc))
    except httpx.HTTPError as exc:
        return Answer(Outcome.FAILED, f"cannot be called: {type(exc).__name__}")
    except (httpx.InvalidURL, UnicodeError):
        return Answer(Outcome.REFUSED, "cannot be called: it does not fit into a request")


def _unreached(exc: httpx.ConnectError) -> str:
    """One sentence for a name that leads inside and one that leads nowhere: what a name resolves to
    here, and whether it does, is for operators to know. Of a public server, what is wrong with it.
    """
    if isinstance(exc, AddressRefused):
        _log.warning("a webhook leads where nobody is called", error=str(exc)[:300])
    causes: BaseException | None = exc
    while causes is not None:
        if isinstance(causes, ssl.SSLCertVerificationError):
            return "cannot be called: its certificate is not valid for it"
        causes = causes.__cause__ or causes.__context__
    return "cannot be called: there is no connection to it at a public address, by https"


async def _drain(response: httpx.Response) -> None:
    """Read a short answer to its end, so that the connection can serve again."""
    size = 0
    async for part in response.aiter_raw():
        size += len(part)
        if size > _ANSWER_BYTES:
            return


def _meaning(response: httpx.Response) -> Answer:
    status = response.status_code
    said = f"answered {status}"
    if 200 <= status < 300:
        return Answer(Outcome.TAKEN)
    if status == _GONE:
        return Answer(Outcome.GONE, said)
    if 300 <= status < 400:
        return Answer(Outcome.FAILED, f"{said}: redirects are not followed")
    if status in _REFUSALS:
        return Answer(Outcome.REFUSED, said)
    return Answer(Outcome.FAILED, said, _retry_after(response.headers.get("retry-after")))


def _retry_after(text: str | None, *, now: datetime | None = None) -> timedelta | None:
    """How long an answer asks us to wait, an hour at most; None where it does not say."""
    if text is None:
        return None
    try:
        wait = timedelta(seconds=int(text))
    except (ValueError, OverflowError):
        try:
            at = parsedate_to_datetime(text)
            wait = at - (now or datetime.now(UTC))
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(wait, timedelta(0)), _LONGEST_WAIT)
