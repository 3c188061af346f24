-- migrate:up
-- 0032 asks who gives access, 0061 who touches what proves somebody. Here the rest is asked: whoever
-- takes access away must hold all that is taken, and whoever changes people, grants, roles, services
-- and keys must hold the permission for it. The verbs ask so too; this holds for any SQL.

-- Whether operators, the layer's own tasks, or roles above row security are at work: they lack
-- nothing.
CREATE FUNCTION auth.acts_for_platform() RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN coalesce(split_part(core.current_principal(), ':', 1) IN ('operator', 'system'), TRUE);
GRANT EXECUTE ON FUNCTION auth.acts_for_platform() TO neolayer_app;

-- One of these permissions must be held now; the first is the one that is missed.
CREATE FUNCTION auth.require_one_of(needed text []) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    each text;
BEGIN
    FOREACH each IN ARRAY needed LOOP
        IF NOT auth.actor_lacks(
            split_part(each, ':', 1), split_part(each, ':', 2), clock_timestamp()
        ) THEN
            RETURN;
        END IF;
    END LOOP;
    PERFORM auth.refuse_escalation(coalesce(needed[1], ''));
END
$$;
GRANT EXECUTE ON FUNCTION auth.require_one_of(text []) TO neolayer_app;

-- All that a role allows must be held until then (NULL: for ever).
CREATE FUNCTION auth.require_all_in(of_scope uuid, of_role uuid, needed_until timestamptz)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    missing text;
BEGIN
    SELECT p.name INTO missing
    FROM auth.role_permissions rp
    JOIN auth.permissions p ON p.id = rp.permission_id
    WHERE rp.scope_id = of_scope AND rp.role_id = of_role
        AND auth.actor_lacks(p.resource, p.action, needed_until)
    ORDER BY p.name LIMIT 1;
    IF missing IS NOT NULL THEN
        PERFORM auth.refuse_escalation(missing);
    END IF;
END
$$;
GRANT EXECUTE ON FUNCTION auth.require_all_in(uuid, uuid, timestamptz) TO neolayer_app;

-- All that a service may do must be held, as long as it may and until then at most.
CREATE FUNCTION auth.require_all_of_service(
    of_tenant uuid, of_service uuid, needed_until timestamptz
) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM auth.require_all_in(g.role_scope_id, g.role_id, least(g.expires_at, needed_until))
    FROM auth.service_roles g
    WHERE g.tenant_id = of_tenant AND g.service_id = of_service
        AND coalesce(g.expires_at, 'infinity') > clock_timestamp();
END
$$;
GRANT EXECUTE ON FUNCTION auth.require_all_of_service(uuid, uuid, timestamptz) TO neolayer_app;

-- Over another person: one of these permissions, and all that they hold. Letters and logins act as
-- nobody.
CREATE FUNCTION auth.require_over(of_tenant uuid, person uuid, needed text [])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF auth.acts_for_platform() OR core.current_principal() = 'user:' || person
        OR core.current_principal() LIKE 'anonymous:%'
    THEN
        RETURN;
    END IF;
    PERFORM auth.require_one_of(needed);
    PERFORM auth.require_all_of(of_tenant, person);
END
$$;
GRANT EXECUTE ON FUNCTION auth.require_over(uuid, uuid, text []) TO neolayer_app;

-- A person's row.
CREATE OR REPLACE FUNCTION auth.admit_credentials() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.deleted_at IS NULL THEN
        PERFORM auth.require_over(OLD.tenant_id, OLD.id, ARRAY['users:update']);
    ELSE
        PERFORM auth.require_over(OLD.tenant_id, OLD.id, ARRAY['users:delete']);
    END IF;
    RETURN coalesce(NEW, OLD);
END
$$;
CREATE FUNCTION auth.admit_person() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM auth.require_one_of(ARRAY['users:create']);
    RETURN NEW;
END
$$;
CREATE TRIGGER admit_person BEFORE INSERT ON auth.users
FOR EACH ROW EXECUTE FUNCTION auth.admit_person();

-- What proves who a person is. Ending it is less than making it.
CREATE OR REPLACE FUNCTION auth.admit_proof() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        PERFORM auth.require_over(
            OLD.tenant_id, OLD.user_id,
            CASE TG_OP
                WHEN 'DELETE' THEN ARRAY['users:update', 'users:delete'] ELSE ARRAY['users:update']
            END
        );
    END IF;
    IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND OLD.user_id <> NEW.user_id) THEN
        PERFORM auth.require_over(NEW.tenant_id, NEW.user_id, ARRAY['users:update']);
    END IF;
    RETURN coalesce(NEW, OLD);
