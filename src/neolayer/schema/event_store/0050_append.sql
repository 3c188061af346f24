-- migrate:up
-- Which tenants were deleted, as the core database knows it: told by core.note_standing(), since a
-- database sees no table of another.
CREATE TABLE core.tenant_standing (
    id uuid PRIMARY KEY,
    is_closed boolean NOT NULL
);
GRANT SELECT ON core.tenant_standing TO neolayer_operator, neolayer_backup;

-- As in core/0030_tenancy.sql, where the reasons stand: a tenant that was deleted is nobody, except
-- to operators and to the layer's own work.
CREATE OR REPLACE FUNCTION core.verified_context() RETURNS text []
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    parts text[] := string_to_array(current_setting('neolayer.context', true), '.');
    message bytea := convert_to(parts[1] || '.' || parts[2] || '.' || parts[3], 'UTF8');
BEGIN
    IF array_length(parts, 1) IS DISTINCT FROM 4 OR NOT EXISTS (
        SELECT FROM core.context_secrets s
        WHERE encode(sha256(s.outer_pad || sha256(s.inner_pad || message)), 'hex') = parts[4]
    ) THEN
        RETURN NULL;
    END IF;
    -- Signed, hence written by us and well formed: nothing else is cast.
    IF parts[3]::bigint <= extract(epoch FROM clock_timestamp()) THEN
        RETURN NULL;
    END IF;
    IF EXISTS (SELECT FROM core.tenant_standing s WHERE s.id = parts[1]::uuid AND s.is_closed)
        AND parts[2] !~ '^(operator|system):'
    THEN
        RETURN NULL;
    END IF;
    RETURN parts[1:2];
END
$$;
CREATE OR REPLACE FUNCTION core.current_tenant() RETURNS uuid
LANGUAGE sql STABLE PARALLEL RESTRICTED
RETURN nullif((core.verified_context())[1], '00000000-0000-0000-0000-000000000000')::uuid;
CREATE OR REPLACE FUNCTION core.current_principal() RETURNS text
LANGUAGE sql STABLE PARALLEL RESTRICTED
RETURN (core.verified_context())[2];
GRANT EXECUTE ON FUNCTION core.verified_context()
TO neolayer_app, neolayer_operator, neolayer_backup, neolayer_relay;

-- The door to a transaction, as in the core database.
CREATE FUNCTION core.session_state() RETURNS text
LANGUAGE sql STABLE
RETURN session_user || '|' || current_user
|| CASE WHEN coalesce(current_setting('neolayer.context', true), '') <> '' THEN '|context' ELSE '' END
|| '|' || current_setting('search_path') || '|' || current_setting('row_security')
|| '|' || current_setting('TimeZone') || '|' || current_setting('DateStyle')
|| '|' || current_setting('IntervalStyle') || '|' || current_setting('client_encoding')
|| '|' || current_setting('bytea_output') || '|' || current_setting('extra_float_digits')
|| '|' || current_setting('standard_conforming_strings')
|| '|' || current_setting('default_transaction_isolation')
|| '|' || current_setting('default_transaction_read_only')
|| '|' || current_setting('synchronous_commit')
|| '|' || current_setting('statement_timeout') || '|' || current_setting('lock_timeout')
|| '|' || current_setting('idle_in_transaction_session_timeout');
CREATE FUNCTION core.has_temporary_objects() RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM pg_catalog.pg_depend d
        WHERE d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
            AND d.refobjid = pg_catalog.pg_my_temp_schema()
    );
END
$$;
CREATE FUNCTION core.refuse_session(state text) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'the session is not as it was when it was made'
        USING ERRCODE = 'insufficient_privilege', DETAIL = state;
END
$$;
CREATE FUNCTION core.enter(context text, state text) RETURNS text
LANGUAGE sql
RETURN CASE
    WHEN core.session_state() = state
        AND (pg_my_temp_schema() = 0 OR NOT core.has_temporary_objects())
    THEN set_config('neolayer.context', context, true)
    ELSE core.refuse_session(core.session_state())
END;
GRANT EXECUTE ON FUNCTION
core.session_state(), core.has_temporary_objects(), core.refuse_session(text), core.enter(text, text)
TO neolayer_app;

