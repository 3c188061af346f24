-- migrate:up
-- What one tenant stores, shared workers read: the relay each published row, the sealer each audit
-- entry, the deliverer each envelope, sweepers and the copies' readers the rest. PostgreSQL takes a
-- value of 1 GB, and a JSON number of ten bytes has 131072 digits as text: 2 KB of such numbers end
-- the replication stream of everybody ("out of memory: cannot enlarge string buffer"). So whatever
-- the application may write has a bound, and JSON is measured as the text that a reader gets. The
-- limits leave the verbs' own, which come first and say so in words, room for two spellings.

-- Announcements: brokers stop at 1 MB.
ALTER TABLE core.outbox ADD CONSTRAINT outbox_event_data_size_check
CHECK (octet_length(event_data::text) <= 1048576);
-- An event's data and what it is told with.
ALTER TABLE core.webhook_deliveries ADD CONSTRAINT webhook_deliveries_envelope_size_check
CHECK (octet_length(envelope) <= 4194304);
ALTER TABLE core.webhooks ADD CONSTRAINT webhooks_event_types_size_check
CHECK (octet_length(array_to_string(event_types, ',')) <= 32768);
-- Documents: what MongoDB takes, twice, in one message of the stream.
ALTER TABLE core.tenant_data ADD CONSTRAINT tenant_data_data_size_check
CHECK (octet_length(data::text) <= 8388608);

-- People, and what they say of themselves.
ALTER TABLE auth.sessions ADD CONSTRAINT sessions_user_agent_size_check
CHECK (octet_length(user_agent) <= 2048);
ALTER TABLE auth.refresh_tokens ADD CONSTRAINT refresh_tokens_child_salt_size_check
CHECK (octet_length(child_salt) <= 64);
ALTER TABLE auth.roles ADD CONSTRAINT roles_description_size_check
CHECK (octet_length(description) <= 8192);
ALTER TABLE auth.service_principals ADD CONSTRAINT service_principals_description_size_check
CHECK (octet_length(description) <= 8192);

-- A key of 32 bytes as the keyring spells it; the largest wrapping service adds 6 KB.
ALTER TABLE blockchain.wallets ADD CONSTRAINT wallets_encrypted_private_key_size_check
CHECK (octet_length(encrypted_private_key) <= 16384);

-- What enclaves show, and what is said of it.
ALTER TABLE enclave.attestation_policies
ADD CONSTRAINT attestation_policies_tcb_statuses_size_check CHECK (cardinality(tcb_statuses) <= 16),
ADD CONSTRAINT attestation_policies_rejected_advisories_size_check
CHECK (octet_length(array_to_string(rejected_advisories, ',')) <= 65536);
ALTER TABLE enclave.attestations
ADD CONSTRAINT attestations_nonce_size_check CHECK (octet_length(nonce) <= 64),
ADD CONSTRAINT attestations_advisories_size_check
CHECK (octet_length(array_to_string(advisories, ',')) <= 65536),
ADD CONSTRAINT attestations_claims_size_check CHECK (octet_length(claims::text) <= 65536);
ALTER TABLE enclave.verifications ADD CONSTRAINT verifications_advisories_size_check
CHECK (octet_length(array_to_string(advisories, ',')) <= 65536);
ALTER TABLE enclave.computations ADD CONSTRAINT computations_error_message_size_check
CHECK (octet_length(error_message) <= 8192);

-- As before, and: an entry has a size. Here and not as a CHECK, which PostgreSQL would read and
-- prepare anew for every entry (see 0037).
ALTER POLICY write_own ON audit.entries WITH CHECK (
    chain_number IS NULL
    AND tenant_id IS DISTINCT FROM '00000000-0000-0000-0000-000000000000'
    AND action IN ('CREATE', 'READ', 'UPDATE', 'DELETE', 'EXECUTE', 'LOGIN', 'LOGOUT')
    AND (user_id IS NULL OR principal = 'user:' || user_id::text)
    AND coalesce(octet_length(changes::text) <= 262144, TRUE)
    AND coalesce(octet_length(user_agent) <= 2048, TRUE)
    AND coalesce(octet_length(error_message) <= 16384, TRUE)
    AND coalesce(tenant_id, '00000000-0000-0000-0000-000000000000')::text || '.' || principal
    = (SELECT asking.writer FROM audit.signed_context AS asking)
);

