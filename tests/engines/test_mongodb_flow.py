"""From the layer's tables into MongoDB (FerretDB): what flows, what agrees, what never leaves."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import tempfile
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import psycopg
import pymongo
import pytest
from bson import json_util
from tests.fixtures.fix_relay import flushed
from tests.fixtures.patience import PATIENCE, PATIENCE_S
from tests.security.test_identity_canaries import Heard, live, traced

from neolayer.engines.endpoints import Endpoints, MongoEndpoint, Role
from neolayer.freshness import Store, wait_for
from neolayer.identity import PasswordHasher
from neolayer.keys import Keyring
from neolayer.platform import data_classes
from neolayer.position import Position
from neolayer.relay.comparing.report import Kind, TableReport
from neolayer.relay.comparing.stores import reconcile
from neolayer.relay.run import run_sinks
from neolayer.relay.sinks.mongodb import MongoSink
from neolayer.relay.where import State, where
from neolayer.schema.lines import Line
from neolayer.schema.runner import migrate_up
from neolayer.settings import RelaySettings

pytestmark = pytest.mark.engines
Client: TypeAlias = pymongo.MongoClient[dict[str, Any]]
TENANT = "0190163d-8694-739b-aea5-966c26f8ad91"
NETWORK = "00000000-0000-0000-0000-000000000001"
CONTRACT = "0x" + "ab" * 20
SETTINGS = RelaySettings(batch_seconds=0.02)
ROWS = (
    f"INSERT INTO core.tenants (id, name, identifier) VALUES ('{TENANT}', 'Acme', 'acme')",
    f"""INSERT INTO core.tenant_data (tenant_id, data_id, data)
    SELECT '{TENANT}', gen_random_uuid(), jsonb_build_object('number', g, 'text', repeat('x', g))
    FROM generate_series(1, 300) g""",
    f"""INSERT INTO audit.entries (tenant_id, principal, action, resource, resource_id, changes,
        ip_address, success)
    VALUES ('{TENANT}', 'service:billing', 'UPDATE', 'invoice', '7', '{{"paid": [false, true]}}',
        '192.0.2.1', true)""",
    """INSERT INTO audit.entries (principal, action, resource, success, error_message)
    VALUES ('anonymous', 'LOGIN', 'session', false, 'no such user')""",
    f"""INSERT INTO blockchain.networks (id, name, chain_id, network_type)
    VALUES ('{NETWORK}', 'synthetic', 1337, 'evm')""",
    f"""INSERT INTO blockchain.smart_contracts (network_id, address, name, abi, bytecode)
    VALUES ('{NETWORK}', '{CONTRACT}', 'Token', '[{{"type": "constructor"}}]', '0x6000')""",
)
DELETE_ONE = "DELETE FROM core.tenant_data WHERE data->>'number' = '5'"


@pytest.fixture
async def layer(layer_databases: Endpoints, mongodb_database: MongoEndpoint) -> Endpoints:
    endpoints = dataclasses.replace(layer_databases, mongodb=mongodb_database)
    await migrate_up(endpoints, lines=(Line.CORE, Line.MONGODB))
    return endpoints


@contextlib.asynccontextmanager
async def relaying(at: Endpoints) -> AsyncIterator[None]:
    """The relay with this one sink, stopped cleanly at the end."""
    assert at.mongodb is not None
    stop = asyncio.Event()
    sink = MongoSink(at.mongodb, data_classes(), wait_s=0.02)
    task = asyncio.create_task(run_sinks(at.postgres.dsn(Role.RELAY), [sink], SETTINGS, stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(task, PATIENCE_S)


def write(at: Endpoints, *statements: str) -> Position:
    with psycopg.connect(at.postgres.dsn(Role.ADMIN), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[arg-type]
        return flushed(connection)


async def arrives(at: Endpoints, position: Position) -> None:
    await wait_for(position, at, stores=[Store.MONGODB], timeout=PATIENCE)


async def compared(
    at: Endpoints, *, repair: bool = False, deep: bool = False
) -> dict[str, TableReport]:
    reports = reconcile(
        at,
        data_classes(),
        stores=[Store.MONGODB],
        repair=repair,
        deep=deep,
        patience=PATIENCE,
    )
    return {one.table: one async for one in reports}


async def test_rows_become_documents_and_agree(layer: Endpoints, mongodb_client: Client) -> None:
    """Those that were there and those that come: the specification's collections hold them, and a
    comparison as of one position finds 0 differences."""
    assert layer.mongodb is not None
    database = mongodb_client[layer.mongodb.database]
    write(layer, *ROWS[:2])
    async with relaying(layer):
        await arrives(layer, write(layer, *ROWS[2:]))
        reports = await compared(layer)
        await arrives(
            layer, write(layer, "DELETE FROM core.tenant_data WHERE data->>'number' = '5'")
        )
        again = await compared(layer)
    tables = {"audit.entries", "core.tenant_data", "blockchain.smart_contracts"}
    assert {table: (one.total, one.agrees) for table, one in reports.items()} == dict.fromkeys(
        tables, (0, True)
    )
    assert (reports["core.tenant_data"].rows, again["core.tenant_data"].rows) == (300, 299)
    assert all(one.agrees for one in again.values())
    (paid,) = database.audit_logs.find({"tenant_id": TENANT, "resource": "invoice"})
    assert (paid["action"], paid["changes"]) == ("UPDATE", {"paid": [False, True]})
    assert (paid["ip_address"], paid["success"]) == ("192.0.2.1", True)
    assert paid["timestamp"].tzinfo is not None
    (login,) = database.audit_logs.find({"action": "LOGIN"})
    assert "user_id" not in login
    assert "tenant_id" not in login
    (contract,) = database.contract_metadata.find()
    assert contract["_id"] == {"network": NETWORK, "address": CONTRACT}
    assert (contract["name"], contract["abi"]) == ("Token", [{"type": "constructor"}])
    assert "bytecode" not in contract
    number = {"tenant_id": TENANT, "data.number": 12}
    assert database.tenant_documents.find_one(number, {"data.text": 1})["data"]["text"] == "x" * 12


async def test_what_was_altered_is_found_and_put_right(
    layer: Endpoints, mongodb_client: Client
) -> None:
    """Missing, too many, differing, from the future: each is found, and gone after a repair."""
    assert layer.mongodb is not None
    documents = mongodb_client[layer.mongodb.database].tenant_documents
    async with relaying(layer):
        await arrives(layer, write(layer, *ROWS[:2]))
        one, two, three = documents.find({}, sort=[("_id", 1)], limit=3)
        documents.delete_one({"_id": one["_id"]})
        documents.update_one({"_id": two["_id"]}, {"$inc": {"_digest_low": 1}})
        documents.update_one(
            {"_id": three["_id"]}, {"$inc": {"_version": 1 << 40, "_digest_high": 1}}
        )
        stray = {**one, "_id": {**one["_id"], "data_id": "f" * 8 + "-0000-4000-8000-000000000000"}}
        documents.insert_one(stray)
        found = (await compared(layer))["core.tenant_data"]
        assert found.total == 4
        assert not found.agrees
        assert {one.kind for one in found.differences} >= {Kind.MISSING, Kind.AHEAD}
        repaired = (await compared(layer, repair=True))["core.tenant_data"]
        assert repaired.agrees
        assert (await compared(layer))["core.tenant_data"].total == 0


async def test_what_somebody_altered_under_its_checksum_is_found_by_a_deep_look(
    layer: Endpoints, mongodb_client: Client
) -> None:
    """Another value, one taken away and one added: the columns are named, the repair verified."""
    assert layer.mongodb is not None
    documents = mongodb_client[layer.mongodb.database].tenant_documents
    async with relaying(layer):
        await arrives(layer, write(layer, *ROWS[:2]))
        assert all(one.total == 0 for one in (await compared(layer, deep=True)).values())
        one, two, three = documents.find({}, sort=[("_id", 1)], limit=3)
        documents.update_one({"_id": one["_id"]}, {"$set": {"data": {"text": "forged"}}})
        documents.update_one({"_id": two["_id"]}, {"$unset": {"created_at": ""}})
        documents.update_one({"_id": three["_id"]}, {"$set": {"planted": True}})
        assert (await compared(layer))["core.tenant_data"].total == 0
        found = (await compared(layer, deep=True))["core.tenant_data"]
        assert {one.kind for one in found.differences} == {Kind.ALTERED}
        assert [one.columns for one in found.differences] == [
            ("data",),
            ("created_at",),
            ("planted",),
        ]
        repaired = (await compared(layer, deep=True, repair=True))["core.tenant_data"]
        assert (repaired.agrees, repaired.repaired, repaired.left) == (True, 3, 0)
        assert (await compared(layer, deep=True))["core.tenant_data"].total == 0


async def test_E12_no_secret_reaches_mongodb(
    layer: Endpoints,
    mongodb_client: Client,
    hasher: PasswordHasher,
    keyring: Keyring,
) -> None:
    """People's passwords, seeds, codes and tokens, their hashes and what is sealed: not one is in
    any document, while the audit trail of what they did is."""
    assert layer.mongodb is not None
    heard = Heard()
    async with relaying(layer):
        with tempfile.TemporaryFile() as wire:
            async with traced(layer, hasher, keyring, wire) as people:
                await live(people, heard)
        await arrives(layer, write(layer, "SELECT 1"))
    database = mongodb_client[layer.mongodb.database]
    text = "\n".join(
        json_util.dumps(document)
        for name in database.list_collection_names()
        for document in database[name].find()
    )
    assert database.audit_logs.count_documents({}) > 5
    assert heard.found(text) == []
    assert "argon2id" not in text
    assert [one for one in sealed_texts(layer) if one in text] == []


def sealed_texts(at: Endpoints) -> list[str]:
    """What is stored in the columns that the catalogue calls sealed."""
    found: list[str] = []
    with psycopg.connect(at.postgres.dsn(Role.ADMIN)) as admin:
        for one in data_classes():
            for sealed in one.sealed_fields if one.database == "neolayer" else ():
                rows = admin.execute(
                    f"SELECT {sealed.column}::text FROM {one.table}"  # type: ignore[arg-type]
                    f" WHERE {sealed.column} IS NOT NULL"
                ).fetchall()
                found += [text for (text,) in rows]
    assert found
    return found


async def test_nothing_hides_from_a_comparison(layer: Endpoints, mongodb_client: Client) -> None:
    """Documents of others, and a right one under a version that nobody committed, are differences,
    whatever their keys are; a repair removes them. A right row is the same for `where`, although
    the document writes its instants otherwise."""
    assert layer.mongodb is not None
    documents = mongodb_client[layer.mongodb.database].tenant_documents
    async with relaying(layer):
        await arrives(layer, write(layer, *ROWS[:3]))
        (known,) = [one for one in data_classes() if one.table == "core.tenant_data"]
        name = documents.find_one({"data.number": 7})["_id"]["data_id"]  # type: ignore[index]
        (row,) = await where(layer, known, name)
        assert {copy.engine: copy.state for copy in row.copies}["mongodb"] is State.SAME
        ahead = 9_000_000_000_000_000_000
        documents.update_one({"data.number": 7}, {"$set": {"_version": ahead}})
        template = documents.find_one({"data.number": 8}) or {}
        stray = {key: value for key, value in template.items() if not key.startswith("_")}
        documents.insert_many([{**stray, "_id": number} for number in (-1, 1)])
        found = (await compared(layer))["core.tenant_data"]
        assert (found.counts[Kind.EXTRA], found.counts[Kind.AHEAD], found.total) == (2, 1, 3)
        repaired = (await compared(layer, repair=True))["core.tenant_data"]
        assert repaired.agrees and repaired.repaired == 3
        assert (await compared(layer))["core.tenant_data"].total == 0
