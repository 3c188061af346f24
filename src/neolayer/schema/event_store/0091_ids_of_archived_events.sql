-- migrate:up
-- The ids of archived events, so that they are known for as long as the streams are: an id is one
-- event, wherever it lies. Each with where its line is in the segment, which has all the rest. Written
-- by public.archive_stream() alone. Of streams archived before this, ids are not here.
CREATE TABLE public.archived_events (
    tenant_id uuid NOT NULL,
    event_id uuid NOT NULL,
    aggregate_id uuid NOT NULL,
    event_version int NOT NULL CHECK (event_version > 0),
    PRIMARY KEY (tenant_id, event_id)
);
ALTER TABLE public.archived_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.archived_events FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON public.archived_events TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
GRANT SELECT ON public.archived_events
TO neolayer_app, neolayer_appender, neolayer_backup, neolayer_operator;

-- As in 0066_parked_by_projections.sql, and the ids are kept.
CREATE OR REPLACE FUNCTION public.archive_stream(of_stream uuid, bytes bigint, lines_hash text) RETURNS jsonb
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
    WITH gone AS (
        DELETE FROM public.events e WHERE e.tenant_id = asking AND e.aggregate_id = of_stream
        RETURNING e.event_id, e.event_version
    )
    INSERT INTO public.archived_events (tenant_id, event_id, aggregate_id, event_version)
    SELECT asking, g.event_id, of_stream, g.event_version FROM gone g;
    GET DIAGNOSTICS removed = ROW_COUNT;
    PERFORM set_config('neolayer.archiving', '', true);
    RETURN jsonb_build_object('events', removed);
END
$$;

-- As refuse_known(), of events whose ids were not in the table any more.
CREATE FUNCTION public.refuse_archived(asking uuid, batch jsonb, ids uuid []) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM public.refuse_known(batch, ARRAY(
        SELECT u.id FROM unnest(ids) AS u (id)
        EXCEPT SELECT a.event_id FROM public.archived_events a WHERE a.tenant_id = asking
            AND a.event_id = ANY(ids)
    ));
END
$$;
GRANT EXECUTE ON FUNCTION public.refuse_archived(uuid, jsonb, uuid []) TO neolayer_appender;

-- As in 0065_append_cost.sql and 0076_append_at_once.sql, and what was stored is looked for among the
-- archived. That comes after storing, and is a statement of its own: an event that is archived at this
-- moment keeps its id in the one table until it is in the other, and whoever waited for the one sees
-- the other. What comes again for an archived stream does not get so far: the stream is closed.
CREATE OR REPLACE FUNCTION public.append_to_one(
    asking uuid, acting uuid, stream uuid, is_held boolean, batch jsonb
) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    head record;
    present int;
    category text := batch -> 0 ->> 'c';
    expected int := (batch -> 0 ->> 'x')::int;
    wanted int := jsonb_array_length(batch);
    status text;
    positions bigint[];
    ids uuid[];
