"""A client of the few calls that a copy needs: JSON to a path, and bulks.

The official client refuses OpenSearch, and OpenSearch's refuses nobody but is another package; what
both servers share is plain HTTP. Bulk bodies are bytes that the caller has put together, because
taking documents apart and together again costs more than all the rest of an insert.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
import orjson

from neolayer.engines.endpoints import ElasticsearchEndpoint
from neolayer.errors import EngineError, EngineUnavailable

_CONNECT_S: Final = 10.0
_ANSWER_S: Final = 60.0
_NDJSON: Final = {"Content-Type": "application/x-ndjson"}
_JSON: Final = {"Content-Type": "application/json"}
_WAIT: Final = frozenset({429, 502, 503, 504})


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
        answer = await self._send("POST", "/_bulk", lines, _NDJSON, ...)
        return [outcome for item in answer["items"] for outcome in item.values()]

    async def close(self) -> None:
        """Release the connections; safe to call twice."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _send(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str], missing: Any
    ) -> Any:
        try:
            async with self._connected().request(
                method, self.endpoint.url + path, data=data, headers=headers, allow_redirects=False
            ) as response:
                text = await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as exc:
            raise self._unavailable(exc) from exc
        if response.status == 404 and missing is not ...:
            return missing
        if response.status >= 300:
            raise self._refused(response.status, text)
        try:
            return orjson.loads(text) if text else None
        except orjson.JSONDecodeError as exc:
            raise EngineUnavailable(
                "elasticsearch",
                f"{self.endpoint.address} does not answer as a search server",
                hint="check host and port of elasticsearch.dsn",
            ) from exc

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

    def _refused(self, status: int, text: bytes) -> EngineError:
        kind, reason = _reason(text)
        where = self.endpoint.address
        if status in (401, 403):
            return EngineUnavailable(
                "elasticsearch",
                f"{where} refuses user or password",
                hint="check elasticsearch.dsn, and the user's rights",
            )
        if status in _WAIT:
            return EngineUnavailable("elasticsearch", f"{where} asks to wait: {status} {reason}")
        return SearchError(f"{where} refuses: {status} {reason}", status=status, kind=kind)


def _trust(at: ElasticsearchEndpoint) -> ssl.SSLContext | bool:
    if at.authority is None:
        return True
    try:
        return ssl.create_default_context(cafile=at.authority)
    except (OSError, ssl.SSLError) as exc:
        raise EngineUnavailable(
            "elasticsearch", f"cannot read the authority {at.authority}: {exc}"
        ) from exc


def _reason(text: bytes) -> tuple[str, str]:
    """The server's word for what is wrong, and its sentence, shortened."""
    try:
        error = orjson.loads(text)["error"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "", text[:200].decode("utf-8", "replace")
    return reason_of(error)


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
