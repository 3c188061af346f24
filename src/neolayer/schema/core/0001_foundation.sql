-- migrate:up
-- The schemas of the specification, one for each subject.
CREATE SCHEMA core;
CREATE SCHEMA auth;
CREATE SCHEMA blockchain;
CREATE SCHEMA enclave;
CREATE SCHEMA audit;

-- A schema is a door: who may not walk through it sees nothing inside, whatever else is granted.
GRANT USAGE ON SCHEMA core, auth, blockchain, enclave, audit
TO neolayer_app, neolayer_relay, neolayer_backup, neolayer_operator;
GRANT USAGE ON SCHEMA core, blockchain TO neolayer_ingest;

-- Functions are executable by everybody unless said otherwise; here it is always said otherwise.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

-- The EVM's word: whole numbers up to 2^256-1. NUMERIC(78, 0) alone admits -5, NaN and 10^78-1;
-- PostgreSQL sorts NaN above every number, so the upper bound keeps it out.
-- Functions of this form are inlined into a CHECK: seven of these cost 0.5 us a row together.
CREATE FUNCTION core.is_uint256(number numeric) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN number >= 0
AND number <= 115792089237316195423570985008687907853269984665640564039457584007913129639935;

-- SHA-256 digests, tokens' hashes and measurements: lower-case hex, so that equal means equal.
CREATE FUNCTION core.is_hex(digits text, digit_count int) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN octet_length(digits) = digit_count
AND digits = lower(digits COLLATE "C")
AND octet_length(decode(digits, 'hex')) = digit_count / 2;

-- What people type as a name, in its one form: lower case, composed, without blanks and controls.
CREATE FUNCTION core.is_canonical(name text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN name = lower(name)
AND name IS NFC NORMALIZED
AND name !~ '[[:space:][:cntrl:]]'
AND name <> '';

-- Addresses we may be asked to open: no file:, no gopher:, no javascript:. Which hosts are allowed
-- is decided where they are opened, because names resolve differently later.
CREATE FUNCTION core.is_url(url text, schemes text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN url ~ ('^(' || schemes || ')://[^[:space:][:cntrl:]/]+[^[:space:][:cntrl:]]*$');

-- CHECK constraints run as whoever writes, so every writer needs to execute them.
GRANT EXECUTE ON FUNCTION
core.is_uint256(numeric), core.is_hex(text, int), core.is_canonical(text), core.is_url(text, text)
TO PUBLIC;

-- The specification's updated_at has a default and then never moves; a trigger moves it.
CREATE FUNCTION core.touch_updated_at() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.updated_at := clock_timestamp();
    RETURN NEW;
END
$$;

-- For triggers on what may only grow. 42501 is the code of a refused privilege.
CREATE FUNCTION core.refuse_change() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION '% of %.% is refused', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege', HINT = TG_ARGV[0];
END
$$;

-- The key that signs a transaction's context, as HMAC's two padded blocks (RFC 2104), so that
-- core's sha256() suffices. No role but the owner may read it; two rows while a key is rotated.
CREATE TABLE core.context_secrets (
    id smallint PRIMARY KEY,
    inner_pad bytea NOT NULL CHECK (octet_length(inner_pad) = 64),
    outer_pad bytea NOT NULL CHECK (octet_length(outer_pad) = 64),
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP
);

-- Who is asking. The application says so once a transaction with
--     SELECT set_config('neolayer.context', '<tenant>.<principal>.<expiry>.<signature>', true)
-- where expiry is in Unix seconds and signature is HMAC-SHA-256 in hex over what stands before it.
-- A client that can run SQL but has no key cannot assume a tenant. NULL when unset, expired, forged
-- or malformed; policies then match no row.
CREATE FUNCTION core.verified_context() RETURNS text []
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    parts text[] := string_to_array(current_setting('neolayer.context', true), '.');
    message bytea := convert_to(parts[1] || '.' || parts[2] || '.' || parts[3], 'UTF8');
BEGIN
    IF array_length(parts, 1) IS DISTINCT FROM 4 OR NOT EXISTS (
        SELECT FROM core.context_secrets s
        WHERE encode(sha256(s.outer_pad || sha256(s.inner_pad || message)), 'hex') = parts[4]
    ) THEN
        RETURN NULL;
    END IF;
    -- Signed, hence written by us and well formed: nothing else is cast.
    IF parts[3]::bigint <= extract(epoch FROM clock_timestamp()) THEN
        RETURN NULL;
    END IF;
    RETURN parts[1:2];
END
$$;

-- What policies compare with, always as (SELECT core.current_tenant()): evaluated once a statement.
CREATE FUNCTION core.current_tenant() RETURNS uuid
LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
RETURN (core.verified_context())[1]::uuid;

-- The user, service or operator behind the current transaction; for audit entries.
CREATE FUNCTION core.current_principal() RETURNS text
LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
RETURN (core.verified_context())[2];

-- Everybody may ask who they are; only the two questions are open, not the key.
GRANT EXECUTE ON FUNCTION core.current_tenant(), core.current_principal()
TO neolayer_app, neolayer_operator, neolayer_backup, neolayer_relay, neolayer_ingest;

-- migrate:down
-- Everything above is new; what later migrations put in is gone before this runs.
DROP FUNCTION core.current_principal();
DROP FUNCTION core.current_tenant();
DROP FUNCTION core.verified_context();
DROP TABLE core.context_secrets;
DROP FUNCTION core.refuse_change();
DROP FUNCTION core.touch_updated_at();
DROP FUNCTION core.is_url(text, text);
DROP FUNCTION core.is_canonical(text);
DROP FUNCTION core.is_hex(text, int);
DROP FUNCTION core.is_uint256(numeric);
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC;
DROP SCHEMA audit;
DROP SCHEMA enclave;
DROP SCHEMA blockchain;
DROP SCHEMA auth;
DROP SCHEMA core;
