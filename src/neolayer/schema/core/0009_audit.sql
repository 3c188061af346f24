-- migrate:up
-- Who did what, written in the transaction of the change. tenant_id is NULL where no tenant is
-- known (a failed login) or none is concerned (an operator). The four columns of the chain are
-- filled within a second by a sealer, in commit order, once: chaining inside the transaction would
-- make a tenant's writers wait for each other. transaction_id tells the sealer what is complete.
CREATE TABLE audit.entries (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id uuid REFERENCES core.tenants (id),
    occurred_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    principal varchar(255) NOT NULL,
    user_id uuid,
    action varchar(50) NOT NULL,
    resource varchar(255) NOT NULL,
    resource_id varchar(255),
    changes jsonb,
    ip_address inet,
    user_agent text,
    success boolean NOT NULL,
    error_message text,
    transaction_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
    chain_number bigint,
    previous_hash bytea,
    entry_hash bytea,
    sealed_at timestamptz,
    CONSTRAINT entries_action_check CHECK (
        action IN ('CREATE', 'READ', 'UPDATE', 'DELETE', 'EXECUTE', 'LOGIN', 'LOGOUT')
    ),
    CONSTRAINT entries_chain_check CHECK (
        num_nulls(chain_number, previous_hash, entry_hash, sealed_at) IN (0, 4)
        AND chain_number > 0
        AND octet_length(previous_hash) = 32
        AND octet_length(entry_hash) = 32
    )
);
-- A chain has one entry of each number; the entries without a tenant are a chain too.
CREATE UNIQUE INDEX entries_chain_unique ON audit.entries (tenant_id, chain_number)
NULLS NOT DISTINCT WHERE chain_number IS NOT NULL;
-- A tenant's entries, newest first. There is no index by resource: it cost every audited write a
-- tenth of its time, and the copy for queries (MongoDB) is where such questions go.
CREATE INDEX idx_entries_tenant_time ON audit.entries (tenant_id, occurred_at DESC);
-- What waits for the sealer.
CREATE INDEX idx_entries_unsealed ON audit.entries (transaction_id) WHERE chain_number IS NULL;

-- The one change an entry may see: from unsealed to sealed, with nothing else touched.
CREATE FUNCTION audit.admit_only_sealing() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    chain text[] := ARRAY['chain_number', 'previous_hash', 'entry_hash', 'sealed_at'];
BEGIN
    IF OLD.chain_number IS NULL AND NEW.chain_number IS NOT NULL
        AND to_jsonb(OLD) - chain = to_jsonb(NEW) - chain
    THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'UPDATE of audit.entries is refused'
        USING ERRCODE = 'insufficient_privilege', HINT = 'entries are only added, and sealed once';
END
$$;
CREATE TRIGGER admit_only_sealing BEFORE UPDATE ON audit.entries
FOR EACH ROW EXECUTE FUNCTION audit.admit_only_sealing();
CREATE TRIGGER keep_entries BEFORE DELETE OR TRUNCATE ON audit.entries
FOR EACH STATEMENT EXECUTE FUNCTION core.refuse_change('entries are only added');

-- A tenant reads its own entries. Whoever acts without a tenant may write an entry of no tenant,
-- and not read it.
ALTER TABLE audit.entries ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit.entries FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON audit.entries FOR SELECT TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()));
CREATE POLICY write_own ON audit.entries FOR INSERT TO neolayer_app, neolayer_owner
WITH CHECK (tenant_id IS NOT DISTINCT FROM (SELECT core.current_tenant()));

-- Adding is granted, changing is not.
GRANT SELECT, INSERT ON audit.entries TO neolayer_app;
GRANT SELECT ON audit.entries TO neolayer_backup, neolayer_operator;

-- migrate:down
-- A way back while there is nothing to lose.
SELECT neolayer_schema.refuse_to_lose('audit.entries');
DROP TABLE audit.entries;
DROP FUNCTION audit.admit_only_sealing();
