"""Migrating from nothing, to nothing, and again."""

from __future__ import annotations

import psycopg
import pytest

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.errors import MigrationError
from neolayer.schema.files import Direction, load_migrations
from neolayer.schema.lines import POSTGRES_LINES
from neolayer.schema.runner import migrate_down, migrate_up

POSTGRES_MIGRATIONS = [m for m in load_migrations() if m.line in POSTGRES_LINES]
OBJECTS = """
SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'S', 'm')
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'neolayer_schema')
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
"""


def query(endpoints: Endpoints, database: Database, text: str) -> list[tuple[object, ...]]:
    dsn = endpoints.cluster(database).dsn(Role.ADMIN, database)
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(text).fetchall()  # type: ignore[arg-type]


async def test_up_from_nothing_applies_everything_once(no_databases: Endpoints) -> None:
    """The first run applies all files in order; the second finds nothing to do."""
    steps = await migrate_up(no_databases, lines=POSTGRES_LINES)
    assert [step.number for step in steps] == [m.number for m in POSTGRES_MIGRATIONS]
    assert await migrate_up(no_databases, lines=POSTGRES_LINES) == []


async def test_down_to_nothing_and_up_again(no_databases: Endpoints) -> None:
    """All the way down leaves no table behind, and the way up is open again."""
    await migrate_up(no_databases, lines=POSTGRES_LINES)
    steps = await migrate_down(no_databases, to="0", lines=POSTGRES_LINES)
    assert [step.number for step in steps] == [m.number for m in reversed(POSTGRES_MIGRATIONS)]
    assert {step.direction for step in steps} == {Direction.DOWN}
    for database in Database:
        assert query(no_databases, database, OBJECTS) == []
    assert len(await migrate_up(no_databases, lines=POSTGRES_LINES)) == len(POSTGRES_MIGRATIONS)


async def test_the_history_tells_all_of_it_in_order(no_databases: Endpoints) -> None:
    """One history in the core database holds every step of every line, up and down."""
    await migrate_up(no_databases, lines=POSTGRES_LINES)
    await migrate_down(no_databases, lines=POSTGRES_LINES)
    rows = query(
        no_databases,
        Database.CORE,
        "SELECT number, direction FROM neolayer_schema.history ORDER BY id",
    )
    numbers = [m.number for m in POSTGRES_MIGRATIONS]
    assert rows == [*((number, "up") for number in numbers), (numbers[-1], "down")]


async def test_up_to_a_number_stops_there(no_databases: Endpoints) -> None:
    """`to` is inclusive, and the rest can follow later."""
    second = POSTGRES_MIGRATIONS[1]
    steps = await migrate_up(no_databases, to=second.label, lines=POSTGRES_LINES)
    assert [step.number for step in steps] == [m.number for m in POSTGRES_MIGRATIONS[:2]]
    rest = await migrate_up(no_databases, lines=POSTGRES_LINES)
    assert [step.number for step in rest] == [m.number for m in POSTGRES_MIGRATIONS[2:]]


async def test_a_target_that_is_no_number_is_refused(no_databases: Endpoints) -> None:
    """A slip of the pen must not become 'everything'."""
    with pytest.raises(MigrationError, match="not a migration's number"):
        await migrate_up(no_databases, to="latest", lines=POSTGRES_LINES)
