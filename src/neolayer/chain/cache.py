"""Transactions from Redis where it has them, from PostgreSQL where it has not.

Only the stored row is cached, never its absence, and never its confirmations: those count from the
head, which is one look at a small table. The relay invalidates rows as they change
(`freshness/cache_versions.py` tells how the two agree on what is newer). Without Redis every read
goes to PostgreSQL.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final, cast
from uuid import UUID

import msgspec
from psycopg.rows import dict_row
from redis.asyncio import Redis
from redis.exceptions import RedisError

from neolayer.chain.catalogue import TRANSACTION_KEY
from neolayer.chain.reading import Transaction
from neolayer.engines.postgres.connections import Connection
from neolayer.engines.postgres.queries import load_queries
from neolayer.engines.redis.scripts import load_script
from neolayer.freshness import AsOf
from neolayer.freshness.cache_versions import (
    CHECKPOINT_KEY,
    FLOOR_KEY,
    PUT_WITHIN,
    read_entry,
    read_version,
    version_of,
    version_text,
)
from neolayer.position import Position, Positions, of_database

_LIVES: Final = timedelta(minutes=5)
_REST_S: Final = 1.0
_MAX_CONFIRMATIONS: Final = 2_147_483_647

_sql = load_queries(__name__, "cache.sql")
_put_if_newer = load_script(__name__, "put_if_newer.lua")
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Transaction)


class TransactionCache:
    """Reads by network and hash, over an autocommit connection and a client that waits briefly.

    After a failure of Redis it is left alone for a second, so that reads do not all wait for it.
    """

    def __init__(self, connection: Connection, redis: Redis) -> None:
        self._connection = connection
        self._redis = redis
        self._rests_until = 0.0

    async def transaction(
        self, network: str, transaction_hash: str, *, at_least: Position | Positions | None = None
    ) -> Transaction | None:
        """The transaction in whatever state it is, with its confirmations as of now, or None.

        What the cache has is used where it reflects `at_least` and no more than PostgreSQL has,
        which otherwise answers.
        """
        return (await self.transaction_as_of(network, transaction_hash, at_least=at_least)).value

    async def transaction_as_of(
        self, network: str, transaction_hash: str, *, at_least: Position | Positions | None = None
    ) -> AsOf[Transaction | None]:
        """The same, with the position that it reflects."""
        cursor = await self._connection.execute(_sql.network_head, {"network": network})
        found = await cursor.fetchone()
        if found is None:
            return AsOf(None, None)
        network_id, head, end = found
        core = of_database(at_least, "neolayer")
        wanted = core.version if core is not None else 0
        stored, version = await self._stored(network_id, transaction_hash.lower(), (wanted, end))
        if stored is not None:
            stored = replace(stored, confirmation_count=_confirmations(stored, head))
        return AsOf(stored, Position.from_version(version))

    async def _stored(
        self, network_id: UUID, transaction_hash: str, between: tuple[int, int]
    ) -> tuple[Transaction | None, int]:
        """The row, and the version that it reflects. The cache's is used in between: what is ahead
        of the log is of a server that was put back, or came a moment ago."""
        key = TRANSACTION_KEY.format(network_id=network_id, transaction_hash=transaction_hash)
        cached, reflected = await self._get(key)
        if cached is not None and between[0] <= reflected <= between[1]:
            return cached, reflected
        started = time.monotonic()
        version = await self._version()
        row = await self._row(network_id, transaction_hash)
        if row is None:
            return None, version
        is_settled = row.pop("is_settled")
        stored = Transaction(**row)
        if is_settled and time.monotonic() - started < PUT_WITHIN.total_seconds():
            await self._put(key, version, stored)
        return stored, version

    async def _version(self) -> int:
        cursor = await self._connection.execute(_sql.position)
        (version,) = await cursor.fetchone() or (0,)
        return int(version)

    async def _row(self, network_id: UUID, transaction_hash: str) -> dict[str, Any] | None:
        names = {"network_id": network_id, "transaction_hash": transaction_hash}
        async with self._connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(_sql.transaction, names)
            return await cursor.fetchone()

    async def _get(self, key: str) -> tuple[Transaction | None, int]:
        """What is cached, and up to which version: that it was read at, or, as nothing has marked
        it since, that the cache itself reflects."""
        if time.monotonic() < self._rests_until:
            return None, 0
        try:
            entry, floor, checkpoint = cast(
                list[bytes | None],
                await self._redis.mget(key, FLOOR_KEY, CHECKPOINT_KEY),
            )
        except RedisError:
            self._rest()
            return None, 0
        value = read_entry(entry, floor)
        if entry is None or value is None:
            return None, 0
        try:
            stored = _decoder.decode(value)
        except msgspec.DecodeError:  # written by another version of this program
            return None, 0
        return stored, max(version_of(entry), read_version(checkpoint))

    async def _put(self, key: str, version: int, stored: Transaction) -> None:
        if time.monotonic() < self._rests_until:
            return
        try:
            value = _encoder.encode(stored)
        except OverflowError:  # a number in the envelope that MessagePack cannot hold
            return
        lives_ms = int(_LIVES.total_seconds() * 1000)
        try:
            await _put_if_newer.run(
                self._redis, [key, FLOOR_KEY], [version_text(version), value, lives_ms]
            )
        except RedisError:
            self._rest()

    def _rest(self) -> None:
        self._rests_until = time.monotonic() + _REST_S


def _confirmations(stored: Transaction, head: int | None) -> int:
    """The same count as blockchain.transactions_current."""
    if stored.block_number is None or head is None:
        return 0
    return min(max(head - stored.block_number + 1, 0), _MAX_CONFIRMATIONS)
