"""A snapshot that several connections read side by side."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from tests.fixtures.fix_relay import RelayScene
from tests.fixtures.patience import PATIENCE_S

from neolayer.errors import RelayError
from neolayer.relay import snapshot as room
from neolayer.relay.snapshot import ExportedSnapshot, export_snapshot

TABLE, COLUMNS = "public.accounts", ("id",)
WAITING = """SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE 'TRUNCATE%'"""


async def read(part: ExportedSnapshot) -> bytes:
    return b"".join([block async for block in part.rows(TABLE, COLUMNS)])


async def test_C_parts_do_not_wait_for_each_other_behind_a_truncate(
    relay_scene: RelayScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One part has read the table and holds its lock, a TRUNCATE waits for that, another part would
    wait behind the TRUNCATE: it gives up, so that copy and TRUNCATE both come to their end."""
    monkeypatch.setattr(room, "_LOCK_PATIENCE_MS", 200)
    dsn = relay_scene.dsn
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as writer:
        await writer.execute("INSERT INTO accounts (id, owner) VALUES (1, 'ann')")
        async with asyncio.timeout(PATIENCE_S), export_snapshot(dsn) as first:
            assert await read(first) == b"1\n"
            async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as other:
                truncating = asyncio.create_task(other.execute("TRUNCATE accounts"))
                while (await (await writer.execute(WAITING)).fetchone()) != (1,):
                    await asyncio.sleep(0.01)
                async with first.again() as second:
                    with pytest.raises(RelayError, match="is locked by a TRUNCATE or ALTER"):
                        await read(second)
                assert await read(first) == b"1\n"
                truncating.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await truncating
