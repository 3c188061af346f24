-- transaction --
-- One transaction in whatever state it is.
SELECT
    t.id, t.network_id, t.transaction_hash, t.from_address, t.to_address, t.value, t.gas_price,
    t.gas_limit, t.gas_used, t.nonce, t.input_data, t.status, t.block_number, t.block_timestamp,
    t.confirmation_count, t.transaction_index, t.transaction_type, t.max_fee_per_gas,
    t.max_priority_fee_per_gas, t.max_fee_per_blob_gas, t.effective_gas_price,
    t.cumulative_gas_used, t.contract_address, t.signature_v, t.signature_r, t.signature_s,
    t.envelope, t.replaced_by, t.created_at, t.updated_at
FROM blockchain.transactions_current AS t
JOIN blockchain.networks AS n ON n.id = t.network_id
WHERE n.name = %(network)s AND t.transaction_hash = %(transaction_hash)s;

-- block --
-- One block's header.
SELECT
    b.network_id, b.block_number, b.block_hash, b.parent_hash, b.block_timestamp, b.miner,
    b.transaction_count, b.gas_limit, b.gas_used, b.base_fee_per_gas, b.size_bytes, b.state_root,
    b.transactions_root, b.receipts_root, b.verification,
    b.is_final OR h.head_number - b.block_number >= n.finality_depth AS is_final,
    h.head_number - b.block_number + 1 AS confirmation_count
FROM blockchain.blocks AS b
JOIN blockchain.networks AS n ON n.id = b.network_id
JOIN blockchain.chain_heads AS h ON h.network_id = b.network_id
WHERE n.name = %(network)s AND b.block_number = %(number)s;

-- coverage --
-- What is stored of every network, and what lies between without being stored.
SELECT
    n.name, n.chain_id, n.network_type, h.head_number, h.head_hash, h.finalized_number, h.covered,
    int8multirange(int8range(lower(h.covered), upper(h.covered))) - h.covered AS missing
FROM blockchain.networks AS n
LEFT JOIN blockchain.chain_heads AS h ON h.network_id = n.id
ORDER BY n.name;
