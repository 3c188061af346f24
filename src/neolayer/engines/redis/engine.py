"""Redis or Valkey behind the face all engines share."""

from __future__ import annotations

from typing import cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from neolayer.engines.endpoints import RedisEndpoint
from neolayer.engines.engine import EngineStatus
from neolayer.engines.probe import probe
from neolayer.engines.redis.client import connect, explain
from neolayer.errors import EngineTooOld

OLDEST = (7, 0)


class RedisEngine:
    """One Redis or Valkey. Valkey answers as the Redis whose commands it has: 7.2."""

    def __init__(self, endpoint: RedisEndpoint, *, oldest: tuple[int, int] = OLDEST) -> None:
        self._endpoint = endpoint
        self._oldest = oldest
        self._client: Redis | None = None
        self._server: dict[str, str] = {}

    @property
    def name(self) -> str:
        return "redis"

    async def open(self) -> None:
        if self._client is not None:
            return
        client = connect(self._endpoint)
        try:
            self._server = cast("dict[str, str]", await client.info("server"))  # pyright: ignore[reportUnknownMemberType]
            self._check_version(self._server["redis_version"])
        except RedisError as exc:
            await client.aclose()
            raise explain(exc, self._endpoint) from exc
        except EngineTooOld:
            await client.aclose()
            raise
        self._client = client

    def _check_version(self, text: str) -> None:
        major, minor = (int(part) for part in text.split(".")[:2])
        if (major, minor) < self._oldest:
            oldest = ".".join(str(part) for part in self._oldest)
            raise EngineTooOld(
                "redis",
                f"{self._endpoint.address} runs Redis {text}; {oldest} or newer is supported",
                hint="point redis.dsn at a supported server; without it one is embedded",
            )

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def ping(self) -> None:
        await self.open()
        assert self._client is not None
        try:
            await self._client.ping()  # pyright: ignore[reportUnknownMemberType]
        except RedisError as exc:
            await self.close()
            raise explain(exc, self._endpoint) from exc

    async def version(self) -> str:
        """Such as `valkey 9.1.2` or `redis 7.0.15`."""
        await self.open()
        name = self._server.get("server_name", "redis")
        return f"{name} {self._server.get(f'{name}_version', self._server['redis_version'])}"

    async def status(self) -> EngineStatus:
        return await probe(self, level=self._endpoint.level, address=self._endpoint.address)
