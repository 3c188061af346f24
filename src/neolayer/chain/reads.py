"""What a program reads of the chain: transactions through the cache, blocks, what is stored."""

from __future__ import annotations

from neolayer.chain import reading
from neolayer.chain.cache import TransactionCache
from neolayer.chain.reading import Block, Coverage, Transaction
from neolayer.engines.postgres.connections import Pool
from neolayer.freshness import AsOf
from neolayer.position import Position, Positions


class ChainReads:
    """Reads of chain data, by the name of the network. Confirmations are those of now."""

    def __init__(self, pool: Pool, cache: TransactionCache) -> None:
        self._pool = pool
        self._cache = cache

    async def transaction(
        self, network: str, transaction_hash: str, *, at_least: Position | Positions | None = None
    ) -> Transaction | None:
        """The transaction in whatever state it is, through the cache; None where unknown.

        It reflects `at_least`: what the cache has of an earlier position is not used.
        """
        return await self._cache.transaction(network, transaction_hash, at_least=at_least)

    async def transaction_as_of(
        self, network: str, transaction_hash: str, *, at_least: Position | Positions | None = None
    ) -> AsOf[Transaction | None]:
        """The same, with the position that the answer reflects."""
        return await self._cache.transaction_as_of(network, transaction_hash, at_least=at_least)

    async def block(self, network: str, number: int) -> Block | None:
        """The block at that height, or None."""
        async with self._pool.connection() as connection:
            return await reading.block(connection, network, number)

    async def coverage(self) -> list[Coverage]:
        """What is stored of every network, by name: head, covered and missing ranges."""
        async with self._pool.connection() as connection:
            return await reading.network_coverage(connection)
