-- begin --
-- The first statement of a transaction.
BEGIN;

-- enter --
-- Say who is asking, until the end of the transaction.
SELECT set_config('neolayer.context', %(context)s, true);

-- commit --
-- The last statement of a transaction.
COMMIT;

-- reset --
-- Forget whatever a session was told, after something went wrong in it.
RESET ALL;

-- forget_staging --
-- The temporary table of an earlier bulk load in this transaction.
DROP TABLE IF EXISTS pg_temp.staging;
