-- migrate:up
-- 0081 bounds a row of a read model; nothing bounded how many of them a member could write by SQL
-- into an inline one, or what stood in them. What a read model holds follows from its events, so it
-- takes rows from who folds these: in appends the layer itself under a name of its own, which no
-- member's context has; whom row security does not hold are the projector and migrations. A
-- statement is asked once, since a name that is in no context of a member's cannot be put there.
CREATE FUNCTION public.admit_fold() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT row_security_active(TG_RELID) THEN
        RETURN NULL;
    END IF;
    IF core.current_principal() = 'system:projections' THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION '% of %.% is refused', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege', HINT = 'a read model changes with its events';
END
$$;

-- For the tables there are, and by events/projections/tables.py for each that comes.
CREATE FUNCTION public.guard_read_model(at regclass) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE format('CREATE TRIGGER admit_fold BEFORE INSERT OR UPDATE OR DELETE ON %s '
        'FOR EACH STATEMENT EXECUTE FUNCTION public.admit_fold()', at);
END
$$;
SELECT public.guard_read_model(c.oid::regclass)
FROM pg_class AS c
WHERE c.relkind = 'r' AND c.relnamespace::regnamespace::text
    IN ('read_models', 'read_models_next', 'read_models_previous');

-- migrate:down
-- Programs made some of the tables since: all of them.
DO $$
DECLARE
    each record;
BEGIN
    FOR each IN
        SELECT t.tgrelid::regclass AS at FROM pg_trigger t
        INNER JOIN pg_class c ON c.oid = t.tgrelid
        WHERE t.tgname = 'admit_fold' AND c.relnamespace::regnamespace::text
            IN ('read_models', 'read_models_next', 'read_models_previous')
    LOOP
        EXECUTE format('DROP TRIGGER admit_fold ON %s', each.at);
    END LOOP;
END
$$;
DROP FUNCTION public.guard_read_model(regclass);
DROP FUNCTION public.admit_fold();
