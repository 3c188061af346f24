-- checkpoint --
-- How far a projection has come; the row is locked, and skipped where another projector has it.
SELECT p.status, p.shape, p.last_processed_transaction::text, p.last_processed_position
FROM public.projections AS p
WHERE p.projection_name = %(name)s
FOR UPDATE OF p SKIP LOCKED;

-- state --
-- The same without a lock, and what an inline projection had seen when it was switched away.
SELECT
    p.status, p.shape, p.last_processed_transaction::text, p.last_processed_position,
    p.seen_snapshot::text
FROM public.projections AS p
WHERE p.projection_name = %(name)s;

-- hold_state --
-- Lock a projection's state, so that the projector passes it by.
SELECT p.status FROM public.projections AS p WHERE p.projection_name = %(name)s FOR UPDATE OF p;

-- fields --
-- The columns of a read model's table, in order.
SELECT a.attname::text FROM pg_catalog.pg_attribute AS a
WHERE
    a.attrelid = to_regclass(%(table)s) AND a.attnum > 0 AND NOT a.attisdropped
    AND a.attname <> 'tenant_id'
ORDER BY a.attnum;

-- page --
-- The next events of all tenants in reading order; the data of those that are asked for. `settled`
-- keeps to what lies below the oldest running transaction, so that nothing can appear in between;
-- `seen` leaves out what a snapshot had seen.
SELECT
    e.transaction_id::text, e.position, e.tenant_id, e.event_id, e.aggregate_id,
    e.aggregate_type, e.event_type, e.event_version, e.schema_version, e.created_at, e.user_id,
    CASE WHEN e.event_type = ANY(%(types)s) THEN e.event_data::text END,
    (SELECT EXISTS (
        SELECT FROM public.projection_parked_events AS k WHERE k.projection_name = %(name)s
    ))
FROM public.events AS e
WHERE
    (e.transaction_id, e.position) > (%(transaction)s::text::xid8, %(position)s::bigint)
    AND (e.transaction_id, e.position)
    <= (%(to_transaction)s::text::xid8, %(to_position)s::bigint)
    AND (NOT %(settled)s::boolean OR e.transaction_id < pg_snapshot_xmin(pg_current_snapshot()))
    AND (
        %(seen)s::text IS NULL
        OR NOT pg_visible_in_snapshot(e.transaction_id, %(seen)s::text::pg_snapshot)
    )
ORDER BY e.transaction_id, e.position
LIMIT %(limit)s;

-- page_with_archive --
-- The same with the events of archived streams, which were put into a temporary table.
SELECT
    e.transaction_id::text, e.position, e.tenant_id, e.event_id, e.aggregate_id,
    e.aggregate_type, e.event_type, e.event_version, e.schema_version, e.created_at, e.user_id,
    CASE WHEN e.event_type = ANY(%(types)s) THEN e.event_data::text END,
    (SELECT EXISTS (
        SELECT FROM public.projection_parked_events AS k WHERE k.projection_name = %(name)s
    ))
FROM (
    SELECT
        t.transaction_id, t.position, t.tenant_id, t.event_id, t.aggregate_id, t.aggregate_type,
        t.event_type, t.event_version, t.schema_version, t.created_at, t.user_id, t.event_data
    FROM public.events AS t
    UNION ALL
    SELECT
        a.transaction_id, a.position, a.tenant_id, a.event_id, a.aggregate_id, a.aggregate_type,
        a.event_type, a.event_version, a.schema_version, a.created_at, a.user_id, a.event_data
    FROM pg_temp.archived_events AS a
) AS e
WHERE
    (e.transaction_id, e.position) > (%(transaction)s::text::xid8, %(position)s::bigint)
    AND (e.transaction_id, e.position)
    <= (%(to_transaction)s::text::xid8, %(to_position)s::bigint)
    AND (NOT %(settled)s::boolean OR e.transaction_id < pg_snapshot_xmin(pg_current_snapshot()))
    AND (
        %(seen)s::text IS NULL
        OR NOT pg_visible_in_snapshot(e.transaction_id, %(seen)s::text::pg_snapshot)
    )
ORDER BY e.transaction_id, e.position
LIMIT %(limit)s;