BEGIN
    SELECT h.aggregate_type, h.version, h.is_closed INTO head FROM public.stream_heads h
    WHERE h.tenant_id = asking AND h.aggregate_id = stream;
    present := coalesce(head.version, 0);
    category := coalesce(category, head.aggregate_type);
    status := CASE
        WHEN is_held THEN 'busy'
        WHEN head.is_closed THEN 'closed'
        WHEN category IS NULL OR category <> head.aggregate_type THEN 'category'
        WHEN expected >= 0 AND expected <> present OR expected = -2 AND present = 0
            THEN 'conflict'
        ELSE 'stored' END;
    IF status <> 'stored' THEN
        RETURN public.appended(jsonb_build_array(
            jsonb_build_array(0, status, present, head.aggregate_type)
        ), NULL);
    END IF;
    IF wanted > 1 AND jsonb_path_exists(batch, '$[0 to last - 1] ? (@.t == "StreamClosed")') THEN
        PERFORM public.refuse_unordered(asking, '{}');
    END IF;
    WITH added AS (
        INSERT INTO public.events (
            tenant_id, event_id, aggregate_id, aggregate_type, event_type, event_version,
            event_data, metadata, user_id, correlation_id, causation_id, schema_version, key_id
        )
        SELECT asking, g.i, stream, category, g.t, present + g.n::int,
            g.d, coalesce(g.m, '{}'), acting, g.r, g.y, coalesce(g.z, 1), g.k
        FROM ROWS FROM (jsonb_to_recordset(batch) AS (
            i uuid, t text, d jsonb, m jsonb, r uuid, y uuid, z int, k text
        )) WITH ORDINALITY AS g (i, t, d, m, r, y, z, k, n)
        ON CONFLICT (tenant_id, event_id) DO NOTHING
        RETURNING position, event_id
    )
    SELECT array_agg(a.position), array_agg(a.event_id) INTO positions, ids FROM added a;
    IF positions IS NULL THEN
        RETURN public.appended(jsonb_build_array(
            jsonb_build_array(0, 'known', present, head.aggregate_type)
        ), NULL);
    END IF;
    IF cardinality(positions) < wanted THEN
        PERFORM public.refuse_known(batch, ids);
    END IF;
    IF EXISTS (
        SELECT FROM public.archived_events o
        WHERE o.tenant_id = asking AND o.event_id = ANY(ids)
    ) THEN
        PERFORM public.refuse_archived(asking, batch, ids);
    END IF;
    INSERT INTO public.stream_heads AS h
        (tenant_id, aggregate_id, aggregate_type, version, appended, transaction_id, is_closed)
    VALUES (asking, stream, category, present + wanted, wanted, pg_current_xact_id(),
        batch -> -1 ->> 't' = 'StreamClosed')
    ON CONFLICT (tenant_id, aggregate_id) DO UPDATE
    SET version = excluded.version, appended = excluded.appended,
        transaction_id = excluded.transaction_id, is_closed = excluded.is_closed
    WHERE h.version = excluded.version - excluded.appended
        AND h.aggregate_type = excluded.aggregate_type
        AND h.transaction_id <= excluded.transaction_id
        AND NOT h.is_closed;
    IF NOT FOUND THEN
        PERFORM public.refuse_unordered(asking, ARRAY[stream]);
    END IF;
    RETURN public.appended(jsonb_build_array(
        jsonb_build_array(0, 'stored', present + 1, category)
    ), positions);
END
$$;

-- The same for several streams.
CREATE OR REPLACE FUNCTION public.append_to_many(asking uuid, acting uuid, free uuid [], batch jsonb)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    decided jsonb;
    wanted int;
    is_broken boolean;
    positions bigint[];
    ids uuid[];
    streams int;
    moved int;
