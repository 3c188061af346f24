"""What there is to attack, read from the server's own catalogue: nothing is listed by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

Session = psycopg.Connection[Any]

SCHEMAS = ("core", "auth", "blockchain", "enclave", "audit", "public", "read_models")


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    type: str
    required: bool  # NOT NULL and nothing fills it in
    generated: bool  # computed, or numbered by the server: no statement need give it
    numbered: bool  # by the server, which OVERRIDING SYSTEM VALUE overrules


@dataclass(frozen=True, slots=True)
class ForeignKey:
    name: str
    columns: tuple[str, ...]
    target: str
    target_columns: tuple[str, ...]
    definition: str


@dataclass(frozen=True, slots=True)
class Policy:
    name: str
    using: str | None
    check: str | None


@dataclass(frozen=True, slots=True)
class Table:
    """A table with rows of tenants. `tenant` is the column that says whose a row is."""

    name: str
    tenant: str
    is_partition: bool
    is_partitioned: bool
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]
    uniques: tuple[tuple[str, ...], ...]
    foreign_keys: tuple[ForeignKey, ...]
    policies: tuple[Policy, ...]

    @property
    def numbered(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns if column.numbered)


@dataclass(frozen=True, slots=True)
class Function:
    signature: str
    name: str
    arguments: tuple[str, ...]
    returns_set: bool


_TABLES = """
SELECT c.oid, n.nspname || '.' || c.relname, c.relispartition, c.relkind = 'p'
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY(%s) AND c.relkind IN ('r', 'p')
    AND (n.nspname || '.' || c.relname = 'core.tenants' OR EXISTS (
        SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id'
            AND NOT a.attisdropped
    ))
ORDER BY 2
"""
_COLUMNS = """
SELECT a.attname, format_type(a.atttypid, NULL),
    a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AND a.attgenerated = '',
    a.attgenerated <> '' OR a.attidentity = 'a', a.attidentity <> ''
FROM pg_attribute a WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""
_KEYS = """
SELECT i.indisprimary, array_agg(a.attname::text ORDER BY k.place)
FROM pg_index i
CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
WHERE i.indrelid = %s AND i.indisunique AND i.indexprs IS NULL
GROUP BY i.indexrelid, i.indisprimary
"""
_FOREIGN_KEYS = """
SELECT c.conname, c.confrelid::regclass::text, pg_get_constraintdef(c.oid),
    (SELECT array_agg(a.attname::text ORDER BY k.place)
        FROM unnest(c.conkey) WITH ORDINALITY AS k (number, place)
        JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.number),
    (SELECT array_agg(a.attname::text ORDER BY k.place)
        FROM unnest(c.confkey) WITH ORDINALITY AS k (number, place)
        JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.number)
FROM pg_constraint c WHERE c.conrelid = %s AND c.contype = 'f' ORDER BY 1
"""
_POLICIES = """
SELECT polname, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)
FROM pg_policy WHERE polrelid = %s ORDER BY 1
"""
_FUNCTIONS = """
SELECT p.oid::regprocedure::text, n.nspname || '.' || p.proname,
    coalesce((SELECT array_agg(format_type(t, NULL) ORDER BY i)
        FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY AS a (t, i)), '{}'), p.proretset
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = ANY(%s) AND p.prorettype <> 'trigger'::regtype AND p.prokind = 'f'
    AND has_function_privilege('neolayer_app', p.oid, 'EXECUTE')
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
ORDER BY 1
"""
_VIEWS = """
SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = ANY(%s) AND c.relkind IN ('v', 'm')
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1
"""


def tenant_tables(admin: Session) -> list[Table]:
    """Every table, partitions too, that has rows of tenants, by name."""
    found = admin.execute(_TABLES, (list(SCHEMAS),)).fetchall()
    return [_table(admin, *row) for row in found]


def _table(admin: Session, oid: int, name: str, is_partition: bool, is_partitioned: bool) -> Table:
    columns = tuple(Column(*row) for row in admin.execute(_COLUMNS, (oid,)))
    keys = admin.execute(_KEYS, (oid,)).fetchall()
    foreign = admin.execute(_FOREIGN_KEYS, (oid,)).fetchall()
    return Table(
        name=name,
        tenant="id" if name == "core.tenants" else "tenant_id",
        is_partition=is_partition,
        is_partitioned=is_partitioned,
        columns=columns,
        primary_key=next((tuple(key) for primary, key in keys if primary), ()),
        uniques=tuple(tuple(key) for primary, key in keys if not primary),
        foreign_keys=tuple(
            ForeignKey(key, tuple(ours), target, tuple(theirs), definition)
            for key, target, definition, ours, theirs in foreign
        ),
        policies=tuple(Policy(*row) for row in admin.execute(_POLICIES, (oid,))),
    )


def functions(admin: Session) -> list[Function]:
    """Every function of ours that the application's role may call."""
    found = admin.execute(_FUNCTIONS, (list(SCHEMAS),)).fetchall()
    return [Function(s, name, tuple(types), is_set) for s, name, types, is_set in found]


def views(admin: Session) -> list[str]:
    """Every view of ours."""
    return [name for (name,) in admin.execute(_VIEWS, (list(SCHEMAS),))]
