-- check_session --
-- Who bears an access token, what they may do and for how many seconds that holds at most; no row
-- where the token is unknown or ended, or the person or tenant is gone. The time of the last use
-- moves once a minute, and never waits for whoever is changing the session. Each step looks rows up
-- by the key the step before gave: the plan does not depend on statistics.
WITH living AS MATERIALIZED (
    SELECT
        s.tenant_id,
        s.id,
        s.user_id,
        s.last_seen_at + least(interval '1 minute', s.idle_timeout / 4) AS touch_at,
        least(s.access_expires_at, s.expires_at, s.last_seen_at + s.idle_timeout) AS ends_at
    FROM auth.sessions s
    WHERE s.tenant_id = %(tenant_id)s AND s.token_hash = %(token_hash)s
        AND least(
            s.access_expires_at, s.expires_at, s.last_seen_at + s.idle_timeout, s.revoked_at
        ) > clock_timestamp()
        AND (
            SELECT u.status = 'active' AND u.deleted_at IS NULL FROM auth.users u
            WHERE u.tenant_id = s.tenant_id AND u.id = s.user_id
        )
        AND (SELECT t.deleted_at IS NULL FROM core.tenants t WHERE t.id = s.tenant_id)
),
touched AS (
    UPDATE auth.sessions
    SET
        last_seen_at = clock_timestamp(),
        last_ip_address = coalesce(%(ip_address)s::inet, last_ip_address)
    WHERE tenant_id = %(tenant_id)s AND id = (
        SELECT s.id FROM auth.sessions s
        WHERE s.tenant_id = %(tenant_id)s AND s.id = (
            SELECT l.id FROM living l WHERE l.touch_at < clock_timestamp()
        )
        FOR NO KEY UPDATE SKIP LOCKED
    )
)
SELECT
    l.id,
    l.user_id,
    extract(EPOCH FROM least(l.ends_at, held.ends_at) - clock_timestamp())::float8,
    coalesce(held.permissions, '{}')
FROM living l
CROSS JOIN LATERAL (
    SELECT
        array_agg(DISTINCT p.name) AS permissions,
        min(g.expires_at) AS ends_at
    FROM auth.user_roles g
    JOIN auth.role_permissions rp ON rp.scope_id = g.role_scope_id AND rp.role_id = g.role_id
    JOIN auth.permissions p ON p.id = rp.permission_id
    WHERE g.tenant_id = l.tenant_id AND g.user_id = l.user_id
        AND (g.expires_at IS NULL OR g.expires_at > clock_timestamp())
) held;

-- check_api_key --
-- The same for a key of a service; the first column is NULL because there is no session. It may do
-- what both the service may now and the key was made with: the narrower of each two patterns.
WITH living AS MATERIALIZED (
    SELECT
        k.tenant_id,
        k.id,
        k.service_id,
        k.permissions,
        coalesce(k.last_used_at, '-infinity') + interval '1 minute' AS touch_at,
        least(k.expires_at, k.revoked_at) AS ends_at
    FROM auth.api_keys k
    WHERE k.tenant_id = %(tenant_id)s AND k.key_hash = %(token_hash)s
        AND least(k.expires_at, k.revoked_at) > clock_timestamp()
        AND (
            SELECT s.status = 'active' FROM auth.service_principals s
            WHERE s.tenant_id = k.tenant_id AND s.id = k.service_id
        )
        AND (SELECT t.deleted_at IS NULL FROM core.tenants t WHERE t.id = k.tenant_id)
),
touched AS (
    UPDATE auth.api_keys
    SET
        last_used_at = clock_timestamp(),
        last_ip_address = coalesce(%(ip_address)s::inet, last_ip_address)
    WHERE tenant_id = %(tenant_id)s AND id = (
        SELECT k.id FROM auth.api_keys k
        WHERE k.tenant_id = %(tenant_id)s AND k.id = (
            SELECT l.id FROM living l WHERE l.touch_at < clock_timestamp()
        )
        FOR NO KEY UPDATE SKIP LOCKED
    )
)
SELECT
    NULL::uuid,
    l.service_id,
    extract(EPOCH FROM least(l.ends_at, held.ends_at) - clock_timestamp())::float8,
    coalesce(held.permissions, '{}')