-- put_aside --
-- Of these streams those that stand still, each with its event, and their events that were discarded.
SELECT k.tenant_id, k.aggregate_id, k.event_id, k.discarded_at IS NOT NULL
FROM public.projection_parked_events AS k
INNER JOIN unnest(%(tenants)s::uuid [], %(streams)s::uuid []) AS u (tenant_id, aggregate_id)
    ON k.tenant_id = u.tenant_id AND k.aggregate_id = u.aggregate_id
WHERE k.projection_name = %(name)s;

-- put_aside_events --
-- Streams stand still from here on, at these events.
INSERT INTO public.projection_parked_events
(tenant_id, projection_name, aggregate_id, event_version, event_id, cause)
SELECT u.tenant_id, %(name)s, u.aggregate_id, u.event_version, u.event_id, u.cause
FROM unnest(
    %(tenants)s::uuid [], %(streams)s::uuid [], %(versions)s::int [], %(events)s::uuid [],
    %(causes)s::text []
) AS u (tenant_id, aggregate_id, event_version, event_id, cause);

-- parked --
-- What projections have put aside, in the order of their names, tenants and streams, with how many
-- later events of the stream wait.
SELECT
    k.projection_name, k.tenant_id, k.aggregate_id, k.event_version, k.event_id, k.cause,
    k.attempts, k.parked_at, k.discarded_at, k.discarded_by,
    CASE WHEN k.discarded_at IS NULL THEN h.version - k.event_version ELSE 0 END
FROM public.projection_parked_events AS k
LEFT JOIN public.stream_heads AS h USING (tenant_id, aggregate_id)
WHERE
    (%(name)s::text IS NULL OR k.projection_name = %(name)s::text)
    AND (%(tenant)s::uuid IS NULL OR k.tenant_id = %(tenant)s::uuid)
    AND (%(stream)s::uuid IS NULL OR k.aggregate_id = %(stream)s::uuid)
    AND (k.discarded_at IS NOT NULL) = %(discarded)s::boolean
ORDER BY k.projection_name, k.tenant_id, k.aggregate_id, k.event_version
LIMIT %(limit)s::bigint;

-- standing_streams --
-- The streams that stand still in a projection, those after a place in this list.
SELECT k.tenant_id, k.aggregate_id FROM public.projection_parked_events AS k
WHERE
    k.projection_name = %(name)s AND k.discarded_at IS NULL
    AND (%(tenant)s::uuid IS NULL OR k.tenant_id = %(tenant)s::uuid)
    AND (%(stream)s::uuid IS NULL OR k.aggregate_id = %(stream)s::uuid)
    AND (k.tenant_id, k.aggregate_id) > (%(after_tenant)s::uuid, %(after_stream)s::uuid)
ORDER BY k.tenant_id, k.aggregate_id
LIMIT 1000;

-- standing_newer --
-- The streams that stand still in a projection at an event that was too new for whoever folded, those
-- after a place in this list; and which event that is.
SELECT
    k.tenant_id, k.aggregate_id, e.aggregate_type, e.event_type, e.schema_version, k.cause
FROM public.projection_parked_events AS k
INNER JOIN public.events AS e USING (tenant_id, aggregate_id, event_version)
WHERE
    k.projection_name = %(name)s AND k.discarded_at IS NULL
    AND k.cause LIKE '%% was stored at schema version %%'
    AND (k.tenant_id, k.aggregate_id) > (%(after_tenant)s::uuid, %(after_stream)s::uuid)
ORDER BY k.tenant_id, k.aggregate_id
LIMIT 1000;

-- standing_at --
-- The version that a stream stands still at.
SELECT k.event_version FROM public.projection_parked_events AS k
WHERE
    k.projection_name = %(name)s AND k.tenant_id = %(tenant)s::uuid
    AND k.aggregate_id = %(stream)s::uuid AND k.discarded_at IS NULL;

-- take_standing --
-- The event that a stream stands still at, for whoever folds on from there.
DELETE FROM public.projection_parked_events AS k
WHERE
    k.projection_name = %(name)s AND k.tenant_id = %(tenant)s::uuid
    AND k.aggregate_id = %(stream)s::uuid AND k.discarded_at IS NULL
RETURNING k.event_version, k.attempts, k.parked_at;

-- discard --
-- The event that a stream stands still at counts for nothing from now on.
UPDATE public.projection_parked_events AS k
SET discarded_at = clock_timestamp(), discarded_by = %(by)s::text
WHERE
    k.projection_name = %(name)s AND k.tenant_id = %(tenant)s::uuid
    AND k.aggregate_id = %(stream)s::uuid AND k.event_version = %(version)s::int
    AND k.discarded_at IS NULL
