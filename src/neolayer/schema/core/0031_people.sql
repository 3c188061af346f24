-- migrate:up
-- A login takes a name that is an address or a user name; a user name that looks like an address
-- could take over what belongs to another.
ALTER TABLE auth.users ADD CONSTRAINT users_username_no_address_check
CHECK (username !~ '@');

-- Devices from which somebody has logged in before, by a token that only the device has. They have
-- a budget of failures of their own, so that strangers cannot use it up.
CREATE TABLE auth.known_devices (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL,
    token_hash varchar(255) COLLATE "C" NOT NULL CHECK (core.is_hex(token_hash, 64)),
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    last_seen_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT known_devices_token_unique UNIQUE (tenant_id, token_hash),
    CONSTRAINT known_devices_user_fkey FOREIGN KEY (tenant_id, user_id)
    REFERENCES auth.users (tenant_id, id) ON DELETE CASCADE
);
-- A person's devices, to forget them all.
CREATE INDEX idx_known_devices_user ON auth.known_devices (tenant_id, user_id);
-- What has run out.
CREATE INDEX idx_known_devices_expires ON auth.known_devices (tenant_id, expires_at);

-- Failed logins in a row, by who is tried from where. The subject is a digest, so that the table
-- names neither people nor addresses, and so that an unknown name costs the same row as a known one.
CREATE TABLE auth.login_failures (
    tenant_id uuid NOT NULL REFERENCES core.tenants (id),
    subject bytea NOT NULL CHECK (octet_length(subject) = 32),
    kind varchar(20) NOT NULL,
    failures int NOT NULL DEFAULT 0 CHECK (failures >= 0),
    last_failed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (tenant_id, subject),
    CONSTRAINT login_failures_kind_check CHECK (
        kind IN ('pair', 'source', 'account', 'nobody', 'device', 'proof')
    )
);
-- What is old enough to forget; an account's own counter is kept until somebody gets in.
CREATE INDEX idx_login_failures_old ON auth.login_failures (tenant_id, last_failed_at)
WHERE kind <> 'account';

-- What is sent to an e-mail address and comes back once: the address it was sent to stands beside
-- it, so that it proves nothing about another.
CREATE TABLE auth.one_time_tokens (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    user_id uuid NOT NULL,
    purpose varchar(50) NOT NULL,
    email varchar(255) NOT NULL CHECK (core.is_canonical(email)),
    token_hash varchar(255) COLLATE "C" NOT NULL CHECK (core.is_hex(token_hash, 64)),
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT one_time_tokens_hash_unique UNIQUE (tenant_id, token_hash),
    CONSTRAINT one_time_tokens_purpose_check CHECK (
        purpose IN ('email_verification', 'password_reset')
    ),
    CONSTRAINT one_time_tokens_user_fkey FOREIGN KEY (tenant_id, user_id)
    REFERENCES auth.users (tenant_id, id) ON DELETE CASCADE
);
-- A person's outstanding tokens.
CREATE INDEX idx_one_time_tokens_user ON auth.one_time_tokens (tenant_id, user_id);
-- What has run out.
CREATE INDEX idx_one_time_tokens_expires ON auth.one_time_tokens (tenant_id, expires_at);

-- Each tenant sees its own rows.
ALTER TABLE auth.known_devices ENABLE ROW LEVEL SECURITY;
ALTER TABLE auth.known_devices FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON auth.known_devices TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
ALTER TABLE auth.login_failures ENABLE ROW LEVEL SECURITY;
ALTER TABLE auth.login_failures FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON auth.login_failures TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
ALTER TABLE auth.one_time_tokens ENABLE ROW LEVEL SECURITY;
ALTER TABLE auth.one_time_tokens FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON auth.one_time_tokens TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));

-- The application works on these, backups read; operators see all but what proves who one is.
GRANT SELECT, INSERT, UPDATE, DELETE ON
auth.known_devices, auth.login_failures, auth.one_time_tokens
TO neolayer_app;
GRANT SELECT ON auth.known_devices, auth.login_failures, auth.one_time_tokens TO neolayer_backup;
GRANT SELECT (
    tenant_id, id, user_id, created_at, last_seen_at, expires_at
) ON auth.known_devices TO neolayer_operator;
GRANT SELECT (
    tenant_id, kind, failures, last_failed_at
) ON auth.login_failures TO neolayer_operator;
GRANT SELECT (
    tenant_id, id, user_id, purpose, created_at, expires_at, used_at
) ON auth.one_time_tokens TO neolayer_operator;

-- migrate:down
-- What is lost here is made again by the next login or the next letter.
DROP TABLE auth.one_time_tokens;
DROP TABLE auth.login_failures;
DROP TABLE auth.known_devices;
ALTER TABLE auth.users DROP CONSTRAINT users_username_no_address_check;