-- The layer's own work tells which tenants are deleted; all others are not. How many that changed.
CREATE FUNCTION core.note_standing(closed uuid []) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    newly bigint;
    again bigint;
BEGIN
    IF coalesce(core.current_principal(), '') !~ '^system:' THEN
        RAISE EXCEPTION 'the standing of tenants is noted by the layer itself'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    INSERT INTO core.tenant_standing AS s (id, is_closed)
    SELECT DISTINCT c.id, true FROM unnest(closed) AS c (id)
    ON CONFLICT (id) DO UPDATE SET is_closed = true WHERE NOT s.is_closed;
    GET DIAGNOSTICS newly = ROW_COUNT;
    UPDATE core.tenant_standing s SET is_closed = false
    WHERE s.is_closed AND NOT s.id = ANY(closed);
    GET DIAGNOSTICS again = ROW_COUNT;
    RETURN newly + again;
END
$$;
GRANT EXECUTE ON FUNCTION core.note_standing(uuid []) TO neolayer_app;

-- A stream's head remembers which transaction wrote it last: within a stream, versions and reading
-- order must agree, and a transaction that got its id before that one would stand before it. A
-- closed stream takes no more events.
ALTER TABLE public.stream_heads ADD COLUMN transaction_id xid8 NOT NULL DEFAULT '0';
ALTER TABLE public.stream_heads ADD COLUMN is_closed boolean NOT NULL DEFAULT false;

-- All events of a category in reading order, and of a type: the index by time that served types
-- could not say where to go on, since the events of one transaction share their time.
DROP INDEX public.idx_events_type;
CREATE INDEX idx_events_type
ON public.events (tenant_id, event_type, transaction_id, position);
CREATE INDEX idx_events_category
ON public.events (tenant_id, aggregate_type, transaction_id, position);
-- And all events of a tenant: the one over all tenants would be read past everybody else's.
CREATE INDEX idx_events_tenant ON public.events (tenant_id, transaction_id, position);

