-- migrate:up
-- Events are written by append_events() alone: an INSERT of its own could name a transaction, a time
-- and a user that were others.
REVOKE INSERT ON public.events FROM neolayer_app;

-- As in 0050_append.sql, and the user is the context's, whatever the batch says; so many streams at
-- most, since each is a lock in the memory that all sessions share.
CREATE OR REPLACE FUNCTION public.append_events(streams uuid [], batch jsonb, waits boolean) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
AS $$
DECLARE
    asking uuid := core.current_tenant();
    acting uuid := substring(core.current_principal() FROM '^user:(.*)$')::uuid;
    held uuid[];
    outcome jsonb;
BEGIN
    IF asking IS NULL THEN
        RETURN '{"refused": true}';
    END IF;
    IF cardinality(streams) > 500 THEN
        RAISE EXCEPTION 'an append is to 500 streams at most, not %', cardinality(streams)
            USING ERRCODE = 'program_limit_exceeded', HINT = 'append in several transactions';
    END IF;
    IF waits THEN
        PERFORM pg_advisory_xact_lock(k.key)
        FROM (
            SELECT DISTINCT hashtextextended(asking::text || s.stream, 0) AS key
            FROM unnest(streams) AS s (stream) ORDER BY 1
        ) AS k;
    ELSE
        SELECT array_agg(s.stream) INTO held FROM unnest(streams) AS s (stream)
        WHERE NOT pg_try_advisory_xact_lock(hashtextextended(asking::text || s.stream, 0));
    END IF;
    WITH given AS MATERIALIZED (
        SELECT e.* FROM ROWS FROM (jsonb_to_recordset(batch) AS (
            u int, a int, s uuid, c text, x int, i uuid, t text, d jsonb, m jsonb, r uuid, y uuid,
            z int, k text
        )) WITH ORDINALITY AS e (u, a, s, c, x, i, t, d, m, r, y, z, k, n)
    ), appends AS (
        SELECT g.a, g.u, g.s, g.c, g.x, count(*) AS events, count((
            -- No EXISTS, which may become one scan of all the tenant's events.
            SELECT e.event_version FROM public.events e
            WHERE e.tenant_id = asking AND e.event_id = g.i
        )) > 0 AS is_known
        FROM given g GROUP BY g.a, g.u, g.s, g.c, g.x
    ), placed AS (
        SELECT p.a, p.u, p.s, p.x, p.is_known, coalesce(p.c, h.aggregate_type) AS category,
            h.aggregate_type AS present_category, coalesce(h.version, 0) AS version,
            coalesce(h.is_closed, false) AS is_closed,
            coalesce(h.version, 0) + coalesce(sum(p.events) OVER (
                PARTITION BY p.s ORDER BY p.a ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ), 0)::int AS before
        FROM appends p
        LEFT JOIN LATERAL (
            SELECT * FROM public.stream_heads s
            WHERE s.tenant_id = asking AND s.aggregate_id = p.s LIMIT 1
        ) AS h ON true
    ), judged AS (
        SELECT p.*, CASE
            WHEN p.s = ANY(held) THEN 'busy'
            WHEN p.is_known THEN 'known'
            WHEN p.is_closed THEN 'closed'
            WHEN p.category IS DISTINCT FROM coalesce(p.present_category, p.category)
                OR p.category IS NULL THEN 'category'
            WHEN p.x >= 0 AND p.x <> p.before OR p.x = -2 AND p.before = 0 THEN 'conflict'
            ELSE 'stored' END AS status
        FROM placed p
    ), decided AS (
        SELECT j.*, bool_and(j.status = 'stored') OVER (PARTITION BY j.u) AS is_stored FROM judged j
    ), added AS (
        INSERT INTO public.events (
            tenant_id, event_id, aggregate_id, aggregate_type, event_type, event_version,
            event_data, metadata, user_id, correlation_id, causation_id, schema_version, key_id
        )
        SELECT asking, g.i, g.s, j.category, g.t,
            j.before + row_number() OVER (PARTITION BY g.a ORDER BY g.n)::int,
            g.d, coalesce(g.m, '{}'), acting, g.r, g.y, coalesce(g.z, 1), g.k
        FROM given g INNER JOIN decided j ON g.a = j.a AND j.is_stored
        ORDER BY g.n
        RETURNING position, transaction_id
    )
    SELECT jsonb_build_object(
        'transaction', (SELECT max(e.transaction_id)::text FROM added e),
        'at', CURRENT_TIMESTAMP,
        'appends', (
            SELECT jsonb_agg(jsonb_build_array(
                d.a,
                CASE WHEN d.is_stored OR d.status <> 'stored' THEN d.status ELSE 'aside' END,
                CASE WHEN d.is_stored THEN d.before + 1 ELSE d.version END,
                CASE WHEN d.is_stored THEN d.category ELSE d.present_category END
            ) ORDER BY d.a) FROM decided d
        ),
        'positions', (SELECT jsonb_agg(e.position ORDER BY e.position) FROM added e)
    ) INTO outcome;
    RETURN outcome;