BEGIN
    WITH given AS MATERIALIZED (
        SELECT e.* FROM ROWS FROM (jsonb_to_recordset(batch) AS (
            u int, a int, s uuid, c text, x int, i uuid, t text, d jsonb, m jsonb, r uuid, y uuid,
            z int, k text
        )) WITH ORDINALITY AS e (u, a, s, c, x, i, t, d, m, r, y, z, k, n)
    ), appends AS (
        SELECT g.a, g.u, g.s, g.c, g.x, count(*)::int AS events,
            bool_or(g.t = 'StreamClosed') AS closes,
            coalesce(min(g.n) FILTER (WHERE g.t = 'StreamClosed') < max(g.n), false) AS is_broken
        FROM given g GROUP BY g.a, g.u, g.s, g.c, g.x
    ), placed AS (
        SELECT p.a, p.u, p.s, p.x, p.events, p.closes, p.is_broken,
            coalesce(h.aggregate_type, first_value(p.c) OVER stream) AS present_category,
            coalesce(p.c, h.aggregate_type, first_value(p.c) OVER stream) AS category,
            coalesce(h.version, 0) AS version,
            coalesce(h.is_closed, false) OR coalesce(bool_or(p.closes) OVER earlier, false)
                AS is_closed,
            coalesce(h.version, 0) + coalesce(sum(p.events) OVER earlier, 0)::int AS before
        FROM appends p
        LEFT JOIN LATERAL (
            SELECT * FROM public.stream_heads s
            WHERE s.tenant_id = asking AND s.aggregate_id = p.s LIMIT 1
        ) AS h ON true
        WINDOW stream AS (PARTITION BY p.s ORDER BY p.a), earlier AS (
            PARTITION BY p.s ORDER BY p.a ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        )
    ), judged AS (
        SELECT p.*, CASE
            WHEN (p.s = ANY(free)) IS NOT TRUE THEN 'busy'
            WHEN p.is_closed THEN 'closed'
            WHEN p.category <> p.present_category OR p.category IS NULL THEN 'category'
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
        ORDER BY g.a, g.n
        ON CONFLICT (tenant_id, event_id) DO NOTHING
        RETURNING position, event_id
    )
    SELECT
        jsonb_agg(to_jsonb(d) ORDER BY d.a),
        coalesce(sum(d.events) FILTER (WHERE d.is_stored), 0),
        bool_or(d.is_stored AND d.is_broken) OR count(*) > count(DISTINCT d.a),
        (SELECT array_agg(e.position ORDER BY e.position) FROM added e),
        (SELECT array_agg(e.event_id) FROM added e)
    INTO decided, wanted, is_broken, positions, ids
    FROM decided d;
    IF is_broken THEN
        PERFORM public.refuse_unordered(asking, '{}');
    END IF;
    IF cardinality(positions) < wanted THEN
        PERFORM public.refuse_known(batch, ids);
    END IF;
    IF EXISTS (
        SELECT FROM public.archived_events o
        WHERE o.tenant_id = asking AND o.event_id = ANY(ids)
    ) THEN
        PERFORM public.refuse_archived(asking, batch, ids);
    END IF;
    IF positions IS NOT NULL THEN
        INSERT INTO public.stream_heads AS h
            (tenant_id, aggregate_id, aggregate_type, version, appended, transaction_id, is_closed)
        SELECT asking, d.s, min(d.category), max(d.before + d.events), sum(d.events)::int,
            pg_current_xact_id(), bool_or(d.closes)
        FROM jsonb_to_recordset(decided) AS d (
            s uuid, category text, version int, before int, events int, closes boolean,
            is_stored boolean
        )
        WHERE d.is_stored GROUP BY d.s
        -- One that was not stored left a hole before one that was.
        HAVING max(d.before + d.events) = min(d.version) + sum(d.events)
        ORDER BY d.s
        ON CONFLICT (tenant_id, aggregate_id) DO UPDATE
        SET version = excluded.version, appended = excluded.appended,
            transaction_id = excluded.transaction_id, is_closed = excluded.is_closed
        WHERE h.version = excluded.version - excluded.appended
            AND h.aggregate_type = excluded.aggregate_type
            AND h.transaction_id <= excluded.transaction_id
            AND NOT h.is_closed;
        GET DIAGNOSTICS moved = ROW_COUNT;
        SELECT count(DISTINCT d.s) INTO streams
        FROM jsonb_to_recordset(decided) AS d (s uuid, is_stored boolean) WHERE d.is_stored;
        IF moved < streams THEN
            PERFORM public.refuse_unordered(asking, free);
        END IF;
    END IF;
    RETURN public.appended((
        SELECT jsonb_agg(jsonb_build_array(
            d.a,
            CASE
                WHEN d.is_stored AND positions IS NULL THEN 'known'
                WHEN d.is_stored OR d.status <> 'stored' THEN d.status
                ELSE 'aside' END,
            CASE WHEN d.is_stored THEN d.before + 1 ELSE d.version END,
            CASE WHEN d.is_stored THEN d.category ELSE d.present_category END
        ) ORDER BY d.a)
        FROM jsonb_to_recordset(decided) AS d (
            a int, status text, is_stored boolean, before int, version int, category text,
            present_category text
        )
    ), positions);
END
$$;

-- The same for one event each.
CREATE OR REPLACE FUNCTION public.append_to_each(asking uuid, acting uuid, streams uuid [], batch json)
RETURNS json
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    whose int := hashtext(asking::text);
    free boolean[];
    stream uuid;
    appends json;
    wanted int;
    moved int;
    places bigint[];
    ids uuid[];
