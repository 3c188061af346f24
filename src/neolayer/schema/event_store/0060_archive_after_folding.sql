-- migrate:up
-- As in 0054_archive.sql, and what an asynchronous projection has not folded yet stays too.
CREATE OR REPLACE FUNCTION public.archive_stream(
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

-- migrate:down
-- Archiving waits for subscriptions alone again.
CREATE OR REPLACE FUNCTION public.archive_stream(
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
