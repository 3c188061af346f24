-- migrate:up
-- Tries at a tenant that is not there are counted like all others, so that they take as long: under
-- an id that no tenant has.
ALTER TABLE auth.login_failures DROP CONSTRAINT login_failures_tenant_id_fkey;

-- Whether one of these patterns (resource:action, resource:*, *:action, *) covers a permission.
CREATE FUNCTION auth.covers(held text [], needed_resource text, needed_action text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN held && ARRAY[
    needed_resource || ':' || needed_action, needed_resource || ':*', '*:' || needed_action, '*'
];
GRANT EXECUTE ON FUNCTION auth.covers(text [], text, text) TO neolayer_app;

-- What a service may do now, as patterns.
CREATE FUNCTION auth.held_by_service(of_tenant uuid, of_service uuid) RETURNS text []
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN (
    SELECT coalesce(array_agg(DISTINCT p.name::text), '{}')
    FROM auth.service_roles AS g
    INNER JOIN auth.role_permissions AS rp
        ON rp.scope_id = g.role_scope_id AND rp.role_id = g.role_id
    INNER JOIN auth.permissions AS p ON p.id = rp.permission_id
    WHERE g.tenant_id = of_tenant AND g.service_id = of_service
        AND coalesce(g.expires_at, 'infinity') > clock_timestamp()
);
GRANT EXECUTE ON FUNCTION auth.held_by_service(uuid, uuid) TO neolayer_app;

-- A key carries what its service could do when it was made, and never more: whoever has had it in
-- hand since then was trusted with that, not with what the service is granted later. Keys from
-- before this carry what their service can do now. FORCE holds the owner too, hence the pause.
ALTER TABLE auth.api_keys ADD COLUMN permissions text [] NOT NULL DEFAULT '{}';
ALTER TABLE auth.api_keys NO FORCE ROW LEVEL SECURITY;
ALTER TABLE auth.service_roles NO FORCE ROW LEVEL SECURITY;
ALTER TABLE auth.role_permissions NO FORCE ROW LEVEL SECURITY;
UPDATE auth.api_keys AS k SET permissions = auth.held_by_service(k.tenant_id, k.service_id);
ALTER TABLE auth.role_permissions FORCE ROW LEVEL SECURITY;
ALTER TABLE auth.service_roles FORCE ROW LEVEL SECURITY;
ALTER TABLE auth.api_keys FORCE ROW LEVEL SECURITY;
GRANT SELECT (permissions) ON auth.api_keys TO neolayer_operator;

-- As before, and: the key's permissions are settled here and do not move.
CREATE OR REPLACE FUNCTION auth.admit_key() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    missing text;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        NEW.permissions := OLD.permissions;
    ELSE
        NEW.permissions := auth.held_by_service(NEW.tenant_id, NEW.service_id);
    END IF;
    SELECT p.name INTO missing
    FROM auth.service_roles g
    JOIN auth.role_permissions rp ON (rp.scope_id, rp.role_id) = (g.role_scope_id, g.role_id)
    JOIN auth.permissions p ON p.id = rp.permission_id
    WHERE g.tenant_id = NEW.tenant_id AND g.service_id = NEW.service_id
        AND coalesce(g.expires_at, 'infinity') > clock_timestamp()
        AND auth.actor_lacks(p.resource, p.action, least(g.expires_at, NEW.expires_at))
    ORDER BY p.name LIMIT 1;
    IF missing IS NOT NULL THEN
        PERFORM auth.refuse_escalation(missing);
    END IF;
    RETURN NEW;
END
$$;
DROP TRIGGER admit_key ON auth.api_keys;
CREATE TRIGGER admit_key
BEFORE INSERT OR UPDATE OF service_id, key_hash, expires_at, permissions ON auth.api_keys
FOR EACH ROW EXECUTE FUNCTION auth.admit_key();

-- As before, and: a context names the service, not the key, so a service gives only what each of
-- its living keys carries.
CREATE OR REPLACE FUNCTION auth.actor_lacks(needed_resource text, needed_action text, needed_until timestamptz)
RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    actor text[] := string_to_array(core.current_principal(), ':');
BEGIN
    IF actor IS NULL OR actor[1] IN ('operator', 'system') THEN
        RETURN false;
    END IF;
    IF actor[1] NOT IN ('user', 'service') THEN
        RETURN true;
    END IF;
    RETURN NOT EXISTS (
        SELECT FROM (
            SELECT g.role_scope_id, g.role_id, g.expires_at
            FROM auth.user_roles g
            JOIN auth.users u ON (u.tenant_id, u.id) = (g.tenant_id, g.user_id)
            WHERE g.tenant_id = (SELECT core.current_tenant()) AND actor[1] = 'user'
                AND g.user_id = actor[2]::uuid AND u.status = 'active' AND u.deleted_at IS NULL
            UNION ALL
            SELECT g.role_scope_id, g.role_id, g.expires_at
            FROM auth.service_roles g
            JOIN auth.service_principals s ON (s.tenant_id, s.id) = (g.tenant_id, g.service_id)
            WHERE g.tenant_id = (SELECT core.current_tenant()) AND actor[1] = 'service'
                AND g.service_id = actor[2]::uuid AND s.status = 'active'
                AND NOT EXISTS (
                    SELECT FROM auth.api_keys k
                    WHERE k.tenant_id = s.tenant_id AND k.service_id = s.id
                        AND least(k.expires_at, k.revoked_at) > clock_timestamp()
                        AND NOT auth.covers(k.permissions, needed_resource, needed_action)
                )
        ) held
        JOIN auth.role_permissions rp
            ON (rp.scope_id, rp.role_id) = (held.role_scope_id, held.role_id)
        JOIN auth.permissions p ON p.id = rp.permission_id
        WHERE p.resource IN ('*', needed_resource) AND p.action IN ('*', needed_action)
            AND coalesce(held.expires_at, 'infinity') >= coalesce(needed_until, 'infinity')
    );
END
$$;

-- Whoever acts on another person (their credentials, name, sessions) must hold all that they hold,
-- or be them; so nobody but an owner acts on an owner. Letters and logins act as nobody.
CREATE FUNCTION auth.require_all_of(tenant uuid, person uuid) RETURNS void
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
GRANT EXECUTE ON FUNCTION auth.require_all_of(uuid, uuid) TO neolayer_app;

-- As before; the name has become one of the things that need it.
CREATE OR REPLACE FUNCTION auth.admit_credentials() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM auth.require_all_of(NEW.tenant_id, NEW.id);
    RETURN NEW;
END
$$;
DROP TRIGGER admit_credentials ON auth.users;
CREATE TRIGGER admit_credentials
BEFORE UPDATE OF email, username, password_hash, mfa_secret, mfa_enabled, status, deleted_at
ON auth.users
FOR EACH ROW WHEN (
    OLD.email <> NEW.email OR OLD.username <> NEW.username
    OR OLD.password_hash <> NEW.password_hash
    OR OLD.mfa_secret IS DISTINCT FROM NEW.mfa_secret OR OLD.mfa_enabled <> NEW.mfa_enabled
    OR OLD.status <> NEW.status OR OLD.deleted_at IS DISTINCT FROM NEW.deleted_at
) EXECUTE FUNCTION auth.admit_credentials();

-- Ending somebody's session keeps them out for as long as one goes on ending them.
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

-- migrate:down
-- What keys were narrowed to is lost; counters of tenants that are not there go.
DROP TRIGGER admit_ending ON auth.sessions;
DROP FUNCTION auth.admit_ending();
DROP TRIGGER admit_credentials ON auth.users;
CREATE OR REPLACE FUNCTION auth.admit_credentials() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    actor text := core.current_principal();
    missing text;
BEGIN
    IF actor = 'user:' || NEW.id OR actor LIKE 'anonymous:%' THEN
        RETURN NEW;
    END IF;
    SELECT p.name INTO missing
    FROM auth.user_roles g
    JOIN auth.role_permissions rp ON (rp.scope_id, rp.role_id) = (g.role_scope_id, g.role_id)
    JOIN auth.permissions p ON p.id = rp.permission_id
    WHERE g.tenant_id = NEW.tenant_id AND g.user_id = NEW.id
        AND coalesce(g.expires_at, 'infinity') > clock_timestamp()
        AND auth.actor_lacks(p.resource, p.action, g.expires_at)
    ORDER BY p.name LIMIT 1;
    IF missing IS NOT NULL THEN
        PERFORM auth.refuse_escalation(missing);
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER admit_credentials
BEFORE UPDATE OF email, password_hash, mfa_secret, mfa_enabled, status, deleted_at ON auth.users
FOR EACH ROW WHEN (
    OLD.email <> NEW.email OR OLD.password_hash <> NEW.password_hash
    OR OLD.mfa_secret IS DISTINCT FROM NEW.mfa_secret OR OLD.mfa_enabled <> NEW.mfa_enabled
    OR OLD.status <> NEW.status OR OLD.deleted_at IS DISTINCT FROM NEW.deleted_at
) EXECUTE FUNCTION auth.admit_credentials();
DROP FUNCTION auth.require_all_of(uuid, uuid);
CREATE OR REPLACE FUNCTION auth.actor_lacks(needed_resource text, needed_action text, needed_until timestamptz)
RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    actor text[] := string_to_array(core.current_principal(), ':');
BEGIN
    IF actor IS NULL OR actor[1] IN ('operator', 'system') THEN
        RETURN false;
    END IF;
    IF actor[1] NOT IN ('user', 'service') THEN
        RETURN true;
    END IF;
    RETURN NOT EXISTS (
        SELECT FROM (
            SELECT g.role_scope_id, g.role_id, g.expires_at
            FROM auth.user_roles g
            JOIN auth.users u ON (u.tenant_id, u.id) = (g.tenant_id, g.user_id)
            WHERE g.tenant_id = (SELECT core.current_tenant()) AND actor[1] = 'user'
                AND g.user_id = actor[2]::uuid AND u.status = 'active' AND u.deleted_at IS NULL
            UNION ALL
            SELECT g.role_scope_id, g.role_id, g.expires_at
            FROM auth.service_roles g
            JOIN auth.service_principals s ON (s.tenant_id, s.id) = (g.tenant_id, g.service_id)
            WHERE g.tenant_id = (SELECT core.current_tenant()) AND actor[1] = 'service'
                AND g.service_id = actor[2]::uuid AND s.status = 'active'
        ) held
        JOIN auth.role_permissions rp
            ON (rp.scope_id, rp.role_id) = (held.role_scope_id, held.role_id)
        JOIN auth.permissions p ON p.id = rp.permission_id
        WHERE p.resource IN ('*', needed_resource) AND p.action IN ('*', needed_action)
            AND coalesce(held.expires_at, 'infinity') >= coalesce(needed_until, 'infinity')
    );
END
$$;
DROP TRIGGER admit_key ON auth.api_keys;
CREATE OR REPLACE FUNCTION auth.admit_key() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    missing text;
BEGIN
    SELECT p.name INTO missing
    FROM auth.service_roles g
    JOIN auth.role_permissions rp ON (rp.scope_id, rp.role_id) = (g.role_scope_id, g.role_id)
    JOIN auth.permissions p ON p.id = rp.permission_id
    WHERE g.tenant_id = NEW.tenant_id AND g.service_id = NEW.service_id
        AND coalesce(g.expires_at, 'infinity') > clock_timestamp()
        AND auth.actor_lacks(p.resource, p.action, least(g.expires_at, NEW.expires_at))
    ORDER BY p.name LIMIT 1;
    IF missing IS NOT NULL THEN
        PERFORM auth.refuse_escalation(missing);
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER admit_key
BEFORE INSERT OR UPDATE OF service_id, key_hash, expires_at ON auth.api_keys
FOR EACH ROW EXECUTE FUNCTION auth.admit_key();
ALTER TABLE auth.api_keys DROP COLUMN permissions;
DROP FUNCTION auth.held_by_service(uuid, uuid);
DROP FUNCTION auth.covers(text [], text, text);
ALTER TABLE auth.login_failures NO FORCE ROW LEVEL SECURITY;
DELETE FROM auth.login_failures AS f
WHERE NOT EXISTS (SELECT FROM core.tenant_standing AS s WHERE s.id = f.tenant_id);
ALTER TABLE auth.login_failures FORCE ROW LEVEL SECURITY;
ALTER TABLE auth.login_failures ADD CONSTRAINT login_failures_tenant_id_fkey
FOREIGN KEY (tenant_id) REFERENCES core.tenants (id) NOT VALID;
ALTER TABLE auth.login_failures VALIDATE CONSTRAINT login_failures_tenant_id_fkey;
