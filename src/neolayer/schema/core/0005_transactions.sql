-- migrate:up
-- Transactions, by year of block time (first-seen time while pending). Seven years are kept and
-- whole years leave at once.
-- Row-wise foreign keys would cost 4 us a row: the statement-wise triggers below say the same.
CREATE TABLE blockchain.transactions (
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    network_id uuid NOT NULL,
    transaction_hash varchar(255) COLLATE "C" NOT NULL,
    from_address varchar(255) COLLATE "C" NOT NULL,
    to_address varchar(255) COLLATE "C",
    value numeric(78, 0) NOT NULL DEFAULT 0,
    gas_price numeric(78, 0),
    gas_limit bigint,
    gas_used bigint,
    nonce bigint,
    input_data text,
    status varchar(50) NOT NULL DEFAULT 'pending',
    block_number bigint,
    block_timestamp timestamptz NOT NULL,
    confirmation_count int DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    transaction_index int,
    transaction_type smallint,
    max_fee_per_gas numeric(78, 0),
    max_priority_fee_per_gas numeric(78, 0),
    max_fee_per_blob_gas numeric(78, 0),
    effective_gas_price numeric(78, 0),
    cumulative_gas_used bigint,
    contract_address varchar(255) COLLATE "C",
    signature_v numeric(78, 0),
    signature_r varchar(66) COLLATE "C",
    signature_s varchar(66) COLLATE "C",
    envelope jsonb,
    replaced_by varchar(255) COLLATE "C",
    PRIMARY KEY (network_id, transaction_hash, block_timestamp),
    CONSTRAINT transactions_hash_check CHECK (
        blockchain.is_hash(transaction_hash) AND blockchain.is_hash(replaced_by)
    ),
    CONSTRAINT transactions_address_check CHECK (
        blockchain.is_address(from_address)
        AND blockchain.is_address(to_address)
        AND blockchain.is_address(contract_address)
    ),
    CONSTRAINT transactions_value_check CHECK (core.is_uint256(value)),
    CONSTRAINT transactions_price_check CHECK (
        core.is_uint256(gas_price)
        AND core.is_uint256(max_fee_per_gas)
        AND core.is_uint256(max_priority_fee_per_gas)
        AND core.is_uint256(max_fee_per_blob_gas)
        AND core.is_uint256(effective_gas_price)
        AND core.is_uint256(signature_v)
    ),
    CONSTRAINT transactions_count_check CHECK (
        gas_limit >= 0
        AND gas_used >= 0
        AND cumulative_gas_used >= 0
        AND nonce >= 0
        AND block_number >= 0
        AND transaction_index >= 0
        AND confirmation_count >= 0
    ),
    CONSTRAINT transactions_time_check CHECK (
        block_timestamp >= '1970-01-01 00:00:00+00' AND block_timestamp < '2262-01-01 00:00:00+00'
    ),
    CONSTRAINT transactions_status_check CHECK (
        CASE
            WHEN block_number IS NULL THEN status IN ('pending', 'dropped', 'replaced')
            ELSE status IN ('confirmed', 'failed')
        END
    )
) PARTITION BY RANGE (block_timestamp);

-- Rows outside every year that was made: kept, counted by blockchain.default_partition_rows, moved
-- when their year is made.
CREATE TABLE blockchain.transactions_default PARTITION OF blockchain.transactions DEFAULT;

-- Relay sinks need the whole old row: large columns that an update did not touch are not in the
-- commit log otherwise. Inserts cost nothing more. Partitions need it each.
ALTER TABLE blockchain.transactions REPLICA IDENTITY FULL;
ALTER TABLE blockchain.transactions_default REPLICA IDENTITY FULL;

-- An account's history, newest first; the specification's index on from_address alone is a prefix.
CREATE INDEX idx_transactions_user_time
ON blockchain.transactions (from_address, block_timestamp DESC);
-- What an address received.
CREATE INDEX idx_transactions_to ON blockchain.transactions (to_address);
-- A block's transactions; block numbers mean something only within their network.
CREATE INDEX idx_transactions_block ON blockchain.transactions (network_id, block_number DESC);
-- The few that wait, oldest first.
CREATE INDEX idx_transactions_pending ON blockchain.transactions (created_at)
WHERE status = 'pending';
-- Which waiting transaction does a mined one of the same sender and nonce replace?
CREATE INDEX idx_transactions_pending_nonce
ON blockchain.transactions (network_id, from_address, nonce) WHERE status = 'pending';

-- A unique key of a partitioned table must hold the partition key, so that two years could hold
-- the same hash. This table is the specification's UNIQUE (network_id, transaction_hash), kept by
-- triggers once a statement: 5 to 8 us a row. Bytes, because they are half as long as hex.
CREATE TABLE blockchain.transaction_keys (
    network_id uuid NOT NULL,
    transaction_hash bytea NOT NULL,
    CONSTRAINT transactions_hash_unique PRIMARY KEY (network_id, transaction_hash)
);

