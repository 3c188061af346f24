-- migrate:up
-- The sealer sees every tenant's entries (BYPASSRLS, as row security under FORCE hides them from the
-- owner too) and can write nothing but the chain: four columns, heads and anchors.
GRANT USAGE ON SCHEMA audit TO neolayer_auditor;
GRANT SELECT ON audit.entries TO neolayer_auditor;
GRANT UPDATE (chain_number, previous_hash, entry_hash, sealed_at) ON audit.entries
TO neolayer_auditor;

-- Whoever writes an entry says what was done. When, in which transaction, and its place in the chain
-- are not theirs to say: without the grant these columns take their defaults.
REVOKE INSERT ON audit.entries FROM neolayer_app;
GRANT INSERT (
    tenant_id, principal, user_id, action, resource, resource_id, changes,
    ip_address, user_agent, success, error_message
) ON audit.entries TO neolayer_app;

-- Tenant and principal of the signed context in one text. Verifying the signature is what costs
-- (40 us), so the policy below asks for both at once.
CREATE FUNCTION audit.writer() RETURNS text
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN array_to_string(core.verified_context(), '.');
END
$$;
GRANT EXECUTE ON FUNCTION audit.writer() TO neolayer_app;

-- An entry bears the tenant and the principal of its transaction; without a context there is none.
ALTER POLICY write_own ON audit.entries WITH CHECK (
    chain_number IS NULL
    AND coalesce(tenant_id, '00000000-0000-0000-0000-000000000000')::text || '.' || principal
    = (SELECT audit.writer())
);

-- The user is the one the principal names.
ALTER TABLE audit.entries ADD CONSTRAINT entries_user_check
CHECK (user_id IS NULL OR principal = 'user:' || user_id::text);

-- Sealing is for the sealer alone, whatever else a role may do with the table.
CREATE OR REPLACE FUNCTION audit.admit_only_sealing() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    chain text[] := ARRAY['chain_number', 'previous_hash', 'entry_hash', 'sealed_at'];
BEGIN
    IF current_user = 'neolayer_auditor'
        AND OLD.chain_number IS NULL AND NEW.chain_number IS NOT NULL
        AND to_jsonb(OLD) - chain = to_jsonb(NEW) - chain
    THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'UPDATE of audit.entries is refused'
        USING ERRCODE = 'insufficient_privilege', HINT = 'entries are only added, and sealed once';
END
$$;

-- The hash that seals an entry, for whoever reads with SQL: SHA-256 over fields one after another,
-- each as its length in bytes (int4, big-endian; -1 for NULL) and its text in UTF-8; the first is the
-- format's name, then number and previous hash of the chain (hex), then every other column.
-- The verifier does not call this: whoever tampers with rows can tamper with a function.
CREATE FUNCTION audit.entry_digest(entry audit.entries) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
RETURN (
    SELECT sha256(string_agg(
        coalesce(
            int4send(octet_length(convert_to(f.value, 'UTF8'))) || convert_to(f.value, 'UTF8'),
            int4send(-1)
        ),
        ''::bytea ORDER BY f.place
    ))
    FROM unnest(ARRAY[
        'neolayer audit 1',
        entry.chain_number::text,
        encode(entry.previous_hash, 'hex'),
        entry.tenant_id::text,
        entry.id::text,
        (extract(epoch FROM entry.occurred_at) * 1000000)::bigint::text,
        entry.principal::text,
        entry.user_id::text,
        entry.action::text,
        entry.resource::text,
        entry.resource_id::text,
        entry.changes::text,
        entry.ip_address::text,
        entry.user_agent,
        entry.success::text,
        entry.error_message,
        entry.transaction_id::text,
        (extract(epoch FROM entry.sealed_at) * 1000000)::bigint::text
    ]) WITH ORDINALITY AS f (value, place)
);
GRANT EXECUTE ON FUNCTION audit.entry_digest(audit.entries)
TO neolayer_app, neolayer_operator, neolayer_backup, neolayer_auditor;

