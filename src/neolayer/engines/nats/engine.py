"""NATS behind the face all engines share."""

from __future__ import annotations

from neolayer.engines.endpoints import NatsEndpoint
from neolayer.engines.engine import EngineStatus
from neolayer.engines.nats.client import Connection, connect, explain
from neolayer.engines.probe import probe
from neolayer.errors import EngineTooOld, NeolayerError

OLDEST = (2, 10)


class NatsEngine:
    """One server or cluster with JetStream."""

    def __init__(self, endpoint: NatsEndpoint) -> None:
        self._endpoint = endpoint
        self._connection: Connection | None = None

    @property
    def name(self) -> str:
        return "nats"

    async def open(self) -> None:
        if self._connection is not None:
            return
        connection = await connect(self._endpoint)
        found = connection.client.connected_server_version
        if (found.major, found.minor) < OLDEST:
            await connection.close()
            oldest = ".".join(map(str, OLDEST))
            raise EngineTooOld(
                "nats",
                f"{self._endpoint.address} runs {found.major}.{found.minor};"
                f" {oldest} or newer is supported",
            )
        self._connection = connection

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def ping(self) -> None:
        """Ask JetStream how it is: a server without it is of no use here."""
        await self.open()
        connection = self._connection
        assert connection is not None
        try:
            await connection.ask(connection.stream.account_info())
        except NeolayerError:
            await self.close()
            raise
        except Exception as exc:  # the client's errors have one root, which is Exception itself
            await self.close()
            raise explain(exc, self._endpoint) from exc

    async def version(self) -> str:
        await self.open()
        assert self._connection is not None
        found = self._connection.client.connected_server_version
        return f"{found.major}.{found.minor}.{found.patch}"

    async def status(self) -> EngineStatus:
        return await probe(self, level=self._endpoint.level, address=self._endpoint.address)