RETURNING k.event_version, k.attempts, k.parked_at;

-- note_attempts --
-- It failed again, at the same event.
UPDATE public.projection_parked_events AS k
SET attempts = %(attempts)s, parked_at = %(parked_at)s
WHERE
    k.projection_name = %(name)s AND k.tenant_id = %(tenant)s::uuid
    AND k.aggregate_id = %(stream)s::uuid AND k.event_version = %(version)s::int;

-- stream_page --
-- The next events of one stream up to a place, as `page` has them.
SELECT
    e.transaction_id::text, e.position, e.tenant_id, e.event_id, e.aggregate_id,
    e.aggregate_type, e.event_type, e.event_version, e.schema_version, e.created_at, e.user_id,
    CASE WHEN e.event_type = ANY(%(types)s) THEN e.event_data::text END,
    true
FROM public.events AS e
WHERE
    e.tenant_id = %(tenant)s::uuid AND e.aggregate_id = %(stream)s::uuid
    AND e.event_version >= %(from_version)s::int
    AND (e.transaction_id, e.position)
    <= (%(to_transaction)s::text::xid8, %(to_position)s::bigint)
ORDER BY e.event_version
LIMIT %(limit)s;

-- put_aside_counts --
-- How many streams stand still, and how many events were discarded.
SELECT
    count(*) FILTER (WHERE k.discarded_at IS NULL), count(*) FILTER (WHERE k.discarded_at IS NOT NULL)
FROM public.projection_parked_events AS k WHERE k.projection_name = %(name)s;

-- newly_standing --
-- How many streams stand still in one table and not in the other.
SELECT count(*) FROM public.projection_parked_events AS k
WHERE
    k.projection_name = %(name)s AND k.discarded_at IS NULL
    AND NOT EXISTS (
        SELECT FROM public.projection_parked_events AS o
        WHERE
            o.projection_name = %(other)s AND o.discarded_at IS NULL
            AND o.tenant_id = k.tenant_id AND o.aggregate_id = k.aggregate_id
    );

-- forget_parked --
-- A table that is made anew has put nothing aside.
DELETE FROM public.projection_parked_events WHERE projection_name = %(name)s;

-- carry_discarded --
-- What was discarded counts for nothing in a replay either.
INSERT INTO public.projection_parked_events (
    tenant_id, projection_name, aggregate_id, event_version, event_id, cause, attempts, parked_at,
    discarded_at, discarded_by
)
SELECT
    k.tenant_id, %(to)s, k.aggregate_id, k.event_version, k.event_id, k.cause, k.attempts,
    k.parked_at, k.discarded_at, k.discarded_by
FROM public.projection_parked_events AS k
WHERE k.projection_name = %(name)s AND k.discarded_at IS NOT NULL;

-- held_streams --
-- Which of these streams of the asking tenant stand still, in which projection.
SELECT k.projection_name, k.aggregate_id FROM public.projection_parked_events AS k
WHERE
    k.tenant_id = (SELECT core.current_tenant()) AND k.discarded_at IS NULL
    AND k.projection_name = ANY(%(names)s::text []) AND k.aggregate_id = ANY(%(streams)s::uuid []);

-- archived_segments --
-- Where the events of archived streams lie.
SELECT s.tenant_id, s.aggregate_id, s.object_key, s.object_hash, s.lines_bytes
FROM public.archived_streams AS s;

-- make_archived_events --
-- Their place while a read model is made from all of history.
CREATE TEMPORARY TABLE archived_events AS
SELECT
    t.transaction_id, t.position, t.tenant_id, t.event_id, t.aggregate_id, t.aggregate_type,
    t.event_type, t.event_version, t.schema_version, t.created_at, t.user_id, t.event_data
FROM public.events AS t
WITH NO DATA;

-- put_archived_events --
-- A segment's lines as rows.
INSERT INTO pg_temp.archived_events
SELECT
    (j.l ->> 14)::xid8, (j.l ->> 15)::bigint, (j.l ->> 0)::uuid, (j.l ->> 1)::uuid,
    (j.l ->> 2)::uuid, j.l ->> 3, j.l ->> 4, (j.l ->> 5)::int, (j.l ->> 12)::int,
    (j.l ->> 11)::timestamptz, (j.l ->> 8)::uuid, j.l -> 6