FROM living l
CROSS JOIN LATERAL (
    SELECT
        array_agg(DISTINCT CASE
            WHEN p.name = '*' THEN made.name
            WHEN made.name = '*' THEN p.name
            ELSE concat(
                CASE p.resource WHEN '*' THEN made.resource ELSE p.resource END, ':',
                CASE p.action WHEN '*' THEN made.action ELSE p.action END
            )
        END) AS permissions,
        min(g.expires_at) AS ends_at
    FROM auth.service_roles g
    JOIN auth.role_permissions rp ON rp.scope_id = g.role_scope_id AND rp.role_id = g.role_id
    JOIN auth.permissions p ON p.id = rp.permission_id
    JOIN auth.permissions made
        ON made.name = ANY (l.permissions)
        AND (p.resource = made.resource OR '*' IN (p.resource, made.resource))
        AND (p.action = made.action OR '*' IN (p.action, made.action))
    WHERE g.tenant_id = l.tenant_id AND g.service_id = l.service_id
        AND (g.expires_at IS NULL OR g.expires_at > clock_timestamp())
) held;

-- start_session --
-- A session of an active person, with its first two tokens; no row where there is no such person.
WITH session AS (
    INSERT INTO auth.sessions (
        tenant_id, user_id, token_hash, ip_address, last_ip_address, user_agent,
        expires_at, access_expires_at, idle_timeout
    )
    SELECT
        u.tenant_id,
        u.id,
        %(access_hash)s,
        %(ip_address)s::inet,
        %(ip_address)s::inet,
        %(user_agent)s,
        clock_timestamp() + %(absolute)s::interval,
        clock_timestamp() + least(%(access)s::interval, %(absolute)s::interval),
        %(idle)s::interval
    FROM auth.users u
    JOIN core.tenants t ON t.id = u.tenant_id
    WHERE u.tenant_id = (SELECT core.current_tenant()) AND u.id = %(user_id)s
        AND u.status = 'active' AND u.deleted_at IS NULL AND t.deleted_at IS NULL
    RETURNING tenant_id, id, access_expires_at, expires_at
),
token AS (
    INSERT INTO auth.refresh_tokens (tenant_id, session_id, token_hash, expires_at)
    SELECT
        tenant_id,
        id,
        %(refresh_hash)s,
        expires_at
    FROM session
)
SELECT
    id,
    access_expires_at,
    expires_at
FROM session;

-- lock_family --
-- Whoever changes a session or refreshes one of its tokens does so alone. A statement of its own,
-- so that the next one sees what was done while it waited.
SELECT s.id FROM auth.sessions s
JOIN auth.refresh_tokens r ON (r.tenant_id, r.session_id) = (s.tenant_id, s.id)
WHERE r.tenant_id = (SELECT core.current_tenant()) AND r.token_hash = %(token_hash)s
FOR UPDATE OF s;

-- refresh_state --
-- All that decides what a refresh token is good for.
SELECT
    r.id,
    r.parent_id,
    r.session_id,
    s.user_id,
    s.revoked_at IS NULL AND u.status = 'active' AND u.deleted_at IS NULL AND t.deleted_at IS NULL
    AND least(r.expires_at, s.expires_at, s.last_seen_at + s.idle_timeout) > clock_timestamp(),
    r.used_at IS NOT NULL,
    r.child_salt,
    coalesce(r.used_at + %(grace)s::interval >= clock_timestamp() AND c.used_at IS NULL, FALSE),
    s.access_expires_at,
    s.expires_at,
    least(clock_timestamp() + %(access)s::interval, s.expires_at)
