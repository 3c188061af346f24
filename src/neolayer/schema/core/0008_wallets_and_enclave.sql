-- migrate:up
-- Wallets belong to a tenant, the chain they are on to nobody. An address is unique within the
-- tenant only: over all tenants it would tell one what another holds. Who leaves takes the name
-- off the wallet, not the wallet out of the books.
CREATE TABLE blockchain.wallets (
    tenant_id uuid NOT NULL REFERENCES core.tenants (id),
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    user_id uuid,
    network_id uuid NOT NULL REFERENCES blockchain.networks (id),
    address varchar(255) COLLATE "C" NOT NULL CHECK (blockchain.is_address(address)),
    public_key varchar(500),
    encrypted_private_key text,
    wallet_type varchar(50) NOT NULL CHECK (core.is_canonical(wallet_type)),
    is_hardware boolean NOT NULL DEFAULT FALSE,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    key_id varchar(100),
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT wallets_address_unique UNIQUE (tenant_id, network_id, address),
    CONSTRAINT wallets_user_fkey FOREIGN KEY (tenant_id, user_id)
    REFERENCES auth.users (tenant_id, id) ON DELETE SET NULL (user_id),
    CONSTRAINT wallets_key_check CHECK ((encrypted_private_key IS NULL) = (key_id IS NULL))
);
-- A person's wallets, and the foreign key to the network.
CREATE INDEX idx_wallets_user ON blockchain.wallets (tenant_id, user_id);
CREATE INDEX idx_wallets_network ON blockchain.wallets (network_id);

-- Evidence that an enclave is what it says; the platform's own, of no tenant. ECDSA is the
-- signature scheme of DCAP, not a third kind.
CREATE TABLE enclave.attestations (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    enclave_id varchar(255) NOT NULL,
    mr_enclave varchar(64) COLLATE "C" NOT NULL CHECK (core.is_hex(mr_enclave, 64)),
    mr_signer varchar(64) COLLATE "C" NOT NULL CHECK (core.is_hex(mr_signer, 64)),
    isv_prod_id int NOT NULL CHECK (isv_prod_id BETWEEN 0 AND 65535),
    isv_svn int NOT NULL CHECK (isv_svn BETWEEN 0 AND 65535),
    report_data varchar(128) COLLATE "C" CHECK (core.is_hex(report_data, 128)),
    quote bytea NOT NULL CHECK (octet_length(quote) BETWEEN 1 AND 65536),
    attestation_type varchar(50) NOT NULL,
    status varchar(50) NOT NULL DEFAULT 'pending',
    verified_at timestamptz,
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    CONSTRAINT attestations_type_check CHECK (attestation_type IN ('EPID', 'DCAP')),
    CONSTRAINT attestations_status_check CHECK (
        status IN ('pending', 'verified', 'rejected', 'expired', 'revoked')
    ),
    CONSTRAINT attestations_verified_check CHECK (status <> 'verified' OR verified_at IS NOT NULL)
);
-- The latest evidence of an enclave.
CREATE INDEX idx_attestations_enclave ON enclave.attestations (enclave_id, created_at DESC);

-- Bytes that only a matching enclave can open. A person who leaves must first say what becomes of
-- them, hence no rule on the reference.
CREATE TABLE enclave.sealed_data (
    tenant_id uuid NOT NULL REFERENCES core.tenants (id),
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    owner_id uuid NOT NULL,
    enclave_id varchar(255) NOT NULL,
    data_key varchar(255) NOT NULL,
    sealed_blob bytea NOT NULL CHECK (octet_length(sealed_blob) > 0),
    mac varchar(64) COLLATE "C" NOT NULL CHECK (core.is_hex(mac, 32) OR core.is_hex(mac, 64)),
    policy varchar(50) NOT NULL,
    version int NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT sealed_data_key_unique UNIQUE (tenant_id, data_key),
    CONSTRAINT sealed_data_owner_fkey FOREIGN KEY (tenant_id, owner_id)
    REFERENCES auth.users (tenant_id, id),
    CONSTRAINT sealed_data_policy_check CHECK (
        policy IN ('MRENCLAVE', 'MRSIGNER', 'USER_DEFINED')
    )
);
-- A person's sealed data.
CREATE INDEX idx_sealed_data_owner ON enclave.sealed_data (tenant_id, owner_id);
CREATE TRIGGER touch BEFORE UPDATE ON enclave.sealed_data
FOR EACH ROW EXECUTE FUNCTION core.touch_updated_at();

-- What an enclave was asked to do, and what came of it.
CREATE TABLE enclave.computations (
    tenant_id uuid NOT NULL REFERENCES core.tenants (id),
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    user_id uuid,
    enclave_id varchar(255) NOT NULL,
    operation_type varchar(100) NOT NULL,
    input_hash varchar(64) COLLATE "C" NOT NULL CHECK (core.is_hex(input_hash, 64)),
    output_hash varchar(64) COLLATE "C" CHECK (core.is_hex(output_hash, 64)),
    status varchar(50) NOT NULL DEFAULT 'pending',
    started_at timestamptz,
    completed_at timestamptz,
    error_message text,
    gas_used bigint CHECK (gas_used >= 0),
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT computations_user_fkey FOREIGN KEY (tenant_id, user_id)
    REFERENCES auth.users (tenant_id, id) ON DELETE SET NULL (user_id),
    CONSTRAINT computations_status_check CHECK (
        status IN ('pending', 'running', 'completed', 'failed', 'cancelled')
    ),
    CONSTRAINT computations_time_check CHECK (completed_at >= started_at)
);
-- A person's computations, newest first.
CREATE INDEX idx_computations_user ON enclave.computations (tenant_id, user_id, created_at DESC);

-- Each tenant sees its own.
ALTER TABLE blockchain.wallets ENABLE ROW LEVEL SECURITY;
ALTER TABLE blockchain.wallets FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON blockchain.wallets TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
ALTER TABLE enclave.sealed_data ENABLE ROW LEVEL SECURITY;
ALTER TABLE enclave.sealed_data FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON enclave.sealed_data TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
ALTER TABLE enclave.computations ENABLE ROW LEVEL SECURITY;
ALTER TABLE enclave.computations FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON enclave.computations TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));

-- The application works on these; attestations are written by whoever verifies them, later.
GRANT SELECT, INSERT, UPDATE, DELETE ON
blockchain.wallets, enclave.sealed_data, enclave.computations TO neolayer_app;
GRANT SELECT ON enclave.attestations TO neolayer_app;
GRANT SELECT ON
blockchain.wallets, enclave.attestations, enclave.sealed_data, enclave.computations
TO neolayer_backup;
-- The operator sees that there are keys and sealed blobs, not what is in them.
GRANT SELECT ON enclave.attestations, enclave.computations TO neolayer_operator;
GRANT SELECT (
    tenant_id, id, user_id, network_id, address, public_key, wallet_type, is_hardware, created_at
) ON blockchain.wallets TO neolayer_operator;
GRANT SELECT (
    tenant_id, id, owner_id, enclave_id, policy, version, created_at, updated_at
) ON enclave.sealed_data TO neolayer_operator;

-- migrate:down
-- A way back while there is nothing to lose.
SELECT neolayer_schema.refuse_to_lose(
    'blockchain.wallets', 'enclave.attestations', 'enclave.sealed_data', 'enclave.computations'
);
DROP TABLE enclave.computations;
DROP TABLE enclave.sealed_data;
DROP TABLE enclave.attestations;
DROP TABLE blockchain.wallets;
