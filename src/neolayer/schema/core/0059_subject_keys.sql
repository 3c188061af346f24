-- migrate:up
-- The key of each data subject, sealed by the keyring: what personal fields of events, snapshots
-- and read models are encrypted under. Deleting the row erases them all, in every copy.
CREATE TABLE core.subject_keys (
    tenant_id uuid NOT NULL REFERENCES core.tenants (id),
    id uuid NOT NULL,
    sealed_key text NOT NULL CHECK (octet_length(sealed_key) BETWEEN 1 AND 1024),
    key_id varchar(100) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (tenant_id, id)
);

-- Each tenant sees its own.
ALTER TABLE core.subject_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE core.subject_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON core.subject_keys TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));

-- Re-wrapping puts another sealing of the same key in its place; operators count, and see no key.
GRANT SELECT, INSERT, UPDATE, DELETE ON core.subject_keys TO neolayer_app;
GRANT SELECT ON core.subject_keys TO neolayer_backup;
GRANT SELECT (tenant_id, id, key_id, created_at) ON core.subject_keys TO neolayer_operator;

-- migrate:down
-- A way back while there is nothing to lose.
SELECT neolayer_schema.refuse_to_lose('core.subject_keys');
DROP TABLE core.subject_keys;
