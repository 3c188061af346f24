-- migrate:up
-- Read models: tables that projections fill, made when a program declares them. What readers see,
-- what is being built beside it, and what they saw before the last switch have a schema each, so
-- that a switch moves tables and renames nothing.
CREATE SCHEMA read_models;
CREATE SCHEMA read_models_next;
CREATE SCHEMA read_models_previous;
GRANT USAGE ON SCHEMA read_models
TO neolayer_app, neolayer_relay, neolayer_backup, neolayer_operator, neolayer_projector;
GRANT USAGE ON SCHEMA read_models_next, read_models_previous
TO neolayer_backup, neolayer_operator;
GRANT USAGE ON SCHEMA core, public TO neolayer_projector;

-- How a projection is run, what its table looks like, and why it stands still. The state of the two
-- other tables is kept under the names `x:next` and `x:previous`.
ALTER TABLE public.projections ADD COLUMN mode varchar(20) NOT NULL DEFAULT 'async'
CONSTRAINT projections_mode_check CHECK (mode IN ('inline', 'async'));
ALTER TABLE public.projections ADD COLUMN shape varchar(64);
ALTER TABLE public.projections ADD COLUMN cause text;
-- An inline projection has seen what was committed when it was switched away, in whatever order
-- transactions began: a place cannot say that, a snapshot does.
ALTER TABLE public.projections ADD COLUMN seen_snapshot pg_snapshot;

-- What a replay came to, beside what was there: the proof that a read model is its events.
CREATE TABLE public.projection_certificates (
    id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    projection_name varchar(255) NOT NULL,
    as_of_transaction xid8 NOT NULL,
    as_of_position bigint NOT NULL,
    live_rows bigint NOT NULL,
    live_digest varchar(64) NOT NULL,
    replay_rows bigint NOT NULL,
    replay_digest varchar(64) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX idx_projection_certificates_name
ON public.projection_certificates (projection_name, id DESC);

-- Two appends that concern one row of an inline projection take turns, also where the row is still
-- to come and cannot be locked itself. The tenant is part of the lock's name.
CREATE FUNCTION public.lock_read_model_rows(projection text, keys text []) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    asking uuid := core.current_tenant();
    taken bigint := 0;
BEGIN
    IF asking IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM pg_advisory_xact_lock(k.key)
    FROM (
        SELECT DISTINCT hashtextextended(format('%s %s %s', asking, projection, u.key), 1) AS key
        FROM unnest(keys) AS u (key) ORDER BY 1
    ) AS k;
    GET DIAGNOSTICS taken = ROW_COUNT;
    RETURN taken;
END
$$;
GRANT EXECUTE ON FUNCTION public.lock_read_model_rows(text, text []) TO neolayer_app;

-- The projector reads every tenant's events and keeps its own state; an application has no business
-- with that state but to look at it.
REVOKE INSERT, UPDATE ON public.projections FROM neolayer_app;
GRANT SELECT ON public.events TO neolayer_projector;
GRANT SELECT, UPDATE ON public.projections TO neolayer_projector;
GRANT SELECT ON public.projection_certificates
TO neolayer_app, neolayer_relay, neolayer_backup, neolayer_operator;

-- migrate:down
-- Read models can be made again from events, certificates cannot. Who declared a read model since
-- drops it first: its table is not ours to lose in silence.
SELECT neolayer_schema.refuse_to_lose('public.projection_certificates');
REVOKE ALL ON public.projections, public.events FROM neolayer_projector;
GRANT INSERT, UPDATE ON public.projections TO neolayer_app;
DROP FUNCTION public.lock_read_model_rows(text, text []);
DROP TABLE public.projection_certificates;
ALTER TABLE public.projections DROP COLUMN seen_snapshot;
ALTER TABLE public.projections DROP COLUMN cause;
ALTER TABLE public.projections DROP COLUMN shape;
ALTER TABLE public.projections DROP COLUMN mode;
DROP SCHEMA read_models_previous;
DROP SCHEMA read_models_next;
DROP SCHEMA read_models;
REVOKE USAGE ON SCHEMA core, public FROM neolayer_projector;
