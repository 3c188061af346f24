-- append --
-- Store events for streams of the asking tenant; what became of each append.
SELECT public.append_events(
    %(streams)s::uuid [], %(batch)s::jsonb, %(waits)s::boolean
)::text;

-- append_apart --
-- The same for one unit of a group that failed; what fails again leaves the others alone.
SELECT public.append_apart(%(streams)s::uuid [], %(batch)s::jsonb)::text;

-- append_event --
-- Store one event, unless another transaction is at its stream; what became of it.
SELECT public.append_event(
    %(context)s, %(stream)s, %(category)s, %(expected)s, %(id)s, %(type)s, %(data)s, %(metadata)s,
    %(correlation)s, %(causation)s, %(schema)s, %(key)s
);

-- append_group --
-- Store several appends of one tenant, but those at whose streams another transaction is.
SELECT public.append_group(%(context)s, %(streams)s, %(batch)s, %(is_plain)s);

-- append_within --
-- The same inside a transaction that goes on; refused where it has written something else before.
SELECT public.append_within(%(streams)s::uuid [], %(batch)s::jsonb)::text;

-- switch --
-- The next tenant of a group of appends, in the transaction that core.enter() has opened.
SELECT set_config('neolayer.context', %(context)s, true);

-- committed_at --
-- A position at or above the commit that came before.
SELECT ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::bigint << 48
     | (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint;

-- stored_before --
-- The events of a batch as they are stored, in the batch's order, and whether they are the same: those
-- in the table and those in `lines`, a segment's. Of what is archived, where its line is.
SELECT
    g.a,
    e.stream = g.s AND e.kind = g.t AND e.content = g.d
    AND e.schema_version = coalesce(g.z, 1) AND e.key_id IS NOT DISTINCT FROM g.k AS is_same,
    e.version,
    e.category,
    e.created_at,
    e.transaction,
    e.position,
    o.event_version - 1,
    s.object_key,
    s.object_hash,
    s.lines_bytes,
    e.metadata::text,
    e.user_id,
    e.correlation_id,
    e.causation_id
FROM ROWS FROM (jsonb_to_recordset(%(batch)s::jsonb) AS (
    a int, s uuid, i uuid, t text, d jsonb, z int, k text
)) WITH ORDINALITY AS g (a, s, i, t, d, z, k, n)
LEFT JOIN LATERAL (
    SELECT
        f.aggregate_id AS stream, f.event_type AS kind, f.event_data AS content, f.schema_version, f.key_id,
        f.event_version AS version, f.aggregate_type AS category, f.created_at,
        f.transaction_id::text::bigint AS transaction, f.position,
        f.metadata, f.user_id, f.correlation_id, f.causation_id
    FROM public.events AS f
    WHERE f.tenant_id = (SELECT core.current_tenant()) AND f.event_id = g.i
    UNION ALL
    SELECT
        (l.line ->> 2)::uuid, l.line ->> 4, l.line -> 6, (l.line ->> 12)::int, l.line ->> 13,
        (l.line ->> 5)::int, l.line ->> 3, (l.line ->> 11)::timestamptz,
        (l.line ->> 14)::bigint, (l.line ->> 15)::bigint,
        l.line -> 7, (l.line ->> 8)::uuid, (l.line ->> 9)::uuid, (l.line ->> 10)::uuid
    FROM unnest(%(lines)s::jsonb []) AS l (line)
    WHERE (l.line ->> 1)::uuid = g.i
) AS e ON true
LEFT JOIN public.archived_events AS o
    ON o.tenant_id = (SELECT core.current_tenant()) AND o.event_id = g.i
LEFT JOIN public.archived_streams AS s
    ON o.tenant_id = s.tenant_id AND o.aggregate_id = s.aggregate_id
ORDER BY g.n;

-- stream_forwards --
-- Events of one stream from a version on.
SELECT
    tenant_id, event_id, aggregate_id, aggregate_type, event_type, event_version,
    event_data::text, metadata::text, user_id, correlation_id, causation_id, created_at, schema_version, key_id,
    transaction_id AS transaction, position
FROM public.events
WHERE
    tenant_id = (SELECT core.current_tenant()) AND aggregate_id = %(stream)s::uuid
    AND event_version >= %(from_version)s::int AND event_version <= %(up_to)s::int
ORDER BY event_version
LIMIT %(limit)s::bigint;

-- stream_backwards --
-- The same from a version down.
SELECT
    tenant_id, event_id, aggregate_id, aggregate_type, event_type, event_version,
    event_data::text, metadata::text, user_id, correlation_id, causation_id, created_at, schema_version, key_id,
    transaction_id AS transaction, position
FROM public.events
WHERE
    tenant_id = (SELECT core.current_tenant()) AND aggregate_id = %(stream)s::uuid
    AND event_version <= %(from_version)s::int
ORDER BY event_version DESC
LIMIT %(limit)s::bigint;

-- stream_state --
-- Where a stream is: category, version, whether it is closed.
SELECT aggregate_type, version, is_closed FROM public.stream_heads
WHERE tenant_id = (SELECT core.current_tenant()) AND aggregate_id = %(stream)s::uuid;

-- all --
-- Every event of the tenant in reading order, below the oldest running transaction; and behind them
-- the archived streams that have events after the place.
(
    SELECT
        tenant_id, event_id, aggregate_id, aggregate_type, event_type, event_version,
        event_data::text, metadata::text, user_id, correlation_id, causation_id, created_at, schema_version, key_id,
        transaction_id AS transaction, position
    FROM public.events
    WHERE
        tenant_id = (SELECT core.current_tenant())
        AND (transaction_id, position) > (%(transaction)s::text::xid8, %(index)s::bigint)
        AND transaction_id < pg_snapshot_xmin(pg_current_snapshot())
    ORDER BY transaction_id, position
    LIMIT %(limit)s::bigint
)
UNION ALL
SELECT * FROM public.archived_behind(
    %(transaction)s::text::xid8, %(index)s::bigint, %(markers)s::bigint
);

-- by_type --
-- The same of some types: as many of each as are wanted in all, then the first of these.
(
    SELECT e.*
    FROM (SELECT DISTINCT k.kind FROM unnest(%(types)s::text []) AS k (kind)) AS k
    CROSS JOIN LATERAL (
        SELECT
            tenant_id, event_id, aggregate_id, aggregate_type, event_type, event_version,
            event_data::text, metadata::text, user_id, correlation_id, causation_id, created_at, schema_version, key_id,
            transaction_id AS transaction, position
        FROM public.events
        WHERE
            tenant_id = (SELECT core.current_tenant())
            AND event_type = k.kind
            AND (transaction_id, position) > (%(transaction)s::text::xid8, %(index)s::bigint)
            AND transaction_id < pg_snapshot_xmin(pg_current_snapshot())
        ORDER BY transaction_id, position
        LIMIT %(limit)s::bigint
    ) AS e
    ORDER BY e.transaction, e.position
    LIMIT %(limit)s::bigint
)
UNION ALL
SELECT * FROM public.archived_behind(
    %(transaction)s::text::xid8, %(index)s::bigint, %(markers)s::bigint
);

-- by_category --
-- The same of some categories: as many of each as are wanted in all, then the first of these.
(
    SELECT e.*
    FROM (SELECT DISTINCT k.kind FROM unnest(%(categories)s::text []) AS k (kind)) AS k
    CROSS JOIN LATERAL (
        SELECT
            tenant_id, event_id, aggregate_id, aggregate_type, event_type, event_version,
            event_data::text, metadata::text, user_id, correlation_id, causation_id, created_at, schema_version, key_id,
            transaction_id AS transaction, position
        FROM public.events
        WHERE
            tenant_id = (SELECT core.current_tenant())
            AND aggregate_type = k.kind
            AND (transaction_id, position) > (%(transaction)s::text::xid8, %(index)s::bigint)
            AND transaction_id < pg_snapshot_xmin(pg_current_snapshot())
        ORDER BY transaction_id, position
        LIMIT %(limit)s::bigint
    ) AS e
    ORDER BY e.transaction, e.position
    LIMIT %(limit)s::bigint
)
UNION ALL
SELECT * FROM public.archived_behind(
    %(transaction)s::text::xid8, %(index)s::bigint, %(markers)s::bigint
);

-- by_correlation --
-- The same of what belongs to one request.
(
    SELECT
        tenant_id, event_id, aggregate_id, aggregate_type, event_type, event_version,
        event_data::text, metadata::text, user_id, correlation_id, causation_id, created_at, schema_version, key_id,
        transaction_id AS transaction, position
    FROM public.events
    WHERE
        tenant_id = (SELECT core.current_tenant())
        AND correlation_id = %(correlation)s::uuid
        AND (transaction_id, position) > (%(transaction)s::text::xid8, %(index)s::bigint)
        AND transaction_id < pg_snapshot_xmin(pg_current_snapshot())
    ORDER BY transaction_id, position
    LIMIT %(limit)s::bigint
)
UNION ALL
SELECT * FROM public.archived_behind(
    %(transaction)s::text::xid8, %(index)s::bigint, %(markers)s::bigint
);
