"""A PostgreSQL whose disk fills up under an ingest, and has room again later."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.fixtures.fabricated import digest, fabricate, transaction
from tests.fixtures.fix_databases import execute, fresh_databases
from tests.fixtures.fix_disk import disk_of, fill

from neolayer.chain.model import BlockRows
from neolayer.chain.registry import find_network, ingest_as, network_of
from neolayer.engines.embedded.privileges import account_for
from neolayer.engines.endpoints import Database, Endpoints, PostgresEndpoint, Role
from neolayer.engines.postgres.connections import explain
from neolayer.errors import EngineFull

BLOCKS = 40
MIB = 1 << 20


@pytest.fixture
def disk() -> Iterator[Path]:
    with disk_of(96) as mounted:
        if (account := account_for(None)) is not None:
            os.chown(mounted, account.uid, account.gid)
        yield mounted


@pytest.fixture
def on_disk(
    disk: Path, postgres_server: PostgresEndpoint, database_templates: dict[Database, str]
) -> Iterator[Endpoints]:
    """The layer's databases, the core one on that disk; the commit log lies elsewhere."""
    execute(postgres_server, f"CREATE TABLESPACE small LOCATION '{disk}'")
    with fresh_databases(postgres_server, database_templates) as endpoints:
        execute(postgres_server, f"ALTER DATABASE {Database.CORE} SET TABLESPACE small")
        yield endpoints
    execute(postgres_server, "DROP TABLESPACE small")


def large_blocks() -> list[BlockRows]:
    """Blocks that fill half a MiB each, whatever compresses them."""
    source, parent = random.Random(7), digest("genesis")
    blocks: list[BlockRows] = []
    for number in range(BLOCKS):
        data = "0x" + source.randbytes(MIB // 2).hex()
        block = fabricate(number, parent, [transaction("loader", number, input_data=data)])
        blocks.append(block)
        parent = block.block_hash
    return blocks


@pytest.fixture
def admin(on_disk: Endpoints) -> Iterator[psycopg.Connection]:
    """Open before the disk is full, which may refuse a new one."""
    dsn = on_disk.postgres.dsn(Role.ADMIN, Database.CORE)
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


def stored(admin: psycopg.Connection) -> tuple[int, int, str | None]:
    """Blocks, transactions, and what the network says it covers, which is what is there."""
    row = admin.execute(
        "SELECT (SELECT count(*) FROM blockchain.blocks),"
        " (SELECT count(*) FROM blockchain.transactions),"
        " (SELECT covered::text FROM blockchain.chain_heads),"
        " (SELECT range_agg(int8range(block_number, block_number + 1))::text"
        " FROM blockchain.blocks)"
    ).fetchone()
    assert row is not None
    blocks, transactions, covered, there = row
    assert covered == there
    return blocks, transactions, covered


async def test_a_disk_that_fills_up(
    disk: Path, on_disk: Endpoints, admin: psycopg.Connection
) -> None:
    """It is said in one sentence that tells what to do; what was committed is whole, and with room
    again the same command stores the rest."""
    dsn, blocks = on_disk.postgres.dsn(Role.INGEST), large_blocks()
    network = await network_of(dsn, "foo", chain_id=99)
    filler = fill(disk, leave_bytes=8 * MIB)
    with pytest.raises(EngineFull, match="no room left on its disk: could not") as caught:
        await ingest_as(blocks, dsn=dsn, network=network, blocks_per_commit=1)
    assert "free some space" in (caught.value.hint or "")
    count, transactions, _ = stored(admin)  # two lanes: a later block may be in before another
    assert 0 < count < BLOCKS
    assert transactions == count
    filler.unlink()
    report = await ingest_as(blocks, dsn=dsn, network=network, blocks_per_commit=1)
    assert (report.blocks, report.skipped) == (BLOCKS - count, count)
    assert stored(admin) == (BLOCKS, BLOCKS, f"{{[0,{BLOCKS})}}")


def test_a_connection_that_a_full_disk_refuses_is_not_waited_for() -> None:
    """The server may write a file of its own before it lets anybody in."""
    words = "connection failed: FATAL:  could not write init file: No space left on device"
    error = explain(psycopg.OperationalError(words), "postgresql://foo@127.0.0.1:5433/bar")
    assert isinstance(error, EngineFull)
    assert error.message == (
        "postgres: 127.0.0.1:5433 has no room left on its disk: "
        "could not write init file: No space left on device"
    )


async def test_a_disk_that_is_full_from_the_start(
    disk: Path, on_disk: Endpoints, admin: psycopg.Connection
) -> None:
    """The first commit fails whole: with its block the new network stays unknown."""
    dsn, blocks = on_disk.postgres.dsn(Role.INGEST), large_blocks()
    new = await find_network(dsn, "foo", chain_id=99)
    fill(disk)
    with pytest.raises(EngineFull, match="no room left on its disk"):
        await ingest_as(blocks, dsn=dsn, network=new, blocks_per_commit=1)
    assert stored(admin) == (0, 0, None)
    unknown = admin.execute("SELECT FROM blockchain.networks WHERE name = 'foo'").fetchone()
    assert unknown is None