FROM auth.refresh_tokens r
JOIN auth.sessions s ON (s.tenant_id, s.id) = (r.tenant_id, r.session_id)
JOIN auth.users u ON (u.tenant_id, u.id) = (s.tenant_id, s.user_id)
JOIN core.tenants t ON t.id = s.tenant_id
LEFT JOIN auth.refresh_tokens c ON (c.tenant_id, c.parent_id) = (r.tenant_id, r.id)
WHERE r.tenant_id = (SELECT core.current_tenant()) AND r.token_hash = %(token_hash)s;

-- use_refresh_token --
-- A token is used once; the salt says which child it had.
UPDATE auth.refresh_tokens SET used_at = clock_timestamp(), child_salt = %(salt)s
WHERE tenant_id = (SELECT core.current_tenant()) AND id = %(id)s;

-- forget_salt --
-- A parent whose child is used is never answered again.
UPDATE auth.refresh_tokens SET child_salt = NULL
WHERE tenant_id = (SELECT core.current_tenant()) AND id = %(id)s;

-- add_child --
-- The next refresh token of the family.
INSERT INTO auth.refresh_tokens (tenant_id, session_id, parent_id, token_hash, expires_at)
VALUES (
    (SELECT core.current_tenant()), %(session_id)s, %(parent_id)s, %(token_hash)s, %(expires_at)s
);

-- renew_access --
-- The session's new access token; the one before ends here.
UPDATE auth.sessions
SET
    token_hash = %(token_hash)s,
    access_expires_at = %(access_expires_at)s,
    last_seen_at = clock_timestamp(),
    last_ip_address = coalesce(%(ip_address)s::inet, last_ip_address),
    version = version + 1
WHERE tenant_id = (SELECT core.current_tenant()) AND id = %(session_id)s;

-- revoke_session --
-- End one session; no row where it is not there, or has been revoked before.
UPDATE auth.sessions
SET revoked_at = clock_timestamp(), revoked_reason = %(reason)s, version = version + 1
WHERE tenant_id = (SELECT core.current_tenant()) AND id = %(id)s AND revoked_at IS NULL
RETURNING user_id;

-- revoke_sessions_of --
-- End all sessions of one person, or all but one. Returns their ids.
UPDATE auth.sessions
SET revoked_at = clock_timestamp(), revoked_reason = %(reason)s, version = version + 1
WHERE tenant_id = (SELECT core.current_tenant()) AND user_id = %(user_id)s
    AND id IS DISTINCT FROM %(but)s::uuid AND revoked_at IS NULL
RETURNING id;

-- session_exists --
-- Whether the tenant, or one person in it, has that session, living or not.
SELECT id FROM auth.sessions
WHERE tenant_id = (SELECT core.current_tenant()) AND id = %(id)s
    AND user_id = coalesce(%(of)s::uuid, user_id);

-- revoke_own_session --
-- The same as revoke_session, of one person only.
UPDATE auth.sessions
SET revoked_at = clock_timestamp(), revoked_reason = %(reason)s, version = version + 1
WHERE tenant_id = (SELECT core.current_tenant()) AND id = %(id)s AND user_id = %(of)s
    AND revoked_at IS NULL
RETURNING user_id;

-- session_of_token --
-- The session behind an access token, whether or not it has ended.
SELECT id FROM auth.sessions
WHERE tenant_id = (SELECT core.current_tenant()) AND token_hash = %(token_hash)s;

-- list_sessions --
-- Living sessions of the tenant, the last used first.
SELECT
    id,
    user_id,
    created_at,
    last_seen_at,
    expires_at,
    host(ip_address),
    host(last_ip_address),
    user_agent
FROM auth.sessions
WHERE tenant_id = (SELECT core.current_tenant()) AND revoked_at IS NULL
    AND least(expires_at, last_seen_at + idle_timeout) > clock_timestamp()
ORDER BY last_seen_at DESC, id
LIMIT %(limit)s;

-- list_sessions_of --
-- The same of one person.
SELECT
    id,
    user_id,
    created_at,
    last_seen_at,
    expires_at,
    host(ip_address),
    host(last_ip_address),
    user_agent