-- The last seal of every chain; no tenant_id: the chain of the entries without a tenant. The next
-- seal goes on from here, so that a tail which is cut off leaves a gap for ever.
CREATE TABLE audit.heads (
    tenant_id uuid REFERENCES core.tenants (id),
    chain_number bigint NOT NULL,
    entry_hash bytea NOT NULL,
    sealed_at timestamptz NOT NULL,
    anchored_number bigint NOT NULL DEFAULT 0,
    CONSTRAINT heads_tenant_unique UNIQUE NULLS NOT DISTINCT (tenant_id),
    CONSTRAINT heads_chain_check CHECK (chain_number > 0 AND octet_length(entry_hash) = 32),
    CONSTRAINT heads_anchored_check CHECK (anchored_number BETWEEN 0 AND chain_number)
);

-- A chain only grows.
CREATE FUNCTION audit.admit_only_growth() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NEW.tenant_id IS NOT DISTINCT FROM OLD.tenant_id
        AND NEW.anchored_number >= OLD.anchored_number
        AND (
            NEW.chain_number > OLD.chain_number
            OR (NEW.chain_number, NEW.entry_hash) = (OLD.chain_number, OLD.entry_hash)
        )
    THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'UPDATE of audit.heads is refused'
        USING ERRCODE = 'insufficient_privilege', HINT = 'a chain only grows';
END
$$;
CREATE TRIGGER admit_only_growth BEFORE UPDATE ON audit.heads
FOR EACH ROW EXECUTE FUNCTION audit.admit_only_growth();
CREATE TRIGGER keep_heads BEFORE DELETE OR TRUNCATE ON audit.heads
FOR EACH STATEMENT EXECUTE FUNCTION core.refuse_change('a chain only grows');

-- A tenant may see the head of its own chain, to note it down elsewhere.
ALTER TABLE audit.heads ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit.heads FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON audit.heads FOR SELECT TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()));
GRANT SELECT ON audit.heads TO neolayer_app, neolayer_backup, neolayer_operator;
GRANT SELECT, INSERT, UPDATE ON audit.heads TO neolayer_auditor;

-- Which heads were written to the object store, and when. The objects are the proof; this is the
-- index to them.
CREATE TABLE audit.anchors (
    anchor_number bigint PRIMARY KEY,
    object_key text NOT NULL,
    object_hash bytea NOT NULL,
    chain_count bigint NOT NULL,
    anchored_at timestamptz NOT NULL,
    CONSTRAINT anchors_check CHECK (
        anchor_number > 0 AND octet_length(object_hash) = 32 AND chain_count > 0
    )
);
CREATE TRIGGER keep_anchors BEFORE UPDATE OR DELETE OR TRUNCATE ON audit.anchors
FOR EACH STATEMENT EXECUTE FUNCTION core.refuse_change('anchors are only added');
GRANT SELECT ON audit.anchors TO neolayer_backup, neolayer_operator;
GRANT SELECT, INSERT ON audit.anchors TO neolayer_auditor;

-- migrate:down
-- Without heads and anchors a sealed chain cannot be told from a forged one.
SELECT neolayer_schema.refuse_to_lose('audit.heads', 'audit.anchors');
DROP TABLE audit.anchors;
DROP TABLE audit.heads;
DROP FUNCTION audit.admit_only_growth();
DROP FUNCTION audit.entry_digest(audit.entries);
CREATE OR REPLACE FUNCTION audit.admit_only_sealing() RETURNS trigger
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
ALTER TABLE audit.entries DROP CONSTRAINT entries_user_check;
ALTER POLICY write_own ON audit.entries
WITH CHECK (tenant_id IS NOT DISTINCT FROM (SELECT core.current_tenant()));
DROP FUNCTION audit.writer();
REVOKE INSERT (
    tenant_id, principal, user_id, action, resource, resource_id, changes,
    ip_address, user_agent, success, error_message
) ON audit.entries FROM neolayer_app;
GRANT INSERT ON audit.entries TO neolayer_app;
REVOKE ALL ON audit.entries FROM neolayer_auditor;
REVOKE USAGE ON SCHEMA audit FROM neolayer_auditor;
