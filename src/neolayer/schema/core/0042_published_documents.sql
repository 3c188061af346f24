-- migrate:up
-- Long values do not travel with a change that leaves them alone, and a document is written whole.
-- Sealing changes every audit entry once, so the old row is logged with it: some 300 bytes.
ALTER TABLE audit.entries REPLICA IDENTITY FULL;
-- A partition's own setting counts, not its parent's.
ALTER TABLE core.tenant_data REPLICA IDENTITY FULL;
ALTER TABLE core.tenant_data_p0 REPLICA IDENTITY FULL;
ALTER TABLE core.tenant_data_p1 REPLICA IDENTITY FULL;
ALTER TABLE core.tenant_data_p2 REPLICA IDENTITY FULL;
ALTER TABLE core.tenant_data_p3 REPLICA IDENTITY FULL;

-- The audit trail and tenants' documents are served from stores of documents too.
ALTER PUBLICATION neolayer_relay ADD TABLE audit.entries, core.tenant_data;

-- A copy that starts over reads the tables themselves.
GRANT SELECT ON audit.entries, core.tenant_data TO neolayer_relay;

-- migrate:down
REVOKE SELECT ON audit.entries, core.tenant_data FROM neolayer_relay;
ALTER PUBLICATION neolayer_relay DROP TABLE audit.entries, core.tenant_data;
ALTER TABLE core.tenant_data_p3 REPLICA IDENTITY DEFAULT;
ALTER TABLE core.tenant_data_p2 REPLICA IDENTITY DEFAULT;
ALTER TABLE core.tenant_data_p1 REPLICA IDENTITY DEFAULT;
ALTER TABLE core.tenant_data_p0 REPLICA IDENTITY DEFAULT;
ALTER TABLE core.tenant_data REPLICA IDENTITY DEFAULT;
ALTER TABLE audit.entries REPLICA IDENTITY DEFAULT;