FROM auth.sessions
WHERE tenant_id = (SELECT core.current_tenant()) AND user_id = %(user_id)s AND revoked_at IS NULL
    AND least(expires_at, last_seen_at + idle_timeout) > clock_timestamp()
ORDER BY last_seen_at DESC, id
LIMIT %(limit)s;

-- list_roles --
-- The platform's roles and the tenant's own, with what they allow.
SELECT
    r.id,
    r.name,
    r.description,
    r.is_system,
    coalesce(array_agg(p.name ORDER BY p.name) FILTER (WHERE p.name IS NOT NULL), '{}')
FROM auth.roles r
LEFT JOIN auth.role_permissions rp ON (rp.scope_id, rp.role_id) = (r.scope_id, r.id)
LEFT JOIN auth.permissions p ON p.id = rp.permission_id
GROUP BY r.scope_id, r.id
ORDER BY r.is_system DESC, r.name;

-- find_role --
-- A role by its name: the tenant's own or the platform's.
SELECT id, scope_id, is_system FROM auth.roles WHERE name = %(name)s;

-- create_role --
-- A role of the tenant's own, which allows nothing yet.
INSERT INTO auth.roles (tenant_id, name, description)
VALUES ((SELECT core.current_tenant()), %(name)s, %(description)s)
RETURNING id;

-- describe_role --
-- Another description; no row where the tenant has no such role of its own.
UPDATE auth.roles SET description = coalesce(%(description)s, description)
WHERE tenant_id = (SELECT core.current_tenant()) AND id = %(role_id)s
RETURNING id;

-- delete_role --
-- A role of the tenant's own goes, with all its grants.
DELETE FROM auth.roles
WHERE tenant_id = (SELECT core.current_tenant()) AND id = %(role_id)s
RETURNING id;

-- unknown_permissions --
-- Which of these names the catalogue does not have.
SELECT name FROM unnest(%(names)s::text []) AS asked (name)
WHERE name NOT IN (SELECT p.name FROM auth.permissions p)
ORDER BY name;

-- catalogue_of_permissions --
-- What can be allowed, wildcards included.
SELECT
    name,
    description
FROM auth.permissions
ORDER BY resource, action;

-- drop_permissions --
-- Take from a role of the tenant's own what is not among these names.
DELETE FROM auth.role_permissions rp
USING auth.permissions p
WHERE rp.scope_id = (SELECT core.current_tenant()) AND rp.role_id = %(role_id)s
    AND p.id = rp.permission_id AND p.name <> ALL (%(names)s::text [])
RETURNING p.name;

-- add_permissions --
-- Give a role of the tenant's own what it lacks of these names.
INSERT INTO auth.role_permissions (tenant_id, role_id, permission_id)
SELECT
    (SELECT core.current_tenant()),
    %(role_id)s::uuid,
    p.id
FROM auth.permissions p
WHERE p.name = ANY (%(names)s::text []) AND NOT EXISTS (
    SELECT FROM auth.role_permissions rp
    WHERE rp.scope_id = (SELECT core.current_tenant()) AND rp.role_id = %(role_id)s
        AND rp.permission_id = p.id
)
RETURNING permission_id;

-- grant_to_user --
-- Grant a role, or give a grant another end.
INSERT INTO auth.user_roles (
    tenant_id, user_id, role_id, role_scope_id, granted_by, expires_at
)
VALUES (
    (SELECT core.current_tenant()), %(grantee)s, %(role_id)s, %(scope_id)s, %(granted_by)s,
    %(expires_at)s
)
ON CONFLICT (tenant_id, user_id, role_id) DO UPDATE
SET granted_at = clock_timestamp(), granted_by = excluded.granted_by,
    expires_at = excluded.expires_at;

