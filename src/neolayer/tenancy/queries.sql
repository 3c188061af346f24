-- begin --
-- The first statement of a transaction.
BEGIN;

-- enter --
-- Say who is asking, until the end of the transaction; refused where the session is not clean, a
-- cursor left open by another transaction included.
SELECT
    CASE
        WHEN EXISTS (SELECT FROM pg_catalog.pg_cursor() AS c WHERE c.is_holdable)
            THEN core.refuse_session('a cursor is open')
        ELSE core.enter(%(context)s, %(state)s)
    END;

-- switch --
-- Say that somebody else is asking, in a transaction that was entered.
SELECT set_config('neolayer.context', %(context)s, true);

-- session_state --
-- What a session is like when it is new, whether it may look at its prepared statements (if it may
-- not, nobody can learn their names in it either), and these settings' values.
SELECT
    core.session_state(),
    pg_catalog.has_function_privilege('pg_catalog.pg_prepared_statement()', 'EXECUTE'),
    ARRAY(
        SELECT pg_catalog.current_setting(s.name, true)
        FROM ROWS FROM (pg_catalog.unnest(%(settings)s::text [])) WITH ORDINALITY AS s (name, place)
        ORDER BY s.place
    );

-- commit --
-- The last statement of a transaction.
COMMIT;

-- rollback --
-- End a transaction of which nothing shall stay.
ROLLBACK;

-- look --
-- Whether a session holds our own prepared statements and no others, and listens to nothing.
SELECT
    pg_catalog.count(*) OPERATOR(pg_catalog.=) %(prepared)s::pg_catalog.int8
    AND pg_catalog.bool_or(p.from_sql) IS NOT TRUE
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_listening_channels())
FROM pg_catalog.pg_prepared_statement() AS p;

-- discard --
-- Make a session what it was when it was new.
DISCARD ALL;

-- forget_staging --
-- The temporary table of an earlier bulk load in this transaction.
DROP TABLE IF EXISTS pg_temp.staging;

-- reached --
-- Up to where the log is on disk, which a commit before this is.
SELECT ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::bigint << 48
     | (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint;
