"""Rules that every table, policy, function and index of the three databases obeys."""

from __future__ import annotations

import psycopg
import pytest

from neolayer.engines.endpoints import Database, Endpoints, Role

OURS = """
    NOT EXISTS (SELECT FROM pg_depend e WHERE e.objid = {oid} AND e.deptype = 'e')
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'neolayer_schema')
    AND n.nspname NOT LIKE 'pg_temp%'
"""
TENANT_TABLES = f"""
SELECT c.oid, c.oid::regclass::text AS name, c.relrowsecurity, c.relforcerowsecurity
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND {OURS.format(oid="c.oid")}
    AND (c.oid = to_regclass('core.tenants') OR EXISTS (
        SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id'))
"""

pytestmark = pytest.mark.parametrize("database", list(Database))


def rows(endpoints: Endpoints, database: Database, text: str) -> list[tuple[object, ...]]:
    dsn = endpoints.cluster(database).dsn(Role.ADMIN, database)
    with psycopg.connect(dsn, autocommit=True) as connection:
        return connection.execute(text).fetchall()  # type: ignore[arg-type]


def test_G_every_tenant_table_and_partition_forces_row_security(
    module_databases: Endpoints, database: Database
) -> None:
    """A table with tenant_id without RLS, FORCE or a policy is an open door."""
    unsafe = f"""
        SELECT name FROM ({TENANT_TABLES}) t
        WHERE NOT (relrowsecurity AND relforcerowsecurity)
            OR NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = t.oid)
    """
    assert rows(module_databases, database, unsafe) == []
    expected = {Database.CORE: 33, Database.EVENT_STORE: 10, Database.TIMESERIES: 0}
    assert len(rows(module_databases, database, TENANT_TABLES)) == expected[database]


def test_G_policies_ask_for_the_tenant_once_a_statement(
    module_databases: Endpoints, database: Database
) -> None:
    """Bare calls are evaluated for each row, five times slower; and no policy is for PUBLIC."""
    policies = """
        SELECT polrelid::regclass::text, polname, polroles = '{0}',
            concat(pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
        FROM pg_policy
    """
    for table, name, is_public, expression in rows(module_databases, database, policies):
        assert not is_public, (table, name)
        text = str(expression)
        if name == "write_own":  # asks for tenant and principal at once
            assert text.count("audit.signed_context") == 1
            assert "SELECT asking.writer" in text
            continue
        assert "SELECT core.current_tenant()" in text, (table, name)
        assert text.count("current_tenant()") == text.count("SELECT core.current_tenant()")


def test_G_only_known_tables_have_a_second_policy(
    module_databases: Endpoints, database: Database
) -> None:
    """Permissive policies add up, so one more is one more way in."""
    second = """
        SELECT polrelid::regclass::text, polname, polcmd::text FROM pg_policy
        WHERE polname <> 'tenant_isolation' ORDER BY 1
    """
    expected: dict[Database, list[tuple[object, ...]]] = {
        Database.CORE: [
            ("audit.entries", "write_own", "a"),
            ("auth.role_permissions", "platform_roles", "r"),
            ("auth.roles", "platform_roles", "r"),
        ]
    }
    assert rows(module_databases, database, second) == expected.get(database, [])


def test_G_nothing_is_granted_on_a_partition(
    module_databases: Endpoints, database: Database
) -> None:
    """Who could name a partition would pass by the parent's triggers."""
    granted = """
        SELECT c.oid::regclass::text, a.grantee::regrole::text, a.privilege_type
        FROM pg_class c, aclexplode(c.relacl) a
        WHERE c.relispartition AND a.grantee <> c.relowner
    """
    assert rows(module_databases, database, granted) == []


def test_G_truncate_is_granted_to_nobody(module_databases: Endpoints, database: Database) -> None:
    """TRUNCATE ignores row policies."""
    granted = f"""
        SELECT c.oid::regclass::text, a.grantee::regrole::text
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) a
        WHERE a.privilege_type = 'TRUNCATE' AND a.grantee <> c.relowner
            AND {OURS.format(oid="c.oid")}
    """
    assert rows(module_databases, database, granted) == []