-- grant_to_service --
-- The same for a service.
INSERT INTO auth.service_roles (
    tenant_id, service_id, role_id, role_scope_id, granted_by, expires_at
)
VALUES (
    (SELECT core.current_tenant()), %(grantee)s, %(role_id)s, %(scope_id)s, %(granted_by)s,
    %(expires_at)s
)
ON CONFLICT (tenant_id, service_id, role_id) DO UPDATE
SET granted_at = clock_timestamp(), granted_by = excluded.granted_by,
    expires_at = excluded.expires_at;

-- revoke_from_user --
-- Take a role back; no row where it was not granted.
DELETE FROM auth.user_roles
WHERE tenant_id = (SELECT core.current_tenant()) AND user_id = %(grantee)s
    AND role_id = %(role_id)s
RETURNING role_id;

-- revoke_from_service --
-- The same for a service.
DELETE FROM auth.service_roles
WHERE tenant_id = (SELECT core.current_tenant()) AND service_id = %(grantee)s
    AND role_id = %(role_id)s
RETURNING role_id;

-- grants_of_user --
-- All grants of a person, ended ones too, with what each role allows.
SELECT
    r.name,
    r.is_system,
    g.granted_at,
    g.granted_by,
    g.expires_at,
    coalesce(g.expires_at <= clock_timestamp(), FALSE),
    ARRAY(
        SELECT p.name
        FROM auth.role_permissions rp JOIN auth.permissions p ON p.id = rp.permission_id
        WHERE rp.scope_id = r.scope_id AND rp.role_id = r.id
        ORDER BY p.name
    )
FROM auth.user_roles g
JOIN auth.roles r ON (r.scope_id, r.id) = (g.role_scope_id, g.role_id)
WHERE g.tenant_id = (SELECT core.current_tenant()) AND g.user_id = %(grantee)s
ORDER BY r.name;

-- grants_of_service --
-- The same of a service.
SELECT
    r.name,
    r.is_system,
    g.granted_at,
    g.granted_by,
    g.expires_at,
    coalesce(g.expires_at <= clock_timestamp(), FALSE),
    ARRAY(
        SELECT p.name
        FROM auth.role_permissions rp JOIN auth.permissions p ON p.id = rp.permission_id
        WHERE rp.scope_id = r.scope_id AND rp.role_id = r.id
        ORDER BY p.name
    )
FROM auth.service_roles g
JOIN auth.roles r ON (r.scope_id, r.id) = (g.role_scope_id, g.role_id)
WHERE g.tenant_id = (SELECT core.current_tenant()) AND g.service_id = %(grantee)s
ORDER BY r.name;

-- standing_of_user --
-- Whether a person can act at all, and if not why; no row where there is none.
SELECT CASE
    WHEN t.deleted_at IS NOT NULL THEN 'the tenant is deleted'
    WHEN u.deleted_at IS NOT NULL THEN 'the user is deleted'
    WHEN u.status <> 'active' THEN 'the user is ' || u.status
END
FROM auth.users u JOIN core.tenants t ON t.id = u.tenant_id
WHERE u.tenant_id = (SELECT core.current_tenant()) AND u.id = %(grantee)s;

-- standing_of_service --
-- The same of a service.
SELECT CASE
    WHEN t.deleted_at IS NOT NULL THEN 'the tenant is deleted'
    WHEN s.status <> 'active' THEN 'the service is ' || s.status
END
FROM auth.service_principals s JOIN core.tenants t ON t.id = s.tenant_id
WHERE s.tenant_id = (SELECT core.current_tenant()) AND s.id = %(grantee)s;

-- keys_without --
-- How many living keys a service has, and how many of them were made without these patterns.
SELECT
    count(*),
    count(*) FILTER (WHERE NOT permissions && %(patterns)s::text [])
FROM auth.api_keys
WHERE tenant_id = (SELECT core.current_tenant()) AND service_id = %(grantee)s
    AND least(expires_at, revoked_at) > clock_timestamp();

-- create_service --
-- A program of the tenant, which may do nothing yet.
INSERT INTO auth.service_principals (tenant_id, name, description)
VALUES ((SELECT core.current_tenant()), %(name)s, %(description)s)
RETURNING id, name, description, status, created_at;

