-- migrate:up
-- 0038 says that whoever acts on another's credentials or sessions must hold all that the other
-- holds, and watched some columns. A token's hash, an end, a letter or a code is as good as a
-- password, so here every row that proves who somebody is falls under the rule, in each column.

-- As before, and: operators and the system's own tasks are known before anything is looked up.
CREATE OR REPLACE FUNCTION auth.require_all_of(tenant uuid, person uuid) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    actor text := core.current_principal();
    missing text;
BEGIN
    IF actor = 'user:' || person OR split_part(actor, ':', 1) IN ('anonymous', 'operator', 'system')
    THEN
        RETURN;
    END IF;
    SELECT p.name INTO missing
    FROM auth.user_roles g
    JOIN auth.role_permissions rp ON (rp.scope_id, rp.role_id) = (g.role_scope_id, g.role_id)
    JOIN auth.permissions p ON p.id = rp.permission_id
    WHERE g.tenant_id = tenant AND g.user_id = person
        AND coalesce(g.expires_at, 'infinity') > clock_timestamp()
        AND auth.actor_lacks(p.resource, p.action, g.expires_at)
    ORDER BY p.name LIMIT 1;
    IF missing IS NOT NULL THEN
        PERFORM auth.refuse_escalation(missing);
    END IF;
END
$$;

-- A person's row: whatever changes in it, and that it goes.
CREATE OR REPLACE FUNCTION auth.admit_credentials() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM auth.require_all_of(OLD.tenant_id, OLD.id);
    RETURN coalesce(NEW, OLD);
END
$$;
DROP TRIGGER admit_credentials ON auth.users;
CREATE TRIGGER admit_credentials BEFORE UPDATE ON auth.users
FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION auth.admit_credentials();
CREATE TRIGGER admit_removal BEFORE DELETE ON auth.users
FOR EACH ROW EXECUTE FUNCTION auth.admit_credentials();

-- What proves who a person is: made, changed, taken away, or handed from one to another.
CREATE FUNCTION auth.admit_proof() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        PERFORM auth.require_all_of(OLD.tenant_id, OLD.user_id);
    END IF;
    IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND OLD.user_id <> NEW.user_id) THEN
        PERFORM auth.require_all_of(NEW.tenant_id, NEW.user_id);
    END IF;
    RETURN coalesce(NEW, OLD);
END
$$;
DROP TRIGGER admit_ending ON auth.sessions;
DROP FUNCTION auth.admit_ending();
CREATE TRIGGER admit_proof BEFORE INSERT OR UPDATE OR DELETE ON auth.sessions
FOR EACH ROW EXECUTE FUNCTION auth.admit_proof();
CREATE TRIGGER admit_proof BEFORE INSERT OR UPDATE OR DELETE ON auth.one_time_tokens
FOR EACH ROW EXECUTE FUNCTION auth.admit_proof();
CREATE TRIGGER admit_proof BEFORE INSERT OR UPDATE OR DELETE ON auth.recovery_codes
FOR EACH ROW EXECUTE FUNCTION auth.admit_proof();
CREATE TRIGGER admit_proof BEFORE INSERT OR UPDATE OR DELETE ON auth.known_devices
FOR EACH ROW EXECUTE FUNCTION auth.admit_proof();

-- A refresh token belongs to whom its session belongs to. Tokens that go with their session find
-- none: its own trigger was asked.
CREATE FUNCTION auth.admit_refresh_token() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM auth.require_all_of(s.tenant_id, s.user_id)
    FROM auth.sessions s
    WHERE (s.tenant_id, s.id) IN (
        (OLD.tenant_id, OLD.session_id), (NEW.tenant_id, NEW.session_id)
    );
    RETURN coalesce(NEW, OLD);
END
$$;
CREATE TRIGGER admit_refresh_token BEFORE INSERT OR UPDATE OR DELETE ON auth.refresh_tokens
FOR EACH ROW EXECUTE FUNCTION auth.admit_refresh_token();