END
$$;

-- As in 0051_projections.sql, so many rows at most for the same reason.
CREATE OR REPLACE FUNCTION public.lock_read_model_rows(projection text, keys text []) RETURNS bigint
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
    IF cardinality(keys) > 500 THEN
        RAISE EXCEPTION 'an append concerns 500 rows of % at most, not %', projection, cardinality(keys)
            USING ERRCODE = 'program_limit_exceeded', HINT = 'append fewer events at once';
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

-- What is archived is found by its place, too; rows from before say that they begin anywhere. The
-- hash is of the lines, as the database has computed it: where lines_bytes is NULL (archived before
-- this), of the compressed bytes, as it was told.
ALTER TABLE public.archived_streams ADD COLUMN lines_bytes bigint;
ALTER TABLE public.archived_streams ADD COLUMN first_transaction_id xid8 NOT NULL DEFAULT '0';
ALTER TABLE public.archived_streams ADD COLUMN first_position bigint NOT NULL DEFAULT 0;
CREATE INDEX idx_archived_streams_last
ON public.archived_streams (tenant_id, last_transaction_id, last_position);

-- As in 0060_archive_after_folding.sql; but operators and the layer's own work archive, nobody else;
-- neither the object's key nor its hash is taken from the caller; and the answer names all that
-- still needs the stream: {"events": removed} or {"kept": [[why, who], ...]}. Without a hash it
-- only says what would keep it.
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

-- Archived streams that have events behind a place, those that begin first: as rows of events, so
-- that one statement, hence one snapshot, gives what is in the table and what is not any more. They
-- have no event_id; event_data is the object's key, metadata its hash, key_id the size of its lines.
-- Without SET, so that it becomes a part of the statement that calls it.
CREATE FUNCTION public.archived_behind(transaction xid8, index bigint, most bigint) RETURNS TABLE (
    tenant_id uuid, event_id uuid, aggregate_id uuid, aggregate_type varchar, event_type varchar,
    event_version int, event_data text, metadata text, user_id uuid, correlation_id uuid,
    causation_id uuid, created_at timestamptz, schema_version int, key_id varchar,
    transaction_id xid8, "position" bigint
)
LANGUAGE sql STABLE
BEGIN ATOMIC
SELECT
    a.tenant_id, NULL::uuid, a.aggregate_id, h.aggregate_type, NULL::varchar,
    a.version, a.object_key::text, a.object_hash::text, NULL::uuid, NULL::uuid,
    NULL::uuid, NULL::timestamptz, NULL::int, a.lines_bytes::varchar,
    a.first_transaction_id, a.first_position
FROM public.archived_streams AS a
INNER JOIN public.stream_heads AS h
    ON a.tenant_id = h.tenant_id AND a.aggregate_id = h.aggregate_id
WHERE
    a.tenant_id = (SELECT core.current_tenant())
    AND (a.last_transaction_id, a.last_position) > (transaction, index)
ORDER BY a.first_transaction_id, a.first_position
LIMIT most;
END;
GRANT EXECUTE ON FUNCTION public.archived_behind(xid8, bigint, bigint) TO neolayer_app;

-- migrate:down
-- What was archived meanwhile is under a hash that the functions of before do not understand.
SELECT neolayer_schema.refuse_to_lose('public.archived_streams');
DROP FUNCTION public.archived_behind(xid8, bigint, bigint);
DROP FUNCTION public.archive_stream(uuid, bigint, text);
DROP INDEX public.idx_archived_streams_last;
ALTER TABLE public.archived_streams DROP COLUMN first_position;
ALTER TABLE public.archived_streams DROP COLUMN first_transaction_id;
ALTER TABLE public.archived_streams DROP COLUMN lines_bytes;
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
CREATE OR REPLACE FUNCTION public.lock_read_model_rows(projection text, keys text []) RETURNS bigint
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
CREATE OR REPLACE FUNCTION public.append_events(streams uuid [], batch jsonb, waits boolean) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
AS $$
DECLARE
    asking uuid := core.current_tenant();
    held uuid[];
    outcome jsonb;
