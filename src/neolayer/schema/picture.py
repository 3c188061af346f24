"""The schema as text: what all migrations together make, and what a database really is.

Written from the catalogues rather than by pg_dump, so that it reads the same on every supported
server and any process can compare a live database with the committed `dump.sql`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable
from importlib import resources
from typing import Any, LiteralString

from clickhouse_connect.driver.asyncclient import AsyncClient

from neolayer.engines.clickhouse.client import connect as connect_clickhouse
from neolayer.engines.endpoints import ClickHouseEndpoint, Endpoints, Role
from neolayer.engines.postgres.connections import Connection, connect
from neolayer.engines.postgres.queries import load_queries
from neolayer.schema.clickhouse_target import QUERIES as CLICKHOUSE_QUERIES
from neolayer.schema.clickhouse_target import query
from neolayer.schema.lines import Line

QUERIES = load_queries("neolayer.schema", "picture.sql")
FILE = "dump.sql"
_SECTION = "-- line: {}\n"
_PREAMBLE = """\
-- What all migrations together make, written by `python -m neolayer.schema.dump --write`.
-- A picture to compare with, not a script to run.

"""


async def dump(endpoints: Endpoints, lines: Collection[Line] = tuple(Line)) -> dict[Line, str]:
    """Each line's database as text. Raises EngineUnavailable.

    Not those of stores of documents: what was made there is read back differently by each server.
    """
    drawn = [line for line in Line if line in lines and line.suffix == ".sql"]
    return {line: await _dump_line(endpoints, line) for line in drawn}


async def _dump_line(endpoints: Endpoints, line: Line) -> str:
    if line.database is None:
        return await _dump_clickhouse(endpoints.clickhouse)
    dsn = endpoints.cluster(line.database).dsn(Role.OPERATOR, line.database)
    async with await connect(dsn, autocommit=True, application_name="dump") as connection:
        return await dump_postgres(connection)


async def dump_postgres(connection: Connection) -> str:
    """One PostgreSQL database; names are qualified whatever the search path was."""
    await connection.execute("SELECT set_config('search_path', '', false)")
    blocks = await _plain(connection, QUERIES.schemas)
    blocks += await _plain(connection, QUERIES.default_rights)
    blocks += await _plain(connection, QUERIES.functions)
    for oid, headline, properties, rights, owner in await _rows(connection, QUERIES.relations):
        parts = await _rows(connection, QUERIES.parts, {"relation": oid})
        lines = [*properties, *(part for (part,) in parts), *_rights(rights, owner)]
        blocks.append("\n".join([headline, *(_indented(line) for line in lines)]))
    blocks += await _plain(connection, QUERIES.publications)
    return "\n\n".join(blocks) + "\n"


async def _plain(connection: Connection, text: LiteralString) -> list[str]:
    return [
        "\n".join([headline.rstrip(), *(_indented(line) for line in _rights(rights, owner))])
        for headline, rights, owner in await _rows(connection, text)
    ]


async def _rows(
    connection: Connection, text: LiteralString, values: dict[str, Any] | None = None
) -> list[tuple[Any, ...]]:
    return await (await connection.execute(text, values or {})).fetchall()


def _indented(text: str) -> str:
    return "\n".join(f"    {line.strip()}" for line in text.splitlines())


def _rights(rights: Iterable[str] | None, owner: str) -> list[str]:
    """`grantee=letters/grantor`, without the owner's own, which grow from version to version."""
    named = sorted(right.split("/")[0] for right in rights or ())
    others = [right for right in named if not right.startswith(f"{owner}=")]
    return [f"OWNER {owner}", *(f"GRANT {right}" for right in others)]


async def _dump_clickhouse(endpoint: ClickHouseEndpoint) -> str:
    client = await connect_clickhouse(endpoint)
    try:
        return await dump_clickhouse(client, endpoint.database)
    finally:
        await client.close()


async def dump_clickhouse(client: AsyncClient, database: str) -> str:
    """One ClickHouse database, under the name that the layer gives it by default."""
    tables = await query(client, CLICKHOUSE_QUERIES.table_definitions, {"database": database})
    texts = (_broken(definition.replace(f"{database}.", "", 1)) for _, definition in tables)
    return "\n\n".join(texts) + "\n"


def _broken(definition: str) -> str:
    """ClickHouse writes a table on one line; a line a column is easier to compare."""
    broken = re.sub(r", (?=`|INDEX )", ",\n    ", definition)
    return re.sub(r" (ENGINE|ORDER BY|TTL|SETTINGS) ", r"\n\1 ", broken)


def committed() -> dict[Line, str]:
    """The sections of the committed dump."""
    text = (resources.files("neolayer.schema") / FILE).read_text(encoding="utf-8")
    sections = re.split(r"^-- line: (\w+)\n", text, flags=re.MULTILINE)[1:]
    return {
        Line(name): body.strip() + "\n"
        for name, body in zip(sections[::2], sections[1::2], strict=True)
    }


def differences(expected: str, found: str) -> list[str]:
    """Lines that are missing (`-`) or too many (`+`), in place; empty where both are equal."""
    lines = difflib.unified_diff(expected.splitlines(), found.splitlines(), lineterm="", n=0)
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


def render(sections: dict[Line, str]) -> str:
    """The text of `dump.sql`."""
    return _PREAMBLE + "\n".join(_SECTION.format(line) + text for line, text in sections.items())