BEGIN
    FOREACH stream IN ARRAY streams LOOP
        free := free || pg_try_advisory_xact_lock(whose, hashtext(stream::text));
    END LOOP;
    WITH given AS MATERIALIZED (
        SELECT e.n, e.s, e.i, e.t, e.d, e.m, e.r, e.y, e.z, e.k,
            coalesce(e.c, h.aggregate_type) AS category, h.aggregate_type AS present_category,
            coalesce(h.version, 0) AS present, CASE
                WHEN free[e.n] IS NOT TRUE OR e.s <> streams[e.n] THEN 'busy'
                WHEN h.is_closed THEN 'closed'
                WHEN e.c <> h.aggregate_type OR coalesce(e.c, h.aggregate_type) IS NULL
                    THEN 'category'
                WHEN e.x >= 0 AND e.x <> coalesce(h.version, 0)
                    OR e.x = -2 AND h.version IS NULL THEN 'conflict'
                ELSE 'stored' END AS status
        FROM ROWS FROM (json_to_recordset(batch) AS (
            s uuid, c text, x int, i uuid, t text, d jsonb, m jsonb, r uuid, y uuid, z int, k text
        )) WITH ORDINALITY AS e (s, c, x, i, t, d, m, r, y, z, k, n)
        LEFT JOIN LATERAL (
            SELECT * FROM public.stream_heads o
            WHERE o.tenant_id = asking AND o.aggregate_id = e.s LIMIT 1
        ) AS h ON true
    ), added AS (
        INSERT INTO public.events (
            tenant_id, event_id, aggregate_id, aggregate_type, event_type, event_version,
            event_data, metadata, user_id, correlation_id, causation_id, schema_version, key_id
        )
        SELECT asking, g.i, g.s, g.category, g.t, g.present + 1, g.d, coalesce(g.m, '{}'), acting,
            g.r, g.y, coalesce(g.z, 1), g.k
        FROM given g WHERE g.status = 'stored'
        ON CONFLICT (tenant_id, event_id) DO NOTHING
        RETURNING aggregate_id, aggregate_type, event_version, event_type, position, event_id
    ), moved AS (
        INSERT INTO public.stream_heads AS h
            (tenant_id, aggregate_id, aggregate_type, version, appended, transaction_id, is_closed)
        SELECT asking, a.aggregate_id, a.aggregate_type, a.event_version, 1, pg_current_xact_id(),
            a.event_type = 'StreamClosed'
        FROM added a
        ON CONFLICT (tenant_id, aggregate_id) DO UPDATE
        SET version = excluded.version, appended = excluded.appended,
            transaction_id = excluded.transaction_id, is_closed = excluded.is_closed
        WHERE h.version = excluded.version - 1
            AND h.transaction_id <= excluded.transaction_id AND NOT h.is_closed
        RETURNING 1
    ), written AS (
        SELECT array_agg(a.position) AS places, array_agg(a.event_id) AS ids FROM added a
    )
    SELECT
        json_agg(json_build_array(
            g.n - 1, g.status, g.present + (g.status = 'stored')::int,
            CASE WHEN g.status = 'stored' THEN g.category ELSE g.present_category END
        )),
        count(*) FILTER (WHERE g.status = 'stored'), (SELECT count(*) FROM moved),
        (SELECT w.places FROM written w), (SELECT w.ids FROM written w)
    INTO appends, wanted, moved, places, ids
    FROM given g;
    IF coalesce(cardinality(places), 0) < wanted THEN
        PERFORM public.refuse_known(batch::jsonb, coalesce(ids, '{}'));
    END IF;
    IF EXISTS (
        SELECT FROM public.archived_events o
        WHERE o.tenant_id = asking AND o.event_id = ANY(ids)
    ) THEN
        PERFORM public.refuse_archived(asking, batch::jsonb, ids);
    END IF;
    IF moved < wanted THEN
        PERFORM public.refuse_unordered(asking, streams);
    END IF;
    RETURN json_build_object(
        'transaction', pg_current_xact_id_if_assigned(), 'at', CURRENT_TIMESTAMP,
        'appends', appends, 'positions', places
    );
END
$$;
GRANT CREATE ON SCHEMA public TO neolayer_appender;
RESET ROLE;
SET ROLE neolayer_appender;
-- The same for one event.
CREATE OR REPLACE FUNCTION public.append_event(
    context text, stream uuid, category text, expected int, id uuid, kind text, data jsonb,
    extra jsonb, correlation uuid, causation uuid, schema int, key text
) RETURNS json
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
AS $$
DECLARE
    who text[] := core.verify_context(context);
    asking uuid := nullif(who[1], '00000000-0000-0000-0000-000000000000')::uuid;
    present int;
    present_category text;
    is_closed boolean;
    status text;
    place bigint;
