"""The MongoDB line on a real server: FerretDB, which has no validators and no expiry."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeAlias

import pymongo
import pytest

from neolayer.engines.endpoints import Endpoints, MongoEndpoint
from neolayer.engines.mongodb.engine import MongoEngine
from neolayer.errors import MigrationError
from neolayer.schema.files import Direction, parse_migration
from neolayer.schema.lines import Line
from neolayer.schema.mongodb_target import open_mongodb_target, refusals
from neolayer.schema.plan import plan
from neolayer.schema.runner import migrate_down, migrate_up
from neolayer.schema.state import status

pytestmark = pytest.mark.engines
Client: TypeAlias = pymongo.MongoClient[dict[str, Any]]
LINES = (Line.CORE, Line.MONGODB)


@pytest.fixture
def with_mongodb(layer_databases: Endpoints, mongodb_database: MongoEndpoint) -> Endpoints:
    return dataclasses.replace(layer_databases, mongodb=mongodb_database)


def indexes(client: Client, endpoint: MongoEndpoint) -> dict[str, dict[str, Any]]:
    database = client[endpoint.database]
    return {
        name: dict(database[name].index_information()) for name in database.list_collection_names()
    }


async def test_the_line_goes_up_and_down_in_the_one_history(
    with_mongodb: Endpoints, mongodb_client: Client
) -> None:
    """plan, up, status and down cover MongoDB; going up again changes nothing."""
    assert with_mongodb.mongodb is not None
    planned = await plan(with_mongodb, lines=LINES)
    assert [entry.migration.path for entry in planned] == ["mongodb/0047_documents.mongodb"]
    steps = await migrate_up(with_mongodb, lines=LINES)
    assert [step.label for step in steps] == ["mongodb/0047_documents"]
    assert await migrate_up(with_mongodb, lines=LINES) == []
    state = await status(with_mongodb, lines=LINES)
    assert state.is_current
    assert {line.line: line.version for line in state.lines}[Line.MONGODB] == 47
    made = indexes(mongodb_client, with_mongodb.mongodb)
    assert set(made) == {"audit_logs", "contract_metadata", "tenant_documents", "schema_marks"}
    assert made["audit_logs"]["tenant_timestamp"]["key"] == [("tenant_id", 1), ("timestamp", -1)]
    await migrate_down(with_mongodb, lines=(Line.MONGODB,))
    assert set(indexes(mongodb_client, with_mongodb.mongodb)) <= {"schema_marks"}
    assert not (await status(with_mongodb, lines=LINES)).is_current


async def test_without_a_server_the_line_is_not_there(layer_databases: Endpoints) -> None:
    """A layer without MongoDB is complete: nothing of it is pending."""
    state = await status(layer_databases, lines=LINES)
    assert state.is_current
    assert [line.line for line in state.lines] == [Line.CORE]


async def test_what_the_server_lacks_is_kept_in_its_words(with_mongodb: Endpoints) -> None:
    """Validators and expiry are left out, and said so; nothing else may be."""
    assert with_mongodb.mongodb is not None
    await migrate_up(with_mongodb, lines=LINES)
    assert sorted(await refusals(with_mongodb.mongodb)) == [
        "collMod audit_logs: `collMod` command is not implemented yet",
        "collMod contract_metadata: `collMod` command is not implemented yet",
        "collMod tenant_documents: `collMod` command is not implemented yet",
        *(
            f'createIndexes {name}: Index option "expireAfterSeconds" is not implemented yet'
            for name in ("audit_logs", "contract_metadata", "tenant_documents")
        ),
    ]


async def test_a_command_that_is_not_optional_stops(mongodb_database: MongoEndpoint) -> None:
    """What a server lacks is forgiven only where the file says that it may."""
    text = '-- migrate:up\n-- Needed.\n{"collMod": "a", "validator": {}};\n-- migrate:down\n'
    migration = parse_migration(text, line=Line.MONGODB, file="0001_needed.mongodb")
    target = await open_mongodb_target(mongodb_database)
    try:
        with pytest.raises(MigrationError, match="not implemented"):
            await target.run(migration, Direction.UP, done=0, on_statement=lambda *_: None)
        (mark,) = await target.marks()
        assert (mark.statements_done, mark.is_finished) == (0, False)
    finally:
        await target.close()


async def test_the_engine_says_what_it_is(mongodb_database: MongoEndpoint) -> None:
    """Level real, its version, and FerretDB by its name."""
    engine = MongoEngine(mongodb_database)
    try:
        found = await engine.status()
        assert found.healthy, found.detail
        assert found.version == "7.0.42 (FerretDB)"
        assert found.address == mongodb_database.address
    finally:
        await engine.close()
