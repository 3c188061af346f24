-- migrate:up
-- What a database needs to know who is asking: as in core/0001_foundation.sql, where the reasons
-- stand; the same key is put into both.
CREATE SCHEMA core;
GRANT USAGE ON SCHEMA core
TO neolayer_app, neolayer_relay, neolayer_backup, neolayer_operator;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

-- The specification's tables lie in public; from here on only the owner makes anything there.
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public
TO neolayer_app, neolayer_relay, neolayer_backup, neolayer_operator;

-- For triggers on what may only grow.
CREATE FUNCTION core.refuse_change() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION '% of %.% is refused', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege', HINT = TG_ARGV[0];
END
$$;

-- For tables with updated_at.
CREATE FUNCTION core.touch_updated_at() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.updated_at := clock_timestamp();
    RETURN NEW;
END
$$;

-- The key that signs contexts; the owner's alone.
CREATE TABLE core.context_secrets (
    id smallint PRIMARY KEY,
    inner_pad bytea NOT NULL CHECK (octet_length(inner_pad) = 64),
    outer_pad bytea NOT NULL CHECK (octet_length(outer_pad) = 64),
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP
);

-- Tenant and principal of the signed context; NULL when unset, expired, forged or malformed.
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
CREATE FUNCTION core.current_tenant() RETURNS uuid
LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
RETURN (core.verified_context())[1]::uuid;
CREATE FUNCTION core.current_principal() RETURNS text
LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
RETURN (core.verified_context())[2];
GRANT EXECUTE ON FUNCTION core.current_tenant(), core.current_principal()
TO neolayer_app, neolayer_operator, neolayer_backup, neolayer_relay;

-- migrate:down
-- What later migrations put in is gone before this runs. The schema public stays closed: opening
-- it again would be no way back but a hole.
DROP FUNCTION core.current_principal();
DROP FUNCTION core.current_tenant();
DROP FUNCTION core.verified_context();
DROP TABLE core.context_secrets;
DROP FUNCTION core.touch_updated_at();
DROP FUNCTION core.refuse_change();
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC;
DROP SCHEMA core;