END
$$;
CREATE FUNCTION auth.admit_session() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ends boolean := TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND NEW.revoked_at IS NOT NULL
        AND to_jsonb(NEW) - '{revoked_at,revoked_reason,version}'::text[]
        = to_jsonb(OLD) - '{revoked_at,revoked_reason,version}'::text[]);
BEGIN
    IF ends THEN
        PERFORM auth.require_over(
            OLD.tenant_id, OLD.user_id, ARRAY['sessions:revoke', 'users:update', 'users:delete']
        );
        RETURN coalesce(NEW, OLD);
    END IF;
    IF TG_OP = 'UPDATE' THEN
        PERFORM auth.require_over(OLD.tenant_id, OLD.user_id, ARRAY['users:update']);
    END IF;
    IF TG_OP = 'INSERT' OR OLD.user_id <> NEW.user_id THEN
        PERFORM auth.require_over(NEW.tenant_id, NEW.user_id, ARRAY['users:update']);
    END IF;
    RETURN NEW;
END
$$;
DROP TRIGGER admit_proof ON auth.sessions;
CREATE TRIGGER admit_session BEFORE INSERT OR UPDATE OR DELETE ON auth.sessions
FOR EACH ROW EXECUTE FUNCTION auth.admit_session();
CREATE OR REPLACE FUNCTION auth.admit_refresh_token() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM auth.require_over(s.tenant_id, s.user_id, ARRAY['users:update'])
    FROM auth.sessions s
    WHERE (s.tenant_id, s.id) IN (
        (OLD.tenant_id, OLD.session_id), (NEW.tenant_id, NEW.session_id)
    );
    RETURN coalesce(NEW, OLD);
END
$$;

-- A grant, made, changed or taken back. Everybody may lay down what they were granted; what goes
-- with its grantee or its role was admitted there, and so was who granted it.
CREATE FUNCTION auth.goes_along(grant_kind text, before jsonb, after jsonb) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF after IS NOT NULL THEN
        RETURN after = before || '{"granted_by": null}' AND NOT EXISTS (
            SELECT FROM auth.users u
            WHERE u.tenant_id = (before ->> 'tenant_id')::uuid
                AND u.id = (before ->> 'granted_by')::uuid
        );
    END IF;
    RETURN NOT EXISTS (
        SELECT FROM auth.roles r
        WHERE r.scope_id = (before ->> 'role_scope_id')::uuid
            AND r.id = (before ->> 'role_id')::uuid
    ) OR NOT EXISTS (
        SELECT FROM auth.users u
        WHERE grant_kind = 'user' AND u.tenant_id = (before ->> 'tenant_id')::uuid
            AND u.id = (before ->> 'user_id')::uuid
        UNION ALL
        SELECT FROM auth.service_principals s
        WHERE grant_kind = 'service' AND s.tenant_id = (before ->> 'tenant_id')::uuid
            AND s.id = (before ->> 'service_id')::uuid
    );
END
$$;
GRANT EXECUTE ON FUNCTION auth.goes_along(text, jsonb, jsonb) TO neolayer_app;
CREATE OR REPLACE FUNCTION auth.admit_grant() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    before jsonb := to_jsonb(OLD);
BEGIN
    IF auth.acts_for_platform() THEN
        RETURN coalesce(NEW, OLD);
    END IF;
    IF TG_OP = 'DELETE'
        AND core.current_principal() = TG_ARGV[0] || ':' || (before ->> (TG_ARGV[0] || '_id'))
    THEN
        RETURN OLD;
    END IF;
    IF TG_OP <> 'INSERT' AND auth.goes_along(TG_ARGV[0], before, to_jsonb(NEW)) THEN
        RETURN coalesce(NEW, OLD);
    END IF;
    PERFORM auth.require_one_of(ARRAY['roles:grant']);
    IF TG_OP <> 'INSERT' THEN
        PERFORM auth.require_all_in(OLD.role_scope_id, OLD.role_id, clock_timestamp());
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM auth.require_all_in(NEW.role_scope_id, NEW.role_id, NEW.expires_at);
    END IF;
    RETURN coalesce(NEW, OLD);
END
$$;
DROP TRIGGER admit_grant ON auth.user_roles;
CREATE TRIGGER admit_grant BEFORE INSERT OR UPDATE OR DELETE ON auth.user_roles
FOR EACH ROW EXECUTE FUNCTION auth.admit_grant('user');
DROP TRIGGER admit_grant ON auth.service_roles;
CREATE TRIGGER admit_grant BEFORE INSERT OR UPDATE OR DELETE ON auth.service_roles
FOR EACH ROW EXECUTE FUNCTION auth.admit_grant('service');

