-- migrate:up
-- What a tenant may have, by tier; null means without a limit. This is the one place for defaults:
-- core.tenants.limits holds what differs for one tenant. Another number here reaches every tenant
-- of the tier at once.
CREATE FUNCTION core.is_limits(limits jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN jsonb_typeof(limits) = 'object' AND NOT EXISTS (
    SELECT FROM jsonb_each(CASE WHEN jsonb_typeof(limits) = 'object' THEN limits ELSE '{}' END) AS l
    WHERE l.key NOT IN ('users', 'wallets', 'documents', 'requests_per_minute')
        OR NOT (l.value = 'null' OR l.value::text ~ '^[0-9]{1,12}$')
);
GRANT EXECUTE ON FUNCTION core.is_limits(jsonb) TO PUBLIC;
CREATE TABLE core.tiers (
    tier varchar(50) PRIMARY KEY,
    limits jsonb NOT NULL CHECK (core.is_limits(limits))
);
INSERT INTO core.tiers (tier, limits) VALUES
('free', '{"users": 5, "wallets": 10, "documents": 1000, "requests_per_minute": 60}'),
('basic', '{"users": 25, "wallets": 100, "documents": 50000, "requests_per_minute": 600}'),
('pro', '{"users": 250, "wallets": 10000, "documents": 1000000, "requests_per_minute": 6000}'),
('enterprise', '{"users": null, "wallets": null, "documents": null, "requests_per_minute": 60000}');
ALTER TABLE core.tenants ADD CONSTRAINT tenants_limits_check CHECK (core.is_limits(limits)) NOT VALID;
ALTER TABLE core.tenants VALIDATE CONSTRAINT tenants_limits_check;
ALTER TABLE core.tenants ADD CONSTRAINT tenants_settings_check
CHECK (jsonb_typeof(settings) = 'object' AND octet_length(settings::text) <= 65536) NOT VALID;
ALTER TABLE core.tenants VALIDATE CONSTRAINT tenants_settings_check;
GRANT SELECT ON core.tiers TO neolayer_app, neolayer_operator, neolayer_backup;

-- What the owner's functions must know of every tenant whoever asks: under FORCE they see no other
-- rows of core.tenants than the asking tenant sees. Kept by a trigger, read by functions only.
CREATE TABLE core.tenant_standing (
    id uuid PRIMARY KEY REFERENCES core.tenants (id) ON DELETE CASCADE,
    identifier varchar(100) NOT NULL UNIQUE,
    tier varchar(50) NOT NULL,
    limits jsonb NOT NULL,
    is_closed boolean NOT NULL
);
GRANT SELECT ON core.tenant_standing TO neolayer_operator, neolayer_backup;

-- How much of a resource a tenant has, in eight slots, so that writers of one tenant need not wait
-- for each other: each takes a slot that nobody holds. quota shares the limit out among the slots
-- (NULL: no limit); a slot's `used` never grows beyond its quota, hence their sum never beyond the
-- limit, whoever commits or rolls back. Only where no free slot has room are all of them locked, in
-- order, and the rest is dealt anew: near its limit, and only there, a tenant's writers queue.
CREATE TABLE core.usage_slots (
    tenant uuid NOT NULL REFERENCES core.tenants (id) ON DELETE CASCADE,
    resource varchar(50) NOT NULL,
    slot smallint NOT NULL CHECK (slot BETWEEN 0 AND 7),
    used bigint NOT NULL,
    quota bigint,
    PRIMARY KEY (tenant, resource, slot)
) WITH (fillfactor = 50);
GRANT SELECT ON core.usage_slots TO neolayer_operator, neolayer_backup;

-- A tenant's limit on one resource: its own, or its tier's; NULL without one.
CREATE FUNCTION core.limit_of(of_tenant uuid, of_resource text) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
RETURN (
    SELECT ((t.limits || s.limits) ->> of_resource)::bigint
    FROM core.tenant_standing AS s INNER JOIN core.tiers AS t ON s.tier = t.tier
    WHERE s.id = of_tenant
);

-- Share a resource's limit out among all slots, `more` of it into slot `into_slot` at once. False
-- where there is no room for so much, or where the tenant has no slots yet.
CREATE FUNCTION core.deal_quotas(of_tenant uuid, of_resource text, into_slot int, more bigint)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    allowed bigint;
    in_use bigint;
BEGIN
    PERFORM FROM core.usage_slots u
    WHERE u.tenant = of_tenant AND u.resource = of_resource
    ORDER BY u.slot FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    allowed := core.limit_of(of_tenant, of_resource);
    SELECT sum(u.used) + more INTO in_use FROM core.usage_slots u
    WHERE u.tenant = of_tenant AND u.resource = of_resource;
    IF more > 0 AND in_use > allowed THEN
        RETURN false;
    END IF;
    UPDATE core.usage_slots u SET
        used = u.used + CASE u.slot WHEN into_slot THEN more ELSE 0 END,
        quota = CASE WHEN allowed IS NOT NULL THEN
            u.used + greatest(allowed - in_use, 0) / 8 + CASE u.slot
                WHEN into_slot THEN more + greatest(allowed - in_use, 0) % 8 ELSE 0 END
            END
    WHERE u.tenant = of_tenant AND u.resource = of_resource;
    RETURN true;
END
$$;

-- Count `more` (or, below zero, fewer) of a resource, or refuse. NL402 is our own code.
CREATE FUNCTION core.count_usage(of_tenant uuid, of_resource text, more bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    favourite int := pg_backend_pid() % 8;  -- a backend comes back to its slot
BEGIN
    UPDATE core.usage_slots u SET used = u.used + more
    WHERE u.tenant = of_tenant AND u.resource = of_resource AND u.slot = (
        SELECT f.slot FROM core.usage_slots f
        WHERE f.tenant = of_tenant AND f.resource = of_resource
            AND (more <= 0 OR f.quota IS NULL OR f.used + more <= f.quota)
        ORDER BY (f.slot - favourite + 8) % 8
        LIMIT 1
        FOR NO KEY UPDATE SKIP LOCKED
    );
    IF FOUND OR core.deal_quotas(of_tenant, of_resource, favourite, more) THEN
        RETURN;
    END IF;
    INSERT INTO core.usage_slots (tenant, resource, slot, used, quota)
    SELECT of_tenant, of_resource, s, 0, 0 FROM generate_series(0, 7) AS s
    ON CONFLICT DO NOTHING;
    IF core.deal_quotas(of_tenant, of_resource, favourite, more) THEN
        RETURN;
    END IF;
    RAISE EXCEPTION 'the tenant may have % % and no more',
        core.limit_of(of_tenant, of_resource), of_resource
        USING ERRCODE = 'NL402', DETAIL = jsonb_build_object(
            'limit', of_resource, 'allowed', core.limit_of(of_tenant, of_resource));
END
$$;

-- For tables whose rows all count: every INSERT and DELETE statement counts once, for all its rows.
CREATE FUNCTION core.count_rows() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    each record;
BEGIN
    FOR each IN SELECT c.tenant_id, count(*) AS rows FROM changed c GROUP BY c.tenant_id LOOP
        PERFORM core.count_usage(
            each.tenant_id, TG_ARGV[0], CASE TG_OP WHEN 'DELETE' THEN -each.rows ELSE each.rows END
        );
    END LOOP;
    RETURN NULL;
END
$$;

-- The same where a row with deleted_at is no more.
CREATE FUNCTION core.count_living() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    each record;
BEGIN
    FOR each IN
        SELECT c.tenant_id, count(*) AS rows FROM changed c
        WHERE c.deleted_at IS NULL GROUP BY c.tenant_id
    LOOP
        PERFORM core.count_usage(
            each.tenant_id, TG_ARGV[0], CASE TG_OP WHEN 'DELETE' THEN -each.rows ELSE each.rows END
        );
    END LOOP;
    RETURN NULL;
END
$$;

-- And where it is deleted so, or comes back.
CREATE FUNCTION core.count_return() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM core.count_usage(
        NEW.tenant_id, TG_ARGV[0], CASE WHEN NEW.deleted_at IS NULL THEN 1 ELSE -1 END
    );
    RETURN NULL;
END
$$;

-- What is counted: living people, wallets, documents. A statement that changes nothing of this
-- fires nothing.
CREATE TRIGGER count_added AFTER INSERT ON auth.users
REFERENCING NEW TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION core.count_living('users');
CREATE TRIGGER count_removed AFTER DELETE ON auth.users
REFERENCING OLD TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION core.count_living('users');
CREATE TRIGGER count_returned AFTER UPDATE OF deleted_at ON auth.users
FOR EACH ROW WHEN ((old.deleted_at IS NULL) <> (new.deleted_at IS NULL))
EXECUTE FUNCTION core.count_return('users');
CREATE TRIGGER count_added AFTER INSERT ON blockchain.wallets
REFERENCING NEW TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION core.count_rows('wallets');
CREATE TRIGGER count_removed AFTER DELETE ON blockchain.wallets
REFERENCING OLD TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION core.count_rows('wallets');
CREATE TRIGGER count_added AFTER INSERT ON core.tenant_data
REFERENCING NEW TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION core.count_rows('documents');
CREATE TRIGGER count_removed AFTER DELETE ON core.tenant_data
REFERENCING OLD TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION core.count_rows('documents');

-- Making a tenant, its tier, its limits and its end are the operator's: no tenant can do this to
-- itself, whatever SQL it may come to run. Who is above row security is above this.
CREATE FUNCTION core.keep_tenants_to_operators() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND (
        OLD.id, OLD.identifier, OLD.subscription_tier, OLD.limits, OLD.created_at, OLD.deleted_at
    ) IS NOT DISTINCT FROM (
        NEW.id, NEW.identifier, NEW.subscription_tier, NEW.limits, NEW.created_at, NEW.deleted_at
    ) THEN
        RETURN NEW;
    END IF;
    IF NOT row_security_active('core.tenants') OR core.current_principal() ~ '^(operator|system):' THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION '% of core.tenants is refused', TG_OP
        USING ERRCODE = 'insufficient_privilege', HINT = 'this is for operators';
END
$$;
CREATE TRIGGER keep_to_operators BEFORE INSERT OR UPDATE ON core.tenants
FOR EACH ROW EXECUTE FUNCTION core.keep_tenants_to_operators();

-- Keeps core.tenant_standing, and deals quotas anew where a limit moved.
CREATE FUNCTION core.note_standing() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO core.tenant_standing (id, identifier, tier, limits, is_closed)
    VALUES (
        NEW.id, NEW.identifier, NEW.subscription_tier, NEW.limits, NEW.deleted_at IS NOT NULL
    )
    ON CONFLICT (id) DO UPDATE SET
        identifier = excluded.identifier,
        tier = excluded.tier,
        limits = excluded.limits,
        is_closed = excluded.is_closed;
    PERFORM core.deal_quotas(NEW.id, u.resource, 0, 0)
    FROM (SELECT DISTINCT s.resource FROM core.usage_slots s WHERE s.tenant = NEW.id) AS u;
    RETURN NULL;
END
$$;
CREATE TRIGGER note_standing
AFTER INSERT OR UPDATE OF identifier, subscription_tier, limits, deleted_at ON core.tenants
FOR EACH ROW EXECUTE FUNCTION core.note_standing();

-- The same for a tier as a whole.
CREATE FUNCTION core.note_tier() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM core.deal_quotas(u.tenant, u.resource, 0, 0)
    FROM (
        SELECT DISTINCT s.tenant, s.resource FROM core.usage_slots s
        INNER JOIN core.tenant_standing t ON t.id = s.tenant WHERE t.tier = NEW.tier
    ) AS u;
    RETURN NULL;
END
$$;
CREATE TRIGGER note_tier AFTER UPDATE ON core.tiers
FOR EACH ROW EXECUTE FUNCTION core.note_tier();

-- Tenants and rows that are older than the counting. FORCE holds the owner too, hence the pause; it
-- ends with this transaction, and nobody else gets in before.
ALTER TABLE core.tenants NO FORCE ROW LEVEL SECURITY;
ALTER TABLE auth.users NO FORCE ROW LEVEL SECURITY;
ALTER TABLE blockchain.wallets NO FORCE ROW LEVEL SECURITY;
ALTER TABLE core.tenant_data NO FORCE ROW LEVEL SECURITY;
INSERT INTO core.tenant_standing (id, identifier, tier, limits, is_closed)
SELECT t.id, t.identifier, t.subscription_tier, t.limits, t.deleted_at IS NOT NULL FROM core.tenants t;
INSERT INTO core.usage_slots (tenant, resource, slot, used, quota)
SELECT c.tenant, c.resource, s.slot, CASE s.slot WHEN 0 THEN c.rows ELSE 0 END, 0
FROM (
    SELECT tenant_id AS tenant, 'users' AS resource, count(*) AS rows FROM auth.users
    WHERE deleted_at IS NULL GROUP BY tenant_id
    UNION ALL
    SELECT tenant_id, 'wallets', count(*) FROM blockchain.wallets GROUP BY tenant_id
    UNION ALL
    SELECT tenant_id, 'documents', count(*) FROM core.tenant_data GROUP BY tenant_id
) AS c
CROSS JOIN generate_series(0, 7) AS s (slot);
ALTER TABLE core.tenants FORCE ROW LEVEL SECURITY;
ALTER TABLE auth.users FORCE ROW LEVEL SECURITY;
ALTER TABLE blockchain.wallets FORCE ROW LEVEL SECURITY;
ALTER TABLE core.tenant_data FORCE ROW LEVEL SECURITY;

-- The asking tenant's limits and what it uses of them; no rows where no tenant asks.
CREATE FUNCTION core.my_limits() RETURNS TABLE (resource text, allowed bigint, used bigint)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
SELECT l.key, (l.value #>> '{}')::bigint, (
    SELECT coalesce(sum(u.used), 0)::bigint FROM core.usage_slots AS u
    WHERE u.tenant = s.id AND u.resource = l.key
)
FROM core.tenant_standing AS s
INNER JOIN core.tiers AS t ON s.tier = t.tier
CROSS JOIN jsonb_each(t.limits || s.limits) AS l
WHERE s.id = core.current_tenant()
ORDER BY l.key;
END;
GRANT EXECUTE ON FUNCTION core.my_limits() TO neolayer_app;

-- Whose public name this is, for who is about to log in there: the id of an open tenant, or NULL.
CREATE FUNCTION core.find_tenant(by_identifier text) RETURNS uuid
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
RETURN (
    SELECT s.id FROM core.tenant_standing AS s
    WHERE s.identifier = by_identifier AND NOT s.is_closed
);
GRANT EXECUTE ON FUNCTION core.find_tenant(text) TO neolayer_app;

-- As before, and: a tenant that was deleted is nobody, except to operators and to the layer's own
-- work, which must still seal, export, erase or restore it. The sums say nothing new: HMAC-SHA-256
-- in core's sha256(), see 0001.
CREATE OR REPLACE FUNCTION core.verified_context() RETURNS text []
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    parts text[] := string_to_array(current_setting('neolayer.context', true), '.');
    message bytea := convert_to(parts[1] || '.' || parts[2] || '.' || parts[3], 'UTF8');
BEGIN
    IF array_length(parts, 1) IS DISTINCT FROM 4 OR NOT EXISTS (
        SELECT FROM core.context_secrets s
        WHERE encode(sha256(s.outer_pad || sha256(s.inner_pad || message)), 'hex') = parts[4]
    ) THEN
        RETURN NULL;
    END IF;
    -- Signed, hence written by us and well formed: nothing else is cast.
    IF parts[3]::bigint <= extract(epoch FROM clock_timestamp()) THEN
        RETURN NULL;
    END IF;
    IF EXISTS (SELECT FROM core.tenant_standing s WHERE s.id = parts[1]::uuid AND s.is_closed)
        AND parts[2] !~ '^(operator|system):'
    THEN
        RETURN NULL;
    END IF;
    RETURN parts[1:2];
END
$$;

-- A context without a tenant bears the nil UUID: it names a principal (for the audit) and no tenant.
-- Both questions are now short enough to be inlined: a policy then costs one call of the function
-- above, where it cost three. What that tells its caller are these two answers, no more.
CREATE OR REPLACE FUNCTION core.current_tenant() RETURNS uuid
LANGUAGE sql STABLE PARALLEL RESTRICTED
RETURN nullif((core.verified_context())[1], '00000000-0000-0000-0000-000000000000')::uuid;
CREATE OR REPLACE FUNCTION core.current_principal() RETURNS text
LANGUAGE sql STABLE PARALLEL RESTRICTED
RETURN (core.verified_context())[2];
GRANT EXECUTE ON FUNCTION core.verified_context()
TO neolayer_app, neolayer_operator, neolayer_backup, neolayer_relay, neolayer_ingest;

-- What a pooled session may carry from one borrower to the next: settings that change what is seen,
-- stored or waited for, who one is, and a context that outlived its transaction. Parsed here once,
-- so that no search_path of a caller decides what these names mean; short enough to be inlined.
CREATE FUNCTION core.session_state() RETURNS text
LANGUAGE sql STABLE
RETURN session_user || '|' || current_user
|| CASE WHEN coalesce(current_setting('neolayer.context', true), '') <> '' THEN '|context' ELSE '' END
|| '|' || current_setting('search_path') || '|' || current_setting('row_security')
|| '|' || current_setting('TimeZone') || '|' || current_setting('DateStyle')
|| '|' || current_setting('IntervalStyle') || '|' || current_setting('client_encoding')
|| '|' || current_setting('bytea_output') || '|' || current_setting('extra_float_digits')
|| '|' || current_setting('standard_conforming_strings')
|| '|' || current_setting('default_transaction_isolation')
|| '|' || current_setting('default_transaction_read_only')
|| '|' || current_setting('synchronous_commit')
|| '|' || current_setting('statement_timeout') || '|' || current_setting('lock_timeout')
|| '|' || current_setting('idle_in_transaction_session_timeout');

-- And what it may have made in pg_temp: tables, types, functions, which whoever does not name a
-- schema finds before ours.
CREATE FUNCTION core.has_temporary_objects() RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN EXISTS (
        SELECT FROM pg_catalog.pg_depend d
        WHERE d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
            AND d.refobjid = pg_catalog.pg_my_temp_schema()
    );
END
$$;

-- 42501 is the code of a refused privilege.
CREATE FUNCTION core.refuse_session(state text) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'the session is not as it was when it was made'
        USING ERRCODE = 'insufficient_privilege', DETAIL = state;
END
$$;

-- The door to a transaction: takes a signed context where the session is clean.
CREATE FUNCTION core.enter(context text, state text) RETURNS text
LANGUAGE sql
RETURN CASE
    WHEN core.session_state() = state
        AND (pg_my_temp_schema() = 0 OR NOT core.has_temporary_objects())
    THEN set_config('neolayer.context', context, true)
    ELSE core.refuse_session(core.session_state())
END;
GRANT EXECUTE ON FUNCTION
core.session_state(), core.has_temporary_objects(), core.refuse_session(text), core.enter(text, text)
TO neolayer_app;

-- Searching. A policy on a table keeps every operator that is not leakproof (LIKE, @>, trigrams) from
-- the indexes, for the owner too. So the search functions run as a role that no policy holds and
-- that may read what is searched, ask for the tenant themselves, and are the only way to that role.
-- Their indexes need no extension and begin with the tenant: each key is made of tenant and text,
-- so what others have makes a search neither slower nor longer.
GRANT USAGE ON SCHEMA core, auth TO neolayer_search;
GRANT EXECUTE ON FUNCTION core.current_tenant(), core.verified_context() TO neolayer_search;

-- All runs of three letters in a text, each bound to the tenant; two marks before the text make its
-- first one and two letters runs as well.
CREATE FUNCTION core.search_keys(tenant uuid, words text, opened boolean) RETURNS bigint []
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (
    SELECT array_agg(DISTINCT hashtextextended(tenant::text || substr(w.word, p.place, 3), 0))
    FROM (SELECT CASE WHEN opened THEN E'\x01\x01' ELSE '' END || words AS word) AS w
    CROSS JOIN LATERAL generate_series(1, length(w.word) - 2) AS p (place)
);
CREATE FUNCTION auth.name_keys(tenant uuid, email text, username text) RETURNS bigint []
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN core.search_keys(tenant, email, true) || core.search_keys(tenant, username, true);
CREATE INDEX idx_users_search ON auth.users
USING gin (auth.name_keys(tenant_id, email, username)) WHERE deleted_at IS NULL;
GRANT SELECT (tenant_id, id, email, username, status, created_at, last_login_at, deleted_at)
ON auth.users TO neolayer_search;

-- A document below its tenant's id: jsonb_path_ops hashes the whole path, which now begins with it.
CREATE FUNCTION core.below_tenant(tenant uuid, document jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN jsonb_build_object(tenant::text, document);
CREATE INDEX idx_tenant_data_search ON core.tenant_data
USING gin (core.below_tenant(tenant_id, data) jsonb_path_ops);
GRANT SELECT (tenant_id, data_id, data, created_at, updated_at)
ON core.tenant_data TO neolayer_search;
GRANT EXECUTE ON FUNCTION
core.search_keys(uuid, text, boolean), auth.name_keys(uuid, text, text),
core.below_tenant(uuid, jsonb)
TO neolayer_app, neolayer_migrator, neolayer_search;

-- People of the asking tenant whose email or username contains the term; of a term shorter than
-- three letters: begins with it. By email, so many at most; nobody where no tenant asks.
CREATE FUNCTION auth.search_users(term text, most int)
RETURNS TABLE (
    id uuid, email text, username text, status text,
    created_at timestamptz, last_login_at timestamptz
)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    asking uuid := core.current_tenant();
    sought text := lower(normalize(term));
    keys bigint[] := core.search_keys(
        asking,
        CASE WHEN length(sought) < 3 THEN rpad('', 3 - length(sought), E'\x01') ELSE '' END || sought,
        false
    );
BEGIN
    IF asking IS NULL OR sought = '' THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT
        u.id, u.email::text, u.username::text, u.status::text, u.created_at, u.last_login_at
    FROM auth.users u
    WHERE u.tenant_id = asking AND u.deleted_at IS NULL
        AND auth.name_keys(u.tenant_id, u.email, u.username) @> keys
        AND CASE WHEN length(sought) < 3
            THEN starts_with(u.email, sought) OR starts_with(u.username, sought)
            ELSE strpos(u.email, sought) > 0 OR strpos(u.username, sought) > 0 END
    ORDER BY u.email
    LIMIT least(greatest(most, 0), 1000);
END
$$;

-- Documents of the asking tenant that contain `part`, by id, after one, so many at most.
CREATE FUNCTION core.search_documents(part jsonb, after_id uuid, most int)
RETURNS TABLE (data_id uuid, data jsonb, created_at timestamptz, updated_at timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    asking uuid := core.current_tenant();
BEGIN
    IF asking IS NULL THEN
        RETURN;
    END IF;
    -- A part without any value has no key in the index, which would then be read as a whole.
    IF NOT jsonb_path_exists(part, '$.** ? (@.type() != "object" && @.type() != "array")') THEN
        RETURN QUERY
        SELECT d.data_id, d.data, d.created_at, d.updated_at FROM core.tenant_data d
        WHERE d.tenant_id = asking AND d.data @> part
            AND (after_id IS NULL OR d.data_id > after_id)
        ORDER BY d.data_id LIMIT least(greatest(most, 0), 1000);
        RETURN;
    END IF;
    RETURN QUERY
    SELECT f.data_id, f.data, f.created_at, f.updated_at FROM (
        SELECT d.data_id, d.data, d.created_at, d.updated_at FROM core.tenant_data d
        WHERE d.tenant_id = asking
            AND core.below_tenant(d.tenant_id, d.data) @> core.below_tenant(asking, part)
        OFFSET 0  -- found by the index first, and put in order then
    ) f
    WHERE after_id IS NULL OR f.data_id > after_id
    ORDER BY f.data_id LIMIT least(greatest(most, 0), 1000);
END
$$;
GRANT EXECUTE ON FUNCTION auth.search_users(text, int), core.search_documents(jsonb, uuid, int)
TO neolayer_app;

-- Only who belongs to both roles can hand the functions over; the new owner must be allowed to make
-- something here for just that long.
GRANT CREATE ON SCHEMA core, auth TO neolayer_search;
RESET ROLE;
ALTER FUNCTION auth.search_users(text, int) OWNER TO neolayer_search;
ALTER FUNCTION core.search_documents(jsonb, uuid, int) OWNER TO neolayer_search;
SET ROLE neolayer_owner;
REVOKE CREATE ON SCHEMA core, auth FROM neolayer_search;

-- migrate:down
-- What this takes away is derived from what stays, but for changed tiers: they are configuration.
CREATE OR REPLACE FUNCTION core.current_tenant() RETURNS uuid
LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
RETURN (core.verified_context())[1]::uuid;
CREATE OR REPLACE FUNCTION core.current_principal() RETURNS text
LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
RETURN (core.verified_context())[2];
REVOKE EXECUTE ON FUNCTION core.verified_context()
FROM neolayer_app, neolayer_operator, neolayer_backup, neolayer_relay, neolayer_ingest;
CREATE OR REPLACE FUNCTION core.verified_context() RETURNS text []
LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    parts text[] := string_to_array(current_setting('neolayer.context', true), '.');
    message bytea := convert_to(parts[1] || '.' || parts[2] || '.' || parts[3], 'UTF8');
BEGIN
    IF array_length(parts, 1) IS DISTINCT FROM 4 OR NOT EXISTS (
        SELECT FROM core.context_secrets s
        WHERE encode(sha256(s.outer_pad || sha256(s.inner_pad || message)), 'hex') = parts[4]
    ) THEN
        RETURN NULL;
    END IF;
    -- Signed, hence written by us and well formed: nothing else is cast.
    IF parts[3]::bigint <= extract(epoch FROM clock_timestamp()) THEN
        RETURN NULL;
    END IF;
    RETURN parts[1:2];
END
$$;
DROP FUNCTION core.search_documents(jsonb, uuid, int);
DROP FUNCTION auth.search_users(text, int);
DROP INDEX core.idx_tenant_data_search;
DROP INDEX auth.idx_users_search;
DROP FUNCTION core.below_tenant(uuid, jsonb);
DROP FUNCTION auth.name_keys(uuid, text, text);
DROP FUNCTION core.search_keys(uuid, text, boolean);
REVOKE ALL ON core.tenant_data, auth.users FROM neolayer_search;
REVOKE EXECUTE ON FUNCTION core.current_tenant(), core.verified_context() FROM neolayer_search;
REVOKE USAGE ON SCHEMA core, auth FROM neolayer_search;
DROP FUNCTION core.enter(text, text);
DROP FUNCTION core.refuse_session(text);
DROP FUNCTION core.has_temporary_objects();
DROP FUNCTION core.session_state();
DROP FUNCTION core.find_tenant(text);
DROP FUNCTION core.my_limits();
DROP TRIGGER note_standing ON core.tenants;
DROP TRIGGER keep_to_operators ON core.tenants;
DROP TRIGGER count_removed ON core.tenant_data;
DROP TRIGGER count_added ON core.tenant_data;
DROP TRIGGER count_removed ON blockchain.wallets;
DROP TRIGGER count_added ON blockchain.wallets;
DROP TRIGGER count_returned ON auth.users;
DROP TRIGGER count_removed ON auth.users;
DROP TRIGGER count_added ON auth.users;
DROP TABLE core.usage_slots;
DROP FUNCTION core.limit_of(uuid, text);
DROP TABLE core.tenant_standing;
ALTER TABLE core.tenants DROP CONSTRAINT tenants_settings_check;
ALTER TABLE core.tenants DROP CONSTRAINT tenants_limits_check;
DROP TABLE core.tiers;
DROP FUNCTION core.note_tier();
DROP FUNCTION core.note_standing();
DROP FUNCTION core.keep_tenants_to_operators();
DROP FUNCTION core.count_return();
DROP FUNCTION core.count_living();
DROP FUNCTION core.count_rows();
DROP FUNCTION core.count_usage(uuid, text, bigint);
DROP FUNCTION core.deal_quotas(uuid, text, int, bigint);
DROP FUNCTION core.is_limits(jsonb);
