"""C16: a migrator killed between any two statements, and what it leaves to the next one."""

from __future__ import annotations

import asyncio
import base64
import pickle
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.errors import MigrationError
from neolayer.schema.files import load_migrations
from neolayer.schema.lines import POSTGRES_LINES, Line
from neolayer.schema.picture import committed, dump
from neolayer.schema.runner import migrate_down, migrate_up

LINES = (Line.CORE, Line.EVENT_STORE)
HISTORY = {
    "core/0001_things.sql": """
-- migrate:up
CREATE SCHEMA toy;
CREATE TABLE toy.things (id int PRIMARY KEY, name text);
INSERT INTO toy.things SELECT g, 'thing ' || g FROM generate_series(1, 100) AS g;
-- migrate:down
DROP TABLE toy.things;
DROP SCHEMA toy;
""",
    "core/0002_index.sql": """
-- migrate:up transaction:false
CREATE INDEX CONCURRENTLY IF NOT EXISTS things_name ON toy.things (name);
ALTER TABLE toy.things ADD COLUMN IF NOT EXISTS size int;
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS things_both ON toy.things (name, size);
-- migrate:down transaction:false
DROP INDEX CONCURRENTLY IF EXISTS toy.things_both;
ALTER TABLE toy.things DROP COLUMN IF EXISTS size;
DROP INDEX CONCURRENTLY IF EXISTS toy.things_name;
""",
    "event_store/0003_facts.sql": """
-- migrate:up
CREATE SCHEMA toy;
CREATE TABLE toy.facts (id int PRIMARY KEY);
-- migrate:down
DROP TABLE toy.facts;
DROP SCHEMA toy;
""",
    "core/0004_more.sql": """
-- migrate:up
ALTER TABLE toy.things ADD COLUMN colour text;
UPDATE toy.things SET colour = 'red';
-- migrate:down
ALTER TABLE toy.things DROP COLUMN colour;
""",
}


def write_history(folder: Path, files: dict[str, str] = HISTORY) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text.lstrip())
    return folder


class CrashingMigrator:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def is_killed_at(self, boundary: int) -> bool:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{boundary}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        assert answer in ("killed", "done 0"), answer
        return answer == "killed"


@contextmanager
def crashing_migrator(
    endpoints: Endpoints, folder: Path | None, lines: Sequence[Line]
) -> Iterator[CrashingMigrator]:
    script = Path(__file__).with_name("crashing_migrator.py")
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        secret = base64.b64encode(pickle.dumps((endpoints, folder, lines))).decode()
        process.stdin.write(f"{secret}\n")
        yield CrashingMigrator(process)
        process.stdin.close()


def picture(endpoints: Endpoints, lines: Sequence[Line]) -> dict[Line, str]:
    return asyncio.run(dump(endpoints, lines))


def books(endpoints: Endpoints) -> list[tuple[object, ...]]:
    with psycopg.connect(endpoints.postgres.dsn(Role.ADMIN, Database.CORE)) as connection:
        return connection.execute(
            "SELECT DISTINCT ON (number) number, direction FROM neolayer_schema.history"
            " ORDER BY number, id DESC"
        ).fetchall()


def things(endpoints: Endpoints) -> list[tuple[object, ...]]:
    with psycopg.connect(endpoints.postgres.dsn(Role.ADMIN, Database.CORE)) as connection:
        return connection.execute("SELECT count(*), count(colour) FROM toy.things").fetchall()


def test_C16_killed_at_every_boundary_and_resumed(
    no_databases: Endpoints, traversable_tmp: Path
) -> None:
    """Whichever statement it died at, the next run ends where an undisturbed one does."""
    folder = write_history(traversable_tmp)
    migrations = load_migrations(folder)
    asyncio.run(migrate_up(no_databases, lines=LINES, migrations=migrations))
    expected = picture(no_databases, LINES), books(no_databases)
    boundary = 0
    with crashing_migrator(no_databases, folder, LINES) as migrator:
        while True:
            asyncio.run(migrate_down(no_databases, to="0", lines=LINES, migrations=migrations))
            if not migrator.is_killed_at(boundary):
                break
            assert not migrator.is_killed_at(10**9)
            assert (picture(no_databases, LINES), books(no_databases)) == expected, boundary
            assert things(no_databases) == [(100, 100)]
            boundary += 1
    statements = sum(len(migration.up.statements) for migration in migrations)
    assert boundary == statements + 2 * len(migrations)


def test_C16_the_real_history_survives_one_kill_after_another(no_databases: Endpoints) -> None:
    """Killed again and again on its way up, the schema ends up as committed."""
    dice = random.Random(20260101)
    kills = 0
    with crashing_migrator(no_databases, None, POSTGRES_LINES) as migrator:
        while migrator.is_killed_at(dice.randrange(10 + 8 * kills, 20 + 10 * kills)):
            kills += 1
    assert kills >= 3
    expected = committed()
    assert picture(no_databases, POSTGRES_LINES) == {
        line: expected[line] for line in POSTGRES_LINES
    }


def test_C16_killed_on_the_way_down_goes_on_down(
    no_databases: Endpoints, traversable_tmp: Path
) -> None:
    """What was begun outside a transaction is finished in its own direction first."""
    folder = write_history(traversable_tmp)
    migrations = load_migrations(folder)

    class Killed(Exception):
        pass

    def stop_after_first(migration: object, done: int) -> None:
        if done == 1:
            raise Killed

    async def interrupted() -> None:
        await migrate_up(no_databases, to="2", lines=LINES, migrations=migrations)
        with pytest.raises(Killed):
            await migrate_down(
                no_databases,
                to="1",
                lines=LINES,
                migrations=migrations,
                on_statement=stop_after_first,
            )
        steps = await migrate_up(no_databases, lines=LINES, migrations=migrations)
        assert [(step.number, step.direction) for step in steps] == [
            (2, "down"),
            (2, "up"),
            (3, "up"),
            (4, "up"),
        ]

    asyncio.run(interrupted())


def test_C16_a_half_built_index_is_cleared_away(
    no_databases: Endpoints, traversable_tmp: Path
) -> None:
    """IF NOT EXISTS would keep an index that a failed concurrent build left invalid."""
    files = {
        "core/0001_things.sql": HISTORY["core/0001_things.sql"].replace("'thing ' || g", "'same'"),
        "core/0002_unique.sql": """
-- migrate:up transaction:false
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS things_name ON toy.things (name);
-- migrate:down none: a test
""",
    }
    migrations = load_migrations(write_history(traversable_tmp, files))

    async def twice() -> None:
        with pytest.raises(MigrationError, match="could not create unique index"):
            await migrate_up(no_databases, lines=LINES, migrations=migrations)
        with psycopg.connect(no_databases.postgres.dsn(Role.ADMIN, Database.CORE)) as connection:
            connection.execute("UPDATE toy.things SET name = id::text")
        await migrate_up(no_databases, lines=LINES, migrations=migrations)

    asyncio.run(twice())
    with psycopg.connect(no_databases.postgres.dsn(Role.ADMIN, Database.CORE)) as connection:
        row = connection.execute(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = 'toy.things_name'::regclass"
        ).fetchone()
    assert row == (True,)
