-- migrate:up
-- A context without a tenant bears the nil UUID: it names a principal (for the audit) and no tenant.
CREATE OR REPLACE FUNCTION core.current_tenant() RETURNS uuid
LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
RETURN nullif((core.verified_context())[1], '00000000-0000-0000-0000-000000000000')::uuid;

-- migrate:down
CREATE OR REPLACE FUNCTION core.current_tenant() RETURNS uuid
LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
RETURN (core.verified_context())[1]::uuid;
