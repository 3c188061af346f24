-- committed_at --
-- A position at or above the commit that came before.
SELECT (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint;
