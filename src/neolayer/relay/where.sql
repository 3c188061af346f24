-- readable_columns --
-- The columns of a table that may be shown to people: those that an operator may read.
SELECT a.attname, t.typname, a.atttypid::int8, format_type(a.atttypid, NULL), a.attcollation <> 0
FROM pg_attribute AS a
JOIN pg_type AS t ON t.oid = a.atttypid
WHERE a.attrelid = %(table)s::regclass AND a.attnum > 0 AND NOT a.attisdropped
    AND has_column_privilege('neolayer_operator', a.attrelid, a.attnum, 'SELECT')
ORDER BY a.attnum;

-- primary_key --
-- The columns of a table's primary key, in order.
SELECT a.attname
FROM pg_constraint AS c
CROSS JOIN unnest(c.conkey) WITH ORDINALITY AS k (attnum, place)
JOIN pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = k.attnum
WHERE c.conrelid = %(table)s::regclass AND c.contype = 'p'
ORDER BY k.place;

-- may_see_parts --
-- Whether we may read the table as a whole, and so in which partition a row lies.
SELECT has_table_privilege(%(table)s::regclass, 'SELECT');

-- write_as_the_log_does --
-- Instants in UTC for the rest of the transaction, as the commit log has them.
SELECT set_config('TimeZone', 'UTC', true), set_config('DateStyle', 'ISO, YMD', true);

-- log_end --
-- Up to where the log is on disk.
SELECT ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::bigint << 48
     | (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint;

-- network --
-- Whether there is a network of that name.
SELECT 1 FROM blockchain.networks WHERE name = %(name)s;

-- archived_streams --
-- Archived streams by their id or that of one of their events, and the object of each.
SELECT s.tenant_id::text, s.aggregate_id::text, s.version, s.object_key, s.object_hash, s.lines_bytes
FROM public.archived_streams AS s
WHERE
    s.aggregate_id = %(id)s::uuid OR (s.tenant_id, s.aggregate_id) IN (
        SELECT e.tenant_id, e.aggregate_id FROM public.archived_events AS e WHERE e.event_id = %(id)s::uuid
    )
ORDER BY s.tenant_id
LIMIT %(most)s::bigint;
