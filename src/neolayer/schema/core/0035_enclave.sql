-- migrate:up
-- Until now nobody could write these three, so there is nothing to carry over.
SELECT neolayer_schema.refuse_to_lose(
    'enclave.attestations', 'enclave.sealed_data', 'enclave.computations'
);
DROP TABLE enclave.attestations;

-- What Intel publishes about a platform: TCB levels, the quoting enclave's identity, revocation
-- lists and certificates. Public, the same for every tenant, named by its own digest; one version
-- beside the other, because an old quote is judged by what was known then.
CREATE TABLE enclave.collateral (
    id varchar(64) COLLATE "C" PRIMARY KEY,
    tee varchar(10) NOT NULL,
    fmspc varchar(12) COLLATE "C" NOT NULL CHECK (core.is_hex(fmspc, 12)),
    ca varchar(20) NOT NULL,
    tcb_evaluation_number int NOT NULL CHECK (tcb_evaluation_number >= 0),
    issued_at timestamptz NOT NULL,
    oldest_part_at timestamptz NOT NULL,
    tcb_info_until timestamptz NOT NULL,
    qe_identity_until timestamptz NOT NULL,
    root_ca_crl_until timestamptz NOT NULL,
    pck_crl_until timestamptz NOT NULL,
    certificates_until timestamptz NOT NULL,
    document bytea NOT NULL CHECK (octet_length(document) BETWEEN 1 AND 1048576),
    added_by varchar(255) NOT NULL DEFAULT coalesce(core.current_principal(), session_user),
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    CONSTRAINT collateral_id_check CHECK (id = encode(sha256(document), 'hex')),
    CONSTRAINT collateral_tee_check CHECK (tee IN ('SGX', 'TDX')),
    CONSTRAINT collateral_ca_check CHECK (ca IN ('processor', 'platform')),
    CONSTRAINT collateral_time_check CHECK (
        oldest_part_at <= issued_at
        AND issued_at < least(
            tcb_info_until, qe_identity_until, root_ca_crl_until, pck_crl_until,
            certificates_until
        )
    )
);
-- The newest for a platform.
CREATE INDEX idx_collateral_platform ON enclave.collateral (tee, fmspc, ca, issued_at DESC);

-- Everybody reads collateral; only operators and our own work add it, and nobody changes it.
CREATE FUNCTION enclave.admit_operators() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF core.current_principal() ~ '^(operator|system):' THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'adding to enclave.% is refused', TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege', HINT = 'an operator adds collateral';
END
$$;
CREATE TRIGGER admit_operators BEFORE INSERT ON enclave.collateral
FOR EACH ROW EXECUTE FUNCTION enclave.admit_operators();
CREATE TRIGGER keep_collateral BEFORE UPDATE OR TRUNCATE ON enclave.collateral
FOR EACH STATEMENT EXECUTE FUNCTION core.refuse_change('collateral is added, never changed');

-- What a tenant accepts. Each change is a new version, so that a verdict names the one it was
-- given under. `enclaves` lists what may run: by mr_enclave, or by mr_signer, product and least svn.
CREATE TABLE enclave.attestation_policies (
    tenant_id uuid NOT NULL REFERENCES core.tenants (id),
    version int NOT NULL CHECK (version > 0),
    tcb_statuses text [] NOT NULL,
    rejected_advisories text [] NOT NULL DEFAULT '{}',
    min_tcb_evaluation int NOT NULL DEFAULT 0 CHECK (min_tcb_evaluation >= 0),
    nonce_required boolean NOT NULL DEFAULT TRUE,
    max_collateral_age interval NOT NULL CHECK (max_collateral_age > '0'),
    max_lifetime interval NOT NULL CHECK (max_lifetime > '0'),
    allow_smt boolean NOT NULL DEFAULT FALSE,
    allow_dynamic_platform boolean NOT NULL DEFAULT FALSE,
    allow_cached_keys boolean NOT NULL DEFAULT FALSE,
    enclaves jsonb NOT NULL,
    created_by varchar(255) NOT NULL DEFAULT coalesce(core.current_principal(), session_user),
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (tenant_id, version),
    -- A revoked platform is accepted by nobody.
    CONSTRAINT attestation_policies_statuses_check CHECK (
        'UpToDate' = ANY(tcb_statuses)
        AND tcb_statuses <@ ARRAY[
            'UpToDate', 'SWHardeningNeeded', 'ConfigurationNeeded',
            'ConfigurationAndSWHardeningNeeded', 'OutOfDate', 'OutOfDateConfigurationNeeded'
        ]
    ),
    CONSTRAINT attestation_policies_enclaves_check CHECK (
        jsonb_typeof(enclaves) = 'array' AND octet_length(enclaves::text) <= 262144
    )
);
CREATE TRIGGER keep_policies BEFORE UPDATE OR DELETE OR TRUNCATE ON enclave.attestation_policies
FOR EACH STATEMENT EXECUTE FUNCTION core.refuse_change('a policy is replaced by a new version');