-- What a role allows: who makes one fills it in the same transaction, who may change roles at any
-- time. STABLE, so that who narrows the role that they act by is judged by what they held before.
CREATE OR REPLACE FUNCTION auth.admit_permission() RETURNS trigger
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    missing text;
    role_made_at timestamptz;
BEGIN
    IF auth.acts_for_platform() THEN
        RETURN coalesce(NEW, OLD);
    END IF;
    SELECT r.created_at INTO role_made_at FROM auth.roles r
    WHERE (r.scope_id, r.id) = (
        coalesce(NEW.tenant_id, OLD.tenant_id), coalesce(NEW.role_id, OLD.role_id)
    );
    IF TG_OP = 'DELETE' AND role_made_at IS NULL THEN
        RETURN OLD;
    END IF;
    IF TG_OP <> 'INSERT' OR role_made_at IS DISTINCT FROM transaction_timestamp() THEN
        PERFORM auth.require_one_of(ARRAY['roles:update']);
    END IF;
    SELECT p.name INTO missing FROM auth.permissions p
    WHERE (p.id = NEW.permission_id AND auth.actor_lacks(p.resource, p.action, NULL))
        OR (p.id = OLD.permission_id AND auth.actor_lacks(p.resource, p.action, clock_timestamp()))
    ORDER BY p.name LIMIT 1;
    IF missing IS NOT NULL THEN
        PERFORM auth.refuse_escalation(missing);
    END IF;
    RETURN coalesce(NEW, OLD);
END
$$;
DROP TRIGGER admit_permission ON auth.role_permissions;
CREATE TRIGGER admit_permission BEFORE INSERT OR UPDATE OR DELETE ON auth.role_permissions
FOR EACH ROW EXECUTE FUNCTION auth.admit_permission();

-- A role: with it go all its grants, and by its name it is granted.
CREATE FUNCTION auth.admit_role() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF auth.acts_for_platform() OR (
        TG_OP = 'UPDATE'
        AND (OLD.tenant_id, OLD.id, OLD.name, OLD.description, OLD.is_system, OLD.created_at)
        IS NOT DISTINCT FROM
        (NEW.tenant_id, NEW.id, NEW.name, NEW.description, NEW.is_system, NEW.created_at)
    ) THEN
        RETURN coalesce(NEW, OLD);
    END IF;
    PERFORM auth.require_one_of(ARRAY[
        'roles:' || CASE TG_OP WHEN 'INSERT' THEN 'create' ELSE lower(TG_OP) END
    ]);
    IF TG_OP <> 'INSERT' THEN
        PERFORM auth.require_all_in(OLD.scope_id, OLD.id, clock_timestamp());
    END IF;
    RETURN coalesce(NEW, OLD);
END
$$;
CREATE TRIGGER admit_role BEFORE INSERT OR UPDATE OR DELETE ON auth.roles
FOR EACH ROW EXECUTE FUNCTION auth.admit_role();

-- A service: who stops it takes away all that it may do.
CREATE FUNCTION auth.admit_service() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF auth.acts_for_platform() THEN
        RETURN coalesce(NEW, OLD);
    END IF;
    PERFORM auth.require_one_of(ARRAY[
        'services:' || CASE TG_OP WHEN 'INSERT' THEN 'create' ELSE lower(TG_OP) END
    ]);
    IF TG_OP <> 'INSERT' THEN
        PERFORM auth.require_all_of_service(OLD.tenant_id, OLD.id, clock_timestamp());
    END IF;
    RETURN coalesce(NEW, OLD);
END
$$;
CREATE TRIGGER admit_service BEFORE INSERT OR UPDATE OR DELETE ON auth.service_principals
FOR EACH ROW EXECUTE FUNCTION auth.admit_service();

-- A key, as before, and: in every column, also when it goes, and of both services where it moves.
-- Keys that go with their service find none: its own trigger was asked.
CREATE OR REPLACE FUNCTION auth.admit_key() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        NEW.permissions := OLD.permissions;
    ELSIF TG_OP = 'INSERT' THEN
        NEW.permissions := auth.held_by_service(NEW.tenant_id, NEW.service_id);
    END IF;
    IF auth.acts_for_platform() OR (
        TG_OP = 'DELETE' AND NOT EXISTS (
            SELECT FROM auth.service_principals s
            WHERE (s.tenant_id, s.id) = (OLD.tenant_id, OLD.service_id)
        )
    ) THEN
        RETURN coalesce(NEW, OLD);
    END IF;
    PERFORM auth.require_one_of(ARRAY['services:update']);
    IF TG_OP <> 'INSERT' THEN
        PERFORM auth.require_all_of_service(OLD.tenant_id, OLD.service_id, clock_timestamp());
    END IF;
    IF TG_OP <> 'DELETE' THEN
        PERFORM auth.require_all_of_service(NEW.tenant_id, NEW.service_id, NEW.expires_at);
    END IF;
    RETURN coalesce(NEW, OLD);
