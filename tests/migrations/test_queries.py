"""Every named query of the package is one that the migrated schema understands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import neolayer
from neolayer.chain.model import CONTRACT_COLUMNS, TRANSACTION_COLUMNS
from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.queries import Queries
from neolayer.schema.lines import Line

PACKAGE = Path(neolayer.__file__).parent
PARAMETER = re.compile(r"%\((\w+)\)[sbt]")
PREPARABLE = re.compile(r"(SELECT|INSERT|UPDATE|DELETE|MERGE|WITH|VALUES)\b", re.IGNORECASE)


def query_files() -> Iterator[Path]:
    """`.sql` files with named queries for PostgreSQL: no migrations, no ClickHouse, no dump."""
    lines = {PACKAGE / "schema" / line.value for line in Line}
    for path in sorted(PACKAGE.rglob("*.sql")):
        if path.parent not in lines and path.name != "dump.sql" and "clickhouse" not in path.name:
            yield path


def composed(query: str) -> str:
    """The query with the column lists that the chain's store puts in."""
    columns = CONTRACT_COLUMNS if "contracts" in query else TRANSACTION_COLUMNS
    names = [name for name, _ in columns]
    return query.replace("{columns}", ", ".join(names)).replace(
        "{incoming}", ", ".join(f"i.{name}" for name in names)
    )


def numbered(query: str) -> str:
    """`%(name)s` as `$1`, the same name always the same number."""
    query = composed(query)
    names = list(dict.fromkeys(PARAMETER.findall(query)))
    return PARAMETER.sub(lambda m: f"${names.index(m[1]) + 1}", query).replace("%%", "%")


def refusal(connection: psycopg.Connection, query: str) -> str | None:
    """Why the server would not prepare a query; None if it would."""
    try:
        with connection.transaction():
            connection.execute(f"PREPARE attempt AS {numbered(query)}")
            connection.execute("DEALLOCATE attempt")
    except psycopg.Error as exc:
        return str(exc).splitlines()[0]
    return None


def temporary_tables(queries: Queries) -> Iterator[str]:
    """What a file makes for its own later queries."""
    for query in queries.values():
        if re.match(r"CREATE\s+(TEMP|TEMPORARY)\b", query, re.IGNORECASE):
            yield query


@pytest.mark.parametrize("file", list(query_files()), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_query_can_be_prepared(module_databases: Endpoints, file: Path) -> None:
    """In one of the three databases at least, with parameters whose types the server can tell."""
    queries = Queries(file.read_text(encoding="utf-8"), origin=file.name)
    refusals = {name: "" for name, query in queries.items() if PREPARABLE.match(query)}
    for database in Database:
        dsn = module_databases.cluster(database).dsn(Role.ADMIN, database)
        with psycopg.connect(dsn, autocommit=True) as connection:
            for table in temporary_tables(queries):
                try:
                    with connection.transaction():
                        connection.execute(composed(table))  # type: ignore[arg-type]
                except psycopg.Error:
                    continue
            for name in list(refusals):
                refused = refusal(connection, queries[name])
                if refused is None:
                    del refusals[name]
                else:
                    refusals[name] += f"{database}: {refused}; "
    assert refusals == {}
