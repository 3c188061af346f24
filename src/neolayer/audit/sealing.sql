-- take_turn --
-- One sealer works; another finds the turn taken and stands by. Every transaction numbered below
-- `complete` has ended by now, and what it wrote is seen by every later statement.
SELECT pg_try_advisory_xact_lock(hashtextextended('neolayer audit sealer', 0)),
       pg_snapshot_xmin(pg_current_snapshot())::text AS complete;

-- waiting --
-- Entries without a seal, in the order in which they were written, with what a seal is made of. Below
-- `complete_below` all are sealed: that spares the walk over index entries of sealed rows that a long
-- transaction keeps alive.
SELECT w.id, w.tenant_id,
       ARRAY[
           w.tenant_id::text,
           w.id::text,
           (extract(epoch FROM w.occurred_at) * 1000000)::bigint::text,
           w.principal::text,
           w.user_id::text,
           w.action::text,
           w.resource::text,
           w.resource_id::text,
           w.changes::text,
           w.ip_address::text,
           w.user_agent,
           w.success::text,
           w.error_message,
           w.transaction_id::text
       ] AS fields
FROM (
    SELECT e.* FROM audit.entries e
    WHERE e.chain_number IS NULL AND e.transaction_id >= %(complete_below)s::text::xid8
    ORDER BY e.transaction_id
    LIMIT %(limit)s
) w
ORDER BY w.occurred_at, w.transaction_id, w.id;

-- heads --
-- The last seal of each of these chains, and of the one without a tenant.
SELECT h.tenant_id, h.chain_number, h.entry_hash
FROM audit.heads h
WHERE h.tenant_id = ANY(%(tenants)s::uuid[]) OR h.tenant_id IS NULL;

-- now --
-- The time that the next seals bear.
SELECT clock_timestamp();

-- write_seals --
-- The chain's columns of the entries; refused by the table where one has a seal.
UPDATE audit.entries e
SET chain_number = s.chain_number,
    previous_hash = s.previous_hash,
    entry_hash = s.entry_hash,
    sealed_at = %(sealed_at)s
FROM unnest(
    %(ids)s::uuid[], %(numbers)s::bigint[], %(previous)s::bytea[], %(hashes)s::bytea[]
) AS s (id, chain_number, previous_hash, entry_hash)
WHERE e.id = s.id;

-- move_heads --
-- Where each chain ends now.
INSERT INTO audit.heads AS h (tenant_id, chain_number, entry_hash, sealed_at)
SELECT s.tenant_id, s.chain_number, s.entry_hash, %(sealed_at)s
FROM unnest(%(tenants)s::uuid[], %(numbers)s::bigint[], %(hashes)s::bytea[])
    AS s (tenant_id, chain_number, entry_hash)
ON CONFLICT (tenant_id) DO UPDATE
SET chain_number = excluded.chain_number,
    entry_hash = excluded.entry_hash,
    sealed_at = excluded.sealed_at;
