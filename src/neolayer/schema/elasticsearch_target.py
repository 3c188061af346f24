"""Applying migrations to Elasticsearch or OpenSearch.

A statement is one of two commands, as JSON: `{"create": NAME, "mappings": {...}}` makes an index
and an alias `NAME_live` that leaves out the tombstones of deleted rows; `{"drop": NAME}` removes
both. Each may run twice, a mark before each says how far a migration came, and the migrator's lock
is the one that core holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from neolayer.engines.elasticsearch.client import SearchClient, SearchError
from neolayer.engines.endpoints import ElasticsearchEndpoint
from neolayer.errors import MigrationError
from neolayer.schema.files import Direction, Migration
from neolayer.schema.history import Mark, mark_of
from neolayer.schema.lines import Line
from neolayer.schema.statements import headline, without_comments
from neolayer.schema.target import OnStatement

MARKS: Final = "schema_marks"
_LIVE: Final = {"bool": {"must_not": {"exists": {"field": "relay.deleted_at"}}}}
_MOST_MARKS: Final = 1_000


@dataclass(frozen=True, slots=True)
class ElasticsearchTarget:
    """The layer's indices on one server."""

    endpoint: ElasticsearchEndpoint
    client: SearchClient
    line: Line = Line.ELASTICSEARCH

    async def marks(self) -> list[Mark]:
        """By number; empty where the server was never migrated."""
        index = self.endpoint.index(MARKS)
        if await self.client.call("POST", f"/{index}/_refresh", missing=None) is None:
            return []
        answer = await self.client.call("GET", f"/{index}/_search?size={_MOST_MARKS}")
        found = [_mark(hit["_source"]) for hit in answer["hits"]["hits"]]
        return sorted(found, key=lambda mark: mark.number)

    async def run(
        self, migration: Migration, direction: Direction, *, done: int, on_statement: OnStatement
    ) -> None:
        statements = migration.script(direction).statements
        for number in range(done, len(statements)):
            await self._write(migration, direction, number)
            on_statement(migration, number)
            await self._execute(read_command(statements[number], migration.path))
        on_statement(migration, len(statements))
        await self._write(migration, direction, len(statements), finished=True)

    async def close(self) -> None:
        await self.client.close()

    async def _execute(self, command: dict[str, Any]) -> None:
        if "drop" in command:
            await self.client.call(
                "DELETE", f"/{self.endpoint.index(command['drop'])}", missing=None
            )
            return
        name = self.endpoint.index(command.pop("create"))
        body = {**command, "aliases": {f"{name}_live": {"filter": _LIVE}}}
        try:
            await self.client.call("PUT", f"/{name}", body)
        except SearchError as exc:
            if exc.kind != "resource_already_exists_exception":  # carried out before
                raise

    async def _write(
        self, migration: Migration, direction: Direction, done: int, *, finished: bool = False
    ) -> None:
        mark = mark_of(migration, direction, statements_done=done, is_finished=finished)
        path = f"/{self.endpoint.index(MARKS)}/_doc/{mark.number}"
        if finished and direction is Direction.DOWN:
            await self.client.call("DELETE", path, missing=None)
        else:
            await self.client.call("PUT", path, _fields(mark))


def read_command(statement: str, origin: str) -> dict[str, Any]:
    """The command of a statement. Raises MigrationError."""
    try:
        command: object = orjson.loads(without_comments(statement).rstrip("; \n"))
    except orjson.JSONDecodeError as exc:
        raise MigrationError(f"{origin}: no JSON: {exc} [in: {headline(statement)}]") from exc
    if not isinstance(command, dict) or not ({"create", "drop"} & command.keys()):
        raise MigrationError(f"{origin}: not a command [in: {headline(statement)}]")
    return command  # pyright: ignore[reportUnknownVariableType]


async def open_elasticsearch_target(endpoint: ElasticsearchEndpoint) -> ElasticsearchTarget:
    """The server; it is asked at the first call."""
    return ElasticsearchTarget(endpoint, SearchClient(endpoint))


async def read_marks(endpoint: ElasticsearchEndpoint) -> list[Mark] | None:
    """What the server has seen, by number; None where it was never migrated."""
    target = await open_elasticsearch_target(endpoint)
    try:
        return await target.marks() or None
    finally:
        await target.close()


def _fields(mark: Mark) -> dict[str, Any]:
    return {
        "number": mark.number,
        "line": str(mark.line),
        "name": mark.name,
        "checksum": mark.checksum,
        "direction": str(mark.direction),
        "statements_done": mark.statements_done,
        "is_finished": mark.is_finished,
    }


def _mark(source: dict[str, Any]) -> Mark:
    return Mark(
        source["number"],
        Line(source["line"]),
        source["name"],
        source["checksum"],
        Direction(source["direction"]),
        source["statements_done"],
        source["is_finished"],
    )
