-- add_collateral --
-- One version of a platform's collateral, if it is not there yet.
INSERT INTO enclave.collateral (
    id, tee, fmspc, ca, tcb_evaluation_number, issued_at, oldest_part_at, tcb_info_until,
    qe_identity_until, root_ca_crl_until, pck_crl_until, certificates_until, document
)
VALUES (
    %(id)s, %(tee)s, %(fmspc)s, %(ca)s, %(tcb_evaluation_number)s, %(issued_at)s,
    %(oldest_part_at)s, %(tcb_info_until)s, %(qe_identity_until)s, %(root_ca_crl_until)s,
    %(pck_crl_until)s, %(certificates_until)s, %(document)s
)
ON CONFLICT (id) DO NOTHING
RETURNING id;

-- collateral_at --
-- What was newest for a platform at a time; what came first where nothing is as old as that.
SELECT
    id, tee, fmspc, ca, tcb_evaluation_number, issued_at, oldest_part_at, tcb_info_until,
    qe_identity_until, root_ca_crl_until, pck_crl_until, certificates_until, document
FROM enclave.collateral
WHERE tee = %(tee)s AND fmspc = %(fmspc)s AND ca = %(ca)s
ORDER BY
    issued_at <= %(at)s DESC,
    CASE WHEN issued_at <= %(at)s THEN %(at)s - issued_at ELSE issued_at - %(at)s END,
    id
LIMIT 1;

-- list_collateral --
-- What is known of platforms, the newest first.
SELECT
    id, tee, fmspc, ca, tcb_evaluation_number, issued_at, oldest_part_at, tcb_info_until,
    qe_identity_until, root_ca_crl_until, pck_crl_until, certificates_until, ''::bytea
FROM enclave.collateral
WHERE fmspc = %(fmspc)s OR %(fmspc)s::text IS NULL
ORDER BY issued_at DESC, id
LIMIT %(limit)s;

-- current_policy --
-- The policy that holds now; no row where none was ever set.
SELECT
    version, enclaves, tcb_statuses, rejected_advisories, min_tcb_evaluation, nonce_required,
    max_collateral_age, max_lifetime, allow_smt, allow_dynamic_platform, allow_cached_keys
FROM enclave.attestation_policies
WHERE tenant_id = %(tenant_id)s
ORDER BY version DESC
LIMIT 1;

-- add_policy --
-- The next version of a tenant's policy.
INSERT INTO enclave.attestation_policies (
    tenant_id, version, enclaves, tcb_statuses, rejected_advisories, min_tcb_evaluation,
    nonce_required, max_collateral_age, max_lifetime, allow_smt, allow_dynamic_platform,
    allow_cached_keys
)
SELECT
    %(tenant_id)s, coalesce(max(version), 0) + 1, %(enclaves)s, %(tcb_statuses)s,
    %(rejected_advisories)s, %(min_tcb_evaluation)s, %(nonce_required)s, %(max_collateral_age)s,
    %(max_lifetime)s, %(allow_smt)s, %(allow_dynamic_platform)s, %(allow_cached_keys)s
FROM enclave.attestation_policies
WHERE tenant_id = %(tenant_id)s
RETURNING version;

-- issue_nonce --
-- A challenge for one enclave.
INSERT INTO enclave.nonces (tenant_id, nonce, enclave_id, issued_at, expires_at)
VALUES (%(tenant_id)s, %(nonce)s, %(enclave_id)s, %(at)s, %(expires_at)s)
RETURNING expires_at;

-- use_nonce --
-- Use a challenge up; no row where it was not issued, is over, or was used.
UPDATE enclave.nonces SET used_at = %(at)s
WHERE
    tenant_id = %(tenant_id)s AND nonce = %(nonce)s AND enclave_id = %(enclave_id)s
    AND used_at IS NULL AND issued_at <= %(at)s AND expires_at > %(at)s
RETURNING nonce;

-- nonce_state --
-- Why a challenge could not be used.
SELECT used_at IS NOT NULL, expires_at <= %(at)s
FROM enclave.nonces
WHERE tenant_id = %(tenant_id)s AND nonce = %(nonce)s AND enclave_id = %(enclave_id)s;

