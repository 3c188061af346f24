-- migrate:up
-- The function that appends gets a role of its own, which no policy holds and which may do what
-- appending takes and nothing else. It asks for the tenant once, by itself, instead of having it
-- verified in each statement for each table; and it keeps the streams' heads, which the trigger
-- does for everybody else.
GRANT USAGE ON SCHEMA core, public TO neolayer_appender;
GRANT EXECUTE ON FUNCTION core.verified_context() TO neolayer_appender;
GRANT SELECT, INSERT ON public.events TO neolayer_appender;
GRANT SELECT, INSERT, UPDATE ON public.stream_heads TO neolayer_appender;
DROP TRIGGER advance_heads ON public.events;
CREATE TRIGGER advance_heads AFTER INSERT ON public.events
REFERENCING NEW TABLE AS added
FOR EACH STATEMENT WHEN (current_user <> 'neolayer_appender')
EXECUTE FUNCTION public.advance_stream_heads();

-- Why a stream's head was not where an append had seen it, under the stream's lock: somebody writes
-- events without the lock.
CREATE FUNCTION public.refuse_unordered(asking uuid, streams uuid []) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (
        SELECT FROM public.stream_heads h
        WHERE h.tenant_id = asking AND h.aggregate_id = ANY(streams)
            AND h.transaction_id > pg_current_xact_id()
    ) THEN
        RAISE EXCEPTION 'a transaction that began to write later has appended to the stream'
            USING ERRCODE = 'serialization_failure', SCHEMA = 'public', TABLE = 'events',
            HINT = 'append before anything else is written, or run the transaction again';
    END IF;
    RAISE EXCEPTION 'a version does not follow the last one of its stream'
        USING ERRCODE = 'check_violation', SCHEMA = 'public', TABLE = 'events',
        CONSTRAINT = 'events_version_gapless';
END
$$;

-- Of a batch some ids are stored already and some were not: no second try, and no new one. The
-- first of those that were, is told.
CREATE FUNCTION public.refuse_known(batch jsonb, new_ids uuid []) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'some of these events are stored already'
        USING ERRCODE = 'unique_violation', SCHEMA = 'public', TABLE = 'events',
        CONSTRAINT = 'events_pkey', DETAIL = (
            SELECT e.event ->> 'i' FROM jsonb_array_elements(batch) WITH ORDINALITY AS e (event, n)
            WHERE NOT (e.event ->> 'i')::uuid = ANY(new_ids) OR (
                -- The same id twice in one batch.
                SELECT count(*) FROM jsonb_array_elements(batch) AS o (event)
                WHERE o.event ->> 'i' = e.event ->> 'i'
            ) > 1
            ORDER BY e.n LIMIT 1
        );
END
$$;

-- What an append answers.
CREATE FUNCTION public.appended(appends jsonb, positions bigint []) RETURNS jsonb
LANGUAGE sql STABLE
RETURN jsonb_build_object(
    'transaction', pg_current_xact_id_if_assigned()::text,
    'at', CURRENT_TIMESTAMP,
    'appends', appends,
    'positions', to_jsonb(positions)
);