BEGIN
    IF asking IS NULL THEN
        RETURN '["refused"]';
    END IF;
    IF NOT pg_try_advisory_xact_lock(hashtext(asking::text), hashtext(stream::text)) THEN
        RETURN '["busy"]';
    END IF;
    SELECT h.version, h.aggregate_type, h.is_closed INTO present, present_category, is_closed
    FROM public.stream_heads h WHERE h.tenant_id = asking AND h.aggregate_id = stream;
    status := CASE
        WHEN is_closed THEN 'closed'
        WHEN category <> present_category OR coalesce(category, present_category) IS NULL
            THEN 'category'
        WHEN expected >= 0 AND expected <> coalesce(present, 0)
            OR expected = -2 AND present IS NULL THEN 'conflict'
        ELSE 'stored' END;
    IF status = 'stored' THEN
        INSERT INTO public.events (
            tenant_id, event_id, aggregate_id, aggregate_type, event_type, event_version,
            event_data, metadata, user_id, correlation_id, causation_id, schema_version, key_id
        ) VALUES (
            asking, id, stream, coalesce(category, present_category), kind,
            coalesce(present, 0) + 1, data, extra,
            CASE WHEN starts_with(who[2], 'user:') THEN substr(who[2], 6)::uuid END,
            correlation, causation, schema, key
        )
        ON CONFLICT (tenant_id, event_id) DO NOTHING
        RETURNING position INTO place;
        IF place IS NULL THEN
            status := 'known';
        ELSIF EXISTS (
            SELECT FROM public.archived_events o WHERE o.tenant_id = asking AND o.event_id = id
        ) THEN
            PERFORM public.refuse_archived(
                asking, jsonb_build_array(jsonb_build_object('i', id)), ARRAY[id]
            );
        ELSIF present IS NULL THEN
            present := 0;
            present_category := category;
            INSERT INTO public.stream_heads (
                tenant_id, aggregate_id, aggregate_type, version, appended, transaction_id, is_closed
            ) VALUES (asking, stream, category, 1, 1, pg_current_xact_id(), kind = 'StreamClosed')
            ON CONFLICT (tenant_id, aggregate_id) DO NOTHING;
        ELSE
            UPDATE public.stream_heads h
            SET version = present + 1, appended = 1, transaction_id = pg_current_xact_id(),
                is_closed = kind = 'StreamClosed'
            WHERE h.tenant_id = asking AND h.aggregate_id = stream AND h.version = present
                AND h.transaction_id <= pg_current_xact_id() AND NOT h.is_closed;
        END IF;
        IF NOT FOUND AND place IS NOT NULL THEN
            PERFORM public.refuse_unordered(asking, ARRAY[stream]);
        END IF;
    END IF;
    RETURN json_build_array(
        status, coalesce(present, 0) + (place IS NOT NULL)::int, present_category,
        pg_current_xact_id_if_assigned(), CURRENT_TIMESTAMP, place
    );
END
$$;
SET ROLE neolayer_owner;
REVOKE CREATE ON SCHEMA public FROM neolayer_appender;

-- migrate:down
-- Ids of archived events would be forgotten.
SELECT neolayer_schema.refuse_to_lose('public.archived_events');
GRANT CREATE ON SCHEMA public TO neolayer_appender;
RESET ROLE;
SET ROLE neolayer_appender;
CREATE OR REPLACE FUNCTION public.append_event(
    context text, stream uuid, category text, expected int, id uuid, kind text, data jsonb,
    extra jsonb, correlation uuid, causation uuid, schema int, key text
) RETURNS json
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
AS $$
DECLARE
    who text[] := core.verify_context(context);
    asking uuid := nullif(who[1], '00000000-0000-0000-0000-000000000000')::uuid;
    present int;
    present_category text;
    is_closed boolean;
    status text;
    place bigint;
BEGIN
    IF asking IS NULL THEN
        RETURN '["refused"]';
    END IF;
    IF NOT pg_try_advisory_xact_lock(hashtext(asking::text), hashtext(stream::text)) THEN
        RETURN '["busy"]';
    END IF;
    SELECT h.version, h.aggregate_type, h.is_closed INTO present, present_category, is_closed
    FROM public.stream_heads h WHERE h.tenant_id = asking AND h.aggregate_id = stream;
    status := CASE
        WHEN is_closed THEN 'closed'
        WHEN category <> present_category OR coalesce(category, present_category) IS NULL
            THEN 'category'
        WHEN expected >= 0 AND expected <> coalesce(present, 0)
            OR expected = -2 AND present IS NULL THEN 'conflict'
        ELSE 'stored' END;
    IF status = 'stored' THEN
        INSERT INTO public.events (
            tenant_id, event_id, aggregate_id, aggregate_type, event_type, event_version,
            event_data, metadata, user_id, correlation_id, causation_id, schema_version, key_id
        ) VALUES (
            asking, id, stream, coalesce(category, present_category), kind,
            coalesce(present, 0) + 1, data, extra,
            CASE WHEN starts_with(who[2], 'user:') THEN substr(who[2], 6)::uuid END,
            correlation, causation, schema, key
        )
        ON CONFLICT (tenant_id, event_id) DO NOTHING
        RETURNING position INTO place;
        IF place IS NULL THEN
            status := 'known';
        ELSIF present IS NULL THEN
            present := 0;
            present_category := category;
            INSERT INTO public.stream_heads (
                tenant_id, aggregate_id, aggregate_type, version, appended, transaction_id, is_closed
            ) VALUES (asking, stream, category, 1, 1, pg_current_xact_id(), kind = 'StreamClosed')
            ON CONFLICT (tenant_id, aggregate_id) DO NOTHING;
        ELSE
            UPDATE public.stream_heads h
            SET version = present + 1, appended = 1, transaction_id = pg_current_xact_id(),
                is_closed = kind = 'StreamClosed'
            WHERE h.tenant_id = asking AND h.aggregate_id = stream AND h.version = present
                AND h.transaction_id <= pg_current_xact_id() AND NOT h.is_closed;
        END IF;
        IF NOT FOUND AND place IS NOT NULL THEN
            PERFORM public.refuse_unordered(asking, ARRAY[stream]);
        END IF;
    END IF;
    RETURN json_build_array(
        status, coalesce(present, 0) + (place IS NOT NULL)::int, present_category,
        pg_current_xact_id_if_assigned(), CURRENT_TIMESTAMP, place
    );
