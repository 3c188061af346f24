-- claim_endpoints --
-- Endpoints with something due, for one deliverer until the lease ends; the longest waiting first.
-- Those of a closed tenant are told nothing.
UPDATE core.webhooks AS w SET next_attempt_at = clock_timestamp() + %(lease)s::interval
FROM (
    SELECT c.tenant_id, c.id FROM core.webhooks AS c
    JOIN core.tenant_standing AS t ON t.id = c.tenant_id AND NOT t.is_closed
    WHERE c.status = 'active' AND c.next_attempt_at <= clock_timestamp()
        AND NOT c.tenant_id = ANY (%(busy)s::uuid [])
        AND EXISTS (
            SELECT FROM core.webhook_deliveries AS d
            WHERE d.tenant_id = c.tenant_id AND d.webhook_id = c.id AND d.status = 'pending'
        )
    ORDER BY c.next_attempt_at
    LIMIT %(limit)s::int
    FOR NO KEY UPDATE OF c SKIP LOCKED
) AS due
WHERE (w.tenant_id, w.id) = (due.tenant_id, due.id)
RETURNING w.tenant_id, w.id;

-- next_due --
-- Seconds until the next endpoint with something to deliver is due, an hour at most; NULL where there
-- is none. A tenant may write infinity, which no server before 17 can subtract from.
SELECT extract(epoch FROM min(least(
    greatest(w.next_attempt_at, statement_timestamp()), statement_timestamp() + interval '1 hour'
)) - statement_timestamp())::float8
FROM core.webhooks AS w
JOIN core.tenant_standing AS t ON t.id = w.tenant_id AND NOT t.is_closed
WHERE w.status = 'active'
    AND EXISTS (
        SELECT FROM core.webhook_deliveries AS d
        WHERE d.tenant_id = w.tenant_id AND d.webhook_id = w.id AND d.status = 'pending'
    );

-- endpoint_now --
-- Where an endpoint is and what signs for it, the newest secret first; no row where it is disabled
-- or gone, or its tenant closed.
SELECT
    w.url,
    ARRAY(
        SELECT s.sealed_secret FROM core.webhook_secrets AS s
        WHERE s.tenant_id = w.tenant_id AND s.webhook_id = w.id
            AND coalesce(s.expires_at, 'infinity') > clock_timestamp()
        ORDER BY s.created_at DESC
        LIMIT 4
    ) AS sealed_secrets
FROM core.webhooks AS w
JOIN core.tenant_standing AS t ON t.id = w.tenant_id AND NOT t.is_closed
WHERE w.tenant_id = %(tenant_id)s AND w.id = %(webhook_id)s AND w.status = 'active';

-- pending_of --
-- What waits for an endpoint, in order.
SELECT d.number, d.event_id, d.event_type, d.envelope, d.attempts
FROM core.webhook_deliveries AS d
WHERE d.tenant_id = %(tenant_id)s AND d.webhook_id = %(webhook_id)s AND d.status = 'pending'
ORDER BY d.number
LIMIT %(limit)s::int;

-- delivered --
-- The endpoint has taken it, and is well.
WITH taken AS (
    UPDATE core.webhook_deliveries SET
        status = 'delivered', attempts = attempts + 1, last_error = NULL,
        finished_at = clock_timestamp()
    WHERE tenant_id = %(tenant_id)s AND webhook_id = %(webhook_id)s AND number = %(number)s
)
UPDATE core.webhooks SET
    failing_since = NULL, last_error = NULL, last_delivered_at = clock_timestamp()
WHERE tenant_id = %(tenant_id)s AND id = %(webhook_id)s;

-- failed --
-- A try failed; parked where it was the last one.
UPDATE core.webhook_deliveries SET
    attempts = attempts + 1,
    last_error = %(error)s::text,
    status = CASE WHEN %(parked)s THEN 'parked' ELSE status END,
    finished_at = CASE WHEN %(parked)s THEN clock_timestamp() END
WHERE tenant_id = %(tenant_id)s AND webhook_id = %(webhook_id)s AND number = %(number)s;

-- endpoint_due --
-- An endpoint goes on at once; nothing is known of how it fares.
UPDATE core.webhooks SET next_attempt_at = clock_timestamp()
WHERE tenant_id = %(tenant_id)s AND id = %(webhook_id)s;

-- endpoint_failed --
-- An endpoint failed: not before so long again. Disabled where it has failed for too long, or says
-- that it is gone.
UPDATE core.webhooks AS w SET
    failing_since = coalesce(w.failing_since, clock_timestamp()),
    last_error = %(error)s::text,
    next_attempt_at = clock_timestamp() + %(pause)s::interval,
    status = CASE WHEN
        w.status = 'disabled' OR %(gone)s
        OR w.failing_since < clock_timestamp() - %(disable_after)s::interval
        THEN 'disabled' ELSE 'active' END,
    disabled_reason = CASE
        WHEN w.status = 'disabled' THEN w.disabled_reason
        WHEN %(gone)s THEN 'the endpoint says that it is gone'
        WHEN w.failing_since < clock_timestamp() - %(disable_after)s::interval
            THEN 'it failed for too long: ' || %(error)s::text
    END
WHERE w.tenant_id = %(tenant_id)s AND w.id = %(webhook_id)s
RETURNING w.status = 'disabled', w.name;

-- sweep_deliveries --
-- Delete some deliveries that ended long ago, or that waited too long for a disabled endpoint or a
-- closed tenant.
DELETE FROM core.webhook_deliveries
WHERE ctid = ANY (
    ARRAY(
        SELECT d.ctid FROM core.webhook_deliveries AS d
        JOIN core.webhooks AS w ON (w.tenant_id, w.id) = (d.tenant_id, d.webhook_id)
        JOIN core.tenant_standing AS t ON t.id = d.tenant_id
        WHERE d.created_at < clock_timestamp() - %(keep)s::interval
            AND (d.status <> 'pending' OR w.status = 'disabled' OR t.is_closed)
        LIMIT %(limit)s::int
    )
)
RETURNING 1;

-- webhook_status --
-- How the endpoints of all tenants fare; disabled are those that we gave up, not their tenants.
SELECT
    count(*),
    count(*) FILTER (WHERE w.status = 'active' AND w.failing_since IS NOT NULL),
    count(*) FILTER (WHERE w.status = 'disabled' AND w.failing_since IS NOT NULL),
    (SELECT count(*) FROM core.webhook_deliveries AS d WHERE d.status = 'pending'),
    (SELECT count(*) FROM core.webhook_deliveries AS d WHERE d.status = 'parked')
FROM core.webhooks AS w;
