"""`keys rewrap` as a process that stops in the middle of a row until it is killed.

Its arguments: the administrator's DSN, the roles' passwords as JSON, the keys' folder, and after
how many rows it stops.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.fixtures.fix_databases import postgres_only
from tests.fixtures.sealed_people import SealedPeople

from neolayer.engines.endpoints import PostgresEndpoint, Role
from neolayer.engines.engine import Level
from neolayer.keys import Keyring
from neolayer.keys.providers.file import FileKeys
from neolayer.tenancy import open_core


class Stopping(Keyring):
    """A keyring that says so and waits for ever at the row of that number."""

    rows_left = 0

    async def rewrap(self, sealed: str, *, bound_to: Mapping[str, str]) -> str:
        self.rows_left -= 1
        if self.rows_left < 0:
            print("stopped", flush=True)
            await asyncio.Event().wait()
        return await super().rewrap(sealed, bound_to=bound_to)


async def main(dsn: str, passwords: str, folder: str, rows: str) -> None:
    known = {Role(role): text for role, text in json.loads(passwords).items()}
    endpoints = postgres_only(PostgresEndpoint(Level.EMBEDDED, dsn, known, "127.0.0.1"))
    keyring = Stopping(FileKeys(Path(folder)))
    keyring.rows_left = int(rows)
    async with open_core(endpoints, application_name="tests") as core:
        await SealedPeople(core, endpoints).rewrap(keyring, batch_rows=10)
    print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
