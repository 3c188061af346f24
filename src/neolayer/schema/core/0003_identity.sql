-- migrate:up
-- People. Keys start with the tenant, so that a reference can never reach into another tenant and
-- no error tells that a row exists there.
-- mfa_secret is an envelope-encrypted seed; mfa_last_step is what makes a code usable once.
CREATE TABLE auth.users (
    tenant_id uuid NOT NULL REFERENCES core.tenants (id),
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    email varchar(255) NOT NULL,
    username varchar(100) NOT NULL,
    password_hash varchar(255) NOT NULL,
    mfa_secret varchar(255),
    mfa_enabled boolean NOT NULL DEFAULT FALSE,
    email_verified boolean NOT NULL DEFAULT FALSE,
    status varchar(50) NOT NULL DEFAULT 'active',
    last_login_at timestamptz,
    failed_login_attempts int NOT NULL DEFAULT 0,
    locked_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    deleted_at timestamptz,
    mfa_key_id varchar(100),
    mfa_last_step bigint,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT users_email_check CHECK (
        core.is_canonical(email) AND email ~ '^[^@]+@[^@]+$' AND octet_length(email) <= 320
    ),
    CONSTRAINT users_username_check CHECK (core.is_canonical(username)),
    CONSTRAINT users_status_check CHECK (
        status IN ('active', 'inactive', 'locked', 'suspended')
    ),
    CONSTRAINT users_attempts_check CHECK (failed_login_attempts >= 0),
    CONSTRAINT users_mfa_check CHECK (
        (mfa_secret IS NULL) = (mfa_key_id IS NULL) AND (mfa_secret IS NOT NULL OR NOT mfa_enabled)
    )
);

-- Unique among those who are here: who left may come back. These also serve the look-ups for which
-- the specification has idx_users_email, idx_users_tenant and idx_users_active.
CREATE UNIQUE INDEX users_email_unique ON auth.users (tenant_id, email) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX users_username_unique ON auth.users (tenant_id, username)
WHERE deleted_at IS NULL;
CREATE TRIGGER touch BEFORE UPDATE ON auth.users
FOR EACH ROW EXECUTE FUNCTION core.touch_updated_at();

-- Sessions; version rises with every change, so that a cached copy can be told from a stale one.
CREATE TABLE auth.sessions (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL,
    token_hash varchar(255) COLLATE "C" NOT NULL CHECK (core.is_hex(token_hash, 64)),
    ip_address inet NOT NULL,
    user_agent text,
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    last_seen_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    version int NOT NULL DEFAULT 1 CHECK (version > 0),
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT sessions_token_unique UNIQUE (tenant_id, token_hash),
    CONSTRAINT sessions_user_fkey FOREIGN KEY (tenant_id, user_id)
    REFERENCES auth.users (tenant_id, id) ON DELETE CASCADE
);
-- All sessions of one person: to show them, and to end them.
CREATE INDEX idx_sessions_user ON auth.sessions (tenant_id, user_id);
-- What has run out and may be swept.
CREATE INDEX idx_sessions_expires ON auth.sessions (expires_at) WHERE revoked_at IS NULL;

-- Refresh tokens. A session is a family; a token has one child at most, so a token used twice shows
-- that somebody else had it. The specification's one hash a session cannot tell.
CREATE TABLE auth.refresh_tokens (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    session_id uuid NOT NULL,
    parent_id uuid,
    token_hash varchar(255) COLLATE "C" NOT NULL CHECK (core.is_hex(token_hash, 64)),
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT refresh_tokens_hash_unique UNIQUE (tenant_id, token_hash),
    CONSTRAINT refresh_tokens_one_child UNIQUE (tenant_id, parent_id),
    CONSTRAINT refresh_tokens_session_fkey FOREIGN KEY (tenant_id, session_id)
    REFERENCES auth.sessions (tenant_id, id) ON DELETE CASCADE,
    CONSTRAINT refresh_tokens_parent_fkey FOREIGN KEY (tenant_id, parent_id)
    REFERENCES auth.refresh_tokens (tenant_id, id) ON DELETE CASCADE
);
-- The family of a session.
CREATE INDEX idx_refresh_tokens_session ON auth.refresh_tokens (tenant_id, session_id);

