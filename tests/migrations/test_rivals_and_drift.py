"""Two migrators at once, locks that are not free, files and databases that do not fit."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.errors import MigrationError
from neolayer.schema.files import Migration, load_migrations
from neolayer.schema.lines import POSTGRES_LINES, Line
from neolayer.schema.picture import committed
from neolayer.schema.plan import plan
from neolayer.schema.postgres_target import Patience, open_target
from neolayer.schema.runner import migrate_down, migrate_up
from neolayer.schema.state import status

THINGS = """
-- migrate:up
CREATE SCHEMA toy;
CREATE TABLE toy.things (id int PRIMARY KEY);
-- migrate:down
DROP TABLE toy.things;
DROP SCHEMA toy;
"""
WIDER = """
-- migrate:up
ALTER TABLE toy.things ADD COLUMN name text;
CREATE INDEX things_name ON toy.things (name);
-- migrate:down
ALTER TABLE toy.things DROP COLUMN name;
"""
HASTY = Patience(
    one_lock=timedelta(milliseconds=50),
    all_locks=timedelta(milliseconds=600),
    migrator=timedelta(milliseconds=300),
)


def history(folder: Path, **files: str) -> tuple[Migration, ...]:
    """Files of the core line, by name."""
    (folder / "core").mkdir(exist_ok=True)
    for old in (folder / "core").iterdir():
        old.unlink()
    for name, text in files.items():
        (folder / "core" / f"{name.removeprefix('m')}.sql").write_text(text.lstrip())
    return load_migrations(folder)


async def up(
    endpoints: Endpoints, migrations: tuple[Migration, ...], patience: Patience = HASTY
) -> list[int]:
    steps = await migrate_up(endpoints, lines=[Line.CORE], migrations=migrations, patience=patience)
    return [step.number for step in steps]


@asynccontextmanager
async def somebody_reading(endpoints: Endpoints) -> AsyncIterator[None]:
    """A transaction that has read toy.things and stays open."""
    dsn = endpoints.postgres.dsn(Role.MIGRATOR)
    async with await psycopg.AsyncConnection.connect(dsn, application_name="reader") as reader:
        await reader.execute("SELECT * FROM toy.things")
        yield


async def test_C16_a_second_migrator_is_told_who_is_at_work(
    no_databases: Endpoints, traversable_tmp: Path
) -> None:
    """It waits for a while, then names the process that holds the lock."""
    migrations = history(traversable_tmp, m0001_things=THINGS)
    await up(no_databases, migrations)
    first = await open_target(no_databases.postgres, Line.CORE)
    try:
        with pytest.raises(MigrationError, match=r"another migrator.*pid \d+ \(neolayer migrate"):
            await up(no_databases, migrations)
    finally:
        await first.close()


async def test_C16_two_migrators_at_once_do_the_work_once(no_databases: Endpoints) -> None:
    """The second finds nothing left to do."""
    both = await asyncio.gather(*(migrate_up(no_databases, lines=POSTGRES_LINES) for _ in range(2)))
    done = [step.number for steps in both for step in steps]
    assert sorted(done) == [m.number for m in load_migrations() if m.line in POSTGRES_LINES]


async def test_a_lock_that_is_never_free_is_named(
    no_databases: Endpoints, traversable_tmp: Path
) -> None:
    """The migration gives up within its time, leaves nothing behind and says who is in the way."""
    await up(no_databases, history(traversable_tmp, m0001_things=THINGS))
    migrations = history(traversable_tmp, m0001_things=THINGS, m0002_wider=WIDER)
    async with somebody_reading(no_databases):
        with pytest.raises(MigrationError, match=r"no lock within.*pid \d+ \(reader\)"):
            await up(no_databases, migrations)
    assert await up(no_databases, migrations) == [2]


async def test_a_lock_that_becomes_free_is_taken(
    no_databases: Endpoints, traversable_tmp: Path
) -> None:
    """Between tries everybody else gets through; then it goes on."""
    await up(no_databases, history(traversable_tmp, m0001_things=THINGS))
    migrations = history(traversable_tmp, m0001_things=THINGS, m0002_wider=WIDER)
    patient = Patience(one_lock=timedelta(milliseconds=50), all_locks=timedelta(seconds=20))
    async with somebody_reading(no_databases):
        waiting = asyncio.create_task(up(no_databases, migrations, patient))
        done, _ = await asyncio.wait({waiting}, timeout=0.5)
        assert not done
    assert await waiting == [2]


async def test_a_refused_statement_leaves_nothing_behind(
    no_databases: Endpoints, traversable_tmp: Path
) -> None:
    """The error names the file and the statement."""
    broken = WIDER.replace("(name);", "(nmae);")
    migrations = history(traversable_tmp, m0001_things=THINGS, m0002_wider=broken)
    with pytest.raises(MigrationError, match=r'core/0002_wider.sql: .*"nmae".*CREATE INDEX'):
        await up(no_databases, migrations)
    fixed = history(traversable_tmp, m0001_things=THINGS, m0002_wider=WIDER)
    assert await up(no_databases, fixed) == [2]


OUTBOX_ROW = """
INSERT INTO core.outbox (tenant_id, subject, key, event_type, event_data)
SELECT id, 's', 'k', 't', jsonb_build_object('a', repeat('x', 2000000)) FROM core.tenants
"""


async def test_C16_rows_against_a_new_check_are_named_with_the_way_out(
    layer_databases: Endpoints,
) -> None:
    """An upgrade of a database that has such rows: the error says table and column, its hint is the
    query that finds them; once they are gone the way is free."""
    await migrate_down(layer_databases, to="0068", lines=[Line.CORE])
    dsn = layer_databases.postgres.dsn(Role.ADMIN, Database.CORE)
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(
            "INSERT INTO core.tenants (name, identifier, subscription_tier)"
            " VALUES ('t', 't', 'pro')"
        )
        admin.execute(OUTBOX_ROW)
        with pytest.raises(MigrationError) as refused:
            await migrate_up(layer_databases, lines=[Line.CORE])
        assert refused.value.message == (
            'core/0069_sizes_and_counters.sql: "core"."outbox" has rows whose event_data may be so'
            " no longer: octet_length(event_data::text) <= 1048576"
        )
        (find,) = re.findall(r"superuser: (SELECT .*?);", refused.value.hint or "")
        ((_, event),) = admin.execute(find).fetchall()
        admin.execute("DELETE FROM core.outbox WHERE event_id = %s", (event,))
    await migrate_up(layer_databases, lines=[Line.CORE])


NOT_NULL = "ALTER TABLE toy.things ALTER COLUMN a SET NOT NULL"
FEW = "ALTER TABLE toy.things ADD CONSTRAINT few CHECK ("


@pytest.mark.parametrize(
    ("earlier", "statement", "said", "find"),
    [
        ("", f"{FEW}')' <> '('\n AND (id) > 2)", "id .*: '[)]' <> '[(]' AND", "SELECT id FROM"),
        ("", "ALTER TABLE toy.things ADD a int CHECK (a > 2) DEFAULT 1", "things_a_check", "mend"),
        ("", "ALTER TABLE toy.things ADD a int NOT NULL", "a IS NOT NULL", "mend"),
        ("ALTER TABLE toy.things ADD a int", NOT_NULL, "whose a may", "(a IS NOT NULL)"),
        (f"{FEW}id > 0)", "UPDATE toy.things SET id = -id", "whose id .*id > 0", "WHERE NOT"),
    ],
)
async def test_C16_whatever_a_migration_demands_of_rows_is_said(
    no_databases: Endpoints,
    traversable_tmp: Path,
    earlier: str,
    statement: str,
    said: str,
    find: str,
) -> None:
    """A check, one of a new column, NOT NULL, or an old check that it would break."""
    things = THINGS.replace("-- migrate:down", f"{earlier};\n-- migrate:down")
    await up(no_databases, history(traversable_tmp, m0001_things=things))
    dsn = no_databases.postgres.dsn(Role.ADMIN, Database.CORE)
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("INSERT INTO toy.things VALUES (1)")
    demanding = f"-- migrate:up\n{statement};\n-- migrate:down none: a test\n"
    migrations = history(traversable_tmp, m0001_things=things, m0002_wider=demanding)
    with pytest.raises(
        MigrationError, match=f'core/0002_wider.sql: "toy"."things".*{said}'
    ) as told:
        await up(no_databases, migrations)
    assert find in str(told.value.hint)
    assert "migrate again" in str(told.value.hint)


async def test_an_edited_file_is_drift(no_databases: Endpoints, traversable_tmp: Path) -> None:
    """Nothing runs, up or down, on a history that was rewritten; status names the file."""
    await up(no_databases, history(traversable_tmp, m0001_things=THINGS))
    edited = history(traversable_tmp, m0001_things=THINGS.replace("int PRIMARY", "bigint PRIMARY"))
    for attempt in (migrate_up, migrate_down):
        with pytest.raises(MigrationError, match=r"core/0001_things.sql was edited"):
            await attempt(no_databases, lines=[Line.CORE], migrations=edited)
    state = await status(no_databases, lines=[Line.CORE], migrations=edited)
    assert not state.is_current
    assert "core/0001_things.sql was edited" in state.drift[0]


async def test_a_newer_database_is_drift(no_databases: Endpoints, traversable_tmp: Path) -> None:
    """Old code does not touch a schema that newer code made."""
    await up(no_databases, history(traversable_tmp, m0001_things=THINGS, m0002_wider=WIDER))
    older = history(traversable_tmp, m0001_things=THINGS)
    with pytest.raises(MigrationError, match="core/0002_wider is applied and this version"):
        await up(no_databases, older)


async def test_a_file_that_comes_too_late_is_refused(
    no_databases: Endpoints, traversable_tmp: Path
) -> None:
    """A number below one that is applied would give two machines two histories."""
    await up(no_databases, history(traversable_tmp, m0001_things=THINGS, m0003_wider=WIDER))
    late = history(traversable_tmp, m0001_things=THINGS, m0002_late=WIDER, m0003_wider=WIDER)
    with pytest.raises(MigrationError, match=r"core/0002_late.sql comes before 0003"):
        await up(no_databases, late)


async def test_no_way_back_is_said_before_anything_happens(
    no_databases: Endpoints, traversable_tmp: Path
) -> None:
    """The reason stands in the file; what could be taken back stays, too."""
    final = THINGS.split("-- migrate:down")[0] + "-- migrate:down none: things are for ever\n"
    migrations = history(traversable_tmp, m0001_things=final, m0002_wider=WIDER)
    await up(no_databases, migrations)
    with pytest.raises(MigrationError, match="no way back: things are for ever"):
        await migrate_down(no_databases, to="0", lines=[Line.CORE], migrations=migrations)
    assert await up(no_databases, migrations) == []


async def test_the_way_back_does_not_lose_rows(no_databases: Endpoints) -> None:
    """Even rows that the owner cannot see for row security stop it."""
    await migrate_up(no_databases, lines=POSTGRES_LINES)
    with psycopg.connect(no_databases.postgres.dsn(Role.ADMIN)) as admin:
        admin.execute("INSERT INTO core.tenants (name, identifier) VALUES ('Acme', 'acme')")
    with pytest.raises(MigrationError, match=r"core.tenants has rows"):
        await migrate_down(no_databases, to="0", lines=POSTGRES_LINES)


async def test_the_schema_equals_the_committed_picture(layer_databases: Endpoints) -> None:
    """All migrations together make what was committed, and status sees a foreign hand."""
    state = await status(layer_databases, lines=POSTGRES_LINES)
    assert state.drift == ()
    assert state.is_current
    with psycopg.connect(layer_databases.postgres.dsn(Role.ADMIN)) as admin:
        admin.execute("ALTER TABLE auth.users NO FORCE ROW LEVEL SECURITY")
        admin.execute("ALTER TABLE auth.users ADD COLUMN shoe_size int")
    state = await status(layer_databases, lines=POSTGRES_LINES)
    assert state.drift == (
        "core: -    FORCE ROW LEVEL SECURITY",
        "core: +    COLUMN shoe_size integer",
    )


async def test_status_of_a_server_that_was_never_set_up(no_databases: Endpoints) -> None:
    """No database is no error: everything is pending."""
    state = await status(no_databases, lines=POSTGRES_LINES)
    assert [line.version for line in state.lines] == [None, None, None]
    assert all(line.pending for line in state.lines)


async def test_plan_measures_locks_and_leaves_nothing(
    no_databases: Endpoints, traversable_tmp: Path
) -> None:
    """The SQL runs and is rolled back; new tables are nobody's, old ones are shown."""
    await up(no_databases, history(traversable_tmp, m0001_things=THINGS))
    migrations = history(traversable_tmp, m0001_things=THINGS, m0002_wider=WIDER)
    before = await status(no_databases, lines=[Line.CORE], migrations=migrations)
    planned = await plan(no_databases, lines=[Line.CORE], migrations=migrations)
    (wider,) = planned
    assert [[(lock.relation, lock.mode) for lock in s.locks] for s in wider.statements] == [
        [("toy.things", "AccessExclusiveLock")],
        [("toy.things", "ShareLock")],
    ]
    assert wider.statements[0].locks[0].hinders == "readers and writers wait"
    assert await status(no_databases, lines=[Line.CORE], migrations=migrations) == before
    assert await up(no_databases, migrations) == [2]


