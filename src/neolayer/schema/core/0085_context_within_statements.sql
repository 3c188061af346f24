-- migrate:up
-- A policy asks for the tenant once in a statement, a trigger asks for each row: whoever clears the
-- context in between (set_config in WHERE, in RETURNING, in the rows' source), lets it run out, or
-- puts another tenant's there in which they may do more, was judged by two of them. So whoever row
-- security holds is judged by a context of the row's own tenant or not at all, and nobody whom it
-- holds passes for the platform by having none.

-- That this tenant's context is the present one. Whom row security does not hold needs none:
-- migrations, and what goes with its parent, which was asked.
CREATE FUNCTION core.require_context(of_tenant uuid) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF (of_tenant = core.current_tenant()) IS TRUE OR NOT row_security_active('core.tenants') THEN
        RETURN;
    END IF;
    RAISE EXCEPTION 'the row is not one of the present context''s tenant'
        USING ERRCODE = 'insufficient_privilege',
        HINT = 'the context was changed, or ran out, within the statement';
END
$$;
GRANT EXECUTE ON FUNCTION core.require_context(uuid) TO neolayer_app;
CREATE FUNCTION core.keep_to_context() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM core.require_context(coalesce(NEW.tenant_id, OLD.tenant_id));
    IF NEW.tenant_id <> OLD.tenant_id THEN
        PERFORM core.require_context(OLD.tenant_id);
    END IF;
    RETURN coalesce(NEW, OLD);
END
$$;

-- Every table whose triggers ask who acts.
CREATE TRIGGER keep_to_context BEFORE INSERT OR UPDATE OR DELETE ON auth.api_keys
FOR EACH ROW EXECUTE FUNCTION core.keep_to_context();
CREATE TRIGGER keep_to_context BEFORE INSERT OR UPDATE OR DELETE ON auth.known_devices
FOR EACH ROW EXECUTE FUNCTION core.keep_to_context();
CREATE TRIGGER keep_to_context BEFORE INSERT OR UPDATE OR DELETE ON auth.login_failures
FOR EACH ROW EXECUTE FUNCTION core.keep_to_context();
CREATE TRIGGER keep_to_context BEFORE INSERT OR UPDATE OR DELETE ON auth.one_time_tokens
FOR EACH ROW EXECUTE FUNCTION core.keep_to_context();
CREATE TRIGGER keep_to_context BEFORE INSERT OR UPDATE OR DELETE ON auth.recovery_codes
FOR EACH ROW EXECUTE FUNCTION core.keep_to_context();
CREATE TRIGGER keep_to_context BEFORE INSERT OR UPDATE OR DELETE ON auth.refresh_tokens
FOR EACH ROW EXECUTE FUNCTION core.keep_to_context();
CREATE TRIGGER keep_to_context BEFORE INSERT OR UPDATE OR DELETE ON auth.role_permissions
FOR EACH ROW EXECUTE FUNCTION core.keep_to_context();
CREATE TRIGGER keep_to_context BEFORE INSERT OR UPDATE OR DELETE ON auth.roles
FOR EACH ROW EXECUTE FUNCTION core.keep_to_context();
CREATE TRIGGER keep_to_context BEFORE INSERT OR UPDATE OR DELETE ON auth.service_principals
FOR EACH ROW EXECUTE FUNCTION core.keep_to_context();
CREATE TRIGGER keep_to_context BEFORE INSERT OR UPDATE OR DELETE ON auth.service_roles
FOR EACH ROW EXECUTE FUNCTION core.keep_to_context();
CREATE TRIGGER keep_to_context BEFORE INSERT OR UPDATE OR DELETE ON auth.sessions
FOR EACH ROW EXECUTE FUNCTION core.keep_to_context();
CREATE TRIGGER keep_to_context BEFORE INSERT OR UPDATE OR DELETE ON auth.user_roles
FOR EACH ROW EXECUTE FUNCTION core.keep_to_context();
CREATE TRIGGER keep_to_context BEFORE INSERT OR UPDATE OR DELETE ON auth.users
FOR EACH ROW EXECUTE FUNCTION core.keep_to_context();
CREATE TRIGGER keep_to_context BEFORE INSERT OR UPDATE OR DELETE ON enclave.computations
FOR EACH ROW EXECUTE FUNCTION core.keep_to_context();

-- As before, but nobody is nobody: without a context the platform is whom row security does not hold.
CREATE OR REPLACE FUNCTION auth.acts_for_platform() RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN coalesce(
    split_part(core.current_principal(), ':', 1) IN ('operator', 'system'),
    NOT row_security_active('core.tenants')
);
CREATE OR REPLACE FUNCTION auth.actor_lacks(
    needed_resource text, needed_action text, needed_until timestamptz
) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    actor text[] := string_to_array(core.current_principal(), ':');
BEGIN
    IF actor IS NULL OR actor[1] IN ('operator', 'system') THEN
        RETURN NOT auth.acts_for_platform();
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

-- As before, and: it is asked when the statement ends, with whatever context is there by then, and a
-- tenant that cannot be seen would pass for one that is closed.
CREATE OR REPLACE FUNCTION auth.require_an_owner(tenant uuid) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM core.require_context(tenant);
    IF current_setting('transaction_isolation') = 'repeatable read' THEN
        RAISE EXCEPTION 'owners are removed under READ COMMITTED or SERIALIZABLE only'
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
    PERFORM FROM core.tenants t
    WHERE t.id = tenant AND t.deleted_at IS NULL FOR NO KEY UPDATE;
    IF FOUND AND NOT EXISTS (
        SELECT FROM auth.user_roles g
        JOIN auth.users u ON (u.tenant_id, u.id) = (g.tenant_id, g.user_id)
        WHERE g.tenant_id = tenant AND g.expires_at IS NULL
            AND g.role_id = '00000000-0000-4000-8000-000000000001'
            AND u.status = 'active' AND u.deleted_at IS NULL
    ) THEN
        RAISE EXCEPTION 'a tenant keeps one owner at least'
            USING ERRCODE = 'restrict_violation', CONSTRAINT = 'last_owner';
    END IF;
END
$$;

-- migrate:down
-- Nothing is lost; the rules are as they were.
CREATE OR REPLACE FUNCTION auth.require_an_owner(tenant uuid) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF current_setting('transaction_isolation') = 'repeatable read' THEN
        RAISE EXCEPTION 'owners are removed under READ COMMITTED or SERIALIZABLE only'
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
    PERFORM FROM core.tenants t
    WHERE t.id = tenant AND t.deleted_at IS NULL FOR NO KEY UPDATE;
    IF FOUND AND NOT EXISTS (
        SELECT FROM auth.user_roles g
        JOIN auth.users u ON (u.tenant_id, u.id) = (g.tenant_id, g.user_id)
        WHERE g.tenant_id = tenant AND g.expires_at IS NULL
            AND g.role_id = '00000000-0000-4000-8000-000000000001'
            AND u.status = 'active' AND u.deleted_at IS NULL
    ) THEN
        RAISE EXCEPTION 'a tenant keeps one owner at least'
            USING ERRCODE = 'restrict_violation', CONSTRAINT = 'last_owner';
    END IF;
END
$$;
CREATE OR REPLACE FUNCTION auth.actor_lacks(
    needed_resource text, needed_action text, needed_until timestamptz
) RETURNS boolean
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
CREATE OR REPLACE FUNCTION auth.acts_for_platform() RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN coalesce(split_part(core.current_principal(), ':', 1) IN ('operator', 'system'), TRUE);
DROP TRIGGER keep_to_context ON enclave.computations;
DROP TRIGGER keep_to_context ON auth.users;
DROP TRIGGER keep_to_context ON auth.user_roles;
DROP TRIGGER keep_to_context ON auth.sessions;
DROP TRIGGER keep_to_context ON auth.service_roles;
DROP TRIGGER keep_to_context ON auth.service_principals;
DROP TRIGGER keep_to_context ON auth.roles;
DROP TRIGGER keep_to_context ON auth.role_permissions;
DROP TRIGGER keep_to_context ON auth.refresh_tokens;
DROP TRIGGER keep_to_context ON auth.recovery_codes;
DROP TRIGGER keep_to_context ON auth.one_time_tokens;
DROP TRIGGER keep_to_context ON auth.login_failures;
DROP TRIGGER keep_to_context ON auth.known_devices;
DROP TRIGGER keep_to_context ON auth.api_keys;
DROP FUNCTION core.keep_to_context();
DROP FUNCTION core.require_context(uuid);
