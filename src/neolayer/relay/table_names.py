"""Which declared table an id of the log is, whatever the server calls it.

The server announces each table with its id and its name. The name of a partitioned table is told
once for each of its partitions, and not again when only the table was renamed: what it announced of
a partition it lets go of when that is altered, not when its parent is. So a table that was renamed
and renamed back may be told under the other name until the connection ends. The id stays.

At each start of the stream the database is asked for the ids of its published tables. One that is
renamed meanwhile stays the table it was, so what is written to it under the other name arrives;
which id it was is kept beside the log for a relay that starts then. Only where another table has
its name by now does it go by its new one. What was announced before the question is answered by it;
a name that is news after it lets the stream begin again, with the question asked anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import psycopg
from msgspec.structs import replace

from neolayer.engines.postgres.connections import connect, explain
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import RelayError
from neolayer.relay.changes import Relation

_FILE: Final = "tables"
_sql = load_queries(__name__, "queries.sql")


class TableRenamed(RelayError):
    """A table has another name, or its name another table."""


@dataclass(frozen=True, slots=True)
class TableNames:
    """What is known of ids as of a position of the log.

    `live` are the names that the published tables had then; `declared` the names that sinks copy,
    `names` theirs by id. `told` are the news that let the stream begin again though the database
    does not say so, which once is enough for.
    """

    as_of: int
    live: Mapping[int, str]
    declared: frozenset[str]
    names: Mapping[int, str]
    told: set[tuple[int, str]]

    def named(self, relation: Relation, lsn: int) -> Relation:
        """The table as sinks know it, announced in a transaction that committed there.

        Raises TableRenamed where that is to be looked up again.
        """
        known = self.names.get(relation.id)
        if lsn >= self.as_of and self._is_news(relation, known):
            self.told.add((relation.id, relation.table))
            raise TableRenamed(
                f"{known or 'a table'} is {relation.table} now: looking up which table that is"
            )
        if known is None or known == relation.table:
            return relation
        schema, _, name = known.partition(".")
        return replace(relation, schema=schema, name=name)

    def _is_news(self, relation: Relation, known: str | None) -> bool:
        if (relation.id, relation.table) in self.told:
            return False
        if known is None:
            return relation.table in self.declared
        return relation.table not in (known, self.live[relation.id])


def ids_of_declared(
    live: Mapping[int, str], declared: frozenset[str], kept: Mapping[str, int]
) -> dict[str, int]:
    """The id of each declared table: of what bears its name, or else of what bore it and is still
    there under a name that nobody declares."""
    bearers = {name: number for number, name in live.items()}
    found = {table: bearers.get(table, kept.get(table, -1)) for table in declared}
    return {
        table: number
        for table, number in found.items()
        if number in live and (live[number] == table or live[number] not in declared)
    }


def look_up(
    folder: Path,
    live: Mapping[int, str],
    declared: frozenset[str],
    *,
    as_of: int,
    told: set[tuple[int, str]],
) -> TableNames:
    """The tables as they are called now, with what the folder has of them.

    News in `told` that this confirms are none any more: taken back and told again, they are news
    again. Raises RelayError.
    """
    told.difference_update(live.items())
    path = folder / _FILE
    try:
        kept = _kept(path)
        ids = ids_of_declared(live, declared, kept)
        if (now := kept | ids) != kept:
            unfinished = path.with_suffix(".new")
            unfinished.write_bytes(msgspec.json.encode(now))
            unfinished.replace(path)
    except OSError as exc:
        raise RelayError(f"{path} cannot be used: {exc.strerror or exc}") from exc
    return TableNames(as_of, live, declared, {ids[table]: table for table in ids}, told)


def _kept(path: Path) -> dict[str, int]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, int])
    except (FileNotFoundError, msgspec.DecodeError):
        return {}


async def published_tables(dsn: str, publication: str) -> dict[int, str]:
    """The published tables' names (`schema.table`) by id. Raises EngineUnavailable."""
    try:
        async with await connect(dsn, autocommit=True, application_name="relay") as connection:
            found = await connection.execute(_sql.tables, {"publication": publication})
            return {int(number): str(name) for number, name in await found.fetchall()}
    except psycopg.Error as exc:
        raise explain(exc, dsn) from exc
