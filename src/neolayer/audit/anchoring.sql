-- take_turn --
-- One writes anchors at a time.
SELECT pg_advisory_xact_lock(hashtextextended('neolayer audit anchor', 0));

-- last_anchor --
-- The last anchor noted here; no row before the first.
SELECT anchor_number, object_hash FROM audit.anchors ORDER BY anchor_number DESC LIMIT 1;

-- moved_heads --
-- The chains that have grown since they were last anchored.
SELECT tenant_id, chain_number, entry_hash FROM audit.heads
WHERE chain_number > anchored_number
ORDER BY tenant_id;

-- note_anchor --
-- Note an anchor that stands in the object store.
INSERT INTO audit.anchors (anchor_number, object_key, object_hash, chain_count, anchored_at)
VALUES (
    %(number)s, %(object_key)s, %(object_hash)s, %(chain_count)s, %(anchored_at)s
);

-- note_heads --
-- Note up to where the chains are anchored; a chain that is shorter than its anchor (a restored
-- database) is anchored as a whole.
UPDATE audit.heads h
SET anchored_number = least(h.chain_number, a.chain_number)
FROM unnest(%(tenants)s::uuid[], %(numbers)s::bigint[]) AS a (tenant_id, chain_number)
WHERE h.tenant_id IS NOT DISTINCT FROM a.tenant_id
    AND h.anchored_number < least(h.chain_number, a.chain_number);
