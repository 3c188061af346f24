"""PostgreSQL behind the face all engines share."""

from __future__ import annotations

from typing import LiteralString

import psycopg

from neolayer.engines.endpoints import PostgresEndpoint
from neolayer.engines.engine import EngineStatus
from neolayer.engines.postgres.connections import Connection, connect, explain
from neolayer.engines.probe import probe
from neolayer.errors import EngineTooOld, EngineUnavailable

SUPPORTED = range(15, 19)


class PostgresEngine:
    """One cluster. `name` tells clusters apart where the databases have one each."""

    def __init__(
        self,
        endpoint: PostgresEndpoint,
        *,
        name: str = "postgres",
        supported: range = SUPPORTED,
    ) -> None:
        self._endpoint = endpoint
        self._name = name
        self._supported = supported
        self._connection: Connection | None = None

    @property
    def name(self) -> str:
        return self._name

    async def open(self) -> None:
        """Connect as the DSN's own user. Raises EngineUnavailable or EngineTooOld."""
        if self._connection is not None and not self._connection.closed:
            return
        connection = await connect(
            self._endpoint.admin_dsn, autocommit=True, application_name="engine"
        )
        try:
            self._check_version(connection.info.server_version)
        except EngineTooOld:
            await connection.close()
            raise
        self._connection = connection

    def _check_version(self, number: int) -> None:
        major, lowest, highest = number // 10_000, self._supported[0], self._supported[-1]
        if major not in self._supported:
            raise EngineTooOld(
                self._name,
                f"{self._endpoint.address} runs PostgreSQL {major}; "
                f"versions {lowest} to {highest} are supported",
                hint="point postgres.dsn at a supported server; without it one is embedded",
            )

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def _opened(self) -> Connection:
        await self.open()
        if self._connection is None:
            raise EngineUnavailable(self._name, f"{self._endpoint.address} was closed")
        return self._connection

    async def ping(self) -> None:
        connection = await self._opened()
        try:
            await connection.execute("SELECT 1")
        except psycopg.Error as exc:
            await self.close()
            raise explain(exc, self._endpoint.admin_dsn) from exc

    async def version(self) -> str:
        """Such as `17.10`, without the packager's addition."""
        info = (await self._opened()).info
        return (info.parameter_status("server_version") or "unknown").split(" ")[0]

    async def setting(self, name: str) -> str:
        """The server's value of one of its settings, such as `wal_level`."""
        return str(await self._value("SELECT current_setting(%s)", name) or "")

    async def extension(self, name: str) -> str | None:
        """The version of an extension that the server offers, created or not; None without it."""
        query = "SELECT default_version FROM pg_available_extensions WHERE name = %s"
        found = await self._value(query, name)
        return None if found is None else str(found)

    async def _value(self, query: LiteralString, *values: str) -> object:
        """The one value a query finds, or None. Raises EngineUnavailable."""
        connection = await self._opened()
        try:
            row = await (await connection.execute(query, values)).fetchone()
        except psycopg.Error as exc:
            raise explain(exc, self._endpoint.admin_dsn) from exc
        return row[0] if row else None

    async def status(self) -> EngineStatus:
        return await probe(self, level=self._endpoint.level, address=self._endpoint.address)