END
$$;
SET ROLE neolayer_owner;
REVOKE CREATE ON SCHEMA public FROM neolayer_appender;
CREATE OR REPLACE FUNCTION public.append_to_each(asking uuid, acting uuid, streams uuid [], batch json)
RETURNS json
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    whose int := hashtext(asking::text);
    free boolean[];
    stream uuid;
    appends json;
    wanted int;
    moved int;
    places bigint[];
    ids uuid[];
BEGIN
    FOREACH stream IN ARRAY streams LOOP
        free := free || pg_try_advisory_xact_lock(whose, hashtext(stream::text));
    END LOOP;
    WITH given AS MATERIALIZED (
        SELECT e.n, e.s, e.i, e.t, e.d, e.m, e.r, e.y, e.z, e.k,
            coalesce(e.c, h.aggregate_type) AS category, h.aggregate_type AS present_category,
            coalesce(h.version, 0) AS present, CASE
                WHEN free[e.n] IS NOT TRUE OR e.s <> streams[e.n] THEN 'busy'
                WHEN h.is_closed THEN 'closed'
                WHEN e.c <> h.aggregate_type OR coalesce(e.c, h.aggregate_type) IS NULL
                    THEN 'category'
                WHEN e.x >= 0 AND e.x <> coalesce(h.version, 0)
                    OR e.x = -2 AND h.version IS NULL THEN 'conflict'
                ELSE 'stored' END AS status
        FROM ROWS FROM (json_to_recordset(batch) AS (
            s uuid, c text, x int, i uuid, t text, d jsonb, m jsonb, r uuid, y uuid, z int, k text
        )) WITH ORDINALITY AS e (s, c, x, i, t, d, m, r, y, z, k, n)
        LEFT JOIN LATERAL (
            SELECT * FROM public.stream_heads o
            WHERE o.tenant_id = asking AND o.aggregate_id = e.s LIMIT 1
        ) AS h ON true
    ), added AS (
        INSERT INTO public.events (
            tenant_id, event_id, aggregate_id, aggregate_type, event_type, event_version,
            event_data, metadata, user_id, correlation_id, causation_id, schema_version, key_id
        )
        SELECT asking, g.i, g.s, g.category, g.t, g.present + 1, g.d, coalesce(g.m, '{}'), acting,
            g.r, g.y, coalesce(g.z, 1), g.k
        FROM given g WHERE g.status = 'stored'
        ON CONFLICT (tenant_id, event_id) DO NOTHING
        RETURNING aggregate_id, aggregate_type, event_version, event_type, position, event_id
    ), moved AS (
        INSERT INTO public.stream_heads AS h
            (tenant_id, aggregate_id, aggregate_type, version, appended, transaction_id, is_closed)
        SELECT asking, a.aggregate_id, a.aggregate_type, a.event_version, 1, pg_current_xact_id(),
            a.event_type = 'StreamClosed'
        FROM added a
        ON CONFLICT (tenant_id, aggregate_id) DO UPDATE
        SET version = excluded.version, appended = excluded.appended,
            transaction_id = excluded.transaction_id, is_closed = excluded.is_closed
        WHERE h.version = excluded.version - 1
            AND h.transaction_id <= excluded.transaction_id AND NOT h.is_closed
        RETURNING 1
    ), written AS (
        SELECT array_agg(a.position) AS places, array_agg(a.event_id) AS ids FROM added a
    )
    SELECT
        json_agg(json_build_array(
            g.n - 1, g.status, g.present + (g.status = 'stored')::int,
            CASE WHEN g.status = 'stored' THEN g.category ELSE g.present_category END
        )),
        count(*) FILTER (WHERE g.status = 'stored'), (SELECT count(*) FROM moved),
        (SELECT w.places FROM written w), (SELECT w.ids FROM written w)
    INTO appends, wanted, moved, places, ids
    FROM given g;
    IF coalesce(cardinality(places), 0) < wanted THEN
        PERFORM public.refuse_known(batch::jsonb, coalesce(ids, '{}'));
    END IF;
    IF moved < wanted THEN
        PERFORM public.refuse_unordered(asking, streams);
    END IF;
    RETURN json_build_object(
        'transaction', pg_current_xact_id_if_assigned(), 'at', CURRENT_TIMESTAMP,
        'appends', appends, 'positions', places
    );