-- Challenges: a quote that holds one in its report data was made after it was issued, for us.
CREATE TABLE enclave.nonces (
    tenant_id uuid NOT NULL REFERENCES core.tenants (id),
    nonce bytea NOT NULL CHECK (octet_length(nonce) = 32),
    enclave_id varchar(255) NOT NULL,
    issued_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (tenant_id, nonce),
    CONSTRAINT nonces_time_check CHECK (
        expires_at > issued_at AND used_at >= issued_at AND used_at < expires_at
    )
);
-- What was never used and no longer can be.
CREATE INDEX idx_nonces_unused ON enclave.nonces (tenant_id, expires_at) WHERE used_at IS NULL;

-- A nonce is used once, and nothing else about it changes.
CREATE FUNCTION enclave.guard_nonce() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF OLD.used_at IS NOT NULL OR to_jsonb(NEW) - 'used_at' <> to_jsonb(OLD) - 'used_at' THEN
        RAISE EXCEPTION 'UPDATE of enclave.nonces is refused'
            USING ERRCODE = 'insufficient_privilege', HINT = 'a nonce is used once';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER guard_nonce BEFORE UPDATE ON enclave.nonces
FOR EACH ROW EXECUTE FUNCTION enclave.guard_nonce();

-- Whether a row says what its quote says: the report lies 48 bytes into a quote, 54 in version 5.
CREATE FUNCTION enclave.is_of_quote(
    quote bytea, quote_version int, tee text, signed_size int, signed_digest text,
    mr_enclave text, mr_signer text, isv_prod_id int, isv_svn int, report_data text,
    is_debug boolean
) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    body int := CASE WHEN quote_version = 5 THEN 54 ELSE 48 END;
BEGIN
    IF octet_length(quote) < signed_size OR signed_size < body + 384
        OR quote_version <> get_byte(quote, 0) + 256 * get_byte(quote, 1)
        OR signed_digest <> encode(sha256(substr(quote, 1, signed_size)), 'hex')
    THEN
        RETURN FALSE;
    END IF;
    IF tee = 'TDX' THEN
        RETURN signed_size >= body + 584
            AND get_byte(quote, 4) = 129
            AND mr_enclave = encode(substr(quote, body + 137, 48), 'hex')
            AND num_nonnulls(mr_signer, isv_prod_id, isv_svn) = 0
            AND report_data = encode(substr(quote, body + 521, 64), 'hex')
            AND is_debug = (get_byte(quote, body + 120) & 1 = 1);
    END IF;
    RETURN signed_size = body + 384
        AND mr_enclave = encode(substr(quote, body + 65, 32), 'hex')
        AND mr_signer = encode(substr(quote, body + 129, 32), 'hex')
        AND isv_prod_id = get_byte(quote, body + 256) + 256 * get_byte(quote, body + 257)
        AND isv_svn = get_byte(quote, body + 258) + 256 * get_byte(quote, body + 259)
        AND report_data = encode(substr(quote, body + 321, 64), 'hex')
        AND is_debug = (get_byte(quote, body + 48) & 2 = 2);
END
$$;
GRANT EXECUTE ON FUNCTION enclave.is_of_quote(
    bytea, int, text, int, text, text, text, int, int, text, boolean
) TO PUBLIC;

