"""A JSON-RPC client that keeps apart what a node said and what it did not say.

Three answers are three different things: a result (also an empty list), `null` (the node has no
such thing) and an error. None of them is retried here as if it were another; nor is a fourth, the
answer that is not read (nested without end, or larger than we take), which spoils nothing but its
own question. What is retried is only what never was an answer: a broken connection, a cut or
unreadable body, HTTP 429 and 5xx, a batch with answers missing, and the error codes by which nodes
say "not now".

Answers are matched by id: a node may send a batch's answers in any order. Results stay raw bytes,
so that a block is parsed once, by its decoder. They are asked for unpacked, and refused where they
are not: a few kilobytes could unpack to more than the memory holds, before anybody can count.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeGuard
from urllib.parse import urlsplit

import httpx
import msgspec
import stamina

from neolayer.chain.decoding import Decoder, TooDeep
from neolayer.engines.outbound import AddressRefused, transport
from neolayer.errors import SourceError, visible
from neolayer.telemetry import mask

ATTEMPTS = 8
TOTAL_TIMEOUT_S = 60.0
REQUEST_TIMEOUT_S = 30.0
MAX_RESPONSE_BYTES = 256 * 1024 * 1024
# How much is repeated of what a node says in an error.
LONGEST_WORDS = 300

METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
# "limit exceeded", "resource unavailable": what nodes say when they want to be asked again.
_NOT_NOW = frozenset({-32005, -32002, 429})
_BUSY = frozenset({408, 425, 429, *range(500, 600)})


@dataclass(frozen=True, slots=True)
class Call:
    """One question. `block` is the height it is about, for errors."""

    method: str
    params: tuple[Any, ...] = ()
    block: int | None = None

    def __str__(self) -> str:
        return self.method if self.block is None else f"{self.method} of block {self.block}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """The node answered with an error."""

    code: int
    message: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The node answered with what is not read: asking again would not change it."""

    reason: str


# The result's JSON as sent; None where the node said null; or its refusal; or none to be read.
Answer = bytes | None | Refusal | Unreadable


class _Error(msgspec.Struct):
    code: int = 0
    message: str = ""


class _Envelope(msgspec.Struct):
    id: int | str | None = None
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: _Error | None = None


_decode_one = Decoder(_Envelope).decode
_decode_many = Decoder(list[_Envelope]).decode


class NotAnswered(Exception):
    """Nothing that counts as an answer came; worth asking again. `asked` is the first open call."""

    def __init__(self, reason: str, asked: Call | None = None) -> None:
        super().__init__(visible(reason[:LONGEST_WORDS]))
        self.asked = asked


class _Spoilt(Exception):
    """What came holds an answer that is not read."""