def test_G_the_owner_owns_everything(module_databases: Endpoints, database: Database) -> None:
    """A role that owns a table is not held by its policies and may drop it.

    Two functions belong to a role that cannot log in, so that they can use an index under a policy;
    three to another such role, which appends events and asks for the tenant by itself.
    """
    foreign = f"""
        SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relowner <> 'neolayer_owner'::regrole AND {OURS.format(oid="c.oid")}
        UNION ALL
        SELECT p.oid::regprocedure::text FROM pg_proc p
        JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE p.proowner <> 'neolayer_owner'::regrole AND {OURS.format(oid="p.oid")}
        ORDER BY 1
    """
    searches: dict[Database, list[tuple[object, ...]]] = {
        Database.CORE: [
            ("auth.search_users(text,integer)",),
            ("core.search_documents(jsonb,uuid,integer)",),
        ],
        Database.EVENT_STORE: [
            ("append_event(text,uuid,text,integer,uuid,text,jsonb,jsonb,uuid,uuid,integer,text)",),
            ("append_events(uuid[],jsonb,boolean)",),
            ("append_group(text,uuid[],json,boolean)",),
        ],
    }
    assert rows(module_databases, database, foreign) == searches.get(database, [])


def test_E13_functions_fix_their_search_path(
    module_databases: Endpoints, database: Database
) -> None:
    """A function that runs as its owner, or in a trigger, must not find the caller's tables."""
    loose = f"""
        SELECT p.oid::regprocedure::text FROM pg_proc p
        JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE (p.prosecdef OR p.prolang = (SELECT oid FROM pg_language WHERE lanname = 'plpgsql'))
            AND NOT EXISTS (SELECT FROM unnest(p.proconfig) c
                WHERE c = 'search_path=pg_catalog, pg_temp')
            AND {OURS.format(oid="p.oid")}
    """
    assert rows(module_databases, database, loose) == []


def test_E13_definer_functions_are_not_for_everybody(
    module_databases: Endpoints, database: Database
) -> None:
    """PostgreSQL grants EXECUTE to PUBLIC by default; on a definer function that is a leak."""
    public = f"""
        SELECT p.oid::regprocedure::text FROM pg_proc p
        JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE p.prosecdef AND has_function_privilege('public', p.oid, 'EXECUTE')
            AND {OURS.format(oid="p.oid")}
    """
    assert rows(module_databases, database, public) == []


def test_no_foreign_key_is_unindexed(module_databases: Endpoints, database: Database) -> None:
    """Deleting or updating the other side would read the whole table."""
    unindexed = """
        SELECT c.conrelid::regclass::text, c.conname FROM pg_constraint c
        WHERE c.contype = 'f' AND c.conparentid = 0 AND NOT EXISTS (
            SELECT FROM pg_index i
            WHERE i.indrelid = c.conrelid AND i.indpred IS NULL
                AND (i.indkey::int2[])[0:cardinality(c.conkey) - 1] @> c.conkey)
    """
    assert rows(module_databases, database, unindexed) == []


def test_no_index_repeats_another(module_databases: Endpoints, database: Database) -> None:
    """An index whose columns begin another index of the same table costs writes for nothing."""
    redundant = f"""
        SELECT a.indexrelid::regclass::text, b.indexrelid::regclass::text
        FROM pg_index a JOIN pg_index b
            ON a.indrelid = b.indrelid AND a.indexrelid <> b.indexrelid
        JOIN pg_class c ON c.oid = a.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE {OURS.format(oid="c.oid")} AND NOT a.indisunique AND a.indexprs IS NULL
            AND (b.indkey::text || ' ') LIKE (a.indkey::text || ' %')
            AND (b.indpred IS NULL OR pg_get_expr(b.indpred, b.indrelid)
                = pg_get_expr(a.indpred, a.indrelid))
            AND (SELECT relam FROM pg_class WHERE oid = a.indexrelid)
                = (SELECT relam FROM pg_class WHERE oid = b.indexrelid)
            AND NOT (b.indkey = a.indkey AND a.indexrelid < b.indexrelid AND NOT b.indisunique)
    """
    assert rows(module_databases, database, redundant) == []


def test_updated_at_moves_wherever_it_stands(
    module_databases: Endpoints, database: Database
) -> None:
    """Errata 20: it had a default and never moved."""
    still = f"""
        SELECT c.oid::regclass::text FROM pg_attribute a
        JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE a.attname = 'updated_at' AND c.relkind IN ('r', 'p') AND {OURS.format(oid="c.oid")}
            AND NOT EXISTS (SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
                WHERE t.tgrelid = c.oid AND p.proname = 'touch_updated_at')
    """
    assert rows(module_databases, database, still) == []


def test_E1_only_the_owner_sees_the_context_key(
    module_databases: Endpoints, database: Database
) -> None:
    """Who can read the key can be any tenant."""
    readers = """
        SELECT r.rolname FROM pg_roles r
        WHERE to_regclass('core.context_secrets') IS NOT NULL
            AND has_table_privilege(r.oid, to_regclass('core.context_secrets'), 'SELECT')
            AND NOT r.rolsuper
            AND r.rolname NOT IN ('neolayer_owner', 'neolayer_migrator', 'pg_read_all_data')
    """
    assert rows(module_databases, database, readers) == []
