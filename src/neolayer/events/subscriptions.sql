-- make_subscription --
-- A subscription with its partitions, at the beginning or where the caller says; none if it is there.
-- One that was made before its types and its start were noted is given those; the start where the
-- caller says one, since nobody else knows.
WITH made AS (
    INSERT INTO public.subscriptions
    (
        tenant_id, subscription, partitions, types, types_known, started_transaction_id,
        started_position
    )
    VALUES (
        (SELECT core.current_tenant()), %(name)s::text, %(partitions)s::int, %(types)s::text [],
        true, %(transaction)s::text::xid8, %(index)s::bigint
    )
    ON CONFLICT DO NOTHING
    RETURNING tenant_id, subscription, partitions
),

known AS (
    UPDATE public.subscriptions SET
        types = CASE WHEN types_known THEN types ELSE %(types)s::text [] END, types_known = true,
        started_transaction_id = CASE WHEN %(is_told)s::boolean THEN %(transaction)s::text::xid8 END,
        started_position = CASE WHEN %(is_told)s::boolean THEN %(index)s::bigint END
    WHERE
        tenant_id = (SELECT core.current_tenant()) AND subscription = %(name)s::text
        AND started_transaction_id IS NULL AND (%(is_told)s::boolean OR NOT types_known)
)

INSERT INTO public.subscription_partitions
(tenant_id, subscription, partition, transaction_id, position)
SELECT made.tenant_id, made.subscription, p.number, %(transaction)s::text::xid8, %(index)s::bigint
FROM made CROSS JOIN LATERAL generate_series(0, made.partitions - 1) AS p (number);

-- subscription --
-- How many partitions a subscription has, of which types it is, and where it began.
SELECT partitions, types::text [], started_transaction_id::text::bigint, started_position
FROM public.subscriptions
WHERE tenant_id = (SELECT core.current_tenant()) AND subscription = %(name)s::text;

-- delete_subscription --
-- Forget a subscription, with its places and what it parked.
DELETE FROM public.subscriptions
WHERE tenant_id = (SELECT core.current_tenant()) AND subscription = %(name)s::text
RETURNING subscription;

-- claim --
-- The partitions that a consumer holds, after taking its share.
SELECT claimed, fence, transaction_id::text::bigint, position
FROM public.claim_partitions(%(name)s::text, %(consumer)s::text, %(lease)s::interval);

-- renew --
-- A consumer is at work still: what it holds stays its own for another lease.
WITH seen AS (
    UPDATE public.subscription_consumers SET seen_until = clock_timestamp() + %(lease)s::interval
    WHERE
        tenant_id = (SELECT core.current_tenant())
        AND subscription = %(name)s::text AND consumer = %(consumer)s::text
)
UPDATE public.subscription_partitions SET owned_until = clock_timestamp() + %(lease)s::interval
WHERE
    tenant_id = (SELECT core.current_tenant())
    AND subscription = %(name)s::text AND owner = %(consumer)s::text;

-- leave --
-- A consumer goes: what it holds is free at once.
WITH gone AS (
    DELETE FROM public.subscription_consumers
    WHERE
        tenant_id = (SELECT core.current_tenant())
        AND subscription = %(name)s::text AND consumer = %(consumer)s::text
)
UPDATE public.subscription_partitions SET owner = NULL, owned_until = NULL
WHERE
    tenant_id = (SELECT core.current_tenant())
    AND subscription = %(name)s::text AND owner = %(consumer)s::text;