-- Our record of one quote, for the tenant that asked: who judged it, by what, and until when that
-- holds. One row for what was signed, however often and with whatever appended it comes again.
-- A TDX quote has no signer of its code, and its measurement is the longer mr_td.
CREATE TABLE enclave.attestations (
    tenant_id uuid NOT NULL REFERENCES core.tenants (id),
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    enclave_id varchar(255) NOT NULL,
    mr_enclave varchar(96) COLLATE "C" NOT NULL,
    mr_signer varchar(64) COLLATE "C",
    isv_prod_id int,
    isv_svn int,
    report_data varchar(128) COLLATE "C" NOT NULL,
    quote bytea NOT NULL CHECK (octet_length(quote) BETWEEN 1 AND 65536),
    attestation_type varchar(50) NOT NULL,
    status varchar(50) NOT NULL DEFAULT 'pending',
    verified_at timestamptz,
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    tee varchar(10) NOT NULL,
    quote_version smallint NOT NULL,
    signed_size int NOT NULL,
    signed_digest varchar(64) COLLATE "C" NOT NULL,
    is_debug boolean NOT NULL,
    cpu_svn varchar(32) COLLATE "C" CHECK (core.is_hex(cpu_svn, 32)),
    nonce bytea,
    reason varchar(50) NOT NULL,
    tcb_status varchar(50),
    advisories text [] NOT NULL DEFAULT '{}',
    fmspc varchar(12) COLLATE "C" CHECK (core.is_hex(fmspc, 12)),
    ca varchar(20),
    platform_id varchar(32) COLLATE "C" CHECK (core.is_hex(platform_id, 32)),
    collateral_id varchar(64) COLLATE "C" REFERENCES enclave.collateral (id),
    policy_version int,
    verifier varchar(100),
    attested_at timestamptz,
    expires_because varchar(50),
    claims jsonb,
    updated_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT attestations_signed_unique UNIQUE (tenant_id, signed_digest),
    CONSTRAINT attestations_policy_fkey FOREIGN KEY (tenant_id, policy_version)
    REFERENCES enclave.attestation_policies (tenant_id, version),
    CONSTRAINT attestations_nonce_fkey FOREIGN KEY (tenant_id, nonce)
    REFERENCES enclave.nonces (tenant_id, nonce),
    CONSTRAINT attestations_type_check CHECK (attestation_type IN ('EPID', 'DCAP')),
    CONSTRAINT attestations_tee_check CHECK (tee IN ('SGX', 'TDX')),
    CONSTRAINT attestations_status_check CHECK (
        status IN ('pending', 'verified', 'rejected', 'unverifiable', 'expired', 'revoked')
    ),
    CONSTRAINT attestations_evidence_check CHECK (
        enclave.is_of_quote(
            quote, quote_version, tee, signed_size, signed_digest, mr_enclave, mr_signer,
            isv_prod_id, isv_svn, report_data, is_debug
        ) IS TRUE
    ),
    -- The service that vouched for EPID quotes is gone, so nobody can.
    CONSTRAINT attestations_epid_check CHECK (
        (attestation_type = 'EPID') = (status = 'unverifiable')
        AND (attestation_type = 'EPID') = (quote_version < 3)
    ),
    CONSTRAINT attestations_verified_check CHECK (
        status <> 'verified'
        OR (
            num_nulls(
                verified_at, attested_at, tcb_status, fmspc, ca, collateral_id, policy_version,
                verifier, expires_because, claims
            ) = 0
            AND reason = 'accepted'
            AND NOT is_debug
            AND expires_at > verified_at
            AND verified_at >= attested_at
        )
    )
);
-- The latest evidence of an enclave.
CREATE INDEX idx_attestations_enclave
ON enclave.attestations (tenant_id, enclave_id, created_at DESC);
-- A nonce vouches for one quote.
CREATE UNIQUE INDEX attestations_nonce_unique ON enclave.attestations (tenant_id, nonce);
-- Foreign keys, and what is to be judged anew when collateral or policy change.
CREATE INDEX idx_attestations_collateral ON enclave.attestations (collateral_id);
CREATE INDEX idx_attestations_policy ON enclave.attestations (tenant_id, policy_version);
CREATE INDEX idx_attestations_live ON enclave.attestations (tee, fmspc, ca)
WHERE status = 'verified';
CREATE TRIGGER touch BEFORE UPDATE ON enclave.attestations
FOR EACH ROW EXECUTE FUNCTION core.touch_updated_at();

