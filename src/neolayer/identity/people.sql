-- create_user --
-- Add a user; returns no row where the address or the name is taken.
INSERT INTO auth.users (tenant_id, email, username, password_hash)
VALUES (%(tenant_id)s, %(email)s, %(username)s, %(password_hash)s)
ON CONFLICT DO NOTHING
RETURNING id, email, username, status, email_verified, mfa_enabled, last_login_at, locked_until,
created_at, updated_at, deleted_at;

-- user_by_id --
-- One living user.
SELECT id, email, username, status, email_verified, mfa_enabled, last_login_at, locked_until,
created_at, updated_at, deleted_at
FROM auth.users WHERE id = %(user_id)s AND deleted_at IS NULL;

-- user_by_email --
-- One living user.
SELECT id, email, username, status, email_verified, mfa_enabled, last_login_at, locked_until,
created_at, updated_at, deleted_at
FROM auth.users WHERE email = %(name)s AND deleted_at IS NULL;

-- user_by_username --
-- One living user.
SELECT id, email, username, status, email_verified, mfa_enabled, last_login_at, locked_until,
created_at, updated_at, deleted_at
FROM auth.users WHERE username = %(name)s AND deleted_at IS NULL;

-- list_users --
-- The living after a user name, in the order of user names.
SELECT id, email, username, status, email_verified, mfa_enabled, last_login_at, locked_until,
created_at, updated_at, deleted_at
FROM auth.users
WHERE deleted_at IS NULL AND username > %(after)s
AND (%(status)s::text IS NULL OR status = %(status)s)
ORDER BY username LIMIT %(page_size)s;

-- update_user --
-- Give a living user another name, address (which nobody has verified yet) or status; NULL: as it is.
UPDATE auth.users SET
    username = coalesce(%(username)s::varchar, username),
    email = coalesce(%(email)s::varchar, email),
    email_verified = (email_verified AND email = coalesce(%(email)s::varchar, email)),
    status = coalesce(%(status)s::varchar, status),
    locked_until = CASE WHEN %(status)s::varchar IS NULL THEN locked_until END
WHERE id = %(user_id)s AND deleted_at IS NULL
RETURNING id, email, username, status, email_verified, mfa_enabled, last_login_at, locked_until,
created_at, updated_at, deleted_at;

-- set_status --
-- Say whether a living user may log in.
UPDATE auth.users SET status = %(status)s, locked_until = %(until)s
WHERE id = %(user_id)s AND deleted_at IS NULL
RETURNING id, email, username, status, email_verified, mfa_enabled, last_login_at, locked_until,
created_at, updated_at, deleted_at;

-- set_password --
-- Store the hash of a new password of a living user.
UPDATE auth.users SET password_hash = %(password_hash)s
WHERE id = %(user_id)s AND deleted_at IS NULL
RETURNING id, email, username, status, email_verified, mfa_enabled, last_login_at, locked_until,
created_at, updated_at, deleted_at;

-- delete_user --
-- Leave the row, for what refers to it, and free the address and the name.
UPDATE auth.users SET
    deleted_at = clock_timestamp(), status = 'inactive', locked_until = NULL,
    mfa_secret = NULL, mfa_key_id = NULL, mfa_enabled = FALSE, mfa_last_step = NULL
WHERE id = %(user_id)s AND deleted_at IS NULL
RETURNING id, email, username, status, email_verified, mfa_enabled, last_login_at, locked_until,
created_at, updated_at, deleted_at;

-- anonymise_user --
-- Take what names the person out of a row that others refer to; also of who left already.
UPDATE auth.users SET
    deleted_at = coalesce(deleted_at, clock_timestamp()), status = 'inactive',
    email = id || '@anonymous.invalid', username = 'anonymous-' || id, email_verified = FALSE,
    password_hash = '!', mfa_secret = NULL, mfa_key_id = NULL, mfa_enabled = FALSE,
    mfa_last_step = NULL, last_login_at = NULL, locked_until = NULL, failed_login_attempts = 0
WHERE id = %(user_id)s
RETURNING id;

-- delete_sessions --
-- Forget where a user was logged in from.
DELETE FROM auth.sessions WHERE user_id = %(user_id)s;