-- next_events --
-- Events of one partition in reading order, those after a place; and behind them its archived streams
-- that have events there, as public.archived_behind() has them. Written with <, of which the planner
-- expects a third of the rows: with = it expects so few that it reads all and sorts them.
(SELECT
    tenant_id, event_id, aggregate_id, aggregate_type, event_type, event_version,
    event_data::text, metadata::text, user_id, correlation_id, causation_id, created_at, schema_version, key_id,
    transaction_id AS transaction, position
FROM public.events
WHERE
    tenant_id = (SELECT core.current_tenant())
    AND (transaction_id, position) > (%(transaction)s::text::xid8, %(index)s::bigint)
    AND transaction_id < pg_snapshot_xmin(pg_current_snapshot())
    AND abs(
        (hashtextextended(aggregate_id::text, 0) & 1073741823) %% %(partitions)s::bigint
        - %(partition)s::bigint
    ) < 1
    AND (%(types)s::text [] IS NULL OR event_type = ANY(%(types)s::text []))
ORDER BY transaction_id, position
LIMIT %(limit)s::bigint)
UNION ALL
(SELECT
    a.tenant_id, NULL, a.aggregate_id, h.aggregate_type, NULL, NULL, a.object_key, a.object_hash,
    NULL, NULL, NULL, NULL, NULL, a.lines_bytes::varchar, a.first_transaction_id, a.first_position
FROM public.archived_streams AS a
INNER JOIN public.stream_heads AS h USING (tenant_id, aggregate_id)
WHERE
    a.tenant_id = (SELECT core.current_tenant())
    AND (a.last_transaction_id, a.last_position) > (%(transaction)s::text::xid8, %(index)s::bigint)
    AND (hashtextextended(a.aggregate_id::text, 0) & 1073741823) %% %(partitions)s::bigint
    = %(partition)s::bigint
ORDER BY a.first_transaction_id, a.first_position
LIMIT %(markers)s::bigint);

-- horizon --
-- Below this transaction everything that will ever be there is there.
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint;

-- advance --
-- The place that a partition has reached, if the consumer still holds it and it is where the consumer
-- left it; the row is the proof. Who lost a connection does not know whether his COMMIT was done, or
-- is being done just now.
UPDATE public.subscription_partitions
SET transaction_id = %(transaction)s::text::xid8, position = %(index)s::bigint
WHERE
    tenant_id = (SELECT core.current_tenant())
    AND subscription = %(name)s::text AND partition = %(partition)s::int
    AND owner = %(consumer)s::text AND fence = %(fence)s::bigint
    AND transaction_id = %(noted_transaction)s::text::xid8 AND position = %(noted_index)s::bigint
RETURNING partition;

-- held_streams --
-- Which of these streams have events that wait to be replayed. Whoever replays the last of a stream
-- now is waited for: or else what comes next would be parked behind an event that is not there.
SELECT s.id
FROM unnest(%(streams)s::uuid []) AS s (id)
CROSS JOIN LATERAL (
    SELECT k.event_version FROM public.parked_events AS k
    WHERE
        k.tenant_id = (SELECT core.current_tenant())
        AND k.subscription = %(name)s::text AND k.aggregate_id = s.id
    ORDER BY k.event_version DESC
    LIMIT 1
    FOR SHARE OF k
) AS last_one;

-- parked_streams --
-- Streams that have parked events, those after one in the order of their ids.
SELECT DISTINCT aggregate_id FROM public.parked_events
WHERE
    tenant_id = (SELECT core.current_tenant()) AND subscription = %(name)s::text
    AND aggregate_id > %(after)s::uuid
ORDER BY aggregate_id
LIMIT %(limit)s::bigint;

