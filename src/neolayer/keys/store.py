"""Where locked keys lie: `core.locked_keys`, beside the data they seal and in its backups."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import LiteralString, Protocol

import psycopg
from psycopg.rows import TupleRow
from psycopg_pool import PoolTimeout

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.connections import Pool, connect, open_pool
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import MigrationError
from neolayer.keys.errors import KeysUnavailable
from neolayer.keys.names import KeyName
from neolayer.keys.providers.master import LockedKey

QUERIES = load_queries(__name__)


class KeyStore(Protocol):
    """Locked keys by name; the id is the same for all versions of a layer."""

    async def names(self) -> tuple[KeyName, ...]:
        """Every key, by version."""
        ...

    async def next_name(self) -> KeyName:
        """The name that the next key should have."""
        ...

    async def locked(self, name: KeyName) -> LockedKey | None:
        """The key as it lies there."""
        ...

    async def add(self, name: KeyName, locked: LockedKey) -> None:
        """Keep a new key; nothing happens where somebody else made that version first."""
        ...

    async def replace(self, name: KeyName, old: LockedKey, new: LockedKey) -> None:
        """Lock a key otherwise, if it is still locked in the old way."""
        ...


@dataclass(frozen=True, slots=True)
class TableKeyStore:
    """The table. The application may read it; what changes it logs in as the migrator."""

    _pool: Pool
    _endpoints: Endpoints

    async def names(self) -> tuple[KeyName, ...]:
        rows = await self._fetch(QUERIES.key_names)
        return tuple(KeyName(key_id, version) for key_id, version in rows)

    async def next_name(self) -> KeyName:
        names = await self.names()
        if not names:
            return KeyName(f"layer-{secrets.token_hex(4)}", 1)
        return KeyName(names[-1].id, names[-1].version + 1)

    async def locked(self, name: KeyName) -> LockedKey | None:
        rows = await self._fetch(QUERIES.locked_key, id=name.id, version=name.version)
        return LockedKey(rows[0][0], rows[0][1]) if rows else None

    async def add(self, name: KeyName, locked: LockedKey) -> None:
        await self._change(
            QUERIES.add_locked_key,
            id=name.id,
            version=name.version,
            locked_by=locked.locked_by,
            locked_key=locked.text,
        )

    async def replace(self, name: KeyName, old: LockedKey, new: LockedKey) -> None:
        await self._change(
            QUERIES.replace_locked_key,
            id=name.id,
            version=name.version,
            old_key=old.text,
            locked_by=new.locked_by,
            locked_key=new.text,
        )

    async def _fetch(self, query: LiteralString, **values: object) -> list[TupleRow]:
        with _explained():
            async with self._pool.connection() as connection:
                return await (await connection.execute(query, values)).fetchall()

    async def _change(self, query: LiteralString, **values: object) -> None:
        dsn = self._endpoints.cluster(Database.CORE).dsn(Role.MIGRATOR, Database.CORE)
        with _explained():
            async with await connect(dsn, autocommit=True, application_name="keys") as owner:
                await owner.execute(query, values)


@contextmanager
def _explained() -> Generator[None]:
    try:
        yield
    except psycopg.errors.UndefinedTable:
        raise MigrationError(
            "core.locked_keys does not exist yet", hint="run: neolayer migrate up"
        ) from None
    except (psycopg.OperationalError, PoolTimeout) as exc:
        raise KeysUnavailable("the database that holds the locked keys does not answer") from exc


@asynccontextmanager
async def open_key_store(endpoints: Endpoints) -> AsyncGenerator[TableKeyStore]:
    """The table of a layer. Raises EngineUnavailable."""
    dsn = endpoints.cluster(Database.CORE).dsn(Role.APP, Database.CORE)
    async with open_pool(dsn, size=2, autocommit=True, application_name="keys") as pool:
        yield TableKeyStore(pool, endpoints)
