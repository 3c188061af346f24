"""Rows that are in the way of a migration: which, of what table, and the way out.

PostgreSQL says only that some row violates a constraint. Whoever upgrades must know where to look
and what to mend, so the error names table and columns, and its hint is the query that finds them.
"""

from __future__ import annotations

import re

import psycopg
from psycopg import sql

from neolayer.engines.postgres.connections import Connection
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import MigrationError
from neolayer.schema.files import Migration
from neolayer.schema.statements import without_comments

QUERIES = load_queries(__name__)
VIOLATIONS = (psycopg.errors.CheckViolation, psycopg.errors.NotNullViolation)
_PARENTHESIS = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|(?P<open>\()|(?P<close>\))")


class RowsInTheWay(Exception):
    """A statement met rows that it may not leave as they are."""

    def __init__(self, refused: psycopg.Error) -> None:
        super().__init__(str(refused))
        self.refused = refused


async def explained(
    connection: Connection, migration: Migration, script: str, refused: psycopg.Error
) -> MigrationError:
    """The error for people, once the migration is rolled back."""
    said = refused.diag
    if said.schema_name is None or said.table_name is None:
        return MigrationError(f"{migration.path}: {str(refused).splitlines()[0]}")
    names = {"schema": said.schema_name, "table": said.table_name}
    table = sql.Identifier(said.schema_name, said.table_name).as_string(connection)
    columns: dict[str, bool] = dict(
        await (await connection.execute(QUERIES.columns, names)).fetchall()
    )
    demanded = await _demanded(connection, script, refused)
    named = [name for name in columns if re.search(rf"\b{re.escape(name)}\b", demanded or "")]
    if not named:
        against = said.constraint_name or f"{said.column_name} IS NOT NULL"
        return MigrationError(
            f"{migration.path}: {table} has rows that are against {against}",
            hint="mend or delete these rows, then migrate again",
        )
    key = ", ".join(name for name, is_key in columns.items() if is_key) or "ctid"
    find = f"SELECT {key} FROM {table} WHERE NOT ({demanded})"  # noqa: S608  for people to read
    return MigrationError(
        f"{migration.path}: {table} has rows whose {' and '.join(named)} may be so no longer:"
        f" {demanded}",
        hint=f"find them as a superuser: {find}; mend or delete them, then migrate again",
    )


async def _demanded(connection: Connection, script: str, refused: psycopg.Error) -> str | None:
    """What must be true of each row; None where nobody says."""
    said = refused.diag
    if said.constraint_name is None:
        return f"{said.column_name} IS NOT NULL" if said.column_name else None
    if (written := check_of(said.constraint_name, script)) is not None:
        return written
    names = {
        "schema": said.schema_name,
        "table": said.table_name,
        "constraint": said.constraint_name,
    }
    row = await (await connection.execute(QUERIES.check_expression, names)).fetchone()
    return None if row is None else row[0]


def check_of(constraint: str, script: str) -> str | None:
    """The expression of a named check that a script adds, on one line."""
    text = without_comments(script)
    head = re.search(rf"\bCONSTRAINT\s+\"?{re.escape(constraint)}\"?\s+CHECK\s*\(", text, re.I)
    if head is None:
        return None
    depth = 1
    for found in _PARENTHESIS.finditer(text, head.end()):
        depth += (found["open"] is not None) - (found["close"] is not None)
        if depth == 0:
            return " ".join(text[head.end() : found.start()].split())
    return None