-- Claims the keys of new rows, or fails as a unique constraint does (23505); refuses networks
-- that do not exist as a foreign key does (23503), and holds them as one would.
CREATE FUNCTION blockchain.claim_transaction_keys() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    networks uuid[] := ARRAY(SELECT DISTINCT a.network_id FROM added a);
BEGIN
    PERFORM FROM blockchain.networks n WHERE n.id = ANY (networks) FOR KEY SHARE;
    IF EXISTS (
        SELECT FROM unnest(networks) AS named (id)
        WHERE NOT EXISTS (SELECT FROM blockchain.networks n WHERE n.id = named.id)
    ) THEN
        RAISE EXCEPTION 'a transaction names a network that does not exist'
            USING ERRCODE = 'foreign_key_violation', SCHEMA = 'blockchain', TABLE = 'transactions';
    END IF;
    INSERT INTO blockchain.transaction_keys (network_id, transaction_hash)
    SELECT a.network_id, decode(substr(a.transaction_hash, 3), 'hex') FROM added a;
    RETURN NULL;
END
$$;
CREATE TRIGGER claim_keys AFTER INSERT ON blockchain.transactions
REFERENCING NEW TABLE AS added
FOR EACH STATEMENT EXECUTE FUNCTION blockchain.claim_transaction_keys();

-- Gives the keys of deleted rows back.
CREATE FUNCTION blockchain.release_transaction_keys() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM blockchain.transaction_keys k USING removed r
    WHERE k.network_id = r.network_id
        AND k.transaction_hash = decode(substr(r.transaction_hash, 3), 'hex');
    RETURN NULL;
END
$$;
CREATE TRIGGER release_keys AFTER DELETE ON blockchain.transactions
REFERENCING OLD TABLE AS removed
FOR EACH STATEMENT EXECUTE FUNCTION blockchain.release_transaction_keys();

-- A key that could change, or rows that could go without a trigger, would undo the two above.
CREATE TRIGGER keep_key BEFORE UPDATE OF network_id, transaction_hash ON blockchain.transactions
FOR EACH STATEMENT
EXECUTE FUNCTION core.refuse_change('a transaction never changes its network or hash');
CREATE TRIGGER keep_rows BEFORE TRUNCATE ON blockchain.transactions
FOR EACH STATEMENT EXECUTE FUNCTION core.refuse_change('delete rows instead');
CREATE TRIGGER touch BEFORE UPDATE ON blockchain.transactions
FOR EACH ROW EXECUTE FUNCTION core.touch_updated_at();

-- The other half of the foreign key: a network with transactions stays, and keeps its id.
CREATE FUNCTION blockchain.keep_named_network() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.id = OLD.id THEN
        RETURN NULL;
    END IF;
    IF EXISTS (SELECT FROM blockchain.transaction_keys k WHERE k.network_id = OLD.id) THEN
        RAISE EXCEPTION 'network % still has transactions', OLD.name
            USING ERRCODE = 'foreign_key_violation', SCHEMA = 'blockchain', TABLE = 'networks';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER keep_named AFTER DELETE OR UPDATE OF id ON blockchain.networks
FOR EACH ROW EXECUTE FUNCTION blockchain.keep_named_network();

-- What we answer: confirmations counted from the head, because the stored count is written only
-- once, when the block is final (rewriting every row at every block would be the alternative).
CREATE VIEW blockchain.transactions_current WITH (security_invoker = true) AS
SELECT
    t.id,
    t.network_id,
    t.transaction_hash,
    t.from_address,
    t.to_address,
    t.value,
    t.gas_price,
    t.gas_limit,
    t.gas_used,
    t.nonce,
    t.input_data,
    t.status,
    t.block_number,
    t.block_timestamp,
    CASE
        WHEN t.block_number IS NULL THEN 0
        ELSE least(greatest(h.head_number - t.block_number + 1, 0), 2147483647)::int
    END AS confirmation_count,
    t.created_at,
    t.updated_at,
    t.transaction_index,
    t.transaction_type,
    t.max_fee_per_gas,
    t.max_priority_fee_per_gas,
    t.max_fee_per_blob_gas,
    t.effective_gas_price,
    t.cumulative_gas_used,
    t.contract_address,
    t.signature_v,
    t.signature_r,
    t.signature_s,
    t.envelope,
    t.replaced_by
FROM blockchain.transactions AS t
LEFT JOIN blockchain.chain_heads AS h ON t.network_id = h.network_id;

-- Chain data is public: everybody reads, only ingest writes; nobody may touch a partition or the
-- keys directly.
GRANT SELECT ON blockchain.transactions, blockchain.transactions_current
TO neolayer_app, neolayer_relay, neolayer_backup, neolayer_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON blockchain.transactions TO neolayer_ingest;
GRANT SELECT ON blockchain.transactions_current TO neolayer_ingest;
GRANT SELECT ON blockchain.transaction_keys TO neolayer_ingest, neolayer_backup, neolayer_operator;

-- migrate:down
-- A way back while there is nothing to lose.
SELECT neolayer_schema.refuse_to_lose('blockchain.transactions');
DROP VIEW blockchain.transactions_current;
DROP TRIGGER keep_named ON blockchain.networks;
DROP FUNCTION blockchain.keep_named_network();
DROP TABLE blockchain.transactions;
DROP FUNCTION blockchain.release_transaction_keys();
DROP FUNCTION blockchain.claim_transaction_keys();
DROP TABLE blockchain.transaction_keys;