BEGIN
    IF asking IS NULL THEN
        RETURN '{"refused": true}';
    END IF;
    IF waits THEN
        PERFORM pg_advisory_xact_lock(k.key)
        FROM (
            SELECT DISTINCT hashtextextended(asking::text || s.stream, 0) AS key
            FROM unnest(streams) AS s (stream) ORDER BY 1
        ) AS k;
    ELSE
        SELECT array_agg(s.stream) INTO held FROM unnest(streams) AS s (stream)
        WHERE NOT pg_try_advisory_xact_lock(hashtextextended(asking::text || s.stream, 0));
    END IF;
    WITH given AS MATERIALIZED (
        SELECT e.* FROM ROWS FROM (jsonb_to_recordset(batch) AS (
            u int, a int, s uuid, c text, x int, i uuid, t text, d jsonb, m jsonb, w uuid, r uuid,
            y uuid, z int, k text
        )) WITH ORDINALITY AS e (u, a, s, c, x, i, t, d, m, w, r, y, z, k, n)
    ), appends AS (
        SELECT g.a, g.u, g.s, g.c, g.x, count(*) AS events, count((
            -- No EXISTS, which may become one scan of all the tenant's events.
            SELECT e.event_version FROM public.events e
            WHERE e.tenant_id = asking AND e.event_id = g.i
        )) > 0 AS is_known
        FROM given g GROUP BY g.a, g.u, g.s, g.c, g.x
    ), placed AS (
        SELECT p.a, p.u, p.s, p.x, p.is_known, coalesce(p.c, h.aggregate_type) AS category,
            h.aggregate_type AS present_category, coalesce(h.version, 0) AS version,
            coalesce(h.is_closed, false) AS is_closed,
            coalesce(h.version, 0) + coalesce(sum(p.events) OVER (
                PARTITION BY p.s ORDER BY p.a ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ), 0)::int AS before
        FROM appends p
        LEFT JOIN LATERAL (
            SELECT * FROM public.stream_heads s
            WHERE s.tenant_id = asking AND s.aggregate_id = p.s LIMIT 1
        ) AS h ON true
    ), judged AS (
        SELECT p.*, CASE
            WHEN p.s = ANY(held) THEN 'busy'
            WHEN p.is_known THEN 'known'
            WHEN p.is_closed THEN 'closed'
            WHEN p.category IS DISTINCT FROM coalesce(p.present_category, p.category)
                OR p.category IS NULL THEN 'category'
            WHEN p.x >= 0 AND p.x <> p.before OR p.x = -2 AND p.before = 0 THEN 'conflict'
            ELSE 'stored' END AS status
        FROM placed p
    ), decided AS (
        SELECT j.*, bool_and(j.status = 'stored') OVER (PARTITION BY j.u) AS is_stored FROM judged j
    ), added AS (
        INSERT INTO public.events (
            tenant_id, event_id, aggregate_id, aggregate_type, event_type, event_version,
            event_data, metadata, user_id, correlation_id, causation_id, schema_version, key_id
        )
        SELECT asking, g.i, g.s, j.category, g.t,
            j.before + row_number() OVER (PARTITION BY g.a ORDER BY g.n)::int,
            g.d, coalesce(g.m, '{}'), g.w, g.r, g.y, coalesce(g.z, 1), g.k
        FROM given g INNER JOIN decided j ON g.a = j.a AND j.is_stored
        ORDER BY g.n
        RETURNING position, transaction_id
    )
    SELECT jsonb_build_object(
        'transaction', (SELECT max(e.transaction_id)::text FROM added e),
        'at', CURRENT_TIMESTAMP,
        'appends', (
            SELECT jsonb_agg(jsonb_build_array(
                d.a,
                CASE WHEN d.is_stored OR d.status <> 'stored' THEN d.status ELSE 'aside' END,
                CASE WHEN d.is_stored THEN d.before + 1 ELSE d.version END,
                CASE WHEN d.is_stored THEN d.category ELSE d.present_category END
            ) ORDER BY d.a) FROM decided d
        ),
        'positions', (SELECT jsonb_agg(e.position ORDER BY e.position) FROM added e)
    ) INTO outcome;
    RETURN outcome;
END
$$;
GRANT INSERT ON public.events TO neolayer_app;
