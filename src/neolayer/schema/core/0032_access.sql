-- migrate:up
-- A session's access token is short-lived and renewed by the refresh token; expires_at is the end of
-- the session whatever happens. Sessions from before this must refresh first.
ALTER TABLE auth.sessions
ADD COLUMN access_expires_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
ADD COLUMN idle_timeout interval NOT NULL DEFAULT '1 hour',
ADD COLUMN last_ip_address inet,
ADD COLUMN revoked_reason varchar(50);

-- A refresh token's child is derived from the token itself and this salt, so that a lost answer can
-- be given again although only hashes are stored. It goes when the child is used.
ALTER TABLE auth.refresh_tokens ADD COLUMN child_salt bytea;

-- Programs of a tenant: principals that hold roles and prove themselves by keys.
CREATE TABLE auth.service_principals (
    tenant_id uuid NOT NULL REFERENCES core.tenants (id),
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    name varchar(100) NOT NULL,
    description text,
    status varchar(50) NOT NULL DEFAULT 'active',
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT service_principals_name_unique UNIQUE (tenant_id, name),
    CONSTRAINT service_principals_name_check CHECK (core.is_canonical(name)),
    CONSTRAINT service_principals_status_check CHECK (status IN ('active', 'disabled'))
);
CREATE TRIGGER touch BEFORE UPDATE ON auth.service_principals
FOR EACH ROW EXECUTE FUNCTION core.touch_updated_at();

-- Their keys, as hashes. last_used_at moves once a minute, not with every use.
CREATE TABLE auth.api_keys (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    service_id uuid NOT NULL,
    key_hash varchar(64) COLLATE "C" NOT NULL CHECK (core.is_hex(key_hash, 64)),
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz,
    last_used_at timestamptz,
    last_ip_address inet,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT api_keys_hash_unique UNIQUE (tenant_id, key_hash),
    CONSTRAINT api_keys_service_fkey FOREIGN KEY (tenant_id, service_id)
    REFERENCES auth.service_principals (tenant_id, id) ON DELETE CASCADE
);
-- The keys of a service.
CREATE INDEX idx_api_keys_service ON auth.api_keys (tenant_id, service_id);

-- Which service has which role; the same rules as for people.
CREATE TABLE auth.service_roles (
    tenant_id uuid NOT NULL,
    service_id uuid NOT NULL,
    role_id uuid NOT NULL,
    role_scope_id uuid NOT NULL,
    granted_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    granted_by uuid,
    expires_at timestamptz,
    PRIMARY KEY (tenant_id, service_id, role_id),
    CONSTRAINT service_roles_scope_check CHECK (
        role_scope_id IN (tenant_id, '00000000-0000-0000-0000-000000000000'::uuid)
    ),
    CONSTRAINT service_roles_service_fkey FOREIGN KEY (tenant_id, service_id)
    REFERENCES auth.service_principals (tenant_id, id) ON DELETE CASCADE,
    CONSTRAINT service_roles_role_fkey FOREIGN KEY (role_scope_id, role_id)
    REFERENCES auth.roles (scope_id, id) ON DELETE CASCADE,
    CONSTRAINT service_roles_granted_by_fkey FOREIGN KEY (tenant_id, granted_by)
    REFERENCES auth.users (tenant_id, id) ON DELETE SET NULL (granted_by)
);
-- The foreign keys to the role and to who granted it.
CREATE INDEX idx_service_roles_role ON auth.service_roles (role_scope_id, role_id);
CREATE INDEX idx_service_roles_granted_by ON auth.service_roles (tenant_id, granted_by);

-- Each tenant sees its own.
ALTER TABLE auth.service_principals ENABLE ROW LEVEL SECURITY;
ALTER TABLE auth.service_principals FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON auth.service_principals TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
ALTER TABLE auth.api_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE auth.api_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON auth.api_keys TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
ALTER TABLE auth.service_roles ENABLE ROW LEVEL SECURITY;
ALTER TABLE auth.service_roles FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON auth.service_roles TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));