class JsonRpc:
    """Questions to one node. Made by `open_rpc`."""

    def __init__(self, client: httpx.AsyncClient, url: str, *, timeout_s: float) -> None:
        self._client = client
        self._url = url
        self._timeout_s = timeout_s
        self._ids = itertools.count(1)

    @property
    def address(self) -> str:
        """Where the node is, without user, password, path and query, which may hold keys."""
        parts = urlsplit(self._url)
        return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"

    async def ask(self, method: str, *params: Any) -> bytes | None:
        """One result as JSON bytes, None for null. Raises SourceError for anything else."""
        (answer,) = await self.ask_many([Call(method, params)])
        if isinstance(answer, Unreadable):
            raise SourceError(f"{self.address}: {method}: {answer.reason}")
        if isinstance(answer, Refusal):
            raise SourceError(f"{self.address}: {method}: {answer.message} ({answer.code})")
        return answer

    async def ask_many(self, calls: Sequence[Call]) -> list[Answer]:
        """The answers in the order of the calls, asked as one batch.

        Only what was not answered is asked again, up to 8 times and a minute in all; an answer that
        takes longer than that to arrive whole is none. Raises SourceError when that is over.
        """
        answers: dict[int, Answer] = {}
        try:
            async for attempt in stamina.retry_context(
                on=NotAnswered, attempts=ATTEMPTS, timeout=self._timeout_s, wait_initial=0.1
            ):
                with attempt:
                    await self._round(calls, answers)
        except NotAnswered as exc:
            asked = exc.asked or _first_open(calls, answers)
            raise SourceError(f"{self.address}: {asked}: {exc}") from exc
        return [answers[place] for place in range(len(calls))]

    async def _round(self, calls: Sequence[Call], answers: dict[int, Answer]) -> None:
        """Ask what has no answer yet; raises NotAnswered while something is left."""
        await self._ask_apart([n for n in range(len(calls)) if n not in answers], calls, answers)

    async def _ask_apart(
        self, places: Sequence[int], calls: Sequence[Call], answers: dict[int, Answer]
    ) -> None:
        """Ask these at once; where one answer keeps the others from being read, half and half."""
        try:
            await self._ask_at_once(places, calls, answers)
        except _Spoilt as exc:
            if len(places) == 1:
                answers[places[0]] = Unreadable(str(exc))
                return
            half = len(places) // 2
            await self._ask_apart(places[:half], calls, answers)
            await self._ask_apart(places[half:], calls, answers)

    async def _ask_at_once(
        self, places: Sequence[int], calls: Sequence[Call], answers: dict[int, Answer]
    ) -> None:
        """One request. Raises NotAnswered where something stays open, or _Spoilt."""
        ids = {next(self._ids): place for place in places}
        payload = [
            {
                "jsonrpc": "2.0",
                "id": number,
                "method": calls[place].method,
                "params": calls[place].params,
            }
            for number, place in ids.items()
        ]
        reasons: dict[int, str] = {}
        otherwise = "no answer"
        for envelope in await self._send(payload):
            place = ids.get(envelope.id) if isinstance(envelope.id, int) else None
            if place is None:
                otherwise = _astray(envelope)
            elif _is_not_now(envelope.error):
                reasons[place] = _words(envelope.error)
            elif (told := _told(envelope)) is not None:
                answers[place] = told[0]
        still = [place for place in places if place not in answers]
        if still:  # whoever gave a reason is told of rather than whoever is only left out
            place = next((each for each in still if each in reasons), still[0])
            raise NotAnswered(reasons.get(place, otherwise), calls[place])

    async def _send(self, payload: list[dict[str, Any]]) -> list[_Envelope]:
        body = msgspec.json.encode(payload if len(payload) > 1 else payload[0])
        try:
            async with asyncio.timeout(self._timeout_s):
                content = await self._post(body)
        except TimeoutError as exc:
            raise NotAnswered(f"no whole answer within {self._timeout_s:g} s") from exc
        try:
            if content.lstrip()[:1] == b"[":
                return _decode_many(content)
            return [_decode_one(content)]
        except TooDeep as exc:
            raise _Spoilt(f"its answer is {exc}") from exc
        except msgspec.MsgspecError as exc:
            raise NotAnswered(f"its answer cannot be read: {exc}") from exc

    async def _post(self, body: bytes) -> bytes:
        try:
            headers = {"content-type": "application/json", "accept-encoding": "identity"}
            async with self._client.stream(
                "POST", self._url, content=body, headers=headers
            ) as response:
                if response.status_code in _BUSY:
                    raise NotAnswered(f"HTTP {response.status_code}")
                if response.status_code >= 300:  # a redirect is not followed
                    raise SourceError(f"{self.address}: HTTP {response.status_code}")
                return await self._read(response)
        except AddressRefused as exc:
            raise SourceError(str(exc), hint="give the address of a node") from exc
        except httpx.TransportError as exc:
            raise NotAnswered(mask(str(exc)) or type(exc).__name__) from exc
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as exc:
            reason = mask(str(exc))[:LONGEST_WORDS]
            raise SourceError(f"{self.address}: {reason}") from exc

    async def _read(self, response: httpx.Response) -> bytes:
        encoding = response.headers.get("content-encoding", "").strip().lower()
        if encoding not in ("", "identity"):
            raise SourceError(
                f"{self.address}: packs its answers ({encoding[:40]}), though asked not to",
                hint="point --rpc at the node itself, or tell what stands before it not to pack",
            )
        content = bytearray()
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > MAX_RESPONSE_BYTES:
                raise _Spoilt(f"its answer exceeds {MAX_RESPONSE_BYTES >> 20} MiB")
        return bytes(content)


def _told(envelope: _Envelope) -> tuple[Answer] | None:
    """The answer in an envelope, or None where it is none: neither result nor error.

    Wrapped, because null is an answer.
    """
    if envelope.error is not None:
        return (Refusal(envelope.error.code, envelope.error.message[:LONGEST_WORDS]),)
    if isinstance(envelope.result, msgspec.UnsetType):
        return None
    raw = bytes(envelope.result)
    return (None if raw == b"null" else raw,)


def _is_not_now(error: _Error | None) -> TypeGuard[_Error]:
    return error is not None and error.code in _NOT_NOW


def _words(error: _Error) -> str:
    return f"{error.message[:LONGEST_WORDS]} ({error.code})"


def _astray(envelope: _Envelope) -> str:
    """What an answer says that belongs to no question: about all of them, where it names none."""
    if envelope.id is None:
        return "no answer" if envelope.error is None else _words(envelope.error)
    return "the node answers with ids that are not ours"


def _first_open(calls: Sequence[Call], answers: Mapping[int, Answer]) -> Call:
    return next(call for place, call in enumerate(calls) if place not in answers)


def _require_http(url: str) -> None:
    """Raise SourceError where this is no http(s) URL with a host."""
    try:
        parts = urlsplit(url)
        readable = parts.port != 0 and httpx.URL(url).host
    except (ValueError, httpx.InvalidURL):
        parts, readable = None, None
    if parts is None or not readable or parts.scheme not in ("http", "https"):
        raise SourceError(f"{mask(url)} is not an http:// or https:// URL")


@asynccontextmanager
async def open_rpc(url: str, *, timeout_s: float = TOTAL_TIMEOUT_S) -> AsyncGenerator[JsonRpc]:
    """A client for one http(s) endpoint. Raises SourceError for anything else; follows no redirect.

    `timeout_s` bounds every question with all its retries, and each answer by itself.
    """
    _require_http(url)
    limits = httpx.Limits(max_connections=16, max_keepalive_connections=16)
    async with httpx.AsyncClient(
        timeout=min(REQUEST_TIMEOUT_S, timeout_s),
        limits=limits,
        follow_redirects=False,
        transport=transport(url, limits=limits),
    ) as client:
        yield JsonRpc(client, url, timeout_s=timeout_s)