FROM unnest(%(lines)s::text []) AS u (line)
CROSS JOIN LATERAL (SELECT u.line::jsonb) AS j (l);

-- drop_archived_events --
-- They were needed once.
DROP TABLE pg_temp.archived_events;

-- archived_after --
-- Whether events behind a place lie in the archive.
SELECT EXISTS (
    SELECT FROM public.archived_streams AS s
    WHERE
        (s.last_transaction_id, s.last_position)
        > (%(transaction)s::text::xid8, %(position)s::bigint)
);

-- save --
-- How far it has come now, in the transaction of what it wrote.
UPDATE public.projections
SET
    last_processed_transaction = %(transaction)s::text::xid8,
    last_processed_position = %(position)s::bigint,
    last_processed_event_id = %(event_id)s::uuid,
    last_processed_timestamp = %(recorded_at)s::timestamptz
WHERE projection_name = %(name)s;

-- set_status --
-- Whether it runs, and if not, why.
UPDATE public.projections
SET status = %(status)s, cause = %(cause)s::text
WHERE projection_name = %(name)s;

-- behind --
-- Of these projections those that run and have events before them.
SELECT p.projection_name
FROM public.projections AS p
WHERE
    p.projection_name = ANY(%(names)s)
    AND p.status = 'active'
    AND EXISTS (
        SELECT FROM public.events AS e
        WHERE
            (e.transaction_id, e.position)
            > (coalesce(p.last_processed_transaction, '0'), coalesce(p.last_processed_position, 0))
            AND e.transaction_id < pg_snapshot_xmin(pg_current_snapshot())
    );

-- register --
-- A table's state, from nothing.
INSERT INTO public.projections (projection_name, status, mode, shape)
VALUES (%(name)s, %(status)s, %(mode)s, %(shape)s)
ON CONFLICT (projection_name) DO UPDATE
SET
    status = excluded.status, mode = excluded.mode, shape = excluded.shape, cause = NULL,
    last_processed_event_id = NULL, last_processed_timestamp = NULL,
    last_processed_transaction = NULL, last_processed_position = NULL, seen_snapshot = NULL;

-- forget --
-- A table that is gone has no state.
DELETE FROM public.projections WHERE projection_name = %(name)s;

-- forget_all --
-- Of a projection nothing is kept: neither the states of its tables nor its certificates.
WITH certificates AS (
    DELETE FROM public.projection_certificates AS c WHERE c.projection_name = %(name)s
)
DELETE FROM public.projections AS p
WHERE p.projection_name IN (%(name)s, %(name)s || ':next', %(name)s || ':previous');

-- rename --
-- A table's state under the name of the place that the table moves to.
UPDATE public.projections SET projection_name = %(to)s, status = %(status)s, cause = NULL
WHERE projection_name = %(name)s;

-- note_seen --
-- What an inline projection has seen at this moment, which is all that is committed.
UPDATE public.projections SET seen_snapshot = pg_current_snapshot()
WHERE projection_name = %(name)s;

-- take_turns --
-- One program at a time makes, builds and switches tables.
SELECT pg_advisory_xact_lock(hashtextextended('neolayer projections', 0));

-- take_alone --
-- One session at a time rebuilds, compares or switches a read model; whether it is this one.
SELECT pg_try_advisory_lock(hashtextextended('neolayer read model ' || %(name)s::text, 0));

-- leave_alone --
-- The next one may.
SELECT pg_advisory_unlock(hashtextextended('neolayer read model ' || %(name)s::text, 0));

-- newest_certificate --
-- Its number, and whether the live table and the replay had the same rows.
SELECT c.id, c.live_rows = c.replay_rows AND c.live_digest = c.replay_digest
FROM public.projection_certificates AS c
WHERE c.projection_name = %(name)s
ORDER BY c.id DESC LIMIT 1;

-- certify --
-- Keep what a replay came to beside what was there; the certificate's number.
INSERT INTO public.projection_certificates (
    projection_name, as_of_transaction, as_of_position, live_rows, live_digest,
    replay_rows, replay_digest, live_waiting, replay_waiting, discarded
)
VALUES (
    %(name)s, %(transaction)s::text::xid8, %(position)s::bigint, %(live_rows)s, %(live_digest)s,
    %(replay_rows)s, %(replay_digest)s, %(live_waiting)s, %(replay_waiting)s, %(discarded)s
)
RETURNING id, created_at;