-- One-time codes for who lost the second factor; stored as hashes, used once.
CREATE TABLE auth.recovery_codes (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL,
    code_hash varchar(255) NOT NULL,
    used_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT recovery_codes_unique UNIQUE (tenant_id, user_id, code_hash),
    CONSTRAINT recovery_codes_user_fkey FOREIGN KEY (tenant_id, user_id)
    REFERENCES auth.users (tenant_id, id) ON DELETE CASCADE
);

-- What can be allowed: the platform's catalogue, the same for all tenants.
CREATE TABLE auth.permissions (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name varchar(100) NOT NULL UNIQUE,
    resource varchar(100) NOT NULL,
    action varchar(50) NOT NULL,
    description text,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    CONSTRAINT permissions_unique UNIQUE (resource, action)
);

-- Roles: a tenant's own, and the platform's (no tenant, is_system). scope_id puts both into one key
-- that starts with the tenant, or with the nil UUID for the platform.
CREATE TABLE auth.roles (
    tenant_id uuid REFERENCES core.tenants (id),
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    name varchar(100) NOT NULL,
    description text,
    is_system boolean NOT NULL DEFAULT FALSE,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    scope_id uuid NOT NULL GENERATED ALWAYS AS (
        coalesce(tenant_id, '00000000-0000-0000-0000-000000000000'::uuid)
    ) STORED,
    PRIMARY KEY (scope_id, id),
    CONSTRAINT roles_name_unique UNIQUE (scope_id, name),
    CONSTRAINT roles_system_check CHECK (is_system = (tenant_id IS NULL))
);
-- The foreign key to the tenant; scope_id leads the other two.
CREATE INDEX idx_roles_tenant ON auth.roles (tenant_id);
CREATE TRIGGER touch BEFORE UPDATE ON auth.roles
FOR EACH ROW EXECUTE FUNCTION core.touch_updated_at();

-- What a role allows.
CREATE TABLE auth.role_permissions (
    tenant_id uuid REFERENCES core.tenants (id),
    role_id uuid NOT NULL,
    permission_id uuid NOT NULL REFERENCES auth.permissions (id) ON DELETE CASCADE,
    scope_id uuid NOT NULL GENERATED ALWAYS AS (
        coalesce(tenant_id, '00000000-0000-0000-0000-000000000000'::uuid)
    ) STORED,
    PRIMARY KEY (scope_id, role_id, permission_id),
    CONSTRAINT role_permissions_role_fkey FOREIGN KEY (scope_id, role_id)
    REFERENCES auth.roles (scope_id, id) ON DELETE CASCADE
);
-- The other two foreign keys.
CREATE INDEX idx_role_permissions_permission ON auth.role_permissions (permission_id);
CREATE INDEX idx_role_permissions_tenant ON auth.role_permissions (tenant_id);

-- Who has which role: of the own tenant or of the platform, never of another tenant (the
-- specification accepts that). Who granted it may leave without taking the grant along.
CREATE TABLE auth.user_roles (
    tenant_id uuid NOT NULL,
    user_id uuid NOT NULL,
    role_id uuid NOT NULL,
    role_scope_id uuid NOT NULL,
    granted_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    granted_by uuid,
    expires_at timestamptz,
    PRIMARY KEY (tenant_id, user_id, role_id),
    CONSTRAINT user_roles_scope_check CHECK (
        role_scope_id IN (tenant_id, '00000000-0000-0000-0000-000000000000'::uuid)
    ),
    CONSTRAINT user_roles_user_fkey FOREIGN KEY (tenant_id, user_id)
    REFERENCES auth.users (tenant_id, id) ON DELETE CASCADE,
    CONSTRAINT user_roles_role_fkey FOREIGN KEY (role_scope_id, role_id)
    REFERENCES auth.roles (scope_id, id) ON DELETE CASCADE,
    CONSTRAINT user_roles_granted_by_fkey FOREIGN KEY (tenant_id, granted_by)
    REFERENCES auth.users (tenant_id, id) ON DELETE SET NULL (granted_by)
);
-- The foreign keys to the role and to who granted it.
CREATE INDEX idx_user_roles_role ON auth.user_roles (role_scope_id, role_id);
CREATE INDEX idx_user_roles_granted_by ON auth.user_roles (tenant_id, granted_by);