-- list_subscriptions --
-- A tenant's subscriptions by name: the place up to which all of it was handled, how many events lie
-- behind that (up to a hundred thousand, and those of archived streams that were not handled whole),
-- how many are parked, who works on it.
SELECT
    s.subscription, s.partitions, s.types::text [], s.created_at, p.transaction_id::text::bigint, p.position,
    (
        SELECT count(*) FROM (
            SELECT FROM public.events AS e
            WHERE
                e.tenant_id = s.tenant_id
                AND (e.transaction_id, e.position) > (p.transaction_id, p.position)
            LIMIT 100000
        ) AS behind
    ) + coalesce((
        SELECT sum(a.version) FROM public.archived_streams AS a
        INNER JOIN public.subscription_partitions AS q
            ON
                q.tenant_id = a.tenant_id AND q.subscription = s.subscription
                AND q.partition = mod(
                    hashtextextended(a.aggregate_id::text, 0) & 1073741823, s.partitions
                )
        WHERE
            a.tenant_id = s.tenant_id
            AND (a.last_transaction_id, a.last_position) > (q.transaction_id, q.position)
    ), 0)::bigint,
    (
        SELECT count(*) FROM public.parked_events AS k
        WHERE k.tenant_id = s.tenant_id AND k.subscription = s.subscription
    ),
    (
        SELECT coalesce(array_agg(c.consumer ORDER BY c.consumer), '{}')
        FROM public.subscription_consumers AS c
        WHERE
            c.tenant_id = s.tenant_id AND c.subscription = s.subscription
            AND c.seen_until > clock_timestamp()
    )
FROM public.subscriptions AS s
CROSS JOIN LATERAL (
    SELECT o.transaction_id, o.position FROM public.subscription_partitions AS o
    WHERE o.tenant_id = s.tenant_id AND o.subscription = s.subscription
    ORDER BY o.transaction_id, o.position
    LIMIT 1
) AS p
WHERE s.tenant_id = (SELECT core.current_tenant())
ORDER BY s.subscription;

-- park --
-- Put an event aside, with the cause or (NULL) behind another of its stream.
INSERT INTO public.parked_events
(tenant_id, subscription, aggregate_id, event_version, cause, attempts)
VALUES (
    (SELECT core.current_tenant()), %(name)s::text, %(stream)s::uuid, %(version)s::int,
    %(cause)s::text, %(attempts)s::int
)
ON CONFLICT (tenant_id, subscription, aggregate_id, event_version) DO UPDATE
SET cause = excluded.cause, attempts = parked_events.attempts + excluded.attempts;

-- failed_again --
-- A parked event that could not be handled again; none where somebody else has handled it meanwhile.
UPDATE public.parked_events SET cause = %(cause)s::text, attempts = attempts + 1
WHERE
    tenant_id = (SELECT core.current_tenant()) AND subscription = %(name)s::text
    AND aggregate_id = %(stream)s::uuid AND event_version = %(version)s::int
RETURNING event_version;

-- parked --
-- What is parked, stream by stream in order.
SELECT aggregate_id, event_version, cause, attempts, parked_at FROM public.parked_events
WHERE
    tenant_id = (SELECT core.current_tenant()) AND subscription = %(name)s::text
    AND (%(stream)s::uuid IS NULL OR aggregate_id = %(stream)s::uuid)
ORDER BY aggregate_id, event_version
LIMIT %(limit)s::bigint;

-- take_parked --
-- One parked event, for whoever replays it; none where somebody else does.
DELETE FROM public.parked_events
WHERE
    tenant_id = (SELECT core.current_tenant()) AND subscription = %(name)s::text
    AND aggregate_id = %(stream)s::uuid AND event_version = %(version)s::int
RETURNING event_version;

-- discard_parked --
-- The event that a stream stands still at is given up, if it is still there.
DELETE FROM public.parked_events AS k
WHERE
    k.tenant_id = (SELECT core.current_tenant()) AND k.subscription = %(name)s::text
    AND k.aggregate_id = %(stream)s::uuid AND k.event_version = %(version)s::int
    AND k.cause IS NOT NULL
RETURNING k.aggregate_id, k.event_version, k.cause, k.attempts, k.parked_at;

-- progress --
-- Where each partition is, who has it, and how far it is behind.
SELECT
    p.partition, p.transaction_id::text::bigint, p.position,
    CASE WHEN p.owned_until > clock_timestamp() THEN p.owner END,
    (
        SELECT count(*) FROM public.parked_events AS e
        WHERE e.tenant_id = p.tenant_id AND e.subscription = p.subscription
    )
FROM public.subscription_partitions AS p
WHERE p.tenant_id = (SELECT core.current_tenant()) AND p.subscription = %(name)s::text
ORDER BY p.partition;