-- list --
-- Every table's state, how many events lie before it (up to a hundred thousand), and since when
-- the first of them waits; the newest certificate of each. An inline one has none before it.
SELECT
    p.projection_name, p.mode, p.status, p.last_processed_transaction::text,
    p.last_processed_position, p.last_processed_timestamp, p.cause,
    coalesce(b.events, 0), b.since, c.created_at,
    c.live_rows = c.replay_rows AND c.live_digest = c.replay_digest
    AND c.live_waiting = 0 AND c.replay_waiting = 0,
    k.waiting, k.discarded
FROM public.projections AS p
LEFT JOIN LATERAL (
    SELECT count(*) AS events, min(w.created_at) AS since
    FROM (
        SELECT e.created_at FROM public.events AS e
        WHERE
            (e.transaction_id, e.position)
            > (coalesce(p.last_processed_transaction, '0'), coalesce(p.last_processed_position, 0))
        LIMIT 100000
    ) AS w
) AS b ON p.mode = 'async' OR p.projection_name LIKE '%%:%%'
LEFT JOIN LATERAL (
    SELECT
        d.created_at, d.live_rows, d.replay_rows, d.live_digest, d.replay_digest, d.live_waiting,
        d.replay_waiting
    FROM public.projection_certificates AS d
    WHERE d.projection_name = p.projection_name
    ORDER BY d.id DESC LIMIT 1
) AS c ON true
CROSS JOIN LATERAL (
    SELECT
        count(*) FILTER (WHERE o.discarded_at IS NULL) AS waiting,
        count(*) FILTER (WHERE o.discarded_at IS NOT NULL) AS discarded
    FROM public.projection_parked_events AS o
    WHERE o.projection_name = p.projection_name
) AS k
ORDER BY p.projection_name;

-- has_table --
-- Whether a table is there.
SELECT to_regclass(%(table)s) IS NOT NULL;

-- bound --
-- Let no row of a read model's table be larger than what can be carried.
SELECT public.bound_read_model(%(table)s::text::regclass);

-- guard --
-- Let nobody write a read model's table but who folds events.
SELECT public.guard_read_model(%(table)s::text::regclass);

-- hold_appends --
-- No append comes in between; those under way end first.
LOCK TABLE public.events IN SHARE ROW EXCLUSIVE MODE;

-- reached --
-- Whether a projection has folded what stands up to a place, and how far it is; what of the tenant
-- stands still in it.
SELECT
    p.status,
    p.last_processed_transaction::text,
    p.last_processed_position,
    (coalesce(p.last_processed_transaction, '0'), coalesce(p.last_processed_position, 0))
    >= (%(transaction)s::text::xid8, %(position)s::bigint),
    (
        SELECT k.cause FROM public.projection_parked_events AS k
        WHERE
            k.tenant_id = %(tenant)s AND k.projection_name = p.projection_name
            AND (%(stream)s::uuid IS NULL OR k.aggregate_id = %(stream)s::uuid)
            AND k.discarded_at IS NULL
        ORDER BY k.parked_at LIMIT 1
    )
FROM public.projections AS p WHERE p.projection_name = %(name)s;

-- has_ended --
-- Whether every transaction below a number has ended.
SELECT pg_snapshot_xmin(pg_current_snapshot()) >= %(ended)s::text::xid8;

-- written --
-- How far the log is, as a position's version, and a number above that of every transaction which
-- may have written there: a new one, because a snapshot's xmax may be below those that run.
SELECT
    ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::bigint << 48
    | (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint,
    pg_current_xact_id()::text;

-- log_end --
-- The same without such a number, which would be a write; and where the last event stands, in reading
-- order, of those that the tenant has by now.
SELECT
    ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::bigint << 48
    | (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint,
    e.transaction_id::text,
    e.position
FROM (VALUES (true)) AS once (is_there)
LEFT JOIN LATERAL (
    SELECT t.transaction_id, t.position FROM public.events AS t
    WHERE t.tenant_id = %(tenant)s::uuid
    ORDER BY t.transaction_id DESC, t.position DESC
    LIMIT 1
) AS e ON true;

-- lock_rows --
-- Take turns with other appends that concern the same rows of an inline projection.
SELECT public.lock_read_model_rows(%(projection)s, %(keys)s::text []);
