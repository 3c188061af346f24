"""Where a sink's checkpoint lies in ClickHouse: a row beside its data."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
from clickhouse_connect.driver.exceptions import ClickHouseError

from neolayer.engines.clickhouse.client import connect, explain
from neolayer.engines.endpoints import ClickHouseEndpoint

_CHECKPOINT = "SELECT max(version) FROM relay_checkpoints WHERE sink = {sink:String}"


@asynccontextmanager
async def reading(
    endpoint: ClickHouseEndpoint, sink: str
) -> AsyncGenerator[Callable[[], Awaitable[int]]]:
    """A function that reads the checkpoint (0: none), over one client."""
    client = await connect(endpoint)

    async def read() -> int:
        try:
            stored = await client.command(  # pyright: ignore[reportUnknownMemberType]
                _CHECKPOINT, {"sink": sink}
            )
        except (ClickHouseError, aiohttp.ClientError, OSError) as exc:
            raise explain(exc, endpoint) from exc
        return int(str(stored))

    try:
        yield read
    finally:
        await client.close()
