"""Elasticsearch or OpenSearch behind the face all engines share."""

from __future__ import annotations

from typing import Any

from neolayer.engines.elasticsearch.client import SearchClient
from neolayer.engines.endpoints import ElasticsearchEndpoint
from neolayer.engines.engine import EngineStatus
from neolayer.engines.probe import probe
from neolayer.errors import EngineTooOld, EngineUnavailable

OLDEST = {"elasticsearch": (8, 0), "opensearch": (2, 0)}


class ElasticsearchEngine:
    """One search server."""

    def __init__(self, endpoint: ElasticsearchEndpoint) -> None:
        self._endpoint = endpoint
        self._client: SearchClient | None = None
        self._version = ""

    @property
    def name(self) -> str:
        return "elasticsearch"

    async def open(self) -> None:
        if self._client is not None:
            return
        client = SearchClient(self._endpoint)
        try:
            self._version = self._checked(await client.call("GET", "/"))
        except BaseException:  # cancelled too: its connections are nobody else's to close
            await client.close()
            raise
        self._client = client

    def _checked(self, about: Any) -> str:
        """`2.19.6 (OpenSearch)` or `9.1.0`."""
        try:
            number = str(about["version"]["number"])
            kind = str(about["version"].get("distribution", "elasticsearch"))
            major, minor = (int(part) for part in number.split(".")[:2])
            oldest = OLDEST[kind]
        except (KeyError, TypeError, ValueError) as exc:
            raise EngineUnavailable(
                "elasticsearch",
                f"{self._endpoint.address} does not say that it is Elasticsearch or OpenSearch",
                hint="check host and port of elasticsearch.dsn",
            ) from exc
        if (major, minor) < oldest:
            wanted = ".".join(map(str, oldest))
            raise EngineTooOld(
                "elasticsearch",
                f"{self._endpoint.address} runs {kind} {number}; {wanted} or newer is supported",
                hint="point elasticsearch.dsn at a supported server",
            )
        return f"{number} (OpenSearch)" if kind == "opensearch" else number

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def ping(self) -> None:
        await self.open()
        assert self._client is not None
        try:
            await self._client.call("GET", "/")
        except BaseException:  # cancelled too: the next ping opens anew
            await self.close()
            raise

    async def version(self) -> str:
        await self.open()
        return self._version

    async def status(self) -> EngineStatus:
        return await probe(self, level=self._endpoint.level, address=self._endpoint.address)