-- forget_nonces --
-- Remove challenges that nobody can answer any more.
DELETE FROM enclave.nonces
WHERE tenant_id = %(tenant_id)s AND used_at IS NULL AND expires_at <= %(at)s
RETURNING 1;

-- lock_by_evidence --
-- The record of what was signed, held until the end of the transaction.
SELECT id, enclave_id, status, attested_at, verified_at
FROM enclave.attestations
WHERE tenant_id = %(tenant_id)s AND signed_digest = %(signed_digest)s
FOR UPDATE;

-- add_attestation --
-- The record of a quote that was not seen before; no row where somebody else was quicker.
INSERT INTO enclave.attestations (
    tenant_id, enclave_id, mr_enclave, mr_signer, isv_prod_id, isv_svn, report_data, quote,
    attestation_type, status, verified_at, expires_at, tee, quote_version, signed_size,
    signed_digest, is_debug, cpu_svn, nonce, reason, tcb_status, advisories, fmspc, ca, platform_id,
    collateral_id, policy_version, verifier, attested_at, expires_because, claims
)
VALUES (
    %(tenant_id)s, %(enclave_id)s, %(mr_enclave)s, %(mr_signer)s, %(isv_prod_id)s, %(isv_svn)s,
    %(report_data)s, %(quote)s, %(attestation_type)s, %(status)s, %(at)s, %(expires_at)s, %(tee)s,
    %(quote_version)s, %(signed_size)s, %(signed_digest)s, %(is_debug)s, %(cpu_svn)s, %(nonce)s,
    %(reason)s, %(tcb_status)s, %(advisories)s, %(fmspc)s, %(ca)s, %(platform_id)s,
    %(collateral_id)s, %(policy_version)s, %(verifier)s, %(attested_at)s, %(expires_because)s,
    %(claims)s
)
ON CONFLICT (tenant_id, signed_digest) DO NOTHING
RETURNING id;

-- accept_evidence --
-- A quote that is accepted after all takes the place of the one that was refused.
UPDATE enclave.attestations SET quote = %(quote)s, nonce = %(nonce)s, fmspc = %(fmspc)s, ca = %(ca)s
WHERE tenant_id = %(tenant_id)s AND id = %(id)s AND attested_at IS NULL;

-- judge_attestation --
-- The newest judgement of a record.
UPDATE enclave.attestations SET
    status = %(status)s,
    reason = %(reason)s,
    verified_at = %(at)s,
    expires_at = coalesce(%(expires_at)s, least(expires_at, %(at)s)),
    expires_because = %(expires_because)s,
    tcb_status = coalesce(%(tcb_status)s, tcb_status),
    advisories = %(advisories)s,
    platform_id = coalesce(%(platform_id)s, platform_id),
    collateral_id = coalesce(%(collateral_id)s, collateral_id),
    policy_version = coalesce(%(policy_version)s, policy_version),
    verifier = %(verifier)s,
    attested_at = coalesce(attested_at, %(attested_at)s),
    claims = coalesce(%(claims)s, claims)
WHERE tenant_id = %(tenant_id)s AND id = %(id)s;

-- add_verification --
-- One judgement for the history.
INSERT INTO enclave.verifications (
    tenant_id, attestation_id, enclave_id, quote_digest, quote_size, occasion, status, reason,
    detail, tcb_status, advisories, collateral_id, policy_version, verified_at
)
VALUES (
    %(tenant_id)s, %(attestation_id)s, %(enclave_id)s, %(quote_digest)s, %(quote_size)s,
    %(occasion)s, %(status)s, %(reason)s, %(detail)s, %(tcb_status)s, %(advisories)s,
    %(collateral_id)s, %(policy_version)s, %(at)s
);

-- attestation --
-- One record.
SELECT
    id, enclave_id, status, reason, tee, attestation_type, quote_version, mr_enclave, mr_signer,
    isv_prod_id, isv_svn, cpu_svn, is_debug, report_data, tcb_status, advisories, fmspc, ca,
    platform_id, collateral_id, policy_version, verifier, attested_at, verified_at, expires_at,
    expires_because, created_at
