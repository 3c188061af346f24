-- holding --
-- The oldest transaction that has an id, anywhere in the cluster, where an event of another one waits
-- behind it: who it is, for how long it is open, what it does and which tables it writes, for how
-- long the event waits, and the first halves of the names of the streams' locks that it has.
WITH horizon AS (
    SELECT pg_snapshot_xmin(pg_current_snapshot()) AS transaction_id
), waiting AS (
    SELECT e.created_at FROM public.events AS e
    WHERE e.transaction_id >= (SELECT h.transaction_id FROM horizon AS h)
    ORDER BY e.transaction_id, e.position
    LIMIT 1
), oldest AS (
    SELECT
        a.pid, a.application_name, coalesce(a.usename, 'nobody') AS usename,
        coalesce(a.datname, 'no database') AS datname, a.xact_start,
        coalesce(a.state, a.backend_type) AS state,
        CASE WHEN a.state = 'active' THEN a.wait_event END AS wait_event, a.backend_xid AS xid
    FROM pg_stat_activity AS a
    WHERE a.backend_xid IS NOT NULL AND a.pid <> pg_backend_pid()
    UNION ALL
    SELECT
        NULL, p.gid, p.owner, p.database, p.prepared, 'prepared', NULL, p.transaction
    FROM pg_prepared_xacts AS p
)
SELECT
    o.pid, o.application_name, o.usename, o.datname, o.state, o.wait_event,
    extract(EPOCH FROM clock_timestamp() - coalesce(o.xact_start, w.created_at))::float8,
    extract(EPOCH FROM clock_timestamp() - greatest(w.created_at, o.xact_start))::float8,
    ARRAY(
        SELECT DISTINCT l.relation::regclass::text FROM pg_locks AS l
        WHERE
            l.pid = o.pid AND l.mode = 'RowExclusiveLock' AND l.locktype = 'relation'
            AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
        ORDER BY 1
    ),
    ARRAY(
        SELECT DISTINCT l.classid::bigint::bit(32)::int FROM pg_locks AS l
        WHERE
            l.pid = o.pid AND l.locktype = 'advisory' AND l.objsubid = 2
            AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
    )
FROM oldest AS o CROSS JOIN waiting AS w
ORDER BY age(o.xid) DESC
LIMIT 1;

-- tenants_by_hash --
-- The tenants that streams' locks name.
SELECT t.id FROM core.tenants AS t WHERE hashtext(t.id::text) = ANY(%(hashes)s::int []);
