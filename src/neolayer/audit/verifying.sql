-- chains --
-- The tenants that have a chain, by entries or by a head alone, found without reading every entry.
WITH RECURSIVE by_entries AS (
    (
        SELECT tenant_id FROM audit.entries
        WHERE chain_number IS NOT NULL AND tenant_id IS NOT NULL
        ORDER BY tenant_id LIMIT 1
    )
    UNION ALL
    SELECT (
        SELECT e.tenant_id FROM audit.entries e
        WHERE e.chain_number IS NOT NULL AND e.tenant_id > b.tenant_id
        ORDER BY e.tenant_id LIMIT 1
    )
    FROM by_entries b WHERE b.tenant_id IS NOT NULL
)
SELECT tenant_id FROM by_entries WHERE tenant_id IS NOT NULL
UNION
SELECT tenant_id FROM audit.heads WHERE tenant_id IS NOT NULL
ORDER BY tenant_id;

-- snapshot --
-- A chain and its head are read as of one moment.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY;

-- head --
-- Where a chain should end; no row where it has none.
SELECT chain_number, entry_hash FROM audit.heads
WHERE tenant_id = %(tenant)s::uuid OR (%(tenant)s::uuid IS NULL AND tenant_id IS NULL);

-- chain --
-- A chain in its order, with what each seal was made of. Plain expressions only: a function of the
-- schema could be replaced by whoever tampers with rows.
SELECT e.id, e.chain_number, e.previous_hash, e.entry_hash,
       ARRAY[
           e.tenant_id::text,
           e.id::text,
           (extract(epoch FROM e.occurred_at) * 1000000)::bigint::text,
           e.principal::text,
           e.user_id::text,
           e.action::text,
           e.resource::text,
           e.resource_id::text,
           e.changes::text,
           e.ip_address::text,
           e.user_agent,
           e.success::text,
           e.error_message,
           e.transaction_id::text,
           (extract(epoch FROM e.sealed_at) * 1000000)::bigint::text
       ] AS fields
FROM audit.entries e
WHERE e.chain_number IS NOT NULL
    AND (e.tenant_id = %(tenant)s::uuid OR (%(tenant)s::uuid IS NULL AND e.tenant_id IS NULL))
ORDER BY e.chain_number, e.id;

-- anchored --
-- The seals that the chains have now at anchored places.
SELECT a.tenant_id, a.chain_number, e.id, e.entry_hash
FROM unnest(%(tenants)s::uuid[], %(numbers)s::bigint[]) AS a (tenant_id, chain_number)
LEFT JOIN audit.entries e
    ON e.tenant_id = a.tenant_id AND e.chain_number = a.chain_number
WHERE a.tenant_id IS NOT NULL
UNION ALL
SELECT a.tenant_id, a.chain_number, e.id, e.entry_hash
FROM unnest(%(tenants)s::uuid[], %(numbers)s::bigint[]) AS a (tenant_id, chain_number)
LEFT JOIN audit.entries e
    ON e.tenant_id IS NULL AND e.chain_number = a.chain_number
WHERE a.tenant_id IS NULL;

-- before --
-- The last entry of a chain before a number; 0 where there is none.
SELECT coalesce(max(e.chain_number), 0) FROM audit.entries e
WHERE e.chain_number < %(number)s
    AND (e.tenant_id = %(tenant)s::uuid OR (%(tenant)s::uuid IS NULL AND e.tenant_id IS NULL));

-- noted_anchors --
-- The anchors the database knows of, from one number to another.
SELECT anchor_number, object_hash FROM audit.anchors
WHERE anchor_number BETWEEN %(first)s AND %(last)s;

-- last_noted --
-- The highest number of an anchor that the database knows of.
SELECT coalesce(max(anchor_number), 0) FROM audit.anchors;
