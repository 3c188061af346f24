-- migrate:up
-- Closed streams whose events lie in the object store instead of the table: where, and what the
-- object's bytes hash to. Written by public.archive_stream() alone.
CREATE TABLE public.archived_streams (
    tenant_id uuid NOT NULL,
    aggregate_id uuid NOT NULL,
    version int NOT NULL CHECK (version > 0),
    object_key varchar(500) NOT NULL,
    object_hash varchar(64) NOT NULL CHECK (object_hash ~ '^[0-9a-f]{64}$'),
    object_bytes bigint NOT NULL CHECK (object_bytes > 0),
    last_transaction_id xid8 NOT NULL,
    last_position bigint NOT NULL,
    archived_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    archived_in xid8 NOT NULL DEFAULT pg_current_xact_id(),
    PRIMARY KEY (tenant_id, aggregate_id),
    CONSTRAINT archived_streams_stream_fkey FOREIGN KEY (tenant_id, aggregate_id)
    REFERENCES public.stream_heads (tenant_id, aggregate_id)
);
ALTER TABLE public.archived_streams ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.archived_streams FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON public.archived_streams TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
GRANT SELECT ON public.archived_streams TO neolayer_app, neolayer_backup, neolayer_operator;

-- Facts are not changed, and taken away only by the function below, in the transaction in which it
-- says where they are now.
CREATE FUNCTION public.keep_events() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'DELETE'
        AND current_setting('neolayer.archiving', true) = pg_current_xact_id_if_assigned()::text
    THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION '% of %.% is refused', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege', HINT = 'events are only appended';
END
$$;
CREATE FUNCTION public.keep_unarchived() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (
        SELECT FROM gone g WHERE NOT EXISTS (
            SELECT FROM public.archived_streams a
            WHERE a.tenant_id = g.tenant_id AND a.aggregate_id = g.aggregate_id
                AND a.archived_in = pg_current_xact_id()
        )
    ) THEN
        RAISE EXCEPTION 'DELETE of public.events is refused'
            USING ERRCODE = 'insufficient_privilege', HINT = 'only archived streams go';
    END IF;
    RETURN NULL;
END
$$;
DROP TRIGGER keep_events ON public.events;
CREATE TRIGGER keep_events BEFORE UPDATE OR DELETE OR TRUNCATE ON public.events
FOR EACH STATEMENT EXECUTE FUNCTION public.keep_events();
CREATE TRIGGER keep_unarchived AFTER DELETE ON public.events
REFERENCING OLD TABLE AS gone
FOR EACH STATEMENT EXECUTE FUNCTION public.keep_unarchived();

-- The rows of a stream as a segment has them, each a JSON text; what is hashed is these, a line each.
CREATE FUNCTION public.stream_lines(of_stream uuid) RETURNS TABLE (line text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
SELECT jsonb_build_array(
    e.tenant_id, e.event_id, e.aggregate_id, e.aggregate_type, e.event_type, e.event_version,
    e.event_data, e.metadata, e.user_id, e.correlation_id, e.causation_id, e.created_at,
    e.schema_version, e.key_id, e.transaction_id::text::bigint, e.position
)::text
FROM public.events AS e
WHERE e.tenant_id = (SELECT core.current_tenant()) AND e.aggregate_id = of_stream
ORDER BY e.event_version;
END;

-- Take a closed stream's events out of the table, for whoever has read them back from the object
-- store: `lines_hash` is the SHA-256 of the lines that were read there, and must be the lines here.
-- What a subscription has not handled yet stays. The number of events, or why not.
CREATE FUNCTION public.archive_stream(
    of_stream uuid, key text, hash text, bytes bigint, lines_hash text
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    asking uuid := core.current_tenant();
    head public.stream_heads%ROWTYPE;
    closing public.events%ROWTYPE;
    present text;
    removed int;
BEGIN
    SELECT * INTO head FROM public.stream_heads h
    WHERE h.tenant_id = asking AND h.aggregate_id = of_stream FOR UPDATE;
    IF NOT FOUND OR NOT head.is_closed THEN
        RETURN 'open';
    END IF;
    SELECT * INTO closing FROM public.events e
    WHERE e.tenant_id = asking AND e.aggregate_id = of_stream AND e.event_version = head.version;
    IF NOT FOUND THEN
        RETURN 'archived';
    END IF;
    IF closing.transaction_id >= pg_snapshot_xmin(pg_current_snapshot()) OR EXISTS (
        SELECT FROM public.subscriptions s
        INNER JOIN public.subscription_partitions p USING (tenant_id, subscription)
        WHERE s.tenant_id = asking
            AND p.partition = (hashtextextended(of_stream::text, 0) & 1073741823) % s.partitions
            AND (p.transaction_id, p.position) < (closing.transaction_id, closing.position)
    ) OR EXISTS (
        SELECT FROM public.parked_events k WHERE k.tenant_id = asking AND k.aggregate_id = of_stream
    ) THEN
        RETURN 'unread';
    END IF;
    SELECT encode(sha256(convert_to(string_agg(l.line, E'\n'), 'UTF8')), 'hex') INTO present
    FROM public.stream_lines(of_stream) AS l;
    IF present IS DISTINCT FROM lines_hash THEN
        RETURN 'different';
    END IF;
    INSERT INTO public.archived_streams (
        tenant_id, aggregate_id, version, object_key, object_hash, object_bytes,
        last_transaction_id, last_position
    ) VALUES (
        asking, of_stream, head.version, key, hash, bytes, closing.transaction_id, closing.position
    );
    PERFORM set_config('neolayer.archiving', pg_current_xact_id()::text, true);
    DELETE FROM public.events e WHERE e.tenant_id = asking AND e.aggregate_id = of_stream;
    GET DIAGNOSTICS removed = ROW_COUNT;
    PERFORM set_config('neolayer.archiving', '', true);
    RETURN removed::text;
END
$$;
GRANT EXECUTE ON FUNCTION
public.stream_lines(uuid), public.archive_stream(uuid, text, text, bigint, text)
TO neolayer_app;

-- migrate:down
-- Archived events are in no table.
SELECT neolayer_schema.refuse_to_lose('public.archived_streams');
DROP FUNCTION public.archive_stream(uuid, text, text, bigint, text);
DROP FUNCTION public.stream_lines(uuid);
DROP TRIGGER keep_unarchived ON public.events;
DROP TRIGGER keep_events ON public.events;
CREATE TRIGGER keep_events BEFORE UPDATE OR DELETE OR TRUNCATE ON public.events
FOR EACH STATEMENT EXECUTE FUNCTION core.refuse_change('events are only appended');
DROP FUNCTION public.keep_unarchived();
DROP FUNCTION public.keep_events();
DROP TABLE public.archived_streams;
