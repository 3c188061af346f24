-- migrate:up
-- Appends that travel in groups have a connection of their own, which nobody else is lent. They bring
-- their context along as a value: nothing is set in the session, so nothing has to be looked after,
-- and what the signature says is asked for once. And the two commonest appends, one event and one
-- event each to several streams, no longer take the way of all others: most of what that costs is
-- not storing rows but getting ready to (jsonb taken apart, windows, sorts).

-- Tenant and principal of a context, NULL where it is forged, expired or malformed, or its tenant is
-- closed: as in 0050_append.sql, in one statement instead of two. What is signed was written by us,
-- so it is well formed and nothing else is cast.
CREATE FUNCTION core.verify_context(context text) RETURNS text []
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    parts text[];
BEGIN
    SELECT string_to_array(context, '.') INTO parts FROM core.context_secrets s
    WHERE right(context, 65) = '.' || encode(
        sha256(s.outer_pad || sha256(s.inner_pad || convert_to(left(context, -65), 'UTF8'))), 'hex'
    );
    IF parts IS NULL OR parts[3]::float8 <= date_part('epoch', clock_timestamp()) THEN
        RETURN NULL;
    END IF;
    IF left(parts[2], 9) <> 'operator:' AND left(parts[2], 7) <> 'system:' AND EXISTS (
        SELECT FROM core.tenant_standing s WHERE s.id = parts[1]::uuid AND s.is_closed
    ) THEN
        RETURN NULL;
    END IF;
    RETURN parts[1:2];
END
$$;
GRANT EXECUTE ON FUNCTION core.verify_context(text) TO neolayer_appender;

-- One event for one stream. The answer is an array: its status as in 0065_append_cost.sql, then,
-- where a head was read, its version (of what was stored: the event's) and category, the
-- transaction, the time and the position. The stream is locked before its head is read and before
-- the transaction has an id.
CREATE FUNCTION public.append_event(
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

-- One event for each of several streams, each a unit of its own. The answer is that of
-- append_events(), which see.
CREATE FUNCTION public.append_to_each(asking uuid, acting uuid, streams uuid [], batch json)
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

-- A group of appends of one tenant, none of which waits for its stream: as append_events(), with the
-- context as a value. `is_plain` says that each is one event for a stream of its own.
CREATE FUNCTION public.append_group(context text, streams uuid [], batch json, is_plain boolean)
RETURNS json
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
AS $$
DECLARE
    who text[] := core.verify_context(context);
    asking uuid := nullif(who[1], '00000000-0000-0000-0000-000000000000')::uuid;
    acting uuid := CASE WHEN starts_with(who[2], 'user:') THEN substr(who[2], 6)::uuid END;
    free uuid[];
BEGIN
    IF asking IS NULL THEN
        RETURN '{"refused": true}';
    END IF;
    IF cardinality(streams) > 500 THEN
        RAISE EXCEPTION 'an append is to 500 streams at most, not %', cardinality(streams)
            USING ERRCODE = 'program_limit_exceeded', HINT = 'append in several transactions';
    END IF;
    IF is_plain THEN
        RETURN public.append_to_each(asking, acting, streams, batch);
    END IF;
    IF cardinality(streams) = 1 THEN
        RETURN public.append_to_one(asking, acting, streams[1], NOT pg_try_advisory_xact_lock(
            hashtext(asking::text), hashtext(streams[1]::text)
        ), batch::jsonb);
    END IF;
    SELECT array_agg(s.stream) INTO free
    FROM (SELECT DISTINCT u.stream FROM unnest(streams) AS u (stream)) AS s
    WHERE pg_try_advisory_xact_lock(hashtext(asking::text), hashtext(s.stream::text));
    RETURN public.append_to_many(asking, acting, free, batch::jsonb);
END
$$;
GRANT EXECUTE ON FUNCTION public.append_to_each(uuid, uuid, uuid [], json) TO neolayer_appender;
GRANT EXECUTE ON FUNCTION
public.append_event(
    text, uuid, text, int, uuid, text, jsonb, jsonb, uuid, uuid, int, text
),
public.append_group(text, uuid [], json, boolean)
TO neolayer_app;
GRANT CREATE ON SCHEMA public TO neolayer_appender;
RESET ROLE;
ALTER FUNCTION public.append_event(
    text, uuid, text, int, uuid, text, jsonb, jsonb, uuid, uuid, int, text
) OWNER TO neolayer_appender;
ALTER FUNCTION public.append_group(text, uuid [], json, boolean) OWNER TO neolayer_appender;
SET ROLE neolayer_owner;
REVOKE CREATE ON SCHEMA public FROM neolayer_appender;

-- migrate:down
-- Every append goes by append_events() again.
RESET ROLE;
DROP FUNCTION public.append_group(text, uuid [], json, boolean);
DROP FUNCTION public.append_event(
    text, uuid, text, int, uuid, text, jsonb, jsonb, uuid, uuid, int, text
);
SET ROLE neolayer_owner;
DROP FUNCTION public.append_to_each(uuid, uuid, uuid [], json);
DROP FUNCTION core.verify_context(text);
