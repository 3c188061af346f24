-- slot --
-- The relay's slot as the server sees it, and how much log it holds back; no row where there is none.
SELECT active,
       active_pid,
       coalesce(wal_status, 'lost') AS wal_status,
       ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::bigint AS epoch,
       coalesce(confirmed_flush_lsn, restart_lsn) - '0/0'::pg_lsn AS confirmed_lsn,
       pg_current_wal_flush_lsn() - '0/0'::pg_lsn AS flushed_lsn,
       pg_current_wal_flush_lsn() - coalesce(confirmed_flush_lsn, restart_lsn) AS lag_bytes,
       pg_current_wal_flush_lsn() - restart_lsn AS held_bytes,
       (SELECT setting::bigint * 1048576 FROM pg_settings
        WHERE name = 'max_slot_wal_keep_size' AND setting::bigint >= 0) AS limit_bytes
FROM pg_replication_slots
WHERE slot_name = %(slot)s AND database = current_database();

-- publication --
-- Whether there is a publication of that name now.
SELECT EXISTS (SELECT 1 FROM pg_publication WHERE pubname = %(publication)s) AS found;

-- tables --
-- What a publication tells of: partitioned tables as one, by id and name.
SELECT t.relid::bigint AS id, n.nspname || '.' || c.relname AS name
FROM pg_publication AS p
CROSS JOIN LATERAL pg_get_publication_tables(p.pubname::text) AS t
INNER JOIN pg_class AS c ON c.oid = t.relid
INNER JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE p.pubname = %(publication)s;

-- unnamed --
-- Columns of a key that the log leaves out where it tells of a row by its replica identity alone;
-- a partitioned table's rows are told of by the identity of their partition.
SELECT wanted.name
FROM unnest(%(key)s::text []) WITH ORDINALITY AS wanted (name, place)
WHERE EXISTS (
    SELECT 1
    FROM pg_class AS c
    WHERE (
        c.oid = %(table)s::regclass
        OR c.oid IN (SELECT relid FROM pg_partition_tree(%(table)s::regclass))
    )
    AND c.relkind = 'r' AND c.relreplident <> 'f' AND NOT EXISTS (
        SELECT 1
        FROM pg_index AS i
        JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)
        WHERE i.indrelid = c.oid AND a.attname = wanted.name
        AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END
    )
)
ORDER BY wanted.place;
