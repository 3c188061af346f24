-- queue_checkpoint --
-- How far the queues of webhooks are filled.
SELECT c.version FROM core.relay_checkpoints AS c WHERE c.sink = %(sink)s;

-- log_end --
-- How far the log is on the server's disk, as a position's version.
SELECT ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::bigint << 48
     | (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint;
