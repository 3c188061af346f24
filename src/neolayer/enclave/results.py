"""Results of computations in Redis, under the specification's key and the tenant's prefix.

What lies here is a copy that anybody with the server's password could change, so a reader compares
it with the hash that the database keeps. A server that is away is left alone for a second.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Final, cast
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import RedisError

from neolayer.enclave.catalogue import RESULT_KEY

LIVES: Final = timedelta(days=1)
_REST_S: Final = 1.0


class ResultCache:
    """Gets, puts and forgets results; never raises where Redis is away."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._rests_until = 0.0

    async def get(self, tenant: UUID | None, computation_id: UUID) -> bytes | None:
        """The bytes that lie there, or None."""
        if self._rests():
            return None
        try:
            # MGET gives nothing, where GET fails, for a key of another type: a put replaces it.
            (found,) = cast(
                "list[bytes | None]", await self._redis.mget(_key(tenant, computation_id))
            )
        except RedisError:
            self._rest()
            return None
        return found

    async def put(
        self, tenant: UUID | None, computation_id: UUID, output: bytes, *, lifetime: timedelta
    ) -> None:
        """Keep the bytes for a day, and no longer than `lifetime`."""
        lives_ms = int(min(lifetime, LIVES) / timedelta(milliseconds=1))
        if self._rests() or lives_ms < 1:
            return
        try:
            await self._redis.set(_key(tenant, computation_id), output, px=lives_ms)
        except RedisError:
            self._rest()

    async def forget(self, tenant: UUID | None, computation_id: UUID) -> None:
        """Remove what lies there."""
        if self._rests():
            return
        try:
            await self._redis.delete(_key(tenant, computation_id))
        except RedisError:
            self._rest()

    def _rests(self) -> bool:
        return time.monotonic() < self._rests_until

    def _rest(self) -> None:
        self._rests_until = time.monotonic() + _REST_S


def _key(tenant: UUID | None, computation_id: UUID) -> str:
    return RESULT_KEY.format(tenant_id=tenant, id=computation_id)
