-- migrate:up
-- Events that a projection cannot fold, each with its cause: from there on the stream stands still in
-- that read model, while all others flow. One that was discarded is passed by, by every replay too.
CREATE TABLE public.projection_parked_events (
    tenant_id uuid NOT NULL,
    projection_name varchar(255) NOT NULL,
    aggregate_id uuid NOT NULL,
    event_version int NOT NULL CHECK (event_version > 0),
    event_id uuid NOT NULL,
    cause text NOT NULL,
    attempts int NOT NULL DEFAULT 1 CHECK (attempts > 0),
    parked_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    discarded_at timestamptz,
    discarded_by varchar(255),
    PRIMARY KEY (tenant_id, projection_name, aggregate_id, event_version),
    CONSTRAINT projection_parked_events_projection_fkey FOREIGN KEY (projection_name)
    REFERENCES public.projections (projection_name) ON UPDATE CASCADE ON DELETE CASCADE
);
-- A stream stands still at one event.
CREATE UNIQUE INDEX projection_parked_events_stream
ON public.projection_parked_events (tenant_id, projection_name, aggregate_id)
WHERE discarded_at IS NULL;
-- Whether a projection has any, and which.
CREATE INDEX idx_projection_parked_events_projection
ON public.projection_parked_events (projection_name);
ALTER TABLE public.projection_parked_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.projection_parked_events FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON public.projection_parked_events TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
GRANT SELECT ON public.projection_parked_events
TO neolayer_app, neolayer_backup, neolayer_operator;
GRANT SELECT, INSERT ON public.projection_parked_events TO neolayer_projector;

-- A certificate says how many streams stood still on either side, and how many events were discarded.
ALTER TABLE public.projection_certificates ADD COLUMN live_waiting bigint NOT NULL DEFAULT 0;
ALTER TABLE public.projection_certificates ADD COLUMN replay_waiting bigint NOT NULL DEFAULT 0;
ALTER TABLE public.projection_certificates ADD COLUMN discarded bigint NOT NULL DEFAULT 0;

