-- migrate:up
-- Until here SQL was held to permissions in auth alone: elsewhere a member could do by SQL whatever the
-- tenant may, such as remove wallets with their keys, replace the policy by which quotes are judged,
-- or write an attestation of nothing as verified and have computations claimed by it.

-- What each verb on a table asks of people and services: one of these permissions. Where there is
-- none, the layer itself writes, such as the verifier its verdicts.
CREATE FUNCTION auth.needed_for(of_table text, verb text) RETURNS text []
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (
    SELECT n.permissions
    FROM (
        VALUES
        ('core.tenants', 'UPDATE', '{tenants:update}'::text []),
        ('blockchain.wallets', 'INSERT', '{wallets:create}'),
        ('blockchain.wallets', 'UPDATE', '{wallets:update}'),
        ('blockchain.wallets', 'DELETE', '{wallets:delete}'),
        ('enclave.attestation_policies', 'INSERT', '{attestations:update}'),
        ('enclave.verifications', 'INSERT', '{attestations:create,attestations:update}'),
        ('enclave.nonces', 'INSERT', '{attestations:create}'),
        ('enclave.nonces', 'UPDATE', '{attestations:create}'),
        ('enclave.nonces', 'DELETE', '{attestations:update}'),
        ('enclave.computations', 'INSERT', '{computations:create}'),
        ('enclave.computations', 'UPDATE', '{computations:update}'),
        ('enclave.sealed_data', 'INSERT', '{sealed_data:create}'),
        ('enclave.sealed_data', 'UPDATE', '{sealed_data:update}'),
        ('enclave.sealed_data', 'DELETE', '{sealed_data:delete}')
    ) AS n (name, of_verb, permissions)
    WHERE n.name = of_table AND n.of_verb = verb
);
GRANT EXECUTE ON FUNCTION auth.needed_for(text, text) TO neolayer_app;

-- Whoever row security does not hold is not asked: migrations, and what goes with its parent, which
-- was asked itself.
CREATE FUNCTION auth.admit_verb() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    of_table text := TG_TABLE_SCHEMA || '.' || TG_TABLE_NAME;
    needed text[] := auth.needed_for(of_table, TG_OP);
BEGIN
    IF NOT row_security_active(TG_RELID) THEN
        RETURN coalesce(NEW, OLD);
    END IF;
    IF of_table = 'core.tenants' THEN
        PERFORM core.require_context(OLD.id);
    ELSE
        PERFORM core.require_context(coalesce(NEW.tenant_id, OLD.tenant_id));
        IF NEW.tenant_id <> OLD.tenant_id THEN
            PERFORM core.require_context(OLD.tenant_id);
        END IF;
    END IF;
    IF auth.acts_for_platform() THEN
        RETURN coalesce(NEW, OLD);
    END IF;
    IF needed IS NULL THEN
        RAISE EXCEPTION '% of % is refused', TG_OP, of_table
            USING ERRCODE = 'insufficient_privilege', HINT = 'the layer itself writes this';
    END IF;
    IF NOT EXISTS (
        SELECT FROM unnest(needed) AS n (permission)
        WHERE NOT auth.actor_lacks(
            split_part(n.permission, ':', 1), split_part(n.permission, ':', 2), clock_timestamp()
        )
    ) THEN
        RAISE EXCEPTION 'the permission % is missing', needed[1]
            USING ERRCODE = 'insufficient_privilege', CONSTRAINT = 'no_permission',
            DETAIL = needed[1];
    END IF;
    RETURN coalesce(NEW, OLD);
END
$$;
-- By their names they are asked before what the tables ask themselves: who lacks a permission learns
-- nothing of rows and rules.
CREATE TRIGGER ask_permission BEFORE UPDATE ON core.tenants
FOR EACH ROW EXECUTE FUNCTION auth.admit_verb();
CREATE TRIGGER ask_permission BEFORE INSERT OR UPDATE OR DELETE ON blockchain.wallets
FOR EACH ROW EXECUTE FUNCTION auth.admit_verb();
CREATE TRIGGER ask_permission BEFORE INSERT ON enclave.attestation_policies
FOR EACH ROW EXECUTE FUNCTION auth.admit_verb();
CREATE TRIGGER ask_permission BEFORE INSERT OR UPDATE ON enclave.attestations
FOR EACH ROW EXECUTE FUNCTION auth.admit_verb();
CREATE TRIGGER ask_permission BEFORE INSERT ON enclave.verifications
FOR EACH ROW EXECUTE FUNCTION auth.admit_verb();
CREATE TRIGGER ask_permission BEFORE INSERT OR UPDATE OR DELETE ON enclave.nonces
FOR EACH ROW EXECUTE FUNCTION auth.admit_verb();
DROP TRIGGER keep_to_context ON enclave.computations;
CREATE TRIGGER ask_permission BEFORE INSERT OR UPDATE ON enclave.computations
FOR EACH ROW EXECUTE FUNCTION auth.admit_verb();
CREATE TRIGGER ask_permission BEFORE INSERT OR UPDATE OR DELETE ON enclave.sealed_data
FOR EACH ROW EXECUTE FUNCTION auth.admit_verb();

-- A key that is destroyed with its wallet leaves an audit entry, in the same transaction and by
-- whoever did it, whatever code is above.
CREATE FUNCTION audit.require_entry() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF row_security_active('audit.entries') AND NOT EXISTS (
        SELECT FROM audit.entries e
        WHERE e.chain_number IS NULL AND e.transaction_id = pg_current_xact_id()
            AND e.tenant_id = OLD.tenant_id AND e.success
            AND (e.action, e.resource, e.resource_id) = (TG_OP, TG_ARGV[0], OLD.id::text)
    ) THEN
        RAISE EXCEPTION '% of a % without an audit entry is refused', TG_OP, TG_ARGV[0]
            USING ERRCODE = 'insufficient_privilege',
            HINT = 'append the entry in the same transaction';
    END IF;
    RETURN NULL;
END
$$;
CREATE CONSTRAINT TRIGGER require_entry AFTER DELETE ON blockchain.wallets
DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW WHEN (old.encrypted_private_key IS NOT NULL)
EXECUTE FUNCTION audit.require_entry('wallet');

-- migrate:down
-- Nothing is lost; SQL is held to less, as it was.
DROP TRIGGER require_entry ON blockchain.wallets;
DROP FUNCTION audit.require_entry();
DROP TRIGGER ask_permission ON enclave.sealed_data;
DROP TRIGGER ask_permission ON enclave.computations;
CREATE TRIGGER keep_to_context BEFORE INSERT OR UPDATE OR DELETE ON enclave.computations
FOR EACH ROW EXECUTE FUNCTION core.keep_to_context();
DROP TRIGGER ask_permission ON enclave.nonces;
DROP TRIGGER ask_permission ON enclave.verifications;
DROP TRIGGER ask_permission ON enclave.attestations;
DROP TRIGGER ask_permission ON enclave.attestation_policies;
DROP TRIGGER ask_permission ON blockchain.wallets;
DROP TRIGGER ask_permission ON core.tenants;
DROP FUNCTION auth.admit_verb();
DROP FUNCTION auth.needed_for(text, text);