-- forget_devices --
-- Know none of a user's devices any more.
DELETE FROM auth.known_devices WHERE user_id = %(user_id)s;

-- drop_letters --
-- Make what was sent to a user's address worthless.
DELETE FROM auth.one_time_tokens WHERE user_id = %(user_id)s;

-- drop_recovery_codes --
-- Make a user's recovery codes worthless.
DELETE FROM auth.recovery_codes WHERE user_id = %(user_id)s;

-- require_over --
-- Whoever acts may change this user, or be refused.
SELECT auth.require_over(core.current_tenant(), %(user_id)s, ARRAY['users:update', 'users:delete']);

-- forget_failures --
-- Start counting failures anew for these subjects.
DELETE FROM auth.login_failures WHERE subject = ANY(%(subjects)s);

-- issue_token --
-- Add a token for the user of an id or an address, unless it is pointless or there are enough.
INSERT INTO auth.one_time_tokens (tenant_id, user_id, purpose, email, token_hash, expires_at)
SELECT u.tenant_id, u.id, %(purpose)s::varchar, u.email, %(hash)s, clock_timestamp() + %(lifetime)s::interval
FROM auth.users AS u
WHERE (u.id = %(user_id)s::uuid OR u.email = %(email)s::text)
AND u.deleted_at IS NULL AND u.status = 'active'
AND NOT (%(purpose)s::varchar = 'email_verification' AND u.email_verified)
AND (
    SELECT count(*) FROM auth.one_time_tokens AS t
    WHERE t.user_id = u.id AND t.purpose = %(purpose)s::varchar
    AND t.used_at IS NULL AND t.expires_at > clock_timestamp()
) < %(most)s
RETURNING user_id, email, expires_at;

-- redeem_token --
-- Use a token up; returns no row where it is wrong, used, run out or of another purpose.
UPDATE auth.one_time_tokens SET used_at = clock_timestamp()
WHERE token_hash = %(hash)s AND purpose = %(purpose)s
AND used_at IS NULL AND expires_at > clock_timestamp()
RETURNING user_id;

-- owner_of_reset --
-- Who would get a new password with this token.
SELECT u.id, u.email, u.username, u.status, u.email_verified, u.mfa_enabled, u.last_login_at,
u.locked_until, u.created_at, u.updated_at, u.deleted_at
FROM auth.one_time_tokens AS t INNER JOIN auth.users AS u ON u.id = t.user_id
WHERE t.token_hash = %(hash)s AND t.purpose = 'password_reset'
AND t.used_at IS NULL AND t.expires_at > clock_timestamp() AND u.deleted_at IS NULL;

-- verify_email --
-- The address is the user's, if it is still the one to which the token was sent.
UPDATE auth.users AS u SET email_verified = TRUE
FROM auth.one_time_tokens AS t
WHERE u.id = %(user_id)s AND t.token_hash = %(hash)s AND t.email = u.email AND u.deleted_at IS NULL
RETURNING u.id, u.email, u.username, u.status, u.email_verified, u.mfa_enabled, u.last_login_at,
u.locked_until, u.created_at, u.updated_at, u.deleted_at;

-- reset_password --
-- Store the hash of a new password of a user who has shown that the address is theirs.
UPDATE auth.users SET password_hash = %(password_hash)s, email_verified = TRUE
WHERE id = %(user_id)s AND deleted_at IS NULL
RETURNING id, email, username, status, email_verified, mfa_enabled, last_login_at, locked_until,
created_at, updated_at, deleted_at;

-- credentials_by_email --
-- What a login is checked against, and the device if it is one of this user's.
SELECT u.id, u.password_hash, u.mfa_enabled, u.mfa_secret,
u.status = 'active' OR (u.status = 'locked' AND u.locked_until <= clock_timestamp()) AS is_open,
(
    SELECT d.id FROM auth.known_devices AS d
    WHERE d.token_hash = %(device)s AND d.user_id = u.id AND d.expires_at > clock_timestamp()
) AS device_id
FROM auth.users AS u WHERE u.email = %(name)s AND u.deleted_at IS NULL;