-- As in 0060_archive_after_folding.sql; but operators and the layer's own work archive, nobody else;
-- neither the object's key nor its hash is taken from the caller; and the answer names all that
-- still needs the stream: {"events": removed} or {"kept": [[why, who], ...]}. Without a hash it
-- only says what would keep it. A stream that stands still in a read model stays too: it alone,
-- where before a projection that failed kept every stream of every tenant.
DROP FUNCTION public.archive_stream(uuid, text, text, bigint, text);
CREATE FUNCTION public.archive_stream(of_stream uuid, bytes bigint, lines_hash text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    asking uuid := core.current_tenant();
    head public.stream_heads%ROWTYPE;
    opening public.events%ROWTYPE;
    closing public.events%ROWTYPE;
    needed jsonb;
    present text;
    size bigint;
    removed int;
BEGIN
    IF asking IS NULL OR core.current_principal() !~ '^(operator|system):' THEN
        RAISE EXCEPTION 'streams are archived by operators and by the layer itself'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    SELECT * INTO head FROM public.stream_heads h
    WHERE h.tenant_id = asking AND h.aggregate_id = of_stream FOR UPDATE;
    IF NOT FOUND THEN
        RETURN '{"kept": [["absent", null]]}';
    END IF;
    IF NOT head.is_closed THEN
        RETURN '{"kept": [["open", null]]}';
    END IF;
    SELECT * INTO closing FROM public.events e
    WHERE e.tenant_id = asking AND e.aggregate_id = of_stream AND e.event_version = head.version;
    IF NOT FOUND THEN
        RETURN '{"kept": [["archived", null]]}';
    END IF;
    SELECT jsonb_agg(jsonb_build_array(n.why, n.who) ORDER BY n.why, n.who) INTO needed
    FROM (
        SELECT 'running' AS why, NULL AS who
        WHERE closing.transaction_id >= pg_snapshot_xmin(pg_current_snapshot())
        UNION ALL
        SELECT 'subscription', s.subscription FROM public.subscriptions s
        INNER JOIN public.subscription_partitions p USING (tenant_id, subscription)
        WHERE s.tenant_id = asking
            AND p.partition = (hashtextextended(of_stream::text, 0) & 1073741823) % s.partitions
            AND (p.transaction_id, p.position) < (closing.transaction_id, closing.position)
        UNION ALL
        SELECT 'parked', k.subscription FROM public.parked_events k
        WHERE k.tenant_id = asking AND k.aggregate_id = of_stream GROUP BY k.subscription
        UNION ALL
        SELECT 'projection', p.projection_name FROM public.projections p
        WHERE p.mode = 'async' AND p.projection_name NOT LIKE '%:%'
            AND (coalesce(p.last_processed_transaction, '0'), coalesce(p.last_processed_position, 0))
            < (closing.transaction_id, closing.position)
        UNION ALL
        SELECT 'standing', k.projection_name FROM public.projection_parked_events k
        WHERE k.tenant_id = asking AND k.aggregate_id = of_stream AND k.discarded_at IS NULL
            AND k.projection_name NOT LIKE '%:previous'
        GROUP BY k.projection_name
    ) AS n;
    IF needed IS NOT NULL OR lines_hash IS NULL THEN
        RETURN jsonb_build_object('kept', coalesce(needed, '[]'));
    END IF;
    SELECT encode(sha256(l.all_lines), 'hex'), octet_length(l.all_lines) INTO present, size
    FROM (
        SELECT convert_to(string_agg(o.line, E'\n'), 'UTF8') AS all_lines
        FROM public.stream_lines(of_stream) AS o
    ) AS l;
    IF present IS DISTINCT FROM lines_hash THEN
        RETURN '{"kept": [["different", null]]}';
    END IF;
    SELECT * INTO opening FROM public.events e
    WHERE e.tenant_id = asking AND e.aggregate_id = of_stream AND e.event_version = 1;
    INSERT INTO public.archived_streams (
        tenant_id, aggregate_id, version, object_key, object_hash, object_bytes, lines_bytes,
        first_transaction_id, first_position, last_transaction_id, last_position
    ) VALUES (
        asking, of_stream, head.version,
        'events/archive/' || asking || '/' || present || '.jsonl.gz', present, bytes, size,
        opening.transaction_id, opening.position, closing.transaction_id, closing.position
    );
    PERFORM set_config('neolayer.archiving', pg_current_xact_id()::text, true);
    DELETE FROM public.events e WHERE e.tenant_id = asking AND e.aggregate_id = of_stream;
    GET DIAGNOSTICS removed = ROW_COUNT;
    PERFORM set_config('neolayer.archiving', '', true);
    RETURN jsonb_build_object('events', removed);
END
$$;
GRANT EXECUTE ON FUNCTION public.archive_stream(uuid, bigint, text) TO neolayer_app;

-- migrate:down
-- What stands still would be taken for folded; and what was archived meanwhile is under a hash that
-- the function of before does not understand.
SELECT neolayer_schema.refuse_to_lose('public.projection_parked_events', 'public.archived_streams');
DROP FUNCTION public.archive_stream(uuid, bigint, text);
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
        SELECT FROM public.projections p
        WHERE p.mode = 'async' AND p.projection_name NOT LIKE '%:%'
            AND (coalesce(p.last_processed_transaction, '0'), coalesce(p.last_processed_position, 0))
            < (closing.transaction_id, closing.position)
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
GRANT EXECUTE ON FUNCTION public.archive_stream(uuid, text, text, bigint, text) TO neolayer_app;
ALTER TABLE public.projection_certificates DROP COLUMN discarded;
ALTER TABLE public.projection_certificates DROP COLUMN replay_waiting;
ALTER TABLE public.projection_certificates DROP COLUMN live_waiting;
DROP TABLE public.projection_parked_events;
