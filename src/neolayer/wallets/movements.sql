-- wallet_transactions --
-- A page of what a wallet sent and received, newest first; one empty row where there is nothing,
-- no row where there is no such wallet.
SELECT
    m.wallet_id, m.direction, m.transaction_hash, m.from_address, m.to_address, m.value, m.fee,
    m.status, m.nonce, m.block_number, m.block_timestamp, m.transaction_index, m.confirmation_count
FROM blockchain.wallet_transactions(
    %(wallet_id)s, %(time)s, %(index)s, %(hash)s, %(limit)s
) AS m;

-- wallet_balance --
-- What a wallet's transactions moved, up to a block (the head where none is named).
-- Value moves where a transaction succeeded; its fee is due either way. A blob's price is not known
-- here (type 3), nor any fee without a receipt.
SELECT
    w.id,
    b.number,
    coalesce(i.value, 0) AS received,
    coalesce(o.value, 0) AS sent,
    coalesce(o.fees, 0) AS fees,
    coalesce(i.transactions, 0) AS transactions_in,
    coalesce(o.transactions, 0) AS transactions_out,
    coalesce(o.fees_unknown, 0) AS fees_unknown,
    coalesce(b.number + 1 - b.stored, 0) AS missing_blocks
FROM blockchain.wallets AS w
LEFT JOIN blockchain.chain_heads AS h ON h.network_id = w.network_id
CROSS JOIN LATERAL (
    SELECT
        coalesce(%(as_of_block)s::bigint, h.head_number) AS number,
        coalesce((
            SELECT sum(upper(r.stretch) - lower(r.stretch))
            FROM unnest(
                h.covered
                * int8multirange(int8range(0, coalesce(%(as_of_block)s::bigint, h.head_number), '[]'))
            ) AS r (stretch)
        ), 0) AS stored
) AS b
CROSS JOIN LATERAL (
    SELECT
        sum(t.value) FILTER (WHERE t.status = 'confirmed') AS value,
        sum(
            t.gas_used * coalesce(t.effective_gas_price, t.gas_price, 1)
            + coalesce((t.envelope ->> 'netfee')::numeric, 0)
        ) AS fees,
        count(*) AS transactions,
        count(*) FILTER (
            WHERE t.gas_used IS NULL OR t.transaction_type = 3
        ) AS fees_unknown
    FROM blockchain.transactions AS t
    WHERE
        t.from_address = w.address
        AND t.network_id = w.network_id
        AND t.block_number <= b.number
) AS o
CROSS JOIN LATERAL (
    SELECT
        sum(t.value) FILTER (WHERE t.status = 'confirmed') AS value,
        count(*) AS transactions
    FROM blockchain.transactions AS t
    WHERE
        t.to_address = w.address
        AND t.network_id = w.network_id
        AND t.block_number <= b.number
) AS i
WHERE w.id = %(wallet_id)s;
