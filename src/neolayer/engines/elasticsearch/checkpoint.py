"""Where a sink's checkpoint lies on a search server: a document beside its data."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from neolayer.engines.elasticsearch.client import SearchClient
from neolayer.engines.endpoints import ElasticsearchEndpoint

_INDEX = "relay_checkpoints"


def path_of(endpoint: ElasticsearchEndpoint, sink: str) -> str:
    """The path of a sink's checkpoint, {"version": int, "floors": {table: version}}."""
    return f"/{endpoint.index(_INDEX)}/_doc/{sink}"


@asynccontextmanager
async def reading(
    endpoint: ElasticsearchEndpoint, sink: str
) -> AsyncGenerator[Callable[[], Awaitable[int]]]:
    """A function that reads the checkpoint (0: none), over one connection."""
    client = SearchClient(endpoint)
    nothing: dict[str, Any] = {}

    async def read() -> int:
        found = await client.call("GET", path_of(endpoint, sink), missing=nothing)
        return int(found.get("_source", nothing).get("version", 0))

    try:
        yield read
    finally:
        await client.close()