END
$$;
CREATE OR REPLACE FUNCTION public.append_to_many(asking uuid, acting uuid, free uuid [], batch jsonb)
RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    decided jsonb;
    wanted int;
    is_broken boolean;
    positions bigint[];
    ids uuid[];
    streams int;
    moved int;
BEGIN
    WITH given AS MATERIALIZED (
        SELECT e.* FROM ROWS FROM (jsonb_to_recordset(batch) AS (
            u int, a int, s uuid, c text, x int, i uuid, t text, d jsonb, m jsonb, r uuid, y uuid,
            z int, k text
        )) WITH ORDINALITY AS e (u, a, s, c, x, i, t, d, m, r, y, z, k, n)
    ), appends AS (
        SELECT g.a, g.u, g.s, g.c, g.x, count(*)::int AS events,
            bool_or(g.t = 'StreamClosed') AS closes,
            coalesce(min(g.n) FILTER (WHERE g.t = 'StreamClosed') < max(g.n), false) AS is_broken
        FROM given g GROUP BY g.a, g.u, g.s, g.c, g.x
    ), placed AS (
        SELECT p.a, p.u, p.s, p.x, p.events, p.closes, p.is_broken,
            coalesce(h.aggregate_type, first_value(p.c) OVER stream) AS present_category,
            coalesce(p.c, h.aggregate_type, first_value(p.c) OVER stream) AS category,
            coalesce(h.version, 0) AS version,
            coalesce(h.is_closed, false) OR coalesce(bool_or(p.closes) OVER earlier, false)
                AS is_closed,
            coalesce(h.version, 0) + coalesce(sum(p.events) OVER earlier, 0)::int AS before
        FROM appends p
        LEFT JOIN LATERAL (
            SELECT * FROM public.stream_heads s
            WHERE s.tenant_id = asking AND s.aggregate_id = p.s LIMIT 1
        ) AS h ON true
        WINDOW stream AS (PARTITION BY p.s ORDER BY p.a), earlier AS (
            PARTITION BY p.s ORDER BY p.a ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        )
    ), judged AS (
        SELECT p.*, CASE
            WHEN (p.s = ANY(free)) IS NOT TRUE THEN 'busy'
            WHEN p.is_closed THEN 'closed'
            WHEN p.category <> p.present_category OR p.category IS NULL THEN 'category'
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
        ORDER BY g.a, g.n
        ON CONFLICT (tenant_id, event_id) DO NOTHING
        RETURNING position, event_id
    )
    SELECT
        jsonb_agg(to_jsonb(d) ORDER BY d.a),
        coalesce(sum(d.events) FILTER (WHERE d.is_stored), 0),
        bool_or(d.is_stored AND d.is_broken) OR count(*) > count(DISTINCT d.a),
        (SELECT array_agg(e.position ORDER BY e.position) FROM added e),
        (SELECT array_agg(e.event_id) FROM added e)
    INTO decided, wanted, is_broken, positions, ids
    FROM decided d;
    IF is_broken THEN
        PERFORM public.refuse_unordered(asking, '{}');
    END IF;
    IF cardinality(positions) < wanted THEN
        PERFORM public.refuse_known(batch, ids);
    END IF;
    IF positions IS NOT NULL THEN
        INSERT INTO public.stream_heads AS h
            (tenant_id, aggregate_id, aggregate_type, version, appended, transaction_id, is_closed)
        SELECT asking, d.s, min(d.category), max(d.before + d.events), sum(d.events)::int,
            pg_current_xact_id(), bool_or(d.closes)
        FROM jsonb_to_recordset(decided) AS d (
            s uuid, category text, version int, before int, events int, closes boolean,
            is_stored boolean
        )
        WHERE d.is_stored GROUP BY d.s
        -- One that was not stored left a hole before one that was.
        HAVING max(d.before + d.events) = min(d.version) + sum(d.events)
        ORDER BY d.s
        ON CONFLICT (tenant_id, aggregate_id) DO UPDATE
        SET version = excluded.version, appended = excluded.appended,
            transaction_id = excluded.transaction_id, is_closed = excluded.is_closed
        WHERE h.version = excluded.version - excluded.appended
            AND h.aggregate_type = excluded.aggregate_type
            AND h.transaction_id <= excluded.transaction_id
            AND NOT h.is_closed;
        GET DIAGNOSTICS moved = ROW_COUNT;
        SELECT count(DISTINCT d.s) INTO streams
        FROM jsonb_to_recordset(decided) AS d (s uuid, is_stored boolean) WHERE d.is_stored;
        IF moved < streams THEN
            PERFORM public.refuse_unordered(asking, free);
        END IF;
    END IF;
    RETURN public.appended((
        SELECT jsonb_agg(jsonb_build_array(
            d.a,
            CASE
                WHEN d.is_stored AND positions IS NULL THEN 'known'
                WHEN d.is_stored OR d.status <> 'stored' THEN d.status
                ELSE 'aside' END,
            CASE WHEN d.is_stored THEN d.before + 1 ELSE d.version END,
            CASE WHEN d.is_stored THEN d.category ELSE d.present_category END
        ) ORDER BY d.a)
        FROM jsonb_to_recordset(decided) AS d (
            a int, status text, is_stored boolean, before int, version int, category text,
            present_category text
        )
    ), positions);
