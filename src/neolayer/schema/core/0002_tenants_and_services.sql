-- migrate:up
-- The services of the platform, known to its operators; no tenant owns one.
CREATE TABLE core.services (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name varchar(255) NOT NULL UNIQUE,
    description text,
    version varchar(50) NOT NULL,
    status varchar(50) NOT NULL DEFAULT 'inactive',
    configuration jsonb NOT NULL DEFAULT '{}',
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    CONSTRAINT services_status_check CHECK (
        status IN ('active', 'inactive', 'degraded', 'maintenance')
    )
);
CREATE TRIGGER touch BEFORE UPDATE ON core.services
FOR EACH ROW EXECUTE FUNCTION core.touch_updated_at();

-- Which services have this option? Readable, because services are under no row policy.
CREATE INDEX idx_services_config ON core.services USING gin (configuration);

-- The tenants. The identifier is a public name in addresses and therefore unique over all tenants:
-- the one place where a tenant can learn that another exists, and only by its public name.
CREATE TABLE core.tenants (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name varchar(255) NOT NULL,
    identifier varchar(100) NOT NULL UNIQUE,
    subscription_tier varchar(50) NOT NULL DEFAULT 'free',
    settings jsonb NOT NULL DEFAULT '{}',
    limits jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    deleted_at timestamptz,
    CONSTRAINT tenants_identifier_check CHECK (identifier ~ '^[a-z0-9]([a-z0-9-]*[a-z0-9])?$'),
    CONSTRAINT tenants_tier_check CHECK (
        subscription_tier IN ('free', 'basic', 'pro', 'enterprise')
    )
);
CREATE TRIGGER touch BEFORE UPDATE ON core.tenants
FOR EACH ROW EXECUTE FUNCTION core.touch_updated_at();

-- For operators: @> is not leakproof, so under a policy this index is never used.
CREATE INDEX idx_tenants_settings ON core.tenants USING gin (settings);

-- A tenant sees itself. FORCE holds the owner, and functions that run as it, to the same.
ALTER TABLE core.tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE core.tenants FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON core.tenants TO neolayer_app, neolayer_owner
USING (id = (SELECT core.current_tenant())) WITH CHECK (id = (SELECT core.current_tenant()));

-- A tenant's JSON documents, in four parts by tenant: the durable record behind the document
-- store.
CREATE TABLE core.tenant_data (
    tenant_id uuid NOT NULL REFERENCES core.tenants (id),
    data_id uuid NOT NULL,
    data jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (tenant_id, data_id)
) PARTITION BY HASH (tenant_id);
CREATE TABLE core.tenant_data_p0 PARTITION OF core.tenant_data
FOR VALUES WITH (MODULUS 4, REMAINDER 0);
CREATE TABLE core.tenant_data_p1 PARTITION OF core.tenant_data
FOR VALUES WITH (MODULUS 4, REMAINDER 1);
CREATE TABLE core.tenant_data_p2 PARTITION OF core.tenant_data
FOR VALUES WITH (MODULUS 4, REMAINDER 2);
CREATE TABLE core.tenant_data_p3 PARTITION OF core.tenant_data
FOR VALUES WITH (MODULUS 4, REMAINDER 3);
CREATE TRIGGER touch BEFORE UPDATE ON core.tenant_data
FOR EACH ROW EXECUTE FUNCTION core.touch_updated_at();

-- A policy of the parent does not protect a partition that is named directly, so each has its own.
ALTER TABLE core.tenant_data ENABLE ROW LEVEL SECURITY;
ALTER TABLE core.tenant_data FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON core.tenant_data TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
ALTER TABLE core.tenant_data_p0 ENABLE ROW LEVEL SECURITY;
ALTER TABLE core.tenant_data_p0 FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON core.tenant_data_p0 TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
ALTER TABLE core.tenant_data_p1 ENABLE ROW LEVEL SECURITY;
ALTER TABLE core.tenant_data_p1 FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON core.tenant_data_p1 TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
ALTER TABLE core.tenant_data_p2 ENABLE ROW LEVEL SECURITY;
ALTER TABLE core.tenant_data_p2 FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON core.tenant_data_p2 TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
ALTER TABLE core.tenant_data_p3 ENABLE ROW LEVEL SECURITY;
ALTER TABLE core.tenant_data_p3 FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON core.tenant_data_p3 TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));

-- TRUNCATE ignores row policies and is granted to nobody; nothing is granted on a partition.
GRANT SELECT ON core.services TO neolayer_app, neolayer_ingest;
GRANT SELECT, INSERT, UPDATE ON core.tenants TO neolayer_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON core.tenant_data TO neolayer_app;
GRANT SELECT ON core.services, core.tenants, core.tenant_data
TO neolayer_backup, neolayer_operator;

-- migrate:down
-- A way back while there is nothing to lose.
SELECT neolayer_schema.refuse_to_lose('core.services', 'core.tenants');
DROP TABLE core.tenant_data;
DROP TABLE core.tenants;
DROP TABLE core.services;