-- Evidence does not change once it was accepted: neither the quote nor who it is of, nor when it
-- was first accepted. A revoked attestation stays so.
CREATE FUNCTION enclave.guard_attestation() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF (NEW.tenant_id, NEW.id, NEW.enclave_id, NEW.signed_digest, NEW.created_at)
        IS DISTINCT FROM (OLD.tenant_id, OLD.id, OLD.enclave_id, OLD.signed_digest, OLD.created_at)
        OR OLD.attested_at IS NOT NULL
        AND (NEW.quote, NEW.attested_at, NEW.nonce, NEW.fmspc, NEW.ca)
        IS DISTINCT FROM (OLD.quote, OLD.attested_at, OLD.nonce, OLD.fmspc, OLD.ca)
    THEN
        RAISE EXCEPTION 'UPDATE of enclave.attestations is refused'
            USING ERRCODE = 'insufficient_privilege', HINT = 'evidence does not change';
    END IF;
    IF OLD.attested_at IS NOT NULL AND NEW.verified_at < OLD.verified_at THEN
        RAISE EXCEPTION 'an attestation is not judged for a time before its newest judgement'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'attestations_time_forward';
    END IF;
    IF OLD.status IN ('revoked', 'unverifiable') AND NEW.status <> OLD.status THEN
        RAISE EXCEPTION 'an attestation that is % stays so', OLD.status
            USING ERRCODE = 'check_violation', CONSTRAINT = 'attestations_status_final';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER guard_attestation BEFORE UPDATE ON enclave.attestations
FOR EACH ROW EXECUTE FUNCTION enclave.guard_attestation();

-- Every judgement, accepted or refused, of whatever was handed in: what cannot even be read has
-- no attestation and is known by the digest of its bytes.
CREATE TABLE enclave.verifications (
    tenant_id uuid NOT NULL REFERENCES core.tenants (id),
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    attestation_id uuid,
    enclave_id varchar(255) NOT NULL,
    quote_digest varchar(64) COLLATE "C" NOT NULL CHECK (core.is_hex(quote_digest, 64)),
    quote_size int NOT NULL CHECK (quote_size >= 0),
    occasion varchar(20) NOT NULL,
    status varchar(50) NOT NULL,
    reason varchar(50) NOT NULL,
    detail varchar(500),
    tcb_status varchar(50),
    advisories text [] NOT NULL DEFAULT '{}',
    collateral_id varchar(64) COLLATE "C" REFERENCES enclave.collateral (id),
    policy_version int,
    verified_at timestamptz NOT NULL,
    verified_by varchar(255) NOT NULL DEFAULT coalesce(core.current_principal(), session_user),
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT verifications_attestation_fkey FOREIGN KEY (tenant_id, attestation_id)
    REFERENCES enclave.attestations (tenant_id, id),
    CONSTRAINT verifications_occasion_check CHECK (
        occasion IN ('submitted', 'reverified', 'expired', 'revoked')
    ),
    CONSTRAINT verifications_status_check CHECK (
        status IN ('verified', 'rejected', 'unverifiable', 'expired', 'revoked')
        AND (status = 'verified') = (reason = 'accepted')
    )
);
-- A tenant's judgements, newest first; an attestation's; the foreign key to collateral.
CREATE INDEX idx_verifications_time ON enclave.verifications (tenant_id, created_at DESC);
CREATE INDEX idx_verifications_attestation
ON enclave.verifications (tenant_id, attestation_id, created_at DESC);
CREATE INDEX idx_verifications_collateral ON enclave.verifications (collateral_id);
CREATE TRIGGER keep_verifications BEFORE UPDATE OR DELETE OR TRUNCATE ON enclave.verifications
FOR EACH STATEMENT EXECUTE FUNCTION core.refuse_change('judgements are only added');