END
$$;
DROP TRIGGER admit_key ON auth.api_keys;
CREATE TRIGGER admit_key BEFORE INSERT OR UPDATE OR DELETE ON auth.api_keys
FOR EACH ROW EXECUTE FUNCTION auth.admit_key();

-- migrate:down
-- Nothing is lost; the rules are as narrow as they were.
DROP TRIGGER admit_key ON auth.api_keys;
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
CREATE TRIGGER admit_key
BEFORE INSERT OR UPDATE OF service_id, key_hash, expires_at, permissions ON auth.api_keys
FOR EACH ROW EXECUTE FUNCTION auth.admit_key();
DROP TRIGGER admit_service ON auth.service_principals;
DROP FUNCTION auth.admit_service();
DROP TRIGGER admit_role ON auth.roles;
DROP FUNCTION auth.admit_role();
DROP TRIGGER admit_permission ON auth.role_permissions;
CREATE OR REPLACE FUNCTION auth.admit_permission() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    missing text;
BEGIN
    SELECT p.name INTO missing FROM auth.permissions p
    WHERE p.id = NEW.permission_id AND auth.actor_lacks(p.resource, p.action, NULL);
    IF missing IS NOT NULL THEN
        PERFORM auth.refuse_escalation(missing);
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER admit_permission BEFORE INSERT OR UPDATE ON auth.role_permissions
FOR EACH ROW EXECUTE FUNCTION auth.admit_permission();
DROP TRIGGER admit_grant ON auth.service_roles;
DROP TRIGGER admit_grant ON auth.user_roles;
CREATE OR REPLACE FUNCTION auth.admit_grant() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    missing text;
BEGIN
    IF auth.actor_lacks('roles', 'grant', clock_timestamp()) THEN
        PERFORM auth.refuse_escalation('roles:grant');
    END IF;
    SELECT p.name INTO missing
    FROM auth.role_permissions rp
    JOIN auth.permissions p ON p.id = rp.permission_id
    WHERE rp.scope_id = NEW.role_scope_id AND rp.role_id = NEW.role_id
        AND auth.actor_lacks(p.resource, p.action, NEW.expires_at)
    ORDER BY p.name LIMIT 1;
    IF missing IS NOT NULL THEN
        PERFORM auth.refuse_escalation(missing);
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER admit_grant
BEFORE INSERT OR UPDATE OF user_id, role_id, role_scope_id, expires_at ON auth.user_roles
FOR EACH ROW EXECUTE FUNCTION auth.admit_grant();
CREATE TRIGGER admit_grant
BEFORE INSERT OR UPDATE OF service_id, role_id, role_scope_id, expires_at ON auth.service_roles
FOR EACH ROW EXECUTE FUNCTION auth.admit_grant();
DROP FUNCTION auth.goes_along(text, jsonb, jsonb);
CREATE OR REPLACE FUNCTION auth.admit_refresh_token() RETURNS trigger
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
DROP TRIGGER admit_session ON auth.sessions;
DROP FUNCTION auth.admit_session();
CREATE TRIGGER admit_proof BEFORE INSERT OR UPDATE OR DELETE ON auth.sessions
FOR EACH ROW EXECUTE FUNCTION auth.admit_proof();
CREATE OR REPLACE FUNCTION auth.admit_proof() RETURNS trigger
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
DROP TRIGGER admit_person ON auth.users;
DROP FUNCTION auth.admit_person();
CREATE OR REPLACE FUNCTION auth.admit_credentials() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM auth.require_all_of(OLD.tenant_id, OLD.id);
    RETURN coalesce(NEW, OLD);
END
$$;
DROP FUNCTION auth.require_over(uuid, uuid, text []);
DROP FUNCTION auth.require_all_of_service(uuid, uuid, timestamptz);
DROP FUNCTION auth.require_all_in(uuid, uuid, timestamptz);
DROP FUNCTION auth.require_one_of(text []);
DROP FUNCTION auth.acts_for_platform();