-- Each tenant sees its own rows, and of roles the platform's too, which it cannot change.
ALTER TABLE auth.users ENABLE ROW LEVEL SECURITY;
ALTER TABLE auth.users FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON auth.users TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
ALTER TABLE auth.sessions ENABLE ROW LEVEL SECURITY;
ALTER TABLE auth.sessions FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON auth.sessions TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
ALTER TABLE auth.refresh_tokens ENABLE ROW LEVEL SECURITY;
ALTER TABLE auth.refresh_tokens FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON auth.refresh_tokens TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
ALTER TABLE auth.recovery_codes ENABLE ROW LEVEL SECURITY;
ALTER TABLE auth.recovery_codes FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON auth.recovery_codes TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
ALTER TABLE auth.user_roles ENABLE ROW LEVEL SECURITY;
ALTER TABLE auth.user_roles FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON auth.user_roles TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
ALTER TABLE auth.roles ENABLE ROW LEVEL SECURITY;
ALTER TABLE auth.roles FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON auth.roles TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
CREATE POLICY platform_roles ON auth.roles FOR SELECT TO neolayer_app, neolayer_owner
USING (tenant_id IS NULL AND (SELECT core.current_tenant()) IS NOT NULL);
ALTER TABLE auth.role_permissions ENABLE ROW LEVEL SECURITY;
ALTER TABLE auth.role_permissions FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON auth.role_permissions TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
CREATE POLICY platform_roles ON auth.role_permissions FOR SELECT TO neolayer_app, neolayer_owner
USING (tenant_id IS NULL AND (SELECT core.current_tenant()) IS NOT NULL);

-- The application works on these; operators and backups read.
GRANT SELECT, INSERT, UPDATE, DELETE ON
auth.users,
auth.sessions,
auth.refresh_tokens,
auth.recovery_codes,
auth.roles,
auth.role_permissions,
auth.user_roles
TO neolayer_app;
GRANT SELECT ON auth.permissions TO neolayer_app;
GRANT SELECT ON
auth.users,
auth.sessions,
auth.refresh_tokens,
auth.recovery_codes,
auth.permissions,
auth.roles,
auth.role_permissions,
auth.user_roles
TO neolayer_backup;

-- The operator sees who is there and what they may, over all tenants, but nothing that proves who
-- one is: no password, seed, token or recovery code, not even as a hash.
GRANT SELECT ON
auth.permissions,
auth.roles,
auth.role_permissions,
auth.user_roles
TO neolayer_operator;
GRANT SELECT (
    tenant_id, id, email, username, mfa_enabled, email_verified, status, last_login_at,
    failed_login_attempts, locked_until, created_at, updated_at, deleted_at, mfa_key_id
) ON auth.users TO neolayer_operator;
GRANT SELECT (
    tenant_id, id, user_id, ip_address, user_agent, expires_at, revoked_at, created_at,
    last_seen_at, version
) ON auth.sessions TO neolayer_operator;
GRANT SELECT (
    tenant_id, id, session_id, parent_id, created_at, expires_at, used_at
) ON auth.refresh_tokens TO neolayer_operator;
GRANT SELECT (
    tenant_id, id, user_id, used_at, created_at
) ON auth.recovery_codes TO neolayer_operator;

-- migrate:down
-- A way back while there is nothing to lose.
SELECT neolayer_schema.refuse_to_lose('auth.users', 'auth.roles', 'auth.permissions');
DROP TABLE auth.user_roles;
DROP TABLE auth.role_permissions;
DROP TABLE auth.roles;
DROP TABLE auth.permissions;
DROP TABLE auth.recovery_codes;
DROP TABLE auth.refresh_tokens;
DROP TABLE auth.sessions;
DROP TABLE auth.users;