-- list_services --
-- The tenant's programs by name.
SELECT
    s.id,
    s.name,
    s.description,
    s.status,
    s.created_at
FROM auth.service_principals s
WHERE s.tenant_id = (SELECT core.current_tenant())
ORDER BY s.name;

-- find_service --
-- One of them by name.
SELECT
    id,
    name,
    description,
    status,
    created_at
FROM auth.service_principals
WHERE tenant_id = (SELECT core.current_tenant()) AND name = %(name)s;

-- set_service_status --
-- Disable a program, or let it work again.
UPDATE auth.service_principals SET status = %(status)s
WHERE tenant_id = (SELECT core.current_tenant()) AND id = %(id)s
RETURNING id;

-- delete_service --
-- A program goes, with its keys and grants.
DELETE FROM auth.service_principals
WHERE tenant_id = (SELECT core.current_tenant()) AND id = %(id)s
RETURNING id;

-- make_key --
-- A new key of a program that is not disabled; no row otherwise.
INSERT INTO auth.api_keys (tenant_id, service_id, key_hash, expires_at)
SELECT
    tenant_id,
    id,
    %(key_hash)s,
    clock_timestamp() + %(lifetime)s::interval
FROM auth.service_principals
WHERE tenant_id = (SELECT core.current_tenant()) AND id = %(service_id)s AND status = 'active'
RETURNING id, expires_at;

-- retire_keys --
-- The other keys of a program end when the overlap does. Returns their ids.
UPDATE auth.api_keys SET revoked_at = clock_timestamp() + %(overlap)s::interval
WHERE tenant_id = (SELECT core.current_tenant()) AND service_id = %(service_id)s
    AND id <> %(but)s
    AND least(expires_at, revoked_at) > clock_timestamp() + %(overlap)s::interval
RETURNING id;

-- revoke_key --
-- A key ends now; no row where the tenant has no such key.
UPDATE auth.api_keys SET revoked_at = least(revoked_at, clock_timestamp())
WHERE tenant_id = (SELECT core.current_tenant()) AND id = %(id)s
RETURNING service_id;

-- list_keys --
-- The keys of a program, the newest first; never the keys themselves.
SELECT
    id,
    created_at,
    least(expires_at, revoked_at),
    least(expires_at, revoked_at) <= clock_timestamp(),
    last_used_at,
    host(last_ip_address),
    permissions
FROM auth.api_keys
WHERE tenant_id = (SELECT core.current_tenant()) AND service_id = %(service_id)s
ORDER BY created_at DESC, id;

-- tenants_to_sweep --
-- Which tenants have sessions or keys that ended before an instant (asked as an operator).
SELECT tenant_id FROM auth.sessions WHERE least(expires_at, revoked_at) < %(before)s
UNION
SELECT tenant_id FROM auth.api_keys WHERE least(expires_at, revoked_at) < %(before)s;

-- sweep_sessions --
-- Delete sessions that ended before an instant, with their refresh tokens.
DELETE FROM auth.sessions
WHERE (tenant_id, id) IN (
    SELECT tenant_id, id FROM auth.sessions
    WHERE tenant_id = (SELECT core.current_tenant())
        AND least(expires_at, revoked_at) < %(before)s
    LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
RETURNING id;

-- sweep_keys --
-- Delete keys that ended before an instant.
DELETE FROM auth.api_keys
WHERE (tenant_id, id) IN (
    SELECT tenant_id, id FROM auth.api_keys
    WHERE tenant_id = (SELECT core.current_tenant())
        AND least(expires_at, revoked_at) < %(before)s
    LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
RETURNING id;

-- person_named --
-- A living person by address, user name or id.
SELECT id FROM auth.users
WHERE tenant_id = (SELECT core.current_tenant()) AND deleted_at IS NULL
    AND (email = %(name)s OR username = %(name)s OR id = %(id)s::uuid)
ORDER BY id = %(id)s::uuid DESC NULLS LAST, email = %(name)s DESC
LIMIT 1;