-- The application works on these; operators see all but what proves who one is.
GRANT SELECT, INSERT, UPDATE, DELETE ON
auth.service_principals, auth.api_keys, auth.service_roles TO neolayer_app;
GRANT SELECT ON
auth.service_principals, auth.api_keys, auth.service_roles TO neolayer_backup;
GRANT SELECT ON auth.service_principals, auth.service_roles TO neolayer_operator;
GRANT SELECT (
    tenant_id, id, service_id, created_at, expires_at, revoked_at, last_used_at, last_ip_address
) ON auth.api_keys TO neolayer_operator;
GRANT SELECT (
    access_expires_at, idle_timeout, last_ip_address, revoked_reason
) ON auth.sessions TO neolayer_operator;

-- Nobody grants what they do not hold, nor for longer than they hold it. Whether the principal of
-- this transaction lacks a permission until then (NULL: for ever). Operators and the layer's own
-- work act for the platform and lack nothing; no context at all is a role that bypasses row
-- security, such as a restore.
CREATE FUNCTION auth.actor_lacks(needed_resource text, needed_action text, needed_until timestamptz)
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
GRANT EXECUTE ON FUNCTION auth.actor_lacks(text, text, timestamptz) TO neolayer_app;

-- The one way to say so; the missing permission is the error's detail.
CREATE FUNCTION auth.refuse_escalation(missing text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'nobody gives what they do not hold'
        USING ERRCODE = 'insufficient_privilege', CONSTRAINT = 'no_escalation', DETAIL = missing;
END
$$;
GRANT EXECUTE ON FUNCTION auth.refuse_escalation(text) TO neolayer_app;

-- A grant needs roles:grant now, and all that the role allows for as long as it is granted.
CREATE FUNCTION auth.admit_grant() RETURNS trigger
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

-- Putting a permission into a role gives it to all who have the role.
CREATE FUNCTION auth.admit_permission() RETURNS trigger
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

-- Whoever has a service's key can do what the service can, so making one is a grant of all of it.
CREATE FUNCTION auth.admit_key() RETURNS trigger
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

-- Whoever sets another's password, address or second factor can come in as them, so that too is a
-- grant of all they hold; and whoever suspends or deletes them takes all of it away. Letters and
-- logins act as nobody or as the person, and prove it elsewhere.
CREATE FUNCTION auth.admit_credentials() RETURNS trigger
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

-- A tenant's own role may not pass for one of the platform's.
CREATE FUNCTION auth.keep_names_apart() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NEW.tenant_id IS NOT NULL
        AND EXISTS (SELECT FROM auth.roles r WHERE r.tenant_id IS NULL AND r.name = NEW.name)
    THEN
        RAISE EXCEPTION 'a role of the platform has this name'
            USING ERRCODE = 'unique_violation', CONSTRAINT = 'roles_name_unique';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER keep_names_apart BEFORE INSERT OR UPDATE OF name, tenant_id ON auth.roles
FOR EACH ROW EXECUTE FUNCTION auth.keep_names_apart();

-- A tenant that has owners keeps one: active, living, without an end to the grant. The lock on the
-- tenant's row lets two who leave at once see each other; under REPEATABLE READ they would not.
CREATE FUNCTION auth.require_an_owner(tenant uuid) RETURNS void
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
GRANT EXECUTE ON FUNCTION auth.require_an_owner(uuid) TO neolayer_app;

-- When an owner's grant goes, or gets an end.
CREATE FUNCTION auth.keep_an_owner() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM auth.require_an_owner(OLD.tenant_id);
    RETURN NULL;
END
$$;
CREATE TRIGGER keep_an_owner AFTER DELETE OR UPDATE ON auth.user_roles
FOR EACH ROW WHEN (
    OLD.role_id = '00000000-0000-4000-8000-000000000001' AND OLD.expires_at IS NULL
) EXECUTE FUNCTION auth.keep_an_owner();

-- When an owner is suspended or leaves.
CREATE FUNCTION auth.keep_an_active_owner() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (
        SELECT FROM auth.user_roles g
        WHERE g.tenant_id = OLD.tenant_id AND g.user_id = OLD.id AND g.expires_at IS NULL
            AND g.role_id = '00000000-0000-4000-8000-000000000001'
    ) THEN
        PERFORM auth.require_an_owner(OLD.tenant_id);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER keep_an_active_owner AFTER UPDATE OF status, deleted_at ON auth.users
FOR EACH ROW WHEN (
    OLD.status = 'active' AND OLD.deleted_at IS NULL
    AND (NEW.status <> 'active' OR NEW.deleted_at IS NOT NULL)
) EXECUTE FUNCTION auth.keep_an_active_owner();

-- The catalogue of permissions, with the wildcards as entries of their own: everything, one action
-- on every resource, every action on one resource.
INSERT INTO auth.permissions (resource, action, name, description)
SELECT
    split_part(entry, ':', 1) AS resource,
    split_part(entry, ':', 2) AS action,
    entry AS name,
    description
FROM (VALUES
    ('tenants:read', 'see the tenant, its tier, settings and limits'),
    ('tenants:update', 'change the name and settings'),
    ('tenants:delete', 'end the tenant'),
    ('users:read', 'see people'),
    ('users:create', 'invite and add people'),
    ('users:update', 'change, suspend and reactivate people'),
    ('users:delete', 'remove people'),
    ('sessions:read', 'see who is logged in, and from where'),
    ('sessions:revoke', 'end sessions of others'),
    ('roles:read', 'see roles, grants and why access was given'),
    ('roles:create', 'make roles'),
    ('roles:update', 'change what roles allow'),
    ('roles:delete', 'delete roles'),
    ('roles:grant', 'grant and take back roles'),
    ('services:read', 'see services and their keys'),
    ('services:create', 'make services'),
    ('services:update', 'disable services, make and revoke their keys'),
    ('services:delete', 'delete services'),
    ('wallets:read', 'see wallets, balances and movements'),
    ('wallets:create', 'add wallets and import keys'),
    ('wallets:update', 'rename wallets and change their state'),
    ('wallets:delete', 'remove wallets'),
    ('wallets:sign', 'sign transactions'),
    ('wallets:export', 'take a private key out'),
    ('attestations:read', 'see attestations'),
    ('attestations:create', 'have a quote verified'),
    ('attestations:update', 'change what quotes are accepted'),
    ('sealed_data:read', 'read sealed blobs'),
    ('sealed_data:create', 'store sealed blobs'),
    ('sealed_data:update', 'replace sealed blobs'),
    ('sealed_data:delete', 'delete sealed blobs'),
    ('computations:read', 'see computations and their results'),
    ('computations:create', 'ask for computations'),
    ('computations:update', 'run and cancel computations'),
    ('audit:read', 'read the audit log'),
    ('audit:verify', 'check the audit log against its seals'),
    ('chain:read', 'read blocks, transactions, logs and contracts'),
    ('events:read', 'read events'),
    ('events:create', 'append events'),
    ('documents:read', 'read documents'),
    ('documents:create', 'store documents'),
    ('documents:update', 'replace documents'),
    ('documents:delete', 'delete documents'),
    ('files:read', 'read files'),
    ('files:create', 'store files'),
    ('files:delete', 'delete files'),
    ('logs:read', 'search log records'),
    ('logs:create', 'write log records'),
    ('metrics:read', 'read metrics'),
    ('metrics:create', 'write samples'),
    ('analytics:read', 'ask analytic questions')
) AS catalogue (entry, description);
INSERT INTO auth.permissions (resource, action, name, description)
SELECT
    resource,
    '*' AS action,
    resource || ':*' AS name,
    'everything about ' || resource AS description
FROM auth.permissions
GROUP BY resource;
INSERT INTO auth.permissions (resource, action, name, description)
SELECT
    '*' AS resource,
    action,
    '*:' || action AS name,
    action || ', of everything' AS description
FROM auth.permissions
WHERE action <> '*'
GROUP BY action;
INSERT INTO auth.permissions (resource, action, name, description)
VALUES ('*', '*', '*', 'everything');

-- The platform's roles, known by their ids in code. They have no tenant, so they are written by who
-- bypasses row security.
SET LOCAL ROLE neolayer_migrator;
INSERT INTO auth.roles (id, name, description, is_system)
VALUES
('00000000-0000-4000-8000-000000000001', 'owner', 'Everything; a tenant keeps one.', TRUE),
('00000000-0000-4000-8000-000000000002', 'admin', 'People, roles, services, data; no keys.', TRUE),
('00000000-0000-4000-8000-000000000003', 'member', 'Daily work with data.', TRUE),
('00000000-0000-4000-8000-000000000004', 'auditor', 'Reads everything, changes nothing.', TRUE),
('00000000-0000-4000-8000-000000000005', 'signer', 'Signs with the wallets.', TRUE),
('00000000-0000-4000-8000-000000000006', 'service', 'A program that feeds and reads.', TRUE);
INSERT INTO auth.role_permissions (role_id, permission_id)
SELECT
    r.id AS role_id,
    p.id AS permission_id
FROM (VALUES
    ('owner', ARRAY['*']),
    ('admin', ARRAY[
        '*:read', 'tenants:update', 'users:*', 'sessions:*', 'roles:*', 'services:*', 'audit:*',
        'wallets:create', 'wallets:update', 'attestations:*', 'sealed_data:*', 'computations:*',
        'events:*', 'documents:*', 'files:*', 'logs:*', 'metrics:*', 'analytics:*', 'chain:*'
    ]),
    ('member', ARRAY[
        'tenants:read', 'users:read', 'wallets:read', 'attestations:read', 'computations:read',
        'computations:create', 'chain:read', 'events:read', 'events:create', 'documents:read',
        'documents:create', 'documents:update', 'files:read', 'files:create', 'logs:read',
        'metrics:read', 'analytics:read'
    ]),
    ('auditor', ARRAY['*:read', 'audit:verify']),
    ('signer', ARRAY['wallets:read', 'wallets:sign', 'chain:read']),
    ('service', ARRAY[
        'wallets:read', 'attestations:read', 'computations:read', 'computations:create',
        'chain:read', 'events:read', 'events:create', 'documents:read', 'documents:create',
        'documents:update', 'files:read', 'files:create', 'logs:create', 'metrics:create',
        'analytics:read'
    ])
) AS allowed (role, permissions)
JOIN auth.roles r ON r.name = allowed.role AND r.tenant_id IS NULL
JOIN auth.permissions p ON p.name = ANY (allowed.permissions);
SET LOCAL ROLE neolayer_owner;

-- migrate:down
-- A way back while there is nothing to lose; the platform's own rows are written again.
SELECT neolayer_schema.refuse_to_lose(
    'auth.service_principals', 'auth.user_roles', 'auth.sessions'
);
SET LOCAL ROLE neolayer_migrator;
DELETE FROM auth.roles WHERE tenant_id IS NULL;
SET LOCAL ROLE neolayer_owner;
SELECT neolayer_schema.refuse_to_lose('auth.roles');
DELETE FROM auth.permissions;
DROP TRIGGER keep_an_active_owner ON auth.users;
DROP TRIGGER admit_credentials ON auth.users;
DROP TRIGGER keep_an_owner ON auth.user_roles;
DROP TRIGGER keep_names_apart ON auth.roles;
DROP TRIGGER admit_permission ON auth.role_permissions;
DROP TRIGGER admit_grant ON auth.user_roles;
DROP TABLE auth.service_roles;
DROP TABLE auth.api_keys;
DROP TABLE auth.service_principals;
DROP FUNCTION auth.keep_an_active_owner();
DROP FUNCTION auth.keep_an_owner();
DROP FUNCTION auth.require_an_owner(uuid);
DROP FUNCTION auth.keep_names_apart();
DROP FUNCTION auth.admit_credentials();
DROP FUNCTION auth.admit_key();
DROP FUNCTION auth.admit_permission();
DROP FUNCTION auth.admit_grant();
DROP FUNCTION auth.refuse_escalation(text);
DROP FUNCTION auth.actor_lacks(text, text, timestamptz);
ALTER TABLE auth.refresh_tokens DROP COLUMN child_salt;
ALTER TABLE auth.sessions
DROP COLUMN access_expires_at,
DROP COLUMN idle_timeout,
DROP COLUMN last_ip_address,
DROP COLUMN revoked_reason;
