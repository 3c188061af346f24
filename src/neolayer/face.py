"""The Python face: one object, opened and closed once, with the verbs of the command line.

async with neolayer.open(data_dir=".neolayer") as platform:
    transaction = await platform.chain.transaction("ethereum", transaction_hash)
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from neolayer.chain import reading
from neolayer.chain.cache import TransactionCache
from neolayer.chain.reading import Block, Coverage, Transaction
from neolayer.engines.endpoints import Role
from neolayer.engines.postgres.connections import Pool, open_pool
from neolayer.engines.redis.client import connect as connect_redis
from neolayer.platform import endpoints
from neolayer.settings import load_settings


class ChainReads:
    """Reads of chain data, by the name of the network. Confirmations are those of now."""

    def __init__(self, pool: Pool, cache: TransactionCache) -> None:
        self._pool = pool
        self._cache = cache

    async def transaction(self, network: str, transaction_hash: str) -> Transaction | None:
        """The transaction in whatever state it is, through the cache; None where unknown."""
        return await self._cache.transaction(network, transaction_hash)

    async def block(self, network: str, number: int) -> Block | None:
        """The block at that height, or None."""
        async with self._pool.connection() as connection:
            return await reading.block(connection, network, number)

    async def coverage(self) -> list[Coverage]:
        """What is stored of every network, by name: head, covered and missing ranges."""
        async with self._pool.connection() as connection:
            return await reading.network_coverage(connection)


@dataclass(frozen=True, slots=True)
class Platform:
    """An opened layer; made by `open_platform`. Each room is a field."""

    chain: ChainReads


@asynccontextmanager
async def open_platform(
    config: str | Path | None = None, *, data_dir: str | Path | None = None
) -> AsyncGenerator[Platform]:
    """A running layer, for the length of the block; everything is closed in reverse order.

    `config` is a configuration file (default: `neolayer.toml`, if there is one), `data_dir` beats
    it. Raises SettingsError, NotRunning where an embedded layer is not up, and EngineUnavailable.
    """
    settings = load_settings(
        None if config is None else Path(config),
        data_dir=None if data_dir is None else Path(data_dir),
    )
    at = endpoints(settings)
    dsn = at.postgres.dsn(Role.APP)
    size = settings.postgres.pool_size
    async with open_pool(dsn, size=size, autocommit=True, application_name="api") as pool:
        redis = connect_redis(at.redis)
        try:
            async with pool.connection() as connection:
                yield Platform(chain=ChainReads(pool, TransactionCache(connection, redis)))
        finally:
            await redis.aclose()