-- What a sealed blob needs of the enclave that opens it, as whoever sealed it says; the bytes stay
-- opaque, so the database vouches for none of it.
ALTER TABLE enclave.sealed_data
ADD COLUMN mr_enclave varchar(64) COLLATE "C" CHECK (core.is_hex(mr_enclave, 64)),
ADD COLUMN mr_signer varchar(64) COLLATE "C" CHECK (core.is_hex(mr_signer, 64)),
ADD COLUMN isv_prod_id int CHECK (isv_prod_id BETWEEN 0 AND 65535),
ADD COLUMN isv_svn int CHECK (isv_svn BETWEEN 0 AND 65535),
ADD COLUMN cpu_svn varchar(32) COLLATE "C" CHECK (core.is_hex(cpu_svn, 32)),
ADD COLUMN key_id varchar(64) COLLATE "C" CHECK (core.is_hex(key_id, 64)),
ADD COLUMN platform_id varchar(32) COLLATE "C" CHECK (core.is_hex(platform_id, 32)),
ADD COLUMN is_debug boolean NOT NULL DEFAULT FALSE,
ADD CONSTRAINT sealed_data_identity_check CHECK (
    CASE policy
        WHEN 'MRENCLAVE' THEN
            mr_enclave IS NOT NULL AND num_nonnulls(mr_signer, isv_prod_id, isv_svn) = 0
        WHEN 'MRSIGNER' THEN
            mr_enclave IS NULL AND num_nulls(mr_signer, isv_prod_id, isv_svn) = 0
        ELSE num_nonnulls(mr_enclave, mr_signer, isv_prod_id, isv_svn) = 0
    END
),
ADD CONSTRAINT sealed_data_size_limit_check CHECK (octet_length(sealed_blob) <= 16777216);
-- What an upgrade of an enclave would strand.
CREATE INDEX idx_sealed_data_enclave ON enclave.sealed_data (tenant_id, enclave_id, data_key);

-- A version is one more than the last, whoever writes; a name stays with its blob.
CREATE FUNCTION enclave.guard_sealed_data() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    unowned enclave.sealed_data := NEW;
BEGIN
    unowned.owner_id := OLD.owner_id;
    unowned.updated_at := OLD.updated_at;
    IF (NEW.tenant_id, NEW.id, NEW.data_key, NEW.created_at)
        IS DISTINCT FROM (OLD.tenant_id, OLD.id, OLD.data_key, OLD.created_at)
    THEN
        RAISE EXCEPTION 'UPDATE of enclave.sealed_data is refused'
            USING ERRCODE = 'insufficient_privilege', HINT = 'a name stays with its blob';
    END IF;
    IF NEW.version <> OLD.version + 1 AND unowned IS DISTINCT FROM OLD THEN
        RAISE EXCEPTION 'sealed data changes under its next version only'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'sealed_data_version_next';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER guard_sealed_data BEFORE UPDATE ON enclave.sealed_data
FOR EACH ROW EXECUTE FUNCTION enclave.guard_sealed_data();

