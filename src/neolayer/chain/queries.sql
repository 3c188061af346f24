-- insert_network --
-- Make a network known; nothing happens where its name or chain id is taken.
INSERT INTO blockchain.networks (name, chain_id, network_type, is_testnet, finality_depth)
VALUES (%(name)s, %(chain_id)s, %(kind)s, %(is_testnet)s, %(finality_depth)s)
ON CONFLICT DO NOTHING;

-- networks_like --
-- The networks that bear this name or this chain id: none, one, or two that contradict.
SELECT id, name, chain_id, network_type, is_testnet, finality_depth
FROM blockchain.networks
WHERE name = %(name)s OR chain_id = %(chain_id)s;

-- lock_network --
-- Be the only writer of a network, until the end of the transaction.
SELECT pg_advisory_xact_lock(hashtextextended('neolayer chain ' || %(network_id)s::text, 0));

-- share_network --
-- Be one of several that write a network side by side, until the end of the transaction.
SELECT pg_advisory_xact_lock_shared(hashtextextended('neolayer chain ' || %(network_id)s::text, 0));

-- lock_commits --
-- The last step of those that share a network: one at a time.
SELECT pg_advisory_xact_lock(hashtextextended('neolayer commit ' || %(network_id)s::text, 0));

-- ensure_partitions --
-- Make the partitions of one year, where they are missing.
SELECT blockchain.ensure_partitions(%(instant)s::timestamptz, %(instant)s::timestamptz);

-- keep_in_memory --
-- What a trigger sees of a batch is spilled to disk beyond this; a batch is some 10 MB.
SELECT set_config('work_mem', '64MB', FALSE);

-- compress_well --
-- Let long values be stored with lz4 where the server can: twice as fast as its default.
SELECT set_config('default_toast_compression', 'lz4', FALSE)
FROM pg_catalog.pg_settings
WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals);

-- known_blocks --
-- The stored blocks at these heights.
SELECT block_number, block_hash, parent_hash, verification
FROM blockchain.blocks
WHERE network_id = %(network_id)s AND block_number = ANY (%(numbers)s);

-- head --
-- The highest stored block and the highest final height; no row before the first block.
SELECT head_number, head_hash, finalized_number
FROM blockchain.chain_heads
WHERE network_id = %(network_id)s AND head_number IS NOT NULL;

-- has_pending --
-- Whether a commit has to look for transactions that were seen before they were mined.
SELECT EXISTS (
    SELECT 1 FROM blockchain.transactions
    WHERE network_id = %(network_id)s AND status = 'pending'
);

-- advance_head --
-- Add blocks to what is covered; the head rises to the highest of them.
INSERT INTO blockchain.chain_heads AS h (network_id, head_number, head_hash, covered)
VALUES (%(network_id)s, %(head_number)s, %(head_hash)s, %(covered)s::int8multirange)
ON CONFLICT (network_id) DO UPDATE SET
    covered = h.covered + excluded.covered,
    head_hash = CASE
        WHEN h.head_number IS NULL OR excluded.head_number >= h.head_number
        THEN excluded.head_hash ELSE h.head_hash
    END,
    head_number = greatest(h.head_number, excluded.head_number),
    updated_at = now();

