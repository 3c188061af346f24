-- create_tenant --
-- A new tenant, made in its own context by an operator.
INSERT INTO core.tenants (id, name, identifier, subscription_tier, settings, limits)
VALUES (%(id)s, %(name)s, %(identifier)s, %(tier)s, %(settings)s, %(limits)s)
RETURNING
    id, name, identifier, subscription_tier, settings, limits, created_at, updated_at, deleted_at;

-- tenant --
-- One tenant; of deleted ones only operators see a row.
SELECT
    id, name, identifier, subscription_tier, settings, limits, created_at, updated_at, deleted_at
FROM core.tenants WHERE id = %(id)s;

-- find_tenant --
-- The id behind a public name; NULL where no open tenant bears it.
SELECT core.find_tenant(%(identifier)s::text);

-- rename_tenant --
-- Another display name.
UPDATE core.tenants SET name = %(name)s WHERE id = %(id)s AND deleted_at IS NULL
RETURNING
    id, name, identifier, subscription_tier, settings, limits, created_at, updated_at, deleted_at;

-- change_settings --
-- Settings merged key by key, but for the keys that go.
UPDATE core.tenants SET settings = (settings || %(settings)s::jsonb) - %(gone)s::text []
WHERE id = %(id)s AND deleted_at IS NULL
RETURNING
    id, name, identifier, subscription_tier, settings, limits, created_at, updated_at, deleted_at;

-- change_tier --
-- Another tier; the trigger on this table deals the quotas anew.
UPDATE core.tenants SET subscription_tier = %(tier)s WHERE id = %(id)s AND deleted_at IS NULL
RETURNING
    id, name, identifier, subscription_tier, settings, limits, created_at, updated_at, deleted_at;

-- set_limits --
-- What differs from the tier.
UPDATE core.tenants SET limits = %(limits)s WHERE id = %(id)s AND deleted_at IS NULL
RETURNING
    id, name, identifier, subscription_tier, settings, limits, created_at, updated_at, deleted_at;

-- delete_tenant --
-- Close a tenant: contexts of it match no rows from now on, but for operators'.
UPDATE core.tenants SET deleted_at = clock_timestamp() WHERE id = %(id)s AND deleted_at IS NULL
RETURNING
    id, name, identifier, subscription_tier, settings, limits, created_at, updated_at, deleted_at;

-- restore_tenant --
-- Open it again.
UPDATE core.tenants SET deleted_at = NULL WHERE id = %(id)s AND deleted_at IS NOT NULL
RETURNING
    id, name, identifier, subscription_tier, settings, limits, created_at, updated_at, deleted_at;

-- my_limits --
-- What the tenant may have and what it has; no rows where no open tenant asks.
SELECT resource, allowed, used FROM core.my_limits();

-- find_any_tenant --
-- For operators: the tenant of an id or identifier, deleted or not.
SELECT
    id, name, identifier, subscription_tier, settings, limits, created_at, updated_at, deleted_at
FROM core.tenants WHERE id = %(id)s::uuid OR identifier = %(identifier)s;

-- tenants --
-- For operators: tenants by identifier, after one, so many at most.
SELECT
    id, name, identifier, subscription_tier, settings, limits, created_at, updated_at, deleted_at
FROM core.tenants
WHERE
    identifier > %(after)s
    AND (%(tier)s::text IS NULL OR subscription_tier = %(tier)s)
    AND (%(deleted)s::boolean OR deleted_at IS NULL)
ORDER BY identifier
LIMIT %(limit)s::int;

-- requests_per_minute --
-- The rate in force; no row where no open tenant asks, NULL without a limit.
SELECT allowed FROM core.my_limits() WHERE resource = 'requests_per_minute';
