-- migrate:up
-- The last version of each stream. Kept by the trigger below; no role writes it. appended is the
-- size of the last append, from which the version before it follows.
CREATE TABLE public.stream_heads (
    tenant_id uuid NOT NULL,
    aggregate_id uuid NOT NULL,
    aggregate_type varchar(255) NOT NULL,
    version int NOT NULL CHECK (version > 0),
    appended int NOT NULL CHECK (appended > 0),
    PRIMARY KEY (tenant_id, aggregate_id)
) WITH (fillfactor = 70);

-- Recorded facts. position orders events inside one transaction and after it; readers take only
-- what lies below the oldest running transaction (transaction_id), because positions are handed out
-- before commits happen. Not partitioned by time, which would cost the unique version; what is
-- older than its retention is archived by position.
CREATE TABLE public.events (
    tenant_id uuid NOT NULL,
    event_id uuid NOT NULL DEFAULT gen_random_uuid(),
    aggregate_id uuid NOT NULL,
    aggregate_type varchar(255) NOT NULL,
    event_type varchar(255) NOT NULL,
    event_version int NOT NULL CHECK (event_version > 0),
    event_data jsonb NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    user_id uuid,
    correlation_id uuid,
    causation_id uuid,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    schema_version int NOT NULL DEFAULT 1 CHECK (schema_version > 0),
    key_id varchar(100),
    position bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    transaction_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
    PRIMARY KEY (tenant_id, event_id),
    CONSTRAINT events_unique UNIQUE (tenant_id, aggregate_id, event_version)
);
-- The log in reading order.
CREATE INDEX idx_events_position ON public.events (transaction_id, position);
-- All events of a type; the specification's index led by the tenant.
CREATE INDEX idx_events_type ON public.events (tenant_id, event_type, created_at DESC);
-- What belongs to one request; most events name none.
CREATE INDEX idx_events_correlation ON public.events (tenant_id, correlation_id)
WHERE correlation_id IS NOT NULL;

-- Versions from 1, without gaps, whoever writes and however: one check a statement. Two writers of
-- one version meet at the unique key; the later one is refused there.
CREATE FUNCTION public.advance_stream_heads() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    streams bigint;
    advanced bigint;
BEGIN
    WITH batch AS (
        SELECT a.tenant_id, a.aggregate_id, min(a.aggregate_type) AS aggregate_type,
            max(a.event_version) AS version, count(*)::int AS appended,
            max(a.event_version) - min(a.event_version) + 1 = count(*)
                AND min(a.aggregate_type) = max(a.aggregate_type) AS is_unbroken
        FROM added a GROUP BY a.tenant_id, a.aggregate_id
    ), moved AS (
        INSERT INTO public.stream_heads AS h
            (tenant_id, aggregate_id, aggregate_type, version, appended)
        SELECT b.tenant_id, b.aggregate_id, b.aggregate_type, b.version, b.appended
        FROM batch b WHERE b.is_unbroken ORDER BY b.tenant_id, b.aggregate_id
        ON CONFLICT (tenant_id, aggregate_id) DO UPDATE
        SET version = excluded.version, appended = excluded.appended
        WHERE h.version = excluded.version - excluded.appended
            AND h.aggregate_type = excluded.aggregate_type
        RETURNING h.xmax = 0 AS is_new, h.version = h.appended AS is_from_first
    )
    SELECT (SELECT count(*) FROM batch), count(*) FILTER (WHERE m.is_from_first OR NOT m.is_new)
    INTO streams, advanced FROM moved m;
    IF advanced < streams THEN
        RAISE EXCEPTION 'a version does not follow the last one of its stream'
            USING ERRCODE = 'check_violation', SCHEMA = 'public', TABLE = 'events',
            CONSTRAINT = 'events_version_gapless';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER advance_heads AFTER INSERT ON public.events
REFERENCING NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION public.advance_stream_heads();

-- Facts are not changed.
CREATE TRIGGER keep_events BEFORE UPDATE OR DELETE OR TRUNCATE ON public.events
FOR EACH STATEMENT EXECUTE FUNCTION core.refuse_change('events are only appended');

-- An aggregate's state at a version, kept to load faster, safe to delete.
CREATE TABLE public.snapshots (
    tenant_id uuid NOT NULL,
    snapshot_id uuid NOT NULL DEFAULT gen_random_uuid(),
    aggregate_id uuid NOT NULL,
    aggregate_type varchar(255) NOT NULL,
    snapshot_version int NOT NULL CHECK (snapshot_version > 0),
    snapshot_data jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    schema_version int NOT NULL DEFAULT 1 CHECK (schema_version > 0),
    key_id varchar(100),
    PRIMARY KEY (tenant_id, snapshot_id),
    CONSTRAINT snapshots_unique UNIQUE (tenant_id, aggregate_id, snapshot_version),
    CONSTRAINT snapshots_stream_fkey FOREIGN KEY (tenant_id, aggregate_id)
    REFERENCES public.stream_heads (tenant_id, aggregate_id)
);

-- Where each projection is. A projection folds all tenants' events, so it belongs to the platform.
-- An event's id and time do not say where to go on (five events of one transaction share a time):
-- transaction and position do.
CREATE TABLE public.projections (
    projection_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    projection_name varchar(255) NOT NULL UNIQUE,
    last_processed_event_id uuid,
    last_processed_timestamp timestamptz,
    checkpoint_data jsonb,
    status varchar(50) NOT NULL DEFAULT 'active',
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    last_processed_transaction xid8,
    last_processed_position bigint,
    CONSTRAINT projections_status_check CHECK (
        status IN ('active', 'paused', 'rebuilding', 'failed')
    )
);
CREATE TRIGGER touch BEFORE UPDATE ON public.projections
FOR EACH ROW EXECUTE FUNCTION core.touch_updated_at();

-- Each tenant sees its own.
ALTER TABLE public.events ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.events FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON public.events TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
ALTER TABLE public.stream_heads ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.stream_heads FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON public.stream_heads TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
ALTER TABLE public.snapshots ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.snapshots FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON public.snapshots TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));

-- Appending is granted, changing is not.
GRANT SELECT, INSERT ON public.events TO neolayer_app;
GRANT SELECT ON public.stream_heads TO neolayer_app;
GRANT SELECT, INSERT, DELETE ON public.snapshots TO neolayer_app;
GRANT SELECT, INSERT, UPDATE ON public.projections TO neolayer_app;
GRANT SELECT ON public.events, public.stream_heads, public.snapshots, public.projections
TO neolayer_relay, neolayer_backup, neolayer_operator;

-- migrate:down
-- A way back while there is nothing to lose.
SELECT neolayer_schema.refuse_to_lose('public.events', 'public.projections');
DROP TABLE public.projections;
DROP TABLE public.snapshots;
DROP TABLE public.events;
DROP FUNCTION public.advance_stream_heads();
DROP TABLE public.stream_heads;
