-- create_webhook --
-- A new endpoint of the tenant.
INSERT INTO core.webhooks (tenant_id, name, url, event_types)
VALUES (core.current_tenant(), %(name)s, %(url)s, %(event_types)s)
RETURNING id;

-- add_secret --
-- Another secret of an endpoint; it signs from now on.
INSERT INTO core.webhook_secrets (tenant_id, webhook_id, sealed_secret, key_id)
VALUES (core.current_tenant(), %(webhook_id)s, %(sealed_secret)s, %(key_id)s)
RETURNING id;

-- retire_secrets --
-- Let the other secrets sign for so long still, and forget those that ended.
WITH ended AS (
    DELETE FROM core.webhook_secrets AS s
    WHERE s.webhook_id = %(webhook_id)s AND s.expires_at <= clock_timestamp()
)
UPDATE core.webhook_secrets AS s
SET expires_at = least(s.expires_at, clock_timestamp() + %(overlap)s::interval)
WHERE s.webhook_id = %(webhook_id)s AND s.id <> %(but)s
    AND coalesce(s.expires_at, 'infinity') > clock_timestamp();

-- count_secrets --
-- How many secrets sign for an endpoint, the newest among them.
SELECT count(*) FROM core.webhook_secrets AS s
WHERE s.webhook_id = %(webhook_id)s AND coalesce(s.expires_at, 'infinity') > clock_timestamp();

-- list_webhooks --
-- The tenant's endpoints by name, and what waits or is parked for each.
SELECT
    w.id, w.name, w.url, w.event_types, w.status, w.disabled_reason, w.failing_since,
    w.last_error, w.last_delivered_at, w.created_at,
    (
        SELECT count(*) FROM core.webhook_deliveries AS d
        WHERE d.tenant_id = w.tenant_id AND d.webhook_id = w.id AND d.status = 'pending'
    ) AS pending,
    (
        SELECT count(*) FROM core.webhook_deliveries AS d
        WHERE d.tenant_id = w.tenant_id AND d.webhook_id = w.id AND d.status = 'parked'
    ) AS parked
FROM core.webhooks AS w
WHERE %(name)s::text IS NULL OR w.name = %(name)s
ORDER BY w.name;

-- set_webhook --
-- Change where an endpoint is and what it is told; what is NULL stays.
UPDATE core.webhooks SET
    url = coalesce(%(url)s, url),
    event_types = coalesce(%(event_types)s::text [], event_types),
    next_attempt_at = CURRENT_TIMESTAMP
WHERE id = %(id)s
RETURNING id;

-- set_webhook_status --
-- Disable an endpoint, or let it work again with a clean sheet.
UPDATE core.webhooks SET
    status = %(status)s,
    disabled_reason = %(reason)s,
    failing_since = NULL,
    next_attempt_at = CURRENT_TIMESTAMP
WHERE id = %(id)s
RETURNING id;

-- delete_webhook --
-- Delete an endpoint with its secrets and deliveries.
DELETE FROM core.webhooks WHERE id = %(id)s RETURNING id;

-- enqueue_one --
-- One event for one endpoint, outside the flow: a trial.
INSERT INTO core.webhook_deliveries (
    tenant_id, webhook_id, event_id, event_type, version, envelope
)
SELECT w.tenant_id, w.id, %(event_id)s, %(event_type)s, %(version)s, %(envelope)s
FROM core.webhooks AS w WHERE w.id = %(webhook_id)s
RETURNING number;

-- list_deliveries --
-- An endpoint's newest deliveries, the newest first.
SELECT
    d.number, d.event_id, d.event_type, d.status, d.attempts, d.last_error, d.created_at,
    d.finished_at
FROM core.webhook_deliveries AS d
WHERE d.tenant_id = (SELECT core.current_tenant()) AND d.webhook_id = %(webhook_id)s
    AND (%(status)s::text IS NULL OR d.status = %(status)s)
ORDER BY d.number DESC
LIMIT %(limit)s;

-- replay_deliveries --
-- Let an endpoint have again what was parked, or these deliveries whatever became of them.
WITH again AS (
    UPDATE core.webhook_deliveries SET
        status = 'pending', attempts = 0, finished_at = NULL
    WHERE tenant_id = (SELECT core.current_tenant()) AND webhook_id = %(webhook_id)s
        AND CASE
            WHEN %(numbers)s::bigint [] IS NULL THEN status = 'parked'
            ELSE number = ANY (%(numbers)s::bigint []) AND status <> 'pending'
        END
    RETURNING number
), due AS (
    UPDATE core.webhooks SET next_attempt_at = CURRENT_TIMESTAMP
    WHERE id = %(webhook_id)s AND EXISTS (SELECT FROM again)
)
SELECT count(*) FROM again;
