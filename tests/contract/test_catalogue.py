"""Every table belongs to exactly one class of data: what no class has, nothing would ever erase."""

from __future__ import annotations

import re
from collections import Counter
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

import neolayer
from neolayer.catalogue import ClickHouseCopy
from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.platform import data_classes

# Tables whose rooms are still to be built. A room that lands takes its tables off this list.
AWAITED = {"core.services": "the services room"}
# How the layer works, not what it holds.
MACHINERY = {
    "core.context_secrets": "the key that signs contexts; goes with the database",
    "blockchain.chain_heads": "the cursor of each network",
    "blockchain.transaction_keys": "keeps a hash unique over partitions; follows its transaction",
    "blockchain.orphaned_blocks": "what a reorganisation took back, for whoever must undo it",
}

TABLES = """
    SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition
        AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'neolayer_schema')
        AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.objid = c.oid AND e.deptype = 'e')
"""


def tables(endpoints: Endpoints, database: Database) -> set[str]:
    dsn = endpoints.cluster(database).dsn(Role.ADMIN, database)
    with psycopg.connect(dsn, autocommit=True) as connection:
        found = {str(row[0]) for row in connection.execute(TABLES).fetchall()}
    return {name if "." in name else f"public.{name}" for name in found}


def test_every_table_belongs_to_exactly_one_class(module_databases: Endpoints) -> None:
    """Neither forgotten nor claimed twice; nothing is awaited that is here, or was never made."""
    for database in (Database.CORE, Database.EVENT_STORE):
        classes = Counter(one.table for one in data_classes() if one.database == database)
        assert [table for table, times in classes.items() if times > 1] == []
        there = tables(module_databases, database) - set(MACHINERY)
        assert there - set(classes) == (set(AWAITED) if database is Database.CORE else set())
        assert set(classes) - there == set()


@pytest.mark.parametrize("database", [Database.TIMESERIES])
def test_the_other_databases_await_their_rooms(
    module_databases: Endpoints, database: Database
) -> None:
    """Metrics have no room yet; the first class of theirs ends this test."""
    assert [one for one in data_classes() if one.database == database] == []
    assert tables(module_databases, database) != set()


ROOMS_IN = pytest.mark.parametrize("database", [Database.CORE, Database.EVENT_STORE])


@ROOMS_IN
def test_a_class_names_columns_that_are_there(
    module_databases: Endpoints, database: Database
) -> None:
    """The tenant's key and the personal fields are what erasure and export go by."""
    dsn = module_databases.cluster(database).dsn(Role.ADMIN, database)
    with psycopg.connect(dsn, autocommit=True) as connection:
        for one in data_classes():
            if one.database != database:
                continue
            wanted = {*one.personal_fields, *filter(None, [one.tenant_key])}
            if one.known_by != ("id",):  # the default: a row that has no id is known by nothing
                wanted |= set(one.known_by)
            found = {
                row[0]
                for row in connection.execute(
                    "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0"
                    " AND NOT attisdropped",
                    (one.table,),
                ).fetchall()
            }
            assert wanted <= found, one.name


@ROOMS_IN
def test_every_table_with_a_tenant_says_so_in_its_class(
    module_databases: Endpoints, database: Database
) -> None:
    """A class without a tenant_key is public: no table with tenant_id is one."""
    dsn = module_databases.cluster(database).dsn(Role.ADMIN, database)
    with psycopg.connect(dsn, autocommit=True) as connection:
        bound = {
            str(row[0])
            for row in connection.execute(
                "SELECT n.nspname || '.' || c.relname FROM pg_attribute a"
                " JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n"
                " ON n.oid = c.relnamespace WHERE a.attname = 'tenant_id'"
            ).fetchall()
        }
    classes = [one for one in data_classes() if one.database == database]
    assert [one.name for one in classes if one.table in bound and not one.tenant_key] == []


def test_a_clickhouse_copy_says_how_long_its_table_keeps_rows() -> None:
    """The declared time is that of the table's TTL: by it reconcile knows what may be gone."""
    folder = Path(neolayer.__file__).parent / "schema" / "clickhouse"
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.sql")))
    made = re.findall(r"CREATE TABLE IF NOT EXISTS (\w+) \((.*?);\n", text, re.DOTALL)
    years = {
        name: re.search(r"TTL ingested_at \+ INTERVAL (\d+) YEAR", definition)
        for name, definition in made
    }
    for copy in (copy for one in data_classes() for copy in one.copies):
        if isinstance(copy, ClickHouseCopy):
            found = years[copy.table]
            assert copy.keeps == (found and timedelta(days=365 * int(found[1])))
