"""Applying migrations to MongoDB.

A statement is a database command as extended JSON: `{"create": "audit_logs"};`. There is no
transaction and no lock here: each command may run twice, a mark before each says how far a
migration came, and the migrator's lock is the one that core holds.

A command below a comment that begins with `optional:` may be one that the server does not have
(FerretDB has no validators): what it answered then is kept in the mark. Any other refusal stops.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from bson import json_util
from pymongo.errors import OperationFailure, PyMongoError

from neolayer.engines.endpoints import MongoEndpoint
from neolayer.engines.mongodb.client import (
    Client,
    DocumentDatabase,
    connect,
    database_of,
    explain,
    is_not_implemented,
    reason,
)
from neolayer.errors import MigrationError
from neolayer.schema.files import Direction, Migration
from neolayer.schema.history import Mark, mark_of
from neolayer.schema.lines import Line
from neolayer.schema.statements import comment_of, headline, without_comments
from neolayer.schema.target import OnStatement

MARKS: Final = "schema_marks"
_OPTIONAL: Final = "optional:"
# The command was carried out before: the collection is there, or what is dropped is gone.
_DONE_ALREADY: Final = {"create": {48}, "drop": {26}, "dropIndexes": {26, 27}}


@dataclass(frozen=True, slots=True)
class MongoTarget:
    """One MongoDB database."""

    endpoint: MongoEndpoint
    client: Client
    database: DocumentDatabase
    line: Line = Line.MONGODB
    refused: list[str] = field(default_factory=list[str])

    async def marks(self) -> list[Mark]:
        return [_mark(document) for document in await _documents(self.database, self.endpoint)]

    async def run(
        self, migration: Migration, direction: Direction, *, done: int, on_statement: OnStatement
    ) -> None:
        statements = migration.script(direction).statements
        for number in range(done, len(statements)):
            await self._write(migration, direction, number)
            on_statement(migration, number)
            await self._execute(migration, statements[number])
        on_statement(migration, len(statements))
        await self._write(migration, direction, len(statements), finished=True)
        self.refused.clear()

    async def _execute(self, migration: Migration, statement: str) -> None:
        command = read_command(statement, migration.path)
        try:
            await self.database.command(command)
        except PyMongoError as exc:
            name = next(iter(command))
            if isinstance(exc, OperationFailure) and exc.code in _DONE_ALREADY.get(name, ()):
                return
            if is_not_implemented(exc) and comment_of(statement).startswith(_OPTIONAL):
                self.refused.append(f"{name} {command[name]}: {reason(exc)}")
                return
            raise MigrationError(
                f"{migration.path}: {reason(exc)} [in: {headline(statement)}]"
            ) from exc

    async def _write(
        self, migration: Migration, direction: Direction, done: int, *, finished: bool = False
    ) -> None:
        mark = mark_of(migration, direction, statements_done=done, is_finished=finished)
        marks = self.database[MARKS]
        try:
            if finished and direction is Direction.DOWN:
                await marks.delete_one({"_id": mark.number})
                return
            await marks.update_one(
                {"_id": mark.number},
                {"$set": {**_fields(mark), "written_at": datetime.now(UTC)}}
                | (
                    {"$addToSet": {"refused": {"$each": list(self.refused)}}}
                    if self.refused
                    else {}
                ),
                upsert=True,
            )
        except PyMongoError as exc:
            raise explain(exc, self.endpoint) from exc

    async def close(self) -> None:
        await self.client.close()


def read_command(statement: str, origin: str) -> dict[str, Any]:
    """The command of a statement. Raises MigrationError."""
    try:
        command: object = json_util.loads(without_comments(statement))
    except (ValueError, TypeError) as exc:
        raise MigrationError(f"{origin}: no JSON: {exc} [in: {headline(statement)}]") from exc
    if not isinstance(command, dict) or not command:
        raise MigrationError(f"{origin}: not a command [in: {headline(statement)}]")
    return command  # pyright: ignore[reportUnknownVariableType]


async def open_mongodb_target(endpoint: MongoEndpoint) -> MongoTarget:
    """The database, which MongoDB makes with its first document. Raises EngineUnavailable."""
    client = connect(endpoint)
    return MongoTarget(endpoint, client, database_of(client, endpoint))


async def read_marks(endpoint: MongoEndpoint) -> list[Mark] | None:
    """What the database has seen, by number; None where it was never migrated."""
    target = await open_mongodb_target(endpoint)
    try:
        return await target.marks() or None
    finally:
        await target.close()


async def refusals(endpoint: MongoEndpoint) -> list[str]:
    """What optional commands the server did not have, in its words. Raises EngineUnavailable."""
    target = await open_mongodb_target(endpoint)
    try:
        found = await _documents(target.database, endpoint)
        return [sentence for document in found for sentence in document.get("refused", ())]
    finally:
        await target.close()


async def _documents(database: DocumentDatabase, endpoint: MongoEndpoint) -> list[dict[str, Any]]:
    try:
        return await database[MARKS].find(sort=[("_id", 1)]).to_list()
    except PyMongoError as exc:
        raise explain(exc, endpoint) from exc


def _fields(mark: Mark) -> dict[str, Any]:
    return {
        "line": str(mark.line),
        "name": mark.name,
        "checksum": mark.checksum,
        "direction": str(mark.direction),
        "statements_done": mark.statements_done,
        "is_finished": mark.is_finished,
    }


def _mark(document: dict[str, Any]) -> Mark:
    return Mark(
        document["_id"],
        Line(document["line"]),
        document["name"],
        document["checksum"],
        Direction(document["direction"]),
        document["statements_done"],
        document["is_finished"],
    )