-- Failures are counted, and forgiven, by logins: by nobody who is known yet. A member who could let
-- go of them by SQL (0063 left that open) could guess a colleague's password for as long as they
-- liked, and whoever has another's session the password behind it.
CREATE OR REPLACE FUNCTION auth.admit_failure() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF auth.acts_for_platform() OR core.current_principal() LIKE 'anonymous:%' THEN
        RETURN coalesce(NEW, OLD);
    END IF;
    RAISE EXCEPTION '% of auth.login_failures is refused', TG_OP
        USING ERRCODE = 'insufficient_privilege', HINT = 'failures are counted by logins';
END
$$;
DROP TRIGGER admit_failure ON auth.login_failures;
CREATE TRIGGER admit_failure BEFORE INSERT OR UPDATE OR DELETE ON auth.login_failures
FOR EACH ROW EXECUTE FUNCTION auth.admit_failure();

-- migrate:down
-- Nothing is lost.
DROP TRIGGER admit_failure ON auth.login_failures;
CREATE OR REPLACE FUNCTION auth.admit_failure() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    actor text := core.current_principal();
    person bytea := convert_to(split_part(actor, ':', 2), 'UTF8');
BEGIN
    IF auth.acts_for_platform() OR actor LIKE 'anonymous:%' THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.failures <= OLD.failures
        AND (OLD.subject, OLD.kind, OLD.last_failed_at)
        = (NEW.subject, NEW.kind, NEW.last_failed_at)
    THEN
        RETURN NEW;
    END IF;
    -- As identity/backoff.py writes the subject of a proof: each part after its length.
    IF actor LIKE 'user:%' AND NEW.kind = 'proof' AND NEW.subject = sha256(
        int4send(5) || convert_to('proof', 'UTF8') || int4send(octet_length(person)) || person
    ) AND (TG_OP = 'INSERT' OR OLD.subject = NEW.subject) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION '% of auth.login_failures is refused', TG_OP
        USING ERRCODE = 'insufficient_privilege', HINT = 'failures are counted by logins';
END
$$;
CREATE TRIGGER admit_failure BEFORE INSERT OR UPDATE ON auth.login_failures
FOR EACH ROW EXECUTE FUNCTION auth.admit_failure();
ALTER POLICY write_own ON audit.entries WITH CHECK (
    chain_number IS NULL
    AND tenant_id IS DISTINCT FROM '00000000-0000-0000-0000-000000000000'
    AND action IN ('CREATE', 'READ', 'UPDATE', 'DELETE', 'EXECUTE', 'LOGIN', 'LOGOUT')
    AND (user_id IS NULL OR principal = 'user:' || user_id::text)
    AND coalesce(tenant_id, '00000000-0000-0000-0000-000000000000')::text || '.' || principal
    = (SELECT asking.writer FROM audit.signed_context AS asking)
);
ALTER TABLE enclave.computations DROP CONSTRAINT computations_error_message_size_check;
ALTER TABLE enclave.verifications DROP CONSTRAINT verifications_advisories_size_check;
ALTER TABLE enclave.attestations
DROP CONSTRAINT attestations_nonce_size_check,
DROP CONSTRAINT attestations_advisories_size_check,
DROP CONSTRAINT attestations_claims_size_check;
ALTER TABLE enclave.attestation_policies
DROP CONSTRAINT attestation_policies_tcb_statuses_size_check,
DROP CONSTRAINT attestation_policies_rejected_advisories_size_check;
ALTER TABLE blockchain.wallets DROP CONSTRAINT wallets_encrypted_private_key_size_check;
ALTER TABLE auth.service_principals DROP CONSTRAINT service_principals_description_size_check;
ALTER TABLE auth.roles DROP CONSTRAINT roles_description_size_check;
ALTER TABLE auth.refresh_tokens DROP CONSTRAINT refresh_tokens_child_salt_size_check;
ALTER TABLE auth.sessions DROP CONSTRAINT sessions_user_agent_size_check;
ALTER TABLE core.tenant_data DROP CONSTRAINT tenant_data_data_size_check;
ALTER TABLE core.webhooks DROP CONSTRAINT webhooks_event_types_size_check;
ALTER TABLE core.webhook_deliveries DROP CONSTRAINT webhook_deliveries_envelope_size_check;
ALTER TABLE core.outbox DROP CONSTRAINT outbox_event_data_size_check;
