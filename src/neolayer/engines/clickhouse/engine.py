"""ClickHouse behind the face all engines share."""

from __future__ import annotations

from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import ClickHouseError

from neolayer.engines.clickhouse.client import BOOTSTRAP_DATABASE, connect, explain
from neolayer.engines.endpoints import ClickHouseEndpoint
from neolayer.engines.engine import EngineStatus
from neolayer.engines.probe import probe
from neolayer.errors import EngineTooOld

OLDEST = (25, 1)


class ClickHouseEngine:
    """One ClickHouse server, or chDB behind our loopback endpoint."""

    def __init__(self, endpoint: ClickHouseEndpoint, *, oldest: tuple[int, int] = OLDEST) -> None:
        self._endpoint = endpoint
        self._oldest = oldest
        self._client: AsyncClient | None = None

    @property
    def name(self) -> str:
        return "clickhouse"

    async def open(self) -> None:
        """Connect. The layer's own database need not exist yet: `migrate` makes it."""
        if self._client is not None:
            return
        client = await connect(self._endpoint, database=BOOTSTRAP_DATABASE)
        try:
            self._check_version(str(client.server_version))
        except EngineTooOld:
            await client.close()
            raise
        self._client = client

    def _check_version(self, text: str) -> None:
        major, minor = (int(part) for part in text.split(".")[:2])
        if (major, minor) < self._oldest:
            oldest = ".".join(str(part) for part in self._oldest)
            raise EngineTooOld(
                "clickhouse",
                f"{self._endpoint.host}:{self._endpoint.port} runs ClickHouse {text}; "
                f"{oldest} or newer is supported",
                hint="point clickhouse.dsn at a supported server; without it chDB is embedded",
            )

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def ping(self) -> None:
        await self.open()
        assert self._client is not None
        try:
            await self._client.command("SELECT 1")  # pyright: ignore[reportUnknownMemberType]
        except (ClickHouseError, OSError) as exc:
            await self.close()
            raise explain(exc, self._endpoint) from exc

    async def version(self) -> str:
        await self.open()
        assert self._client is not None
        return str(self._client.server_version)

    async def status(self) -> EngineStatus:
        return await probe(self, level=self._endpoint.level, address=self._endpoint.address)
