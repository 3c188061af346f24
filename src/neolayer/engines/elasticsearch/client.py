"""A client of the few calls that a copy needs: JSON to a path, and bulks.

The official client refuses OpenSearch, and OpenSearch's refuses nobody but is another package; what
both servers share is plain HTTP. Bulk bodies are bytes that the caller has put together, because
taking documents apart and together again costs more than all the rest of an insert.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
import orjson

from neolayer.engines.endpoints import ElasticsearchEndpoint
from neolayer.errors import EngineError, EngineUnavailable

_CONNECT_S: Final = 10.0
_ANSWER_S: Final = 60.0
_ROOM_S: Final = 3.0
_LITTLE: Final = 0.2
WAITS: Final = "timeout=20s"
"""How long the server may wait for a shard to write to: shorter than we do, so that it says why."""
_NDJSON: Final = {"Content-Type": "application/x-ndjson"}
_JSON: Final = {"Content-Type": "application/json"}
_REFUSED_USER: Final = frozenset({401, 403})
_BUSY: Final = frozenset({408, 429})
# What says something of the server whatever its status is: blocks and shards that are not ready.
BLOCKED: Final = "cluster_block_exception"
_NOT_READY: Final = frozenset(
    {
        "shard_not_found_exception",
        "illegal_index_shard_state_exception",
        "index_shard_closed_exception",
        "index_closed_exception",
    }
)


class SearchError(EngineError):
    """The server refused a request. `kind` is its own name for the reason."""

    def __init__(self, message: str, *, status: int, kind: str) -> None:
        super().__init__("elasticsearch", message)
        self.status = status
        self.kind = kind


class SearchClient:
    """One server; connections are kept and shared by concurrent calls."""

    def __init__(self, endpoint: ElasticsearchEndpoint) -> None:
        self.endpoint = endpoint
        self._session: aiohttp.ClientSession | None = None

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        missing: Any = ...,
    ) -> Any:
        """The answer to one request, as JSON; `missing` is returned where the server says 404.

        Raises SearchError where it refuses, EngineUnavailable where it cannot answer now.
        """
        data = None if body is None else orjson.dumps(body)
        return await self._send(method, path, data, _JSON, missing)

    async def bulk(self, lines: bytes) -> list[dict[str, Any]]:
        """Send a bulk body; what became of each operation, in order. Raises as `call` does."""
        answer = await self._send("POST", f"/_bulk?{WAITS}", lines, _NDJSON, ...)
        return [outcome for item in answer["items"] for outcome in item.values()]

    async def trouble(self, status: int, error: object) -> EngineUnavailable | None:
        """What is wrong with the server, where an answer says that; None where it is the request.

        A block because of a full disk has status 429 or, by version and host, 403.
        """
        kind, reason = reason_of(error)
        if kind == BLOCKED:
            meaning, hint = f"takes no writes: {reason}", "make room, or take the block away"
        elif kind in _NOT_READY or status >= 500:
            meaning, hint = f"cannot do it now: {status} {reason}", None
        elif status in _BUSY:
            meaning, hint = f"asks to wait: {status} {reason}", None
        elif status in _REFUSED_USER:
            meaning = "refuses user or password"
            hint = "check elasticsearch.dsn, and the user's rights"
        else:
            return None
        about = "" if status in _REFUSED_USER and kind != BLOCKED else await self._room()
        return EngineUnavailable(
            "elasticsearch", f"{self.endpoint.address} {meaning}{about}", hint=hint
        )

    async def _room(self) -> str:
        """What the fullest disk has left, where that is little and the server tells."""
        path = "/_nodes/stats/fs?filter_path=nodes.*.fs.total"
        try:
            async with asyncio.timeout(_ROOM_S):
                _, text = await self._exchange("GET", path, None, _JSON)
            disks = [node["fs"]["total"] for node in orjson.loads(text)["nodes"].values()]
            rooms = [(int(d["available_in_bytes"]), int(d["total_in_bytes"])) for d in disks]
            left, whole = min(rooms, key=lambda room: room[0] / room[1])
        except (EngineError, TimeoutError, ValueError, LookupError, TypeError, ArithmeticError):
            return ""
        is_little = left < whole * _LITTLE
        return f" (its disk has {left >> 20:,} of {whole >> 20:,} MiB left)" if is_little else ""

    async def close(self) -> None:
        """Release the connections; safe to call twice."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _send(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str], missing: Any
    ) -> Any:
        status, text = await self._exchange(method, path, data, headers)
        if status >= 300:
            error = _error(text)
            if (trouble := await self.trouble(status, error)) is not None:
                raise trouble
            if status == 404 and missing is not ...:
                return missing
            kind, reason = reason_of(error)
            message = f"{self.endpoint.address} refuses: {status} {reason}"
            raise SearchError(message, status=status, kind=kind)
        try:
            return orjson.loads(text) if text else None
        except orjson.JSONDecodeError as exc:
            raise EngineUnavailable(
                "elasticsearch",
                f"{self.endpoint.address} does not answer as a search server",
                hint="check host and port of elasticsearch.dsn",
            ) from exc

    async def _exchange(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, bytes]:
        """Status and body of the answer. Raises EngineUnavailable where there is none."""
        try:
            async with self._connected().request(
                method, self.endpoint.url + path, data=data, headers=headers, allow_redirects=False
            ) as response:
                return response.status, await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as exc:
            raise self._unavailable(exc) from exc

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            at = self.endpoint
            auth = aiohttp.BasicAuth(at.username, at.password, "utf-8") if at.username else None
            self._session = aiohttp.ClientSession(
                auth=auth,
                timeout=aiohttp.ClientTimeout(total=_ANSWER_S, sock_connect=_CONNECT_S),
                connector=aiohttp.TCPConnector(ssl=_trust(at)),
            )
        return self._session

    def _unavailable(self, exc: BaseException) -> EngineUnavailable:
        where = self.endpoint.address
        if isinstance(exc, TimeoutError):
            return EngineUnavailable("elasticsearch", f"{where} does not answer in time")
        if isinstance(exc, aiohttp.ClientSSLError):
            return EngineUnavailable(
                "elasticsearch",
                f"{where} is not trusted: {exc}",
                hint="name its authority in the DSN: ?ca=/path/ca.pem",
            )
        if isinstance(exc, aiohttp.ClientConnectorError | ConnectionRefusedError):
            return EngineUnavailable(
                "elasticsearch",
                f"{where} refuses the connection",
                hint="is the server running there?",
            )
        return EngineUnavailable("elasticsearch", f"{where} broke the connection: {exc}")