-- Who works on a computation, until when, by which evidence. `attempt` is the fencing number: it
-- rises with every claim, and whoever bears an older one has lost the computation.
ALTER TABLE enclave.computations
ADD COLUMN attestation_id uuid,
ADD COLUMN attempt int NOT NULL DEFAULT 0,
ADD COLUMN max_attempts int NOT NULL DEFAULT 5 CHECK (max_attempts BETWEEN 1 AND 100),
ADD COLUMN worker varchar(255),
ADD COLUMN heartbeat_at timestamptz,
ADD COLUMN lease_until timestamptz,
ADD COLUMN gas_limit bigint NOT NULL DEFAULT 9223372036854775807 CHECK (gas_limit > 0),
ADD COLUMN result bytea CHECK (octet_length(result) <= 1048576),
ADD CONSTRAINT computations_attestation_fkey FOREIGN KEY (tenant_id, attestation_id)
REFERENCES enclave.attestations (tenant_id, id),
ADD CONSTRAINT computations_attempts_check CHECK (attempt BETWEEN 0 AND max_attempts),
ADD CONSTRAINT computations_gas_within_check CHECK (gas_used <= gas_limit),
ADD CONSTRAINT computations_output_check CHECK (
    (result IS NULL OR output_hash = encode(sha256(result), 'hex'))
    AND (output_hash IS NULL OR status = 'completed')
),
ADD CONSTRAINT computations_running_check CHECK (
    status <> 'running'
    OR (
        num_nulls(attestation_id, worker, started_at, heartbeat_at, lease_until) = 0
        AND lease_until > heartbeat_at
        AND attempt > 0
    )
),
ADD CONSTRAINT computations_ended_check CHECK (
    (completed_at IS NOT NULL) = (status IN ('completed', 'failed', 'cancelled'))
    AND (status <> 'completed' OR num_nulls(output_hash, attestation_id, started_at) = 0)
    AND (status <> 'failed' OR error_message IS NOT NULL)
);
-- The queue of an enclave, oldest first; the foreign key to the evidence.
CREATE INDEX idx_computations_queue ON enclave.computations (tenant_id, enclave_id, created_at)
WHERE status IN ('pending', 'running');
CREATE INDEX idx_computations_attestation
ON enclave.computations (tenant_id, attestation_id);

-- The state machine, for every writer. What ended stays as it is, but for the person's name; a
-- running computation changes hands only when its lease is over; gas only grows; and whoever claims
-- or completes must be attested at that time. Rows of another tenant are left to the policy.
CREATE FUNCTION enclave.guard_computation() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    unnamed enclave.computations := NEW;
    broken text;
BEGIN
    IF NEW.tenant_id IS DISTINCT FROM core.current_tenant() THEN
        RETURN NEW;
    ELSIF TG_OP = 'INSERT' THEN
        IF NEW.status <> 'pending' OR NEW.attempt <> 0 OR coalesce(NEW.gas_used, 0) <> 0
            OR num_nonnulls(NEW.started_at, NEW.completed_at, NEW.output_hash, NEW.result,
                NEW.error_message, NEW.worker, NEW.lease_until, NEW.heartbeat_at,
                NEW.attestation_id) > 0
        THEN
            broken := 'a computation begins as pending';
        END IF;
    ELSIF OLD.status IN ('completed', 'failed', 'cancelled') THEN
        unnamed.user_id := OLD.user_id;
        IF unnamed IS DISTINCT FROM OLD OR NEW.user_id IS NOT NULL
            AND NEW.user_id IS DISTINCT FROM OLD.user_id
        THEN
            broken := format('it is %s already', OLD.status);
        END IF;
    ELSIF (NEW.id, NEW.enclave_id, NEW.operation_type, NEW.input_hash, NEW.gas_limit,
            NEW.max_attempts, NEW.created_at)
        IS DISTINCT FROM (OLD.id, OLD.enclave_id, OLD.operation_type, OLD.input_hash,
            OLD.gas_limit, OLD.max_attempts, OLD.created_at)
    THEN
        broken := 'what was asked does not change';
    ELSIF OLD.status = 'pending' AND NEW.status = 'completed'
        OR OLD.status = 'running' AND NEW.status = 'pending'
    THEN
        broken := format('from %s it does not become %s', OLD.status, NEW.status);
    ELSIF NEW.attempt <> OLD.attempt AND NOT (
        NEW.status = 'running' AND NEW.attempt = OLD.attempt + 1
        AND (OLD.status = 'pending' OR OLD.lease_until <= NEW.heartbeat_at)
    ) OR OLD.status = 'pending' AND NEW.status = 'running' AND NEW.attempt = OLD.attempt THEN
        broken := 'it is claimed once, and again when its lease is over';
    ELSIF NEW.attempt = OLD.attempt
        AND (NEW.worker, NEW.attestation_id, NEW.started_at)
        IS DISTINCT FROM (OLD.worker, OLD.attestation_id, OLD.started_at)
    THEN
        broken := 'only a claim changes the worker';
    ELSIF coalesce(NEW.gas_used, 0) < coalesce(OLD.gas_used, 0) THEN
        broken := 'gas is used, never given back';
    ELSIF NEW.heartbeat_at < OLD.heartbeat_at THEN
        broken := 'a heart does not beat in the past';
    ELSIF (NEW.attempt <> OLD.attempt OR NEW.status = 'completed') AND NOT EXISTS (
        SELECT FROM enclave.attestations a
        WHERE a.tenant_id = NEW.tenant_id AND a.id = NEW.attestation_id
            AND a.enclave_id = NEW.enclave_id AND a.status = 'verified'
            AND a.attested_at <= NEW.heartbeat_at AND a.expires_at > NEW.heartbeat_at
            AND (NEW.status <> 'completed' OR a.expires_at > NEW.completed_at)
        FOR SHARE
    ) THEN
        RAISE EXCEPTION 'the enclave is not attested'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'computations_attested';
    END IF;
    IF broken IS NOT NULL THEN
        RAISE EXCEPTION 'a computation cannot change so: %', broken
            USING ERRCODE = 'check_violation', CONSTRAINT = 'computations_transition';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER guard_computation BEFORE INSERT OR UPDATE ON enclave.computations
