"""Where a sink's checkpoint lies in MongoDB: beside its data, so that both are lost or kept."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from pymongo.errors import PyMongoError

from neolayer.engines.endpoints import MongoEndpoint
from neolayer.engines.mongodb.client import connect, database_of, explain

CHECKPOINTS: Final = "relay_checkpoints"


@asynccontextmanager
async def reading(
    endpoint: MongoEndpoint, sink: str
) -> AsyncGenerator[Callable[[], Awaitable[int]]]:
    """A function that reads the checkpoint (0: none), over one connection."""
    client = connect(endpoint)

    async def read() -> int:
        try:
            stored = await database_of(client, endpoint)[CHECKPOINTS].find_one({"_id": sink})
        except PyMongoError as exc:
            raise explain(exc, endpoint) from exc
        return int(stored["version"]) if stored else 0

    try:
        yield read
    finally:
        await client.close()
