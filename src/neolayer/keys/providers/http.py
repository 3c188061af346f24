"""One bounded way to ask a key service: JSON in, JSON out.

All that is asked for changes nothing there, so it may be asked again: three times in all where the
service does not answer, is busy or fails. No redirect is followed, since it would carry the token
elsewhere, and no proxy is taken from the environment. What the service says in words is never
repeated, because it may quote what we sent.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
import stamina

from neolayer.engines.loopback import is_loopback
from neolayer.errors import SettingsError
from neolayer.keys.errors import KeysUnavailable

ATTEMPTS = 3
_MOST_BYTES = 65_536
_AGAIN = frozenset({429, 500, 502, 503, 504})
# Headers for a request with this path and body; made anew for each attempt.
Headers = Callable[[str, bytes], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, decoded; `body` is empty where it was no JSON object."""

    status: int
    body: Mapping[str, Any]


class _Busy(Exception):
    """Ask again."""


@dataclass(frozen=True, slots=True)
class KeyService:
    """A service at one address. `name` is its name for people."""

    name: str
    client: httpx.AsyncClient
    timeout_s: float

    async def ask(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        headers: Headers,
        is_busy: Callable[[Answer], bool] = lambda _: False,
    ) -> Answer:
        """POST, and the answer whatever its status. Raises KeysUnavailable."""
        content = msgspec.json.encode(body)
        again = stamina.retry_context(
            on=_Busy,
            attempts=ATTEMPTS,
            timeout=None,
            wait_initial=0.05,
            wait_max=0.5,
            wait_jitter=0.05,
        )
        try:
            async for attempt in again:
                with attempt:
                    answer = await self._once(path, content, headers(path, content))
                    if answer.status in _AGAIN or is_busy(answer):
                        raise _Busy(f"answers with status {answer.status}")
                    return answer
        except _Busy as exc:
            raise KeysUnavailable(
                f"{self.name} at {self.client.base_url} {exc}",
                hint="secrets cannot be sealed or opened until it answers; neolayer keys status",
            ) from None
        raise AssertionError("unreachable")

    async def _once(self, path: str, content: bytes, headers: Mapping[str, str]) -> Answer:
        try:
            async with (
                asyncio.timeout(self.timeout_s),
                self.client.stream("POST", path, content=content, headers=headers) as response,
            ):
                return Answer(response.status_code, _decoded(await _bounded(response)))
        except TimeoutError:
            raise _Busy(f"does not answer within {self.timeout_s:g} s") from None
        except httpx.TransportError as exc:
            raise _Busy(f"cannot be reached ({type(exc).__name__})") from None

    def refused(self, reason: str, *, hint: str | None = None) -> KeysUnavailable:
        """The error for a service that answers and does not do what was asked."""
        return KeysUnavailable(f"{self.name} at {self.client.base_url} {reason}", hint=hint)


async def _bounded(response: httpx.Response) -> bytes:
    """The body as sent; nothing where it is longer than any answer of a key service."""
    content = bytearray()
    async for chunk in response.aiter_raw():
        content += chunk
        if len(content) > _MOST_BYTES:
            return b""
    return bytes(content)


def _decoded(content: bytes) -> Mapping[str, Any]:
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError):
        return {}


@asynccontextmanager
async def open_service(
    name: str, url: str, *, timeout_s: float, ca_file: Path | None = None
) -> AsyncGenerator[KeyService]:
    """A service at `url`, for the length of the block. Raises SettingsError.

    `ca_file` holds the certificates of those who vouch for it; unset: the well-known ones.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise SettingsError(f"{name}: the url is not https://host[:port]")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise SettingsError(
            f"{name}: {parts.hostname} is asked over http, where everybody can read along",
            hint="write https://; http:// is for an agent on this machine",
        )
    async with httpx.AsyncClient(
        verify=_trust(name, ca_file) if parts.scheme == "https" else False,
        base_url=url.rstrip("/"),
        timeout=timeout_s,
        follow_redirects=False,
        trust_env=False,
        headers={"accept-encoding": "identity", "content-type": "application/json"},
    ) as client:
        yield KeyService(name, client, timeout_s)


def _trust(name: str, ca_file: Path | None) -> ssl.SSLContext | bool:
    try:
        return True if ca_file is None else ssl.create_default_context(cafile=ca_file)
    except OSError as exc:
        raise SettingsError(f"{name}: {ca_file} holds no certificates: {exc.strerror}") from exc