FOR EACH ROW EXECUTE FUNCTION enclave.guard_computation();

-- Each tenant sees its own.
ALTER TABLE enclave.attestation_policies ENABLE ROW LEVEL SECURITY;
ALTER TABLE enclave.attestation_policies FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON enclave.attestation_policies TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
ALTER TABLE enclave.nonces ENABLE ROW LEVEL SECURITY;
ALTER TABLE enclave.nonces FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON enclave.nonces TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
ALTER TABLE enclave.attestations ENABLE ROW LEVEL SECURITY;
ALTER TABLE enclave.attestations FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON enclave.attestations TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
ALTER TABLE enclave.verifications ENABLE ROW LEVEL SECURITY;
ALTER TABLE enclave.verifications FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON enclave.verifications TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));

-- The application records and judges; what is evidence or history it can neither change nor remove.
-- The time a row was made is the database's word, not the writer's.
GRANT SELECT ON
enclave.collateral, enclave.attestation_policies, enclave.nonces, enclave.attestations,
enclave.verifications
TO neolayer_app, neolayer_backup, neolayer_operator;
GRANT INSERT (
    id, tee, fmspc, ca, tcb_evaluation_number, issued_at, oldest_part_at, tcb_info_until,
    qe_identity_until, root_ca_crl_until, pck_crl_until, certificates_until, document
) ON enclave.collateral TO neolayer_app;
GRANT INSERT (
    tenant_id, version, tcb_statuses, rejected_advisories, min_tcb_evaluation, nonce_required,
    max_collateral_age, max_lifetime, allow_smt, allow_dynamic_platform, allow_cached_keys, enclaves
) ON enclave.attestation_policies TO neolayer_app;
GRANT INSERT (tenant_id, nonce, enclave_id, issued_at, expires_at), UPDATE (used_at), DELETE
ON enclave.nonces TO neolayer_app;
GRANT INSERT (
    tenant_id, id, enclave_id, mr_enclave, mr_signer, isv_prod_id, isv_svn, report_data, quote,
    attestation_type, status, verified_at, expires_at, tee, quote_version, signed_size,
    signed_digest, is_debug, cpu_svn, nonce, reason, tcb_status, advisories, fmspc, ca, platform_id,
    collateral_id, policy_version, verifier, attested_at, expires_because, claims
), UPDATE (
    quote, status, verified_at, expires_at, nonce, reason, tcb_status, advisories, fmspc, ca,
    platform_id, collateral_id, policy_version, verifier, attested_at, expires_because, claims
) ON enclave.attestations TO neolayer_app;
GRANT INSERT (
    tenant_id, id, attestation_id, enclave_id, quote_digest, quote_size, occasion, status, reason,
    detail, tcb_status, advisories, collateral_id, policy_version, verified_at
) ON enclave.verifications TO neolayer_app;
REVOKE INSERT, UPDATE, DELETE ON enclave.computations FROM neolayer_app;
GRANT INSERT (
    tenant_id, id, user_id, enclave_id, operation_type, input_hash, gas_limit, max_attempts,
    attestation_id
), UPDATE (
    user_id, output_hash, status, started_at, completed_at, error_message, gas_used, attestation_id,
    attempt, worker, heartbeat_at, lease_until, result
) ON enclave.computations TO neolayer_app;
-- The operator sees how computations go, not what came out.
REVOKE SELECT ON enclave.computations FROM neolayer_operator;
GRANT SELECT (
    tenant_id, id, user_id, enclave_id, operation_type, input_hash, output_hash, status, started_at,
    completed_at, gas_used, created_at, attestation_id, attempt, max_attempts, worker, heartbeat_at,
    lease_until, gas_limit
) ON enclave.computations TO neolayer_operator;
GRANT SELECT (data_key, mr_enclave, mr_signer, isv_prod_id, isv_svn, is_debug)
ON enclave.sealed_data TO neolayer_operator;

