-- entries --
-- Entries of the tenant the reader is bound to, the newest first; NULL leaves a condition out. What
-- has no seal yet is in another index than what has one, so the two are merged.
SELECT e.id, e.tenant_id, e.occurred_at, e.principal, e.action, e.resource, e.resource_id,
       e.changes, host(e.ip_address), e.user_agent, e.success, e.error_message,
       e.chain_number, e.sealed_at
FROM (
    (
        SELECT e.* FROM audit.entries e
        WHERE e.chain_number IS NOT NULL
            AND (e.tenant_id = %(tenant)s::uuid OR (%(tenant)s::uuid IS NULL AND e.tenant_id IS NULL))
            AND (%(action)s::text IS NULL OR e.action = %(action)s)
            AND (%(resource)s::text IS NULL OR e.resource = %(resource)s)
            AND (%(resource_id)s::text IS NULL OR e.resource_id = %(resource_id)s)
            AND (%(principal)s::text IS NULL OR e.principal = %(principal)s)
            AND (%(success)s::boolean IS NULL OR e.success = %(success)s)
            AND (%(since)s::timestamptz IS NULL OR e.occurred_at >= %(since)s)
            AND (
                %(before_at)s::timestamptz IS NULL
                OR (e.occurred_at, e.id) < (%(before_at)s, %(before_id)s::uuid)
            )
        ORDER BY e.occurred_at DESC, e.id DESC
        LIMIT %(limit)s
    )
    UNION ALL
    (
        SELECT e.* FROM audit.entries e
        WHERE e.chain_number IS NULL
            AND (e.tenant_id = %(tenant)s::uuid OR (%(tenant)s::uuid IS NULL AND e.tenant_id IS NULL))
            AND (%(action)s::text IS NULL OR e.action = %(action)s)
            AND (%(resource)s::text IS NULL OR e.resource = %(resource)s)
            AND (%(resource_id)s::text IS NULL OR e.resource_id = %(resource_id)s)
            AND (%(principal)s::text IS NULL OR e.principal = %(principal)s)
            AND (%(success)s::boolean IS NULL OR e.success = %(success)s)
            AND (%(since)s::timestamptz IS NULL OR e.occurred_at >= %(since)s)
            AND (
                %(before_at)s::timestamptz IS NULL
                OR (e.occurred_at, e.id) < (%(before_at)s, %(before_id)s::uuid)
            )
        ORDER BY e.occurred_at DESC, e.id DESC
        LIMIT %(limit)s
    )
) e
ORDER BY e.occurred_at DESC, e.id DESC
LIMIT %(limit)s;

-- heads --
-- Where every chain ends, and up to where it is anchored; the one without a tenant first.
SELECT h.tenant_id, t.identifier, h.chain_number, h.entry_hash, h.sealed_at, h.anchored_number
FROM audit.heads h
LEFT JOIN core.tenants t ON t.id = h.tenant_id
ORDER BY t.identifier NULLS FIRST;

-- status --
-- What waits for a seal, and what for an anchor.
SELECT
    (SELECT count(*) FROM audit.entries WHERE chain_number IS NULL),
    (
        SELECT coalesce(extract(epoch FROM clock_timestamp() - min(occurred_at)), 0)::float8
        FROM audit.entries WHERE chain_number IS NULL
    ),
    (SELECT count(*) FROM audit.heads),
    (SELECT count(*) FROM audit.heads WHERE chain_number > anchored_number),
    (SELECT max(anchor_number) FROM audit.anchors),
    (SELECT anchored_at FROM audit.anchors ORDER BY anchor_number DESC LIMIT 1);
