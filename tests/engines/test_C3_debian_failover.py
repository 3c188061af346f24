"""C3 on Debian's PostgreSQL 15: no slot outlives its primary; the copies follow all the same."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import psycopg
import pytest
from tests.crash.test_C3_failover import PUT, reaches
from tests.fixtures.fix_anvil import need
from tests.fixtures.fix_databases import execute
from tests.fixtures.fix_relay import TABLES, RelayScene
from tests.fixtures.standby import pair_in

pytestmark = pytest.mark.engines
_POSTGRES_15 = Path("/usr/lib/postgresql/15/bin")
_MAKE = "SELECT pg_create_logical_replication_slot('ours', 'pgoutput'"


def refusal(dsn: str, statement: str) -> str:
    with psycopg.connect(dsn, autocommit=True) as connection:
        with pytest.raises(psycopg.Error) as caught:
            connection.execute(statement)  # type: ignore[arg-type]
        return caught.value.diag.message_primary or ""


async def test_C3_before_17_no_slot_outlives_its_primary(
    relay_scene: RelayScene, traversable_tmp: Path
) -> None:
    """None is made for failover, and none on a standby; after the promotion the relay makes its own
    and every copy becomes what the new primary has."""
    need(_POSTGRES_15 / "postgres")
    with pair_in(traversable_tmp, bin_dir=_POSTGRES_15) as pair:
        at = dataclasses.replace(relay_scene.endpoints, postgres=pair.endpoint)
        scene = dataclasses.replace(relay_scene, endpoints=at)
        execute(pair.endpoint, f"CREATE DATABASE {scene.database}")
        scene.sql(*(one for one in TABLES.split(";") if one.strip()))
        assert refusal(scene.dsn, f"{_MAKE}, failover => true)") == (
            "function pg_create_logical_replication_slot(unknown, unknown, failover => boolean)"
            " does not exist"
        )
        async with scene.relaying():
            before = await reaches(scene, scene.sql(PUT.format("ann", 1, 50)))
            await asyncio.to_thread(pair.back_up)
            await reaches(scene, scene.sql(PUT.format("lost", 51, 60)))
            await asyncio.to_thread(pair.fail_over)
            assert refusal(scene.dsn, f"{_MAKE})") == (
                "logical decoding cannot be used while in recovery"
            )
            await asyncio.to_thread(pair.promote)
            after = await reaches(scene, scene.sql(PUT.format("new", 51, 55)))
            assert {row[1] for row in await scene.copied()} == {"ann", "new"}
        assert (before.epoch, after.epoch) == (1, 2)