-- credentials_by_username --
-- What a login is checked against, and the device if it is one of this user's.
SELECT u.id, u.password_hash, u.mfa_enabled, u.mfa_secret,
u.status = 'active' OR (u.status = 'locked' AND u.locked_until <= clock_timestamp()) AS is_open,
(
    SELECT d.id FROM auth.known_devices AS d
    WHERE d.token_hash = %(device)s AND d.user_id = u.id AND d.expires_at > clock_timestamp()
) AS device_id
FROM auth.users AS u WHERE u.username = %(name)s AND u.deleted_at IS NULL;

-- credentials_by_id --
-- What somebody who is logged in proves again.
SELECT u.id, u.password_hash, u.mfa_enabled, u.mfa_secret,
u.status = 'active' OR (u.status = 'locked' AND u.locked_until <= clock_timestamp()) AS is_open,
NULL::uuid AS device_id
FROM auth.users AS u WHERE u.id = %(user_id)s AND u.deleted_at IS NULL;

-- open_counters --
-- Lock the counters of a try, in one order for all, and read them with the server's time.
INSERT INTO auth.login_failures (tenant_id, subject, kind)
SELECT %(tenant_id)s, c.subject, c.kind
FROM unnest(%(subjects)s::bytea [], %(kinds)s::text []) AS c (subject, kind)
ORDER BY c.subject
ON CONFLICT (tenant_id, subject) DO UPDATE SET kind = excluded.kind
RETURNING subject, kind, failures, last_failed_at, clock_timestamp();

-- count_failures --
-- Count a try as failed before its outcome is known, so that tries at the same time all count.
UPDATE auth.login_failures AS f SET failures = c.failures, last_failed_at = clock_timestamp()
FROM unnest(%(subjects)s::bytea [], %(failures)s::int []) AS c (subject, failures)
WHERE f.subject = c.subject;

-- settle_counters --
-- Forget the failures of who got in; to a source, which others use too, only this try is forgiven.
WITH locked AS MATERIALIZED (
    SELECT f.subject, f.kind FROM auth.login_failures AS f
    WHERE f.subject = ANY(%(subjects)s) ORDER BY f.subject FOR UPDATE
), forgiven AS (
    UPDATE auth.login_failures AS f SET failures = greatest(f.failures - 1, 0)
    FROM locked WHERE f.subject = locked.subject AND locked.kind = 'source'
)
DELETE FROM auth.login_failures AS f USING locked
WHERE f.subject = locked.subject AND locked.kind <> 'source';

-- forgive_source --
-- Do not hold it against a source that a code is still to come.
UPDATE auth.login_failures SET failures = greatest(failures - 1, 0)
WHERE subject = ANY(%(subjects)s) AND kind = 'source';

-- take_step --
-- Use a code of a second factor up: only a step after the last one is taken.
UPDATE auth.users SET mfa_last_step = %(step)s
WHERE id = %(user_id)s AND mfa_enabled AND coalesce(mfa_last_step, -1) < %(step)s
RETURNING id;

-- take_recovery_code --
-- Use a recovery code up.
UPDATE auth.recovery_codes SET used_at = clock_timestamp()
WHERE user_id = %(user_id)s AND code_hash = %(code_hash)s AND used_at IS NULL
RETURNING id;

-- enter --
-- Let a user in, if nothing has changed since the password was compared.
UPDATE auth.users SET
    last_login_at = clock_timestamp(), password_hash = %(new_hash)s,
    failed_login_attempts = %(failures)s,
    status = 'active', locked_until = NULL
WHERE id = %(user_id)s AND deleted_at IS NULL AND password_hash = %(old_hash)s
AND mfa_enabled = %(mfa_enabled)s
AND (status = 'active' OR (status = 'locked' AND locked_until <= clock_timestamp()))
RETURNING id, email, username, status, email_verified, mfa_enabled, last_login_at, locked_until,
created_at, updated_at, deleted_at;

-- meet_device --
-- Know a device from now on.
INSERT INTO auth.known_devices (tenant_id, user_id, token_hash, expires_at)
VALUES (%(tenant_id)s, %(user_id)s, %(token_hash)s, clock_timestamp() + %(lifetime)s::interval);

