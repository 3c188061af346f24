-- submit --
-- Ask an enclave for something.
INSERT INTO enclave.computations (
    tenant_id, user_id, enclave_id, operation_type, input_hash, gas_limit, max_attempts
)
VALUES (
    %(tenant_id)s, %(user_id)s, %(enclave_id)s, %(operation_type)s, %(input_hash)s, %(gas_limit)s,
    %(max_attempts)s
)
RETURNING id;

-- claim --
-- The oldest computation of an enclave that waits, or whose worker has fallen silent; it is this
-- worker's until the lease is over. Whoever else is at it takes another.
WITH now AS (
    SELECT coalesce(%(at)s::timestamptz, clock_timestamp()) AS at
),

next AS (
    SELECT c.id
    FROM enclave.computations AS c
    WHERE
        c.tenant_id = %(tenant_id)s AND c.enclave_id = %(enclave_id)s
        AND c.status IN ('pending', 'running') AND c.attempt < c.max_attempts
        AND (c.status = 'pending' OR c.lease_until <= (SELECT n.at FROM now AS n))
    ORDER BY c.created_at, c.id
    LIMIT 1
    FOR UPDATE SKIP LOCKED
)

UPDATE enclave.computations AS u SET
    status = 'running',
    attempt = u.attempt + 1,
    worker = %(worker)s,
    attestation_id = %(attestation_id)s,
    started_at = now.at,
    heartbeat_at = now.at,
    lease_until = now.at + %(lease)s
FROM next, now
WHERE u.tenant_id = %(tenant_id)s AND u.id = next.id
RETURNING
    u.id, u.attempt, u.operation_type, u.input_hash, u.gas_limit, coalesce(u.gas_used, 0),
    u.lease_until;

-- beat --
-- Keep a computation, and count what it has used since; no row where it is this worker's no longer.
WITH now AS (
    SELECT coalesce(%(at)s::timestamptz, clock_timestamp()) AS at
)

UPDATE enclave.computations AS u SET
    heartbeat_at = greatest(u.heartbeat_at, now.at),
    lease_until = greatest(u.heartbeat_at, now.at) + %(lease)s,
    gas_used = coalesce(u.gas_used, 0) + %(gas)s
FROM now
WHERE
    u.tenant_id = %(tenant_id)s AND u.id = %(id)s AND u.attempt = %(attempt)s
    AND u.status = 'running'
RETURNING u.lease_until;

-- complete --
-- The end of a computation with its output; no row where it is this worker's no longer.
WITH now AS (
    SELECT coalesce(%(at)s::timestamptz, clock_timestamp()) AS at
)

UPDATE enclave.computations AS u SET
    status = 'completed',
    heartbeat_at = greatest(u.heartbeat_at, now.at),
    completed_at = greatest(u.heartbeat_at, now.at),
    output_hash = %(output_hash)s,
    result = %(result)s,
    gas_used = coalesce(u.gas_used, 0) + %(gas)s
FROM now
WHERE
    u.tenant_id = %(tenant_id)s AND u.id = %(id)s AND u.attempt = %(attempt)s
    AND u.status = 'running'
RETURNING u.completed_at;

-- fail --
-- The end of a computation without output; no row where it is this worker's no longer.
WITH now AS (
    SELECT coalesce(%(at)s::timestamptz, clock_timestamp()) AS at
)

UPDATE enclave.computations AS u SET
    status = 'failed',
    heartbeat_at = greatest(u.heartbeat_at, now.at),
    completed_at = greatest(u.heartbeat_at, now.at),
    error_message = %(error_message)s,
    gas_used = coalesce(u.gas_used, 0) + %(gas)s
FROM now
WHERE
    u.tenant_id = %(tenant_id)s AND u.id = %(id)s AND u.attempt = %(attempt)s
    AND u.status = 'running'
RETURNING u.completed_at;

-- cancel --
-- Nobody wants it any more, whoever works on it; no row where it has ended.
UPDATE enclave.computations SET
    status = 'cancelled',
    completed_at = greatest(
        heartbeat_at, coalesce(%(at)s::timestamptz, clock_timestamp())
    )
WHERE tenant_id = %(tenant_id)s AND id = %(id)s AND status IN ('pending', 'running')
RETURNING completed_at;

-- give_up --
-- Fail what has outlived as many workers as it may.
UPDATE enclave.computations SET
    status = 'failed',
    completed_at = greatest(heartbeat_at, coalesce(%(at)s::timestamptz, clock_timestamp())),
    error_message = 'every worker that claimed it fell silent'
WHERE
    tenant_id = %(tenant_id)s AND status = 'running' AND attempt >= max_attempts
    AND lease_until <= coalesce(%(at)s::timestamptz, clock_timestamp())
RETURNING id;

-- computation --
-- One computation, without its result.
SELECT
    id, user_id, enclave_id, operation_type, input_hash, output_hash, status, attempt, max_attempts,
    worker, attestation_id, started_at, heartbeat_at, lease_until, completed_at, error_message,
    coalesce(gas_used, 0), gas_limit, created_at
FROM enclave.computations
WHERE tenant_id = %(tenant_id)s AND id = %(id)s;

-- list_computations --
-- Computations, the newest first, from the one after `after`.
SELECT
    id, user_id, enclave_id, operation_type, input_hash, output_hash, status, attempt, max_attempts,
    worker, attestation_id, started_at, heartbeat_at, lease_until, completed_at, error_message,
    coalesce(gas_used, 0), gas_limit, created_at
FROM enclave.computations
WHERE
    tenant_id = %(tenant_id)s
    AND (enclave_id = %(enclave_id)s OR %(enclave_id)s::text IS NULL)
    AND (status = %(status)s OR %(status)s::text IS NULL)
    AND (
        %(after)s::uuid IS NULL
        OR (created_at, id) < (
            SELECT c.created_at, c.id FROM enclave.computations AS c
            WHERE c.tenant_id = %(tenant_id)s AND c.id = %(after)s
        )
    )
ORDER BY created_at DESC, id DESC
LIMIT %(limit)s;

-- result_state --
-- What there is to know of a result without the result: whether the evidence still holds, too.
SELECT
    c.status, c.output_hash, c.result IS NOT NULL,
    a.status = 'verified' AND a.attested_at <= now.at AND a.expires_at > now.at,
    a.expires_at - now.at
FROM enclave.computations AS c
CROSS JOIN LATERAL (SELECT coalesce(%(at)s::timestamptz, clock_timestamp()) AS at) AS now
LEFT JOIN enclave.attestations AS a ON a.tenant_id = c.tenant_id AND a.id = c.attestation_id
WHERE c.tenant_id = %(tenant_id)s AND c.id = %(id)s;

-- result --
-- The result itself.
SELECT result FROM enclave.computations
WHERE tenant_id = %(tenant_id)s AND id = %(id)s AND status = 'completed';

-- tenants_given_up --
-- Tenants with computations that have outlived their workers; for whoever may look over all.
SELECT DISTINCT tenant_id FROM enclave.computations
WHERE
    status = 'running' AND attempt >= max_attempts
    AND lease_until <= coalesce(%(at)s::timestamptz, clock_timestamp());