-- Versions from 1, without gaps, whoever writes and however: one check a statement. Two writers of
-- one version meet at the unique key; the later one is refused there.
CREATE OR REPLACE FUNCTION public.advance_stream_heads() RETURNS trigger
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
            coalesce(bool_or(a.event_type = 'StreamClosed'), false) AS closes,
            max(a.event_version) - min(a.event_version) + 1 = count(*)
                AND min(a.aggregate_type) = max(a.aggregate_type)
                AND coalesce(
                    min(a.event_version) FILTER (WHERE a.event_type = 'StreamClosed')
                    = max(a.event_version), true
                ) AS is_unbroken
        FROM added a GROUP BY a.tenant_id, a.aggregate_id
    ), moved AS (
        INSERT INTO public.stream_heads AS h
            (tenant_id, aggregate_id, aggregate_type, version, appended, transaction_id, is_closed)
        SELECT b.tenant_id, b.aggregate_id, b.aggregate_type, b.version, b.appended,
            pg_current_xact_id(), b.closes
        FROM batch b WHERE b.is_unbroken ORDER BY b.tenant_id, b.aggregate_id
        ON CONFLICT (tenant_id, aggregate_id) DO UPDATE
        SET version = excluded.version, appended = excluded.appended,
            transaction_id = excluded.transaction_id, is_closed = excluded.is_closed
        WHERE h.version = excluded.version - excluded.appended
            AND h.aggregate_type = excluded.aggregate_type
            AND h.transaction_id <= excluded.transaction_id
            AND NOT h.is_closed
        RETURNING h.xmax = 0 AS is_new, h.version = h.appended AS is_from_first
    )
    SELECT (SELECT count(*) FROM batch), count(*) FILTER (WHERE m.is_from_first OR NOT m.is_new)
    INTO streams, advanced FROM moved m;
    IF advanced = streams THEN
        RETURN NULL;
    END IF;
    IF EXISTS (
        SELECT FROM added a INNER JOIN public.stream_heads h USING (tenant_id, aggregate_id)
        WHERE h.transaction_id > pg_current_xact_id()
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

-- Append events to streams, of one tenant: the context's. `batch` has an object an event, in order:
-- u the unit that is stored or not as a whole, a its append, s stream, c category (null: the
-- stream's), x expected version (-1 any, -2 any but 0), then the event. The answer has a list an
-- append: its number, status, version of its first event (where it is not stored: the stream's present
-- one) and category; and, of what was stored, the transaction, the time and the positions in order.
-- Statuses instead of errors, so that what one unit meets leaves the others alone:
--     stored; known (an id is there already); conflict; closed; category; busy (another
--     transaction is at the stream, and `waits` is false); aside (its unit was not stored);
--     refused (no tenant asks).
-- A stream is locked before its head is read and before the transaction has an id, so whatever
-- stands in the stream by then was written under a lower one: versions and reading order agree.
-- Planned anew each time: a plan that was made while the tables were empty looks ids up through an
-- index of the tenant alone, and is kept while they grow.
CREATE FUNCTION public.append_events(streams uuid [], batch jsonb, waits boolean) RETURNS jsonb
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
-- The same in a transaction that goes on, with a projection's rows for one. What such a transaction
-- could see stands before its events only if it had no id yet when it appended: so it appends first.
CREATE FUNCTION public.append_within(streams uuid [], batch jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    present text := pg_current_xact_id_if_assigned()::text;
    outcome jsonb;
BEGIN
    IF present IS DISTINCT FROM nullif(current_setting('neolayer.appending', true), '')
        AND present IS NOT NULL
    THEN
        RETURN '{"late": true}';
    END IF;
    outcome := public.append_events(streams, batch, true);
    PERFORM set_config('neolayer.appending', pg_current_xact_id_if_assigned()::text, true);
    RETURN outcome;
END
$$;
GRANT EXECUTE ON FUNCTION
public.append_events(uuid [], jsonb, boolean), public.append_within(uuid [], jsonb)
TO neolayer_app;

-- migrate:down
-- A way back while there is nothing to lose.
SELECT neolayer_schema.refuse_to_lose('public.events');
DROP FUNCTION public.append_within(uuid [], jsonb);
DROP FUNCTION public.append_events(uuid [], jsonb, boolean);
CREATE OR REPLACE FUNCTION public.advance_stream_heads() RETURNS trigger
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
DROP INDEX public.idx_events_tenant;
DROP INDEX public.idx_events_category;
DROP INDEX public.idx_events_type;
CREATE INDEX idx_events_type ON public.events (tenant_id, event_type, created_at DESC);
ALTER TABLE public.stream_heads DROP COLUMN is_closed;
ALTER TABLE public.stream_heads DROP COLUMN transaction_id;
DROP FUNCTION core.note_standing(uuid []);
DROP FUNCTION core.enter(text, text);
DROP FUNCTION core.refuse_session(text);
DROP FUNCTION core.has_temporary_objects();
DROP FUNCTION core.session_state();
REVOKE EXECUTE ON FUNCTION core.verified_context()
FROM neolayer_app, neolayer_operator, neolayer_backup, neolayer_relay;
CREATE OR REPLACE FUNCTION core.verified_context() RETURNS text []
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    parts text[] := string_to_array(current_setting('neolayer.context', true), '.');
    message bytea := convert_to(parts[1] || '.' || parts[2] || '.' || parts[3], 'UTF8');
BEGIN
    IF array_length(parts, 1) IS DISTINCT FROM 4 OR NOT EXISTS (
        SELECT FROM core.context_secrets s
        WHERE encode(sha256(s.outer_pad || sha256(s.inner_pad || message)), 'hex') = parts[4]
    ) THEN
        RETURN NULL;
    END IF;
    -- Signed, hence written by us and well formed: nothing else is cast.
    IF parts[3]::bigint <= extract(epoch FROM clock_timestamp()) THEN
        RETURN NULL;
    END IF;
    RETURN parts[1:2];
END
$$;
CREATE OR REPLACE FUNCTION core.current_tenant() RETURNS uuid
LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
RETURN (core.verified_context())[1]::uuid;
CREATE OR REPLACE FUNCTION core.current_principal() RETURNS text
LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
RETURN (core.verified_context())[2];
DROP TABLE core.tenant_standing;
