-- migrate:up
-- What contracts said while a transaction ran. The index of a log counts within its block.
CREATE TABLE blockchain.logs (
    network_id uuid NOT NULL,
    block_number bigint NOT NULL,
    log_index int NOT NULL,
    block_timestamp timestamptz NOT NULL,
    transaction_hash varchar(255) COLLATE "C" NOT NULL,
    transaction_index int NOT NULL,
    address varchar(255) COLLATE "C" NOT NULL,
    topic0 varchar(66) COLLATE "C",
    topic1 varchar(66) COLLATE "C",
    topic2 varchar(66) COLLATE "C",
    topic3 varchar(66) COLLATE "C",
    data text,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (network_id, block_number, log_index, block_timestamp),
    CONSTRAINT logs_hash_check CHECK (blockchain.is_hash(transaction_hash)),
    CONSTRAINT logs_address_check CHECK (blockchain.is_address(address)),
    CONSTRAINT logs_count_check CHECK (
        block_number >= 0 AND log_index >= 0 AND transaction_index >= 0
    )
) PARTITION BY RANGE (block_timestamp);
CREATE TABLE blockchain.logs_default PARTITION OF blockchain.logs DEFAULT;

-- "This event of this contract, in order." Logs of a transaction are found through its block.
CREATE INDEX idx_logs_event ON blockchain.logs (address, topic0, block_number);

-- Contracts, created on chain or described by people. deployed_block_number ties a row to the
-- block that a reorganisation may take back.
CREATE TABLE blockchain.smart_contracts (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    network_id uuid NOT NULL REFERENCES blockchain.networks (id),
    address varchar(255) COLLATE "C" NOT NULL CHECK (blockchain.is_address(address)),
    name varchar(255),
    symbol varchar(50),
    contract_type varchar(50) NOT NULL DEFAULT 'unknown',
    abi jsonb NOT NULL DEFAULT '[]',
    bytecode text,
    source_code text,
    compiler_version varchar(50),
    optimization_enabled boolean,
    verified boolean NOT NULL DEFAULT FALSE,
    deployed_by varchar(255) COLLATE "C" CHECK (blockchain.is_address(deployed_by)),
    deployed_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    deployment_transaction_hash varchar(255) COLLATE "C" CHECK (
        blockchain.is_hash(deployment_transaction_hash)
    ),
    deployed_block_number bigint CHECK (deployed_block_number >= 0),
    CONSTRAINT contracts_address_unique UNIQUE (network_id, address)
);

-- For the same reason as the transactions': source code and ABI are large and seldom change.
ALTER TABLE blockchain.smart_contracts REPLICA IDENTITY FULL;

-- What a reorganisation takes back.
CREATE INDEX idx_contracts_deployed
ON blockchain.smart_contracts (network_id, deployed_block_number);

-- Makes the year partitions of transactions and logs that cover an interval, where missing, and
-- moves rows that waited in the default partition. Ingest calls it for each batch (one look-up a
-- year when nothing is missing), `migrate up` for the coming year.
CREATE FUNCTION blockchain.ensure_partitions(starts_at timestamptz, ends_at timestamptz)
RETURNS int
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $$
DECLARE
    first_year int := extract(year FROM starts_at);
    last_year int := extract(year FROM ends_at);
    made int := 0;
    parent text;
    child text;
    opens timestamptz;
    closes timestamptz;
BEGIN
    IF last_year - first_year > 60 OR first_year < 1970 OR last_year > 2261 THEN
        RAISE EXCEPTION 'no partitions for % to %', starts_at, ends_at
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR year IN first_year .. last_year LOOP
        FOREACH parent IN ARRAY ARRAY['transactions', 'logs'] LOOP
            child := format('%s_%s', parent, year);
            CONTINUE WHEN to_regclass(format('blockchain.%I', child)) IS NOT NULL;
            -- Two makers of one partition: the second waits, and finds it made. After an advisory
            -- lock it would not: only a table's lock refreshes what a session knows of tables.
            EXECUTE format('LOCK TABLE ONLY blockchain.%I IN SHARE UPDATE EXCLUSIVE MODE', parent);
            CONTINUE WHEN to_regclass(format('blockchain.%I', child)) IS NOT NULL;
            opens := make_timestamptz(year, 1, 1, 0, 0, 0);
            closes := make_timestamptz(year + 1, 1, 1, 0, 0, 0);
            EXECUTE format(
                'CREATE TEMPORARY TABLE waiting ON COMMIT DROP AS '
                'SELECT * FROM blockchain.%I WHERE block_timestamp >= %L AND block_timestamp < %L',
                parent || '_default', opens, closes
            );
            EXECUTE format(
                'DELETE FROM blockchain.%I WHERE block_timestamp >= %L AND block_timestamp < %L',
                parent, opens, closes
            );
            EXECUTE format(
                'CREATE TABLE blockchain.%I PARTITION OF blockchain.%I FOR VALUES FROM (%L) TO (%L)',
                child, parent, opens, closes
            );
            EXECUTE format('ALTER TABLE blockchain.%I REPLICA IDENTITY %s', child,
                CASE parent WHEN 'transactions' THEN 'FULL' ELSE 'DEFAULT' END);
            EXECUTE format('INSERT INTO blockchain.%I SELECT * FROM pg_temp.waiting', parent);
            DROP TABLE pg_temp.waiting;
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END
$$;
GRANT EXECUTE ON FUNCTION blockchain.ensure_partitions(timestamptz, timestamptz)
TO neolayer_ingest, neolayer_migrator;

-- Not empty means: a time that nobody made a partition for. `status` alarms on it.
CREATE VIEW blockchain.default_partition_rows AS
SELECT 'blockchain.transactions_default' AS partition_name, count(*) AS row_count
FROM blockchain.transactions_default
UNION ALL
SELECT 'blockchain.logs_default' AS partition_name, count(*) AS row_count
FROM blockchain.logs_default;

-- Chain data is public: everybody reads, only ingest writes.
GRANT SELECT ON blockchain.logs, blockchain.smart_contracts
TO neolayer_app, neolayer_relay, neolayer_backup, neolayer_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON blockchain.logs, blockchain.smart_contracts
TO neolayer_ingest;
GRANT SELECT ON blockchain.default_partition_rows TO neolayer_ingest, neolayer_operator;

-- migrate:down
-- A way back while there is nothing to lose.
SELECT neolayer_schema.refuse_to_lose('blockchain.logs', 'blockchain.smart_contracts');
DROP VIEW blockchain.default_partition_rows;
DROP FUNCTION blockchain.ensure_partitions(timestamptz, timestamptz);
DROP TABLE blockchain.smart_contracts;
DROP TABLE blockchain.logs;