FROM enclave.attestations
WHERE tenant_id = %(tenant_id)s AND id = %(id)s;

-- list_attestations --
-- Records, the newest first, from the one after `after`.
SELECT
    id, enclave_id, status, reason, tee, attestation_type, quote_version, mr_enclave, mr_signer,
    isv_prod_id, isv_svn, cpu_svn, is_debug, report_data, tcb_status, advisories, fmspc, ca,
    platform_id, collateral_id, policy_version, verifier, attested_at, verified_at, expires_at,
    expires_because, created_at
FROM enclave.attestations
WHERE
    tenant_id = %(tenant_id)s
    AND (enclave_id = %(enclave_id)s OR %(enclave_id)s::text IS NULL)
    AND (status = %(status)s OR %(status)s::text IS NULL)
    AND (
        %(after)s::uuid IS NULL
        OR (created_at, id) < (
            SELECT a.created_at, a.id FROM enclave.attestations AS a
            WHERE a.tenant_id = %(tenant_id)s AND a.id = %(after)s
        )
    )
ORDER BY created_at DESC, id DESC
LIMIT %(limit)s;

-- list_verifications --
-- Judgements, the newest first, of one record or of everything that was handed in.
SELECT
    id, attestation_id, enclave_id, quote_digest, quote_size, occasion, status, reason, detail,
    tcb_status, advisories, collateral_id, policy_version, verified_at, verified_by, created_at
FROM enclave.verifications
WHERE
    tenant_id = %(tenant_id)s
    AND (attestation_id = %(attestation_id)s OR %(attestation_id)s::uuid IS NULL)
ORDER BY created_at DESC, id DESC
LIMIT %(limit)s;

-- lock_attestation --
-- One record for a change of its status.
SELECT id, enclave_id, quote, status, verified_at, attested_at
FROM enclave.attestations
WHERE tenant_id = %(tenant_id)s AND id = %(id)s
FOR UPDATE;

-- lock_due --
-- Live records whose judgement is not the newest that can be had: newer collateral or another
-- policy is there, or they are over. Whoever else is at it takes others.
SELECT a.id, a.enclave_id, a.quote, a.tee, a.fmspc, a.ca, a.attested_at
FROM enclave.attestations AS a
INNER JOIN enclave.collateral AS c ON c.id = a.collateral_id
WHERE
    a.tenant_id = %(tenant_id)s AND a.status = 'verified' AND a.attested_at <= %(at)s
    AND (
        a.expires_at <= %(at)s
        OR a.policy_version < %(policy_version)s
        OR EXISTS (
            SELECT FROM enclave.collateral AS n
            WHERE
                n.tee = a.tee AND n.fmspc = a.fmspc AND n.ca = a.ca
                AND n.issued_at > c.issued_at AND n.issued_at <= %(at)s
        )
    )
ORDER BY a.expires_at
LIMIT %(limit)s
FOR UPDATE OF a SKIP LOCKED;

-- tenants_due --
-- Tenants with such records; for whoever may look over all of them.
SELECT DISTINCT a.tenant_id
FROM enclave.attestations AS a
INNER JOIN enclave.collateral AS c ON c.id = a.collateral_id
WHERE
    a.status = 'verified' AND a.attested_at <= %(at)s
    AND (
        a.expires_at <= %(at)s
        OR EXISTS (
            SELECT FROM enclave.attestation_policies AS p
            WHERE p.tenant_id = a.tenant_id AND p.version > a.policy_version
        )
        OR EXISTS (
            SELECT FROM enclave.collateral AS n
            WHERE
                n.tee = a.tee AND n.fmspc = a.fmspc AND n.ca = a.ca
                AND n.issued_at > c.issued_at AND n.issued_at <= %(at)s
        )
    );

-- tenants_with_stale_nonces --
-- Tenants with challenges that nobody can answer any more.
SELECT DISTINCT tenant_id FROM enclave.nonces WHERE used_at IS NULL AND expires_at <= %(at)s;
