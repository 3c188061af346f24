-- migrate:up
-- What 0070 says of events holds of read models: the application writes the inline ones, the
-- projector writes the others from what tenants appended, and rebuilds and readers take whole rows.
-- Their columns are a program's own, so a row is bounded as a whole: its text, and its JSON as the
-- text that a reader gets. Rows from before stay until they are written again: a projection that is
-- refused here stands still at its event, a database that could not be migrated would stand as a whole.
CREATE FUNCTION public.bound_read_model(at regclass) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    bytes text;
BEGIN
    SELECT string_agg(format('coalesce(octet_length(%I::text), 0)::bigint', a.attname), ' + '
        ORDER BY a.attnum)
    INTO bytes
    FROM pg_attribute a
    WHERE a.attrelid = at AND a.attnum > 0 AND NOT a.attisdropped
        AND a.atttypid IN ('text'::regtype, 'jsonb'::regtype);
    IF bytes IS NOT NULL THEN
        EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I CHECK (%s <= 8388608) NOT VALID', at,
            (SELECT c.relname || '_row_size_check' FROM pg_class c WHERE c.oid = at), bytes);
    END IF;
END
$$;
SELECT public.bound_read_model(c.oid::regclass)
FROM pg_class AS c
WHERE c.relkind = 'r' AND c.relnamespace::regnamespace::text
    IN ('read_models', 'read_models_next', 'read_models_previous');

-- migrate:down
-- Programs made some of the tables since: whatever bears such a name goes.
DO $$
DECLARE
    each record;
BEGIN
    FOR each IN
        SELECT k.conname, k.conrelid::regclass AS at FROM pg_constraint k
        INNER JOIN pg_class c ON c.oid = k.conrelid
        WHERE k.contype = 'c' AND k.conname = c.relname || '_row_size_check'
            AND c.relnamespace::regnamespace::text
            IN ('read_models', 'read_models_next', 'read_models_previous')
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', each.at, each.conname);
    END LOOP;
END
$$;
DROP FUNCTION public.bound_read_model(regclass);
