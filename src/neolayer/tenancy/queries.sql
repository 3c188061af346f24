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
-- What a session is like when it is new.
SELECT core.session_state();

-- commit --
-- The last statement of a transaction.
COMMIT;

-- reset --
-- Forget whatever a session was told, after something went wrong in it.
RESET ALL;

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