-- Events of one append, whose stream is locked (or not: is_held). No id is looked up: the unique key
-- refuses it, and says so without an error. So no plan depends on how many events there are.
CREATE FUNCTION public.append_to_one(
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

-- The same for several appends; only those of streams in `free` may be stored.
CREATE FUNCTION public.append_to_many(asking uuid, acting uuid, free uuid [], batch jsonb)
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

-- Append events to streams, of one tenant, as who asks: both are the context's. `batch` has an
-- object an event, in order: u the unit that is stored or not as a whole, a its append, s stream,
-- c category (null: the stream's), x expected version (-1 any, -2 any but 0), then the event. The
-- answer has a list an append: its number, status, version of its first event (where it is not
-- stored: the stream's present one) and category; and, of what was stored, the transaction, the time
-- and the positions in order. Statuses instead of errors, so that what one unit meets leaves the
-- others alone:
--     stored; known (all ids of what could be stored are there); conflict; closed; category; busy
--     (another transaction is at the stream, and `waits` is false); aside (its unit was not
--     stored); refused (no tenant asks).
-- Where only some ids are there already it is an error, events_pkey: what comes alone then learns
-- which, as its detail.
-- A stream is locked before its head is read and before the transaction has an id, so whatever
-- stands in the stream by then was written under a lower one: versions and reading order agree. So
-- many streams at most, since each is a lock in the memory that all sessions share. The first half of
-- a lock's name tells the tenant to whoever looks for a transaction that does not end.
-- Plans are made once a session: there is one index for each thing that is looked up.
CREATE OR REPLACE FUNCTION public.append_events(streams uuid [], batch jsonb, waits boolean)
RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
AS $$
DECLARE
    who text[] := core.verified_context();
    asking uuid := nullif(who[1], '00000000-0000-0000-0000-000000000000')::uuid;
    acting uuid := CASE WHEN starts_with(who[2], 'user:') THEN substr(who[2], 6)::uuid END;
    whose int := hashtext(asking::text);
    is_held boolean := false;
    free uuid[];
BEGIN
    IF asking IS NULL THEN
        RETURN '{"refused": true}';
    END IF;
    IF cardinality(streams) > 500 THEN
        RAISE EXCEPTION 'an append is to 500 streams at most, not %', cardinality(streams)
            USING ERRCODE = 'program_limit_exceeded', HINT = 'append in several transactions';
    END IF;
    IF cardinality(streams) = 1 THEN
        IF waits THEN
            PERFORM pg_advisory_xact_lock(whose, hashtext(streams[1]::text));
        ELSE
            is_held := NOT pg_try_advisory_xact_lock(whose, hashtext(streams[1]::text));
        END IF;
        RETURN public.append_to_one(asking, acting, streams[1], is_held, batch);
    END IF;
    IF waits THEN
        PERFORM pg_advisory_xact_lock(whose, k.key)
        FROM (
            SELECT DISTINCT hashtext(s.stream::text) AS key
            FROM unnest(streams) AS s (stream) ORDER BY 1
        ) AS k;
        free := streams;
    ELSE
        SELECT array_agg(s.stream) INTO free
        FROM (SELECT DISTINCT u.stream FROM unnest(streams) AS u (stream)) AS s
        WHERE pg_try_advisory_xact_lock(whose, hashtext(s.stream::text));
    END IF;
    RETURN public.append_to_many(asking, acting, free, batch);
END
$$;

-- The same in a subtransaction, for one unit of a group that failed as a whole: {"failed": true}
-- instead of an error, and the transaction goes on.
CREATE FUNCTION public.append_apart(streams uuid [], batch jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN public.append_events(streams, batch, false);
EXCEPTION WHEN OTHERS THEN
    RETURN '{"failed": true}';
END
$$;
GRANT EXECUTE ON FUNCTION public.append_apart(uuid [], jsonb) TO neolayer_app;
GRANT EXECUTE ON FUNCTION
public.refuse_unordered(uuid, uuid []), public.refuse_known(jsonb, uuid []),
public.append_to_one(uuid, uuid, uuid, boolean, jsonb),
public.append_to_many(uuid, uuid, uuid [], jsonb), public.appended(jsonb, bigint [])
TO neolayer_appender;
-- Only who belongs to both roles can hand the function over; the new owner must be allowed to make
-- something here for just that long.
GRANT CREATE ON SCHEMA public TO neolayer_appender;
RESET ROLE;
ALTER FUNCTION public.append_events(uuid [], jsonb, boolean) OWNER TO neolayer_appender;
SET ROLE neolayer_owner;
REVOKE CREATE ON SCHEMA public FROM neolayer_appender;

-- migrate:down
-- The owner appends again, held by the policies, and the trigger keeps the heads.
DROP FUNCTION public.append_apart(uuid [], jsonb);
RESET ROLE;
ALTER FUNCTION public.append_events(uuid [], jsonb, boolean) OWNER TO neolayer_owner;
SET ROLE neolayer_owner;
ALTER FUNCTION public.append_events(uuid [], jsonb, boolean) RESET ALL;
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
DROP FUNCTION public.appended(jsonb, bigint []);
DROP FUNCTION public.append_to_many(uuid, uuid, uuid [], jsonb);
DROP FUNCTION public.append_to_one(uuid, uuid, uuid, boolean, jsonb);
DROP FUNCTION public.refuse_known(jsonb, uuid []);
DROP FUNCTION public.refuse_unordered(uuid, uuid []);
DROP TRIGGER advance_heads ON public.events;
CREATE TRIGGER advance_heads AFTER INSERT ON public.events
REFERENCING NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION public.advance_stream_heads();
REVOKE ALL ON public.events, public.stream_heads FROM neolayer_appender;
REVOKE EXECUTE ON FUNCTION core.verified_context() FROM neolayer_appender;
REVOKE USAGE ON SCHEMA core, public FROM neolayer_appender;
