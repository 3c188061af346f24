-- network_head --
-- A network's id, its head, from which confirmations are counted, and how far the log is.
SELECT
    n.id, h.head_number,
    ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::bigint << 48
    | (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint
FROM blockchain.networks AS n
LEFT JOIN blockchain.chain_heads AS h ON h.network_id = n.id
WHERE n.name = %(network)s;

-- position --
-- Up to where the log is on disk. Taken before a row is read, so that a change the read may miss
-- commits above it.
SELECT ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::bigint << 48
     | (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint;

-- transaction --
-- One transaction as stored, and whether nothing newer may be on its way. A commit may be on disk
-- before it is visible; its mark is xmax, then not older than what this snapshot sees running. Such
-- a row is answered, and not cached. (An update leaves its own, older mark on the new row.)
SELECT
    t.xmax = '0'::xid
    OR age(t.xmax) > age(pg_snapshot_xmin(pg_current_snapshot())::xid) AS is_settled,
    t.id, t.network_id, t.transaction_hash, t.from_address, t.to_address, t.value, t.gas_price,
    t.gas_limit, t.gas_used, t.nonce, t.input_data, t.status, t.block_number, t.block_timestamp,
    coalesce(t.confirmation_count, 0) AS confirmation_count, t.transaction_index,
    t.transaction_type, t.max_fee_per_gas, t.max_priority_fee_per_gas, t.max_fee_per_blob_gas,
    t.effective_gas_price, t.cumulative_gas_used, t.contract_address, t.signature_v,
    t.signature_r, t.signature_s, t.envelope, t.replaced_by, t.created_at, t.updated_at
FROM blockchain.transactions AS t
WHERE t.network_id = %(network_id)s AND t.transaction_hash = %(transaction_hash)s;
