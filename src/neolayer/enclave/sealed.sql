-- add_sealed --
-- A blob under a name that is free; no row where it is taken.
INSERT INTO enclave.sealed_data (
    tenant_id, owner_id, enclave_id, data_key, sealed_blob, mac, policy, mr_enclave, mr_signer,
    isv_prod_id, isv_svn, cpu_svn, key_id, platform_id, is_debug
)
VALUES (
    %(tenant_id)s, %(owner_id)s, %(enclave_id)s, %(data_key)s, %(sealed_blob)s, %(mac)s, %(policy)s,
    %(mr_enclave)s, %(mr_signer)s, %(isv_prod_id)s, %(isv_svn)s, %(cpu_svn)s, %(key_id)s,
    %(platform_id)s, %(is_debug)s
)
ON CONFLICT (tenant_id, data_key) DO NOTHING
RETURNING version;

-- replace_sealed --
-- The next version in place of the one that is expected; no row where another is there.
UPDATE enclave.sealed_data SET
    enclave_id = %(enclave_id)s,
    sealed_blob = %(sealed_blob)s,
    mac = %(mac)s,
    policy = %(policy)s,
    mr_enclave = %(mr_enclave)s,
    mr_signer = %(mr_signer)s,
    isv_prod_id = %(isv_prod_id)s,
    isv_svn = %(isv_svn)s,
    cpu_svn = %(cpu_svn)s,
    key_id = %(key_id)s,
    platform_id = %(platform_id)s,
    is_debug = %(is_debug)s,
    version = version + 1
WHERE
    tenant_id = %(tenant_id)s AND data_key = %(data_key)s AND version = %(expected_version)s
RETURNING version;

-- remove_sealed --
-- Remove the version that is expected.
DELETE FROM enclave.sealed_data
WHERE
    tenant_id = %(tenant_id)s AND data_key = %(data_key)s AND version = %(expected_version)s
RETURNING version;

-- sealed_version --
-- The version that is there.
SELECT version FROM enclave.sealed_data
WHERE tenant_id = %(tenant_id)s AND data_key = %(data_key)s;

-- sealed_blob --
-- The bytes and their message authentication code.
SELECT version, sealed_blob, mac FROM enclave.sealed_data
WHERE tenant_id = %(tenant_id)s AND data_key = %(data_key)s;

-- sealed --
-- What is known of a blob.
SELECT
    data_key, version, enclave_id, owner_id, octet_length(sealed_blob), created_at, updated_at,
    policy, mr_enclave, mr_signer, isv_prod_id, isv_svn, cpu_svn, key_id, platform_id, is_debug
FROM enclave.sealed_data
WHERE tenant_id = %(tenant_id)s AND data_key = %(data_key)s;

-- list_sealed --
-- What is known of blobs, by name, from the one after `after`.
SELECT
    data_key, version, enclave_id, owner_id, octet_length(sealed_blob), created_at, updated_at,
    policy, mr_enclave, mr_signer, isv_prod_id, isv_svn, cpu_svn, key_id, platform_id, is_debug
FROM enclave.sealed_data
WHERE
    tenant_id = %(tenant_id)s
    AND (enclave_id = %(enclave_id)s OR %(enclave_id)s::text IS NULL)
    AND (data_key > %(after)s OR %(after)s::text IS NULL)
ORDER BY data_key
LIMIT %(limit)s;

-- list_stranded --
-- What an enclave's next build could not open, or of which only the enclave itself knows.
SELECT
    data_key, version, enclave_id, owner_id, octet_length(sealed_blob), created_at, updated_at,
    policy, mr_enclave, mr_signer, isv_prod_id, isv_svn, cpu_svn, key_id, platform_id, is_debug
FROM enclave.sealed_data
WHERE
    tenant_id = %(tenant_id)s AND enclave_id = %(enclave_id)s
    AND (data_key > %(after)s OR %(after)s::text IS NULL)
    AND (
        is_debug
        OR policy = 'USER_DEFINED'
        OR mr_enclave <> %(mr_enclave)s
        OR mr_signer <> %(mr_signer)s
        OR isv_prod_id <> %(isv_prod_id)s
        OR isv_svn > %(isv_svn)s
    )
ORDER BY data_key
LIMIT %(limit)s;