END
$$;
CREATE OR REPLACE FUNCTION public.append_to_one(
    asking uuid, acting uuid, stream uuid, is_held boolean, batch jsonb
) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    head record;
    present int;
    category text := batch -> 0 ->> 'c';
    expected int := (batch -> 0 ->> 'x')::int;
    wanted int := jsonb_array_length(batch);
    status text;
    positions bigint[];
    ids uuid[];
BEGIN
    SELECT h.aggregate_type, h.version, h.is_closed INTO head FROM public.stream_heads h
    WHERE h.tenant_id = asking AND h.aggregate_id = stream;
    present := coalesce(head.version, 0);
    category := coalesce(category, head.aggregate_type);
    status := CASE
        WHEN is_held THEN 'busy'
        WHEN head.is_closed THEN 'closed'
        WHEN category IS NULL OR category <> head.aggregate_type THEN 'category'
        WHEN expected >= 0 AND expected <> present OR expected = -2 AND present = 0
            THEN 'conflict'
        ELSE 'stored' END;
    IF status <> 'stored' THEN
        RETURN public.appended(jsonb_build_array(
            jsonb_build_array(0, status, present, head.aggregate_type)
        ), NULL);
    END IF;
    IF wanted > 1 AND jsonb_path_exists(batch, '$[0 to last - 1] ? (@.t == "StreamClosed")') THEN
        PERFORM public.refuse_unordered(asking, '{}');
    END IF;
    WITH added AS (
        INSERT INTO public.events (
            tenant_id, event_id, aggregate_id, aggregate_type, event_type, event_version,
            event_data, metadata, user_id, correlation_id, causation_id, schema_version, key_id
        )
        SELECT asking, g.i, stream, category, g.t, present + g.n::int,
            g.d, coalesce(g.m, '{}'), acting, g.r, g.y, coalesce(g.z, 1), g.k
        FROM ROWS FROM (jsonb_to_recordset(batch) AS (
            i uuid, t text, d jsonb, m jsonb, r uuid, y uuid, z int, k text
        )) WITH ORDINALITY AS g (i, t, d, m, r, y, z, k, n)
        ON CONFLICT (tenant_id, event_id) DO NOTHING
        RETURNING position, event_id
    )
    SELECT array_agg(a.position), array_agg(a.event_id) INTO positions, ids FROM added a;
    IF positions IS NULL THEN
        RETURN public.appended(jsonb_build_array(
            jsonb_build_array(0, 'known', present, head.aggregate_type)
        ), NULL);
    END IF;
    IF cardinality(positions) < wanted THEN
        PERFORM public.refuse_known(batch, ids);
    END IF;
    INSERT INTO public.stream_heads AS h
        (tenant_id, aggregate_id, aggregate_type, version, appended, transaction_id, is_closed)
    VALUES (asking, stream, category, present + wanted, wanted, pg_current_xact_id(),
        batch -> -1 ->> 't' = 'StreamClosed')
    ON CONFLICT (tenant_id, aggregate_id) DO UPDATE
    SET version = excluded.version, appended = excluded.appended,
        transaction_id = excluded.transaction_id, is_closed = excluded.is_closed
    WHERE h.version = excluded.version - excluded.appended
        AND h.aggregate_type = excluded.aggregate_type
        AND h.transaction_id <= excluded.transaction_id
        AND NOT h.is_closed;
    IF NOT FOUND THEN
        PERFORM public.refuse_unordered(asking, ARRAY[stream]);
    END IF;
    RETURN public.appended(jsonb_build_array(
        jsonb_build_array(0, 'stored', present + 1, category)
    ), positions);
END
$$;
CREATE OR REPLACE FUNCTION public.archive_stream(of_stream uuid, bytes bigint, lines_hash text) RETURNS jsonb
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
DROP FUNCTION public.refuse_archived(uuid, jsonb, uuid []);
DROP TABLE public.archived_events;
