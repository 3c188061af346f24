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