async def test_plan_says_what_it_could_not_try(
    no_databases: Endpoints, traversable_tmp: Path
) -> None:
    """A busy lock, a refused statement, a statement outside a transaction."""
    await up(no_databases, history(traversable_tmp, m0001_things=THINGS))
    concurrent = (
        "-- migrate:up transaction:false\n"
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS things_id ON toy.things (id);\n"
        "-- migrate:down none: a test\n"
    )
    outside = history(traversable_tmp, m0001_things=THINGS, m0002_index=concurrent)
    (entry,) = await plan(no_databases, lines=[Line.CORE], migrations=outside)
    assert "ShareUpdateExclusiveLock" in entry.statements[0].note
    wider = history(traversable_tmp, m0001_things=THINGS, m0002_wider=WIDER)
    async with somebody_reading(no_databases):
        (entry,) = await plan(no_databases, lines=[Line.CORE], migrations=wider)
    assert "a lock was not free" in entry.statements[0].note
    broken = history(
        traversable_tmp, m0001_things=THINGS, m0002_wider=WIDER.replace("(name);", "(nmae);")
    )
    (entry,) = await plan(no_databases, lines=[Line.CORE], migrations=broken)
    assert "would be refused" in entry.statements[1].note


def test_every_line_has_its_picture() -> None:
    """The committed dump speaks of all databases; of stores of documents the commands are it."""
    assert set(committed()) == set(Line) - {Line.MONGODB, Line.ELASTICSEARCH}


def test_tables_of_the_specification_are_all_there() -> None:
    """Sections 2, 3, 4 and 7, under their names."""
    picture = committed()
    expected = {
        Database.CORE: (
            "core.services core.tenants core.tenant_data core.tenant_data_p0 core.tenant_data_p3"
            " auth.users auth.sessions auth.permissions auth.roles auth.role_permissions"
            " auth.user_roles blockchain.networks blockchain.wallets blockchain.transactions"
            " blockchain.smart_contracts enclave.attestations enclave.sealed_data"
            " enclave.computations audit.entries"
        ),
        Database.EVENT_STORE: "public.events public.snapshots public.projections",
        Database.TIMESERIES: "public.metrics public.metrics_hourly",
    }
    for line in POSTGRES_LINES:
        assert line.database is not None
        for name in expected[line.database].split():
            assert f"TABLE {name}\n" in picture[line] or f"VIEW {name}\n" in picture[line], name