-- see_device --
-- Know a device for longer.
UPDATE auth.known_devices
SET last_seen_at = clock_timestamp(), expires_at = clock_timestamp() + %(lifetime)s::interval
WHERE id = %(device_id)s;

-- limit_devices --
-- Know the devices of a user that were seen last, and no more.
DELETE FROM auth.known_devices
WHERE user_id = %(user_id)s AND id IN (
    SELECT d.id FROM auth.known_devices AS d WHERE d.user_id = %(user_id)s
    ORDER BY d.last_seen_at DESC OFFSET %(most)s
);

-- begin_mfa --
-- Keep a seed that counts for nothing until a code of it was seen.
UPDATE auth.users SET mfa_secret = %(secret)s, mfa_key_id = %(key_id)s, mfa_last_step = NULL
WHERE id = %(user_id)s AND deleted_at IS NULL AND NOT mfa_enabled
RETURNING email;

-- pending_mfa --
-- The seed that waits for its first code, and the server's time.
SELECT mfa_secret, extract(EPOCH FROM clock_timestamp())::float8 FROM auth.users
WHERE id = %(user_id)s AND deleted_at IS NULL AND NOT mfa_enabled AND mfa_secret IS NOT NULL;

-- confirm_mfa --
-- Ask for the second factor from now on; its first code is used up.
UPDATE auth.users SET mfa_enabled = TRUE, mfa_last_step = %(step)s
WHERE id = %(user_id)s AND deleted_at IS NULL AND NOT mfa_enabled AND mfa_secret = %(secret)s
RETURNING id;

-- end_mfa --
-- Ask for no second factor any more.
UPDATE auth.users SET
    mfa_enabled = FALSE, mfa_secret = NULL, mfa_key_id = NULL, mfa_last_step = NULL
WHERE id = %(user_id)s AND deleted_at IS NULL
RETURNING id;

-- add_recovery_codes --
-- The hashes of new recovery codes.
INSERT INTO auth.recovery_codes (tenant_id, user_id, code_hash)
SELECT %(tenant_id)s, %(user_id)s, code_hash FROM unnest(%(hashes)s::text []) AS code_hash;

-- count_recovery_codes --
-- How many codes are left.
SELECT count(*) FROM auth.recovery_codes WHERE user_id = %(user_id)s AND used_at IS NULL;

-- server_time --
-- The one clock that codes are compared with.
SELECT extract(EPOCH FROM clock_timestamp())::float8;

-- sweep_tokens --
-- Some of the tokens that nobody can use any more.
DELETE FROM auth.one_time_tokens WHERE id IN (
    SELECT t.id FROM auth.one_time_tokens AS t
    WHERE t.expires_at < clock_timestamp() LIMIT %(batch_size)s
)
RETURNING id;

-- sweep_devices --
-- Some of the devices that were not seen for long.
DELETE FROM auth.known_devices WHERE id IN (
    SELECT d.id FROM auth.known_devices AS d
    WHERE d.expires_at < clock_timestamp() LIMIT %(batch_size)s
)
RETURNING id;

-- sweep_failures --
-- Some of the counters whose last failure is long ago; an account's own is kept.
DELETE FROM auth.login_failures WHERE subject IN (
    SELECT f.subject FROM auth.login_failures AS f
    WHERE f.kind <> 'account' AND f.last_failed_at < clock_timestamp() - CASE
        WHEN f.kind IN ('pair', 'source') THEN interval '1 day' ELSE interval '30 days'
    END LIMIT %(batch_size)s
)
RETURNING subject;

-- tenants_with_leftovers --
-- Which tenants have something of this to sweep (asked as an operator).
SELECT t.tenant_id FROM auth.one_time_tokens AS t WHERE t.expires_at < clock_timestamp()
UNION
SELECT d.tenant_id FROM auth.known_devices AS d WHERE d.expires_at < clock_timestamp()
UNION
SELECT f.tenant_id FROM auth.login_failures AS f
WHERE f.kind <> 'account' AND f.last_failed_at < clock_timestamp() - interval '1 day';
