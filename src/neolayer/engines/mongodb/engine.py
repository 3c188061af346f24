"""MongoDB behind the face all engines share."""

from __future__ import annotations

from pymongo.errors import PyMongoError

from neolayer.engines.endpoints import MongoEndpoint
from neolayer.engines.engine import EngineStatus
from neolayer.engines.mongodb.client import Client, connect, explain
from neolayer.engines.probe import probe
from neolayer.errors import EngineTooOld

OLDEST = (6, 0)


class MongoEngine:
    """One MongoDB, or FerretDB, which answers as the MongoDB whose commands it has."""

    def __init__(self, endpoint: MongoEndpoint, *, oldest: tuple[int, int] = OLDEST) -> None:
        self._endpoint = endpoint
        self._oldest = oldest
        self._client: Client | None = None
        self._version = ""

    @property
    def name(self) -> str:
        return "mongodb"

    async def open(self) -> None:
        if self._client is not None:
            return
        client = connect(self._endpoint)
        try:
            built = await client.server_info()
            self._check_version(str(built["version"]))
        except PyMongoError as exc:
            await client.close()
            raise explain(exc, self._endpoint) from exc
        except EngineTooOld:
            await client.close()
            raise
        self._version = str(built["version"])
        if "ferretdbVersion" in built:
            self._version += " (FerretDB)"
        self._client = client

    def _check_version(self, text: str) -> None:
        major, minor = (int(part) for part in text.split(".")[:2])
        if (major, minor) < self._oldest:
            oldest = ".".join(str(part) for part in self._oldest)
            raise EngineTooOld(
                "mongodb",
                f"{self._endpoint.address} runs MongoDB {text}; {oldest} or newer is supported",
                hint="point mongodb.dsn at a supported server; without it documents stay in "
                "PostgreSQL",
            )

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def ping(self) -> None:
        await self.open()
        assert self._client is not None
        try:
            await self._client.admin.command("ping")
        except PyMongoError as exc:
            await self.close()
            raise explain(exc, self._endpoint) from exc

    async def version(self) -> str:
        """Such as `7.0.14`, or `7.0.42 (FerretDB)`."""
        await self.open()
        return self._version

    async def status(self) -> EngineStatus:
        return await probe(self, level=self._endpoint.level, address=self._endpoint.address)
