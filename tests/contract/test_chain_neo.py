"""Neo N3 blocks in the real tables, whose checks decide what a hash and an address is."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest_asyncio
from tests.fixtures.fix_chain import EMPTY, Stored
from tests.fixtures.neo_dump import read_dump
from tests.fixtures.shared_data import shared_data

from neolayer.chain.model import BlockRows, Network
from neolayer.chain.neo import CONTRACT_MANAGEMENT, decode_block
from neolayer.chain.registry import ensure_network
from neolayer.chain.store import open_store
from neolayer.engines.endpoints import Endpoints, Role
from neolayer.engines.postgres.connections import connect


@pytest_asyncio.fixture
async def neo(module_databases: Endpoints) -> AsyncIterator[Stored]:
    """The preset network `neo-n3-testnet`, of which nothing is stored."""
    cluster = module_databases.postgres
    dsn = cluster.dsn(Role.INGEST)
    async with (
        await connect(
            cluster.dsn(Role.ADMIN, "neolayer"), autocommit=True, application_name="tests"
        ) as admin,
        await connect(dsn, autocommit=True, application_name="tests") as connection,
    ):
        await admin.execute(EMPTY)
        yield Stored(await ensure_network(connection, "neo-n3-testnet"), dsn, admin)


def _said(contract: str, event: str, *values: dict[str, Any]) -> dict[str, Any]:
    return {
        "contract": contract,
        "eventname": event,
        "state": {"type": "Array", "value": [*values]},
    }


def _application_logs(block: dict[str, Any]) -> list[bytes]:
    """Every transaction deploys a contract named after it, and the last one faults."""
    logs: list[bytes] = []
    for item in block["tx"]:
        raw = bytes.fromhex(item["hash"][2:42])
        named = {"type": "ByteString", "value": base64.b64encode(raw).decode()}
        last = item is block["tx"][-1]
        run = {
            "trigger": "Application",
            "vmstate": "FAULT" if last else "HALT",
            "gasconsumed": item["sysfee"],
            "exception": "no\0more" if last else None,
            "notifications": [_said(CONTRACT_MANAGEMENT, "Deploy", named)],
        }
        logs.append(msgspec.json.encode({"txid": item["hash"], "executions": [run]}))
    return logs


def _decoded(network: Network) -> list[BlockRows]:
    blocks = read_dump(shared_data("data", "chain", "neo", "chain50x2.acc"))
    return [
        decode_block(
            msgspec.json.encode(block),
            network=network,
            application_logs=_application_logs(block),
            verify=True,
            origin=f"block {block['index']}",
        )
        for block in blocks
    ]


async def test_real_blocks_of_neo_n3_fit_the_tables(neo: Stored) -> None:
    """Fifty verified blocks are stored with transactions, logs and contracts; none is refused."""
    blocks = _decoded(neo.network)
    async with open_store(neo.dsn, neo.network) as store:
        commit = await store.commit(blocks)
    assert (commit.blocks, commit.transactions, commit.logs) == (50, 97, 48)
    assert commit.refused == ()
    statuses = list((await neo.statuses()).values())
    assert (statuses.count("confirmed"), statuses.count("failed")) == (48, 49)
    (failed, *_) = await neo.rows(
        "SELECT envelope, from_address FROM blockchain.transactions WHERE status = 'failed'"
    )
    assert failed["from_address"].startswith("N")
    assert failed["envelope"]["exception"] == "no\ufffdmore"
    (log, *_) = await neo.rows("SELECT topic0, data FROM blockchain.logs")
    assert log["topic0"] == "Deploy"
    assert json.loads(log["data"])["type"] == "Array"
    contracts = "SELECT count(*) FROM blockchain.smart_contracts WHERE deployed_by LIKE 'N%%'"
    assert await neo.value(contracts) == 48