-- position --
-- An upper bound of the position of everything committed so far.
SELECT ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::bigint << 48
     | (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint;

-- stage_transactions --
-- A private table with the columns of a transaction as they arrive.
CREATE TEMPORARY TABLE IF NOT EXISTS incoming_transactions ON COMMIT DELETE ROWS AS
SELECT {columns} FROM blockchain.transactions WITH NO DATA;

-- stage_contracts --
-- A private table with the columns of a contract as they arrive.
CREATE TEMPORARY TABLE IF NOT EXISTS incoming_contracts ON COMMIT DELETE ROWS AS
SELECT {columns} FROM blockchain.smart_contracts WITH NO DATA;

-- mined_elsewhere --
-- A staged transaction that another stored block holds already.
SELECT i.transaction_hash, i.block_number, t.block_number AS stored_number
FROM incoming_transactions AS i
JOIN blockchain.transactions AS t
    ON t.network_id = %(network_id)s AND t.transaction_hash = i.transaction_hash
WHERE t.status IN ('confirmed', 'failed')
LIMIT 1;

-- settle_transactions --
-- Give transactions that were seen before they were mined their place in a block.
UPDATE blockchain.transactions AS t
SET ({columns}, replaced_by, confirmation_count) = ({incoming}, NULL, CASE
    WHEN i.block_number <= %(final)s OR i.block_timestamp < %(aged)s
    THEN %(confirmations)s
    ELSE 0
END)
FROM incoming_transactions AS i
WHERE t.network_id = %(network_id)s
  AND t.transaction_hash = i.transaction_hash
  AND t.status NOT IN ('confirmed', 'failed');

-- insert_transactions --
-- Store the staged transactions that were never seen before.
INSERT INTO blockchain.transactions (network_id, {columns}, confirmation_count)
SELECT %(network_id)s, {incoming}, CASE
    WHEN i.block_number <= %(final)s OR i.block_timestamp < %(aged)s
    THEN %(confirmations)s
    ELSE 0
END
FROM incoming_transactions AS i
WHERE NOT EXISTS (
    SELECT 1 FROM blockchain.transactions AS t
    WHERE t.network_id = %(network_id)s AND t.transaction_hash = i.transaction_hash
);

-- replace_transactions --
-- Whoever waits with the sender and nonce of a mined transaction will never be mined.
UPDATE blockchain.transactions AS t
SET status = 'replaced', replaced_by = i.transaction_hash
FROM incoming_transactions AS i
WHERE t.network_id = %(network_id)s
  AND t.status = 'pending'
  AND t.from_address = i.from_address
  AND t.nonce = i.nonce
  AND t.transaction_hash <> i.transaction_hash;

-- empty_transactions --
-- Make room for the next batch of the same transaction.
TRUNCATE incoming_transactions;

-- empty_contracts --
-- Make room for the next batch of the same transaction.
TRUNCATE incoming_contracts;

-- upsert_contracts --
-- Store the staged contracts; the later deployment at an address wins.
INSERT INTO blockchain.smart_contracts AS c (network_id, {columns})
SELECT DISTINCT ON (i.address) %(network_id)s, {incoming}
FROM incoming_contracts AS i
ORDER BY i.address, i.deployed_block_number DESC
ON CONFLICT (network_id, address) DO UPDATE SET
    deployment_transaction_hash = excluded.deployment_transaction_hash,
    deployed_block_number = excluded.deployed_block_number,
    deployed_by = excluded.deployed_by,
    deployed_at = excluded.deployed_at
WHERE c.deployed_block_number IS NULL
   OR c.deployed_block_number <= excluded.deployed_block_number;

-- forget_transactions --
-- Take blocks out again, to store them anew in the same transaction: their transactions.
DELETE FROM blockchain.transactions
WHERE network_id = %(network_id)s AND block_number = ANY (%(numbers)s);

-- forget_logs --
-- Take blocks out again: their logs.
DELETE FROM blockchain.logs
WHERE network_id = %(network_id)s AND block_number = ANY (%(numbers)s);

-- forget_blocks --
-- Take blocks out again: the blocks themselves.
DELETE FROM blockchain.blocks
WHERE network_id = %(network_id)s AND block_number = ANY (%(numbers)s);

-- highest_stored --
-- The highest stored height up to one; NULL where none is.
SELECT max(least(upper(r) - 1, %(up_to)s::bigint)) AS highest
FROM blockchain.chain_heads AS h, unnest(h.covered) AS r
WHERE h.network_id = %(network_id)s AND lower(r) <= %(up_to)s::bigint;

-- ruled_out --
-- What a new branch rules out above its fork, the highest first, each as the height before it and
-- the one after it: the blocks that follow the fork without a gap, and of every island further up
-- all from the first block that contradicts the branch: by its hash, by its parent, or by a
-- transaction that the branch has too (looked for only where an island is above the branch).
WITH heirs AS (
    SELECT heir.block_number, heir.block_hash
    FROM unnest(%(numbers)s::bigint[], %(hashes)s::text[]) AS heir (block_number, block_hash)
), islands AS (
    SELECT lower(r) AS opens, upper(r) AS closes
    FROM blockchain.chain_heads AS h, unnest(h.covered) AS r
    WHERE h.network_id = %(network_id)s AND upper(r) > %(above)s::bigint + 1
), top AS (
    SELECT coalesce(max(heirs.block_number), %(above)s::bigint) AS block_number FROM heirs
), wrong AS (
    SELECT %(above)s::bigint + 1 AS block_number
    UNION ALL
    SELECT b.block_number
    FROM heirs
    JOIN blockchain.blocks AS b
        ON b.network_id = %(network_id)s AND b.block_number = heirs.block_number
    WHERE b.block_hash <> heirs.block_hash
    UNION ALL
    SELECT b.block_number
    FROM heirs
    JOIN blockchain.blocks AS b
        ON b.network_id = %(network_id)s AND b.block_number = heirs.block_number + 1
    WHERE b.parent_hash <> heirs.block_hash
    UNION ALL
    SELECT t.block_number
    FROM unnest(
        CASE
            WHEN EXISTS (
                SELECT 1 FROM islands, top
                WHERE islands.opens > %(above)s::bigint + 1 AND islands.closes > top.block_number + 1
            ) THEN %(transactions)s::text[]
        END
    ) AS mined (transaction_hash)
    JOIN blockchain.transactions AS t
        ON t.network_id = %(network_id)s AND t.transaction_hash = mined.transaction_hash
    WHERE t.block_number > (SELECT top.block_number FROM top)
)
SELECT min(wrong.block_number) - 1 AS above, islands.closes AS "end"
FROM islands
JOIN wrong ON wrong.block_number >= islands.opens AND wrong.block_number < islands.closes
WHERE wrong.block_number > %(above)s::bigint
GROUP BY islands.opens, islands.closes
ORDER BY islands.opens DESC;

-- remember_orphans --
-- Keep what was ours, and what took its place.
INSERT INTO blockchain.orphaned_blocks AS o
    (network_id, block_hash, block_number, parent_hash, block_timestamp, replaced_by)
SELECT b.network_id, b.block_hash, b.block_number, b.parent_hash, b.block_timestamp, heir.block_hash
FROM blockchain.blocks AS b
LEFT JOIN unnest(%(numbers)s::bigint[], %(hashes)s::text[]) AS heir (block_number, block_hash)
    ON heir.block_number = b.block_number
WHERE b.network_id = %(network_id)s
  AND b.block_number > %(above)s AND b.block_number < %(end)s
ON CONFLICT (network_id, block_hash) DO UPDATE SET
    orphaned_at = now(), replaced_by = excluded.replaced_by;

-- forget_rehabilitated --
-- A block that comes back to the chain is no orphan any more.
DELETE FROM blockchain.orphaned_blocks
WHERE network_id = %(network_id)s AND block_hash = ANY (%(hashes)s::text[]);

-- orphan_logs --
-- What contracts said on the branch was never said.
DELETE FROM blockchain.logs
WHERE network_id = %(network_id)s AND block_number > %(above)s AND block_number < %(end)s;

-- restore_contracts --
-- Where the branch held the later deployment at an address, the one before it stands again. It has
-- the same sender: an address follows from that.
UPDATE blockchain.smart_contracts AS c SET
    deployment_transaction_hash = earlier.transaction_hash,
    deployed_block_number = earlier.block_number,
    deployed_at = earlier.block_timestamp
FROM (
    SELECT DISTINCT ON (lost.id)
        lost.id, t.transaction_hash, t.block_number, t.block_timestamp
    FROM blockchain.smart_contracts AS lost
    JOIN blockchain.transactions AS t
        ON t.network_id = lost.network_id
        AND t.from_address = lost.deployed_by
        AND t.contract_address = lost.address
    WHERE lost.network_id = %(network_id)s
      AND lost.deployed_block_number > %(above)s AND lost.deployed_block_number < %(end)s
      AND t.status = 'confirmed'
      AND NOT (t.block_number > %(above)s AND t.block_number < %(end)s)
    ORDER BY lost.id, t.block_number DESC
) AS earlier
WHERE c.id = earlier.id;

-- orphan_contracts --
-- Other contracts created on the branch do not exist.
DELETE FROM blockchain.smart_contracts
WHERE network_id = %(network_id)s
  AND deployed_block_number > %(above)s AND deployed_block_number < %(end)s;

-- revive_replaced --
-- Who was replaced by a transaction of the branch may be mined after all.
UPDATE blockchain.transactions AS t
SET status = 'pending', replaced_by = NULL
FROM blockchain.transactions AS winner
WHERE winner.network_id = %(network_id)s
  AND winner.block_number > %(above)s AND winner.block_number < %(end)s
  AND t.network_id = %(network_id)s
  AND t.status = 'replaced'
  AND t.from_address = winner.from_address
  AND t.replaced_by = winner.transaction_hash;

-- orphan_transactions --
-- Transactions of the branch wait again.
UPDATE blockchain.transactions
SET status = 'pending', block_number = NULL, transaction_index = NULL, confirmation_count = 0,
    gas_used = NULL, cumulative_gas_used = NULL, effective_gas_price = NULL, contract_address = NULL
WHERE network_id = %(network_id)s
  AND block_number > %(above)s AND block_number < %(end)s;

-- orphan_blocks --
-- The blocks of the branch.
DELETE FROM blockchain.blocks
WHERE network_id = %(network_id)s
  AND block_number > %(above)s AND block_number < %(end)s;

-- lower_head --
-- The head falls back to the highest block that is left, what counts as final to the fork.
WITH rest AS (
    SELECT h.network_id, h.covered - %(taken)s::int8multirange AS covered
    FROM blockchain.chain_heads AS h
    WHERE h.network_id = %(network_id)s
)
UPDATE blockchain.chain_heads AS h
SET covered = rest.covered,
    head_number = upper(rest.covered) - 1,
    head_hash = (
        SELECT b.block_hash FROM blockchain.blocks AS b
        WHERE b.network_id = rest.network_id AND b.block_number = upper(rest.covered) - 1
    ),
    finalized_number = CASE
        WHEN h.finalized_number > %(above)s THEN nullif(%(above)s, -1) ELSE h.finalized_number
    END
FROM rest
WHERE h.network_id = rest.network_id;

-- next_to_finalise --
-- The height that one bounded commit may make final: the last of the next blocks, or the target.
SELECT CASE WHEN count(*) < %(limit)s THEN %(target)s ELSE max(n.block_number) END AS reached
FROM (
    SELECT b.block_number FROM blockchain.blocks AS b
    WHERE b.network_id = %(network_id)s AND NOT b.is_final
      AND b.block_number > %(after)s AND b.block_number <= %(target)s
    ORDER BY b.block_number
    LIMIT %(limit)s
) AS n;

-- finalise --
-- The one time that a mined transaction's stored count is written: its block has become final.
WITH final AS (
    UPDATE blockchain.blocks SET is_final = TRUE
    WHERE network_id = %(network_id)s AND NOT is_final
      AND block_number > %(after)s AND block_number <= %(reached)s
    RETURNING block_number
)
UPDATE blockchain.transactions AS t
SET confirmation_count = least(h.head_number - t.block_number + 1, %(confirmations)s)
FROM final, blockchain.chain_heads AS h
WHERE t.network_id = %(network_id)s AND t.block_number = final.block_number
  AND h.network_id = %(network_id)s;

-- raise_final --
-- What is final stays so, unless a reorganisation reaches below it.
UPDATE blockchain.chain_heads SET finalized_number = %(reached)s
WHERE network_id = %(network_id)s
  AND (finalized_number IS NULL OR finalized_number < %(reached)s);

-- record_pending --
-- Store staged transactions that wait; one whose sender and nonce are used up never gets in.
INSERT INTO blockchain.transactions (network_id, {columns})
SELECT %(network_id)s, {incoming}
FROM incoming_transactions AS i
WHERE NOT EXISTS (
    SELECT 1 FROM blockchain.transactions AS t
    WHERE t.network_id = %(network_id)s AND t.transaction_hash = i.transaction_hash
) AND NOT EXISTS (
    SELECT 1 FROM blockchain.transactions AS t
    WHERE t.network_id = %(network_id)s
      AND t.from_address = i.from_address AND t.nonce = i.nonce AND t.block_number IS NOT NULL
);

-- wait_again --
-- Transactions that were given up and are seen once more.
UPDATE blockchain.transactions AS t
SET status = 'pending'
FROM incoming_transactions AS i
WHERE t.network_id = %(network_id)s
  AND t.transaction_hash = i.transaction_hash
  AND t.status = 'dropped';

-- pending --
-- The transactions that wait, oldest first.
SELECT transaction_hash FROM blockchain.transactions
WHERE network_id = %(network_id)s AND status = 'pending'
ORDER BY created_at
LIMIT %(limit)s;

-- drop_pending --
-- Waiting transactions that the network has forgotten.
UPDATE blockchain.transactions SET status = 'dropped'
WHERE network_id = %(network_id)s AND status = 'pending'
  AND transaction_hash = ANY (%(hashes)s::text[]);