-- migrate:down
-- A way back while there is nothing to lose.
SELECT neolayer_schema.refuse_to_lose(
    'enclave.collateral', 'enclave.attestation_policies', 'enclave.nonces',
    'enclave.attestations', 'enclave.verifications', 'enclave.sealed_data', 'enclave.computations'
);
REVOKE SELECT (data_key) ON enclave.sealed_data FROM neolayer_operator;
REVOKE SELECT (
    tenant_id, id, user_id, enclave_id, operation_type, input_hash, output_hash, status, started_at,
    completed_at, gas_used, created_at
) ON enclave.computations FROM neolayer_operator;
GRANT SELECT ON enclave.computations TO neolayer_operator;
REVOKE INSERT (tenant_id, id, user_id, enclave_id, operation_type, input_hash),
UPDATE (user_id, output_hash, status, started_at, completed_at, error_message, gas_used)
ON enclave.computations FROM neolayer_app;
GRANT INSERT, UPDATE, DELETE ON enclave.computations TO neolayer_app;
DROP TRIGGER guard_computation ON enclave.computations;
DROP FUNCTION enclave.guard_computation();
DROP INDEX enclave.idx_computations_attestation;
DROP INDEX enclave.idx_computations_queue;
ALTER TABLE enclave.computations
DROP CONSTRAINT computations_ended_check,
DROP CONSTRAINT computations_running_check,
DROP CONSTRAINT computations_output_check,
DROP CONSTRAINT computations_gas_within_check,
DROP CONSTRAINT computations_attempts_check,
DROP CONSTRAINT computations_attestation_fkey,
DROP COLUMN result,
DROP COLUMN gas_limit,
DROP COLUMN lease_until,
DROP COLUMN heartbeat_at,
DROP COLUMN worker,
DROP COLUMN max_attempts,
DROP COLUMN attempt,
DROP COLUMN attestation_id;
DROP TRIGGER guard_sealed_data ON enclave.sealed_data;
DROP FUNCTION enclave.guard_sealed_data();
DROP INDEX enclave.idx_sealed_data_enclave;
ALTER TABLE enclave.sealed_data
DROP CONSTRAINT sealed_data_size_limit_check,
DROP CONSTRAINT sealed_data_identity_check,
DROP COLUMN is_debug,
DROP COLUMN platform_id,
DROP COLUMN key_id,
DROP COLUMN cpu_svn,
DROP COLUMN isv_svn,
DROP COLUMN isv_prod_id,
DROP COLUMN mr_signer,
DROP COLUMN mr_enclave;
DROP TABLE enclave.verifications;
DROP TABLE enclave.attestations;
DROP FUNCTION enclave.guard_attestation();
DROP FUNCTION enclave.is_of_quote(
    bytea, int, text, int, text, text, text, int, int, text, boolean
);
DROP TABLE enclave.nonces;
DROP FUNCTION enclave.guard_nonce();
DROP TABLE enclave.attestation_policies;
DROP TABLE enclave.collateral;
DROP FUNCTION enclave.admit_operators();
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
CREATE INDEX idx_attestations_enclave ON enclave.attestations (enclave_id, created_at DESC);
GRANT SELECT ON enclave.attestations TO neolayer_app, neolayer_backup, neolayer_operator;