-- As before, and: an entry of no tenant has none. The signed context writes none as the nil UUID,
-- under which an entry would have passed for one of a tenant that is not there.
ALTER POLICY write_own ON audit.entries WITH CHECK (
    chain_number IS NULL
    AND tenant_id IS DISTINCT FROM '00000000-0000-0000-0000-000000000000'
    AND action IN ('CREATE', 'READ', 'UPDATE', 'DELETE', 'EXECUTE', 'LOGIN', 'LOGOUT')
    AND (user_id IS NULL OR principal = 'user:' || user_id::text)
    AND coalesce(tenant_id, '00000000-0000-0000-0000-000000000000')::text || '.' || principal
    = (SELECT asking.writer FROM audit.signed_context AS asking)
);

-- migrate:down
-- Nothing is lost; the rule is as narrow as it was.
ALTER POLICY write_own ON audit.entries WITH CHECK (
    chain_number IS NULL
    AND action IN ('CREATE', 'READ', 'UPDATE', 'DELETE', 'EXECUTE', 'LOGIN', 'LOGOUT')
    AND (user_id IS NULL OR principal = 'user:' || user_id::text)
    AND coalesce(tenant_id, '00000000-0000-0000-0000-000000000000')::text || '.' || principal
    = (SELECT asking.writer FROM audit.signed_context AS asking)
);
DROP TRIGGER admit_refresh_token ON auth.refresh_tokens;
DROP FUNCTION auth.admit_refresh_token();
DROP TRIGGER admit_proof ON auth.known_devices;
DROP TRIGGER admit_proof ON auth.recovery_codes;
DROP TRIGGER admit_proof ON auth.one_time_tokens;
DROP TRIGGER admit_proof ON auth.sessions;
DROP FUNCTION auth.admit_proof();
CREATE FUNCTION auth.admit_ending() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM auth.require_all_of(NEW.tenant_id, NEW.user_id);
    RETURN NEW;
END
$$;
CREATE TRIGGER admit_ending BEFORE UPDATE OF revoked_at ON auth.sessions
FOR EACH ROW WHEN (OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL)
EXECUTE FUNCTION auth.admit_ending();
DROP TRIGGER admit_removal ON auth.users;
DROP TRIGGER admit_credentials ON auth.users;
CREATE OR REPLACE FUNCTION auth.admit_credentials() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM auth.require_all_of(NEW.tenant_id, NEW.id);
    RETURN NEW;
END
$$;
CREATE TRIGGER admit_credentials
BEFORE UPDATE OF email, username, password_hash, mfa_secret, mfa_enabled, status, deleted_at
ON auth.users
FOR EACH ROW WHEN (
    OLD.email <> NEW.email OR OLD.username <> NEW.username
    OR OLD.password_hash <> NEW.password_hash
    OR OLD.mfa_secret IS DISTINCT FROM NEW.mfa_secret OR OLD.mfa_enabled <> NEW.mfa_enabled
    OR OLD.status <> NEW.status OR OLD.deleted_at IS DISTINCT FROM NEW.deleted_at
) EXECUTE FUNCTION auth.admit_credentials();
CREATE OR REPLACE FUNCTION auth.require_all_of(tenant uuid, person uuid) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    actor text := core.current_principal();
    missing text;
BEGIN
    IF actor = 'user:' || person OR actor LIKE 'anonymous:%' THEN
        RETURN;
    END IF;
    SELECT p.name INTO missing
    FROM auth.user_roles g
    JOIN auth.role_permissions rp ON (rp.scope_id, rp.role_id) = (g.role_scope_id, g.role_id)
    JOIN auth.permissions p ON p.id = rp.permission_id
    WHERE g.tenant_id = tenant AND g.user_id = person
        AND coalesce(g.expires_at, 'infinity') > clock_timestamp()
        AND auth.actor_lacks(p.resource, p.action, g.expires_at)
    ORDER BY p.name LIMIT 1;
    IF missing IS NOT NULL THEN
        PERFORM auth.refuse_escalation(missing);
    END IF;
END
$$;