def is_fault(outcome: Mapping[str, Any]) -> bool:
    """Whether the server failed on one operation without a word of its own state: the document may
    be to blame, or the shard."""
    status, (kind, _) = int(outcome["status"]), reason_of(outcome.get("error"))
    is_state = status in (*_BUSY, 503) or kind in (*_NOT_READY, BLOCKED, "i_o_exception")
    return status >= 500 and not is_state


def probe_of(operation: bytes) -> bytes:
    """An operation of a bulk that writes nothing to the shard that an `index` of it goes to: no row
    has that name."""
    head = orjson.loads(operation.partition(b"\n")[0])["index"]
    probe = {"_index": head["_index"], "_id": "%probe", "routing": head["_id"]}
    return orjson.dumps({"delete": probe}) + b"\n"


def _trust(at: ElasticsearchEndpoint) -> ssl.SSLContext | bool:
    if at.authority is None:
        return True
    try:
        return ssl.create_default_context(cafile=at.authority)
    except (OSError, ssl.SSLError) as exc:
        raise EngineUnavailable(
            "elasticsearch", f"cannot read the authority {at.authority}: {exc}"
        ) from exc


def _error(text: bytes) -> object:
    """What an answer says is wrong; of a query that changes documents, the first failure."""
    try:
        answer = orjson.loads(text)
        return answer["error"] if "error" in answer else answer["failures"][0]["cause"]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return text.decode("utf-8", "replace")


def reason_of(error: object) -> tuple[str, str]:
    """(type, reason) of an error object of the server, the innermost cause that it names."""
    if not isinstance(error, dict):
        return "", str(error)[:300]
    facts: dict[str, Any] = error  # pyright: ignore[reportUnknownVariableType]
    kind, reason = str(facts.get("type", "")), str(facts.get("reason", ""))
    cause = facts.get("caused_by")
    if cause:
        reason += f": {reason_of(cause)[1]}"
    return kind, reason[:300]
