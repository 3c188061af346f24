-- What all migrations together make, written by `python -m neolayer.schema.dump --write`.
-- A picture to compare with, not a script to run.

-- line: core
SCHEMA audit
    OWNER neolayer_owner
    GRANT neolayer_app=U
    GRANT neolayer_auditor=U
    GRANT neolayer_backup=U
    GRANT neolayer_operator=U
    GRANT neolayer_relay=U

SCHEMA auth
    OWNER neolayer_owner
    GRANT neolayer_app=U
    GRANT neolayer_backup=U
    GRANT neolayer_operator=U
    GRANT neolayer_relay=U
    GRANT neolayer_search=U

SCHEMA blockchain
    OWNER neolayer_owner
    GRANT neolayer_app=U
    GRANT neolayer_backup=U
    GRANT neolayer_ingest=U
    GRANT neolayer_operator=U
    GRANT neolayer_relay=U

SCHEMA core
    OWNER neolayer_owner
    GRANT neolayer_app=U
    GRANT neolayer_backup=U
    GRANT neolayer_ingest=U
    GRANT neolayer_operator=U
    GRANT neolayer_relay=U
    GRANT neolayer_search=U

SCHEMA enclave
    OWNER neolayer_owner
    GRANT neolayer_app=U
    GRANT neolayer_backup=U
    GRANT neolayer_operator=U
    GRANT neolayer_relay=U

DEFAULT RIGHTS OF neolayer_owner IN - ON f
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION audit.admit_only_growth()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    IF NEW.tenant_id IS NOT DISTINCT FROM OLD.tenant_id
        AND NEW.anchored_number >= OLD.anchored_number
        AND (
            NEW.chain_number > OLD.chain_number
            OR (NEW.chain_number, NEW.entry_hash) = (OLD.chain_number, OLD.entry_hash)
        )
    THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'UPDATE of audit.heads is refused'
        USING ERRCODE = 'insufficient_privilege', HINT = 'a chain only grows';
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION audit.admit_only_sealing()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
    chain text[] := ARRAY['chain_number', 'previous_hash', 'entry_hash', 'sealed_at'];
BEGIN
    IF current_user = 'neolayer_auditor'
        AND OLD.chain_number IS NULL AND NEW.chain_number > 0
        AND octet_length(NEW.previous_hash) = 32 AND octet_length(NEW.entry_hash) = 32
        AND NEW.sealed_at IS NOT NULL
        AND to_jsonb(OLD) - chain = to_jsonb(NEW) - chain
    THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'UPDATE of audit.entries is refused'
        USING ERRCODE = 'insufficient_privilege', HINT = 'entries are only added, and sealed once';
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION audit.entry_digest(entry audit.entries)
 RETURNS bytea
 LANGUAGE sql
 STABLE PARALLEL SAFE
 SET search_path TO 'pg_catalog', 'pg_temp'
RETURN (SELECT sha256(string_agg(COALESCE((int4send(octet_length(convert_to(f.value, 'UTF8'::name))) || convert_to(f.value, 'UTF8'::name)), int4send('-1'::integer)), '\x'::bytea ORDER BY f.place)) AS sha256 FROM unnest(ARRAY['neolayer audit 1'::text, ((entry_digest.entry).chain_number)::text, encode((entry_digest.entry).previous_hash, 'hex'::text), ((entry_digest.entry).tenant_id)::text, ((entry_digest.entry).id)::text, (((EXTRACT(epoch FROM (entry_digest.entry).occurred_at) * (1000000)::numeric))::bigint)::text, ((entry_digest.entry).principal)::text, ((entry_digest.entry).user_id)::text, ((entry_digest.entry).action)::text, ((entry_digest.entry).resource)::text, ((entry_digest.entry).resource_id)::text, ((entry_digest.entry).changes)::text, ((entry_digest.entry).ip_address)::text, (entry_digest.entry).user_agent, ((entry_digest.entry).success)::text, (entry_digest.entry).error_message, ((entry_digest.entry).transaction_id)::text, (((EXTRACT(epoch FROM (entry_digest.entry).sealed_at) * (1000000)::numeric))::bigint)::text]) WITH ORDINALITY f(value, place))
    OWNER neolayer_owner
    GRANT neolayer_app=X
    GRANT neolayer_auditor=X
    GRANT neolayer_backup=X
    GRANT neolayer_operator=X

CREATE OR REPLACE FUNCTION audit.require_entry()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    IF row_security_active('audit.entries') AND NOT EXISTS (
        SELECT FROM audit.entries e
        WHERE e.chain_number IS NULL AND e.transaction_id = pg_current_xact_id()
            AND e.tenant_id = OLD.tenant_id AND e.success
            AND (e.action, e.resource, e.resource_id) = (TG_OP, TG_ARGV[0], OLD.id::text)
    ) THEN
        RAISE EXCEPTION '% of a % without an audit entry is refused', TG_OP, TG_ARGV[0]
            USING ERRCODE = 'insufficient_privilege',
            HINT = 'append the entry in the same transaction';
    END IF;
    RETURN NULL;
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION auth.actor_lacks(needed_resource text, needed_action text, needed_until timestamp with time zone)
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION auth.acts_for_platform()
 RETURNS boolean
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
RETURN COALESCE((split_part(core.current_principal(), ':'::text, 1) = ANY (ARRAY['operator'::text, 'system'::text])), (NOT row_security_active('core.tenants'::text)))
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION auth.admit_credentials()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.deleted_at IS NULL THEN
        PERFORM auth.require_over(OLD.tenant_id, OLD.id, ARRAY['users:update']);
    ELSE
        PERFORM auth.require_over(OLD.tenant_id, OLD.id, ARRAY['users:delete']);
    END IF;
    RETURN coalesce(NEW, OLD);
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION auth.admit_failure()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    IF auth.acts_for_platform() OR core.current_principal() LIKE 'anonymous:%' THEN
        RETURN coalesce(NEW, OLD);
    END IF;
    RAISE EXCEPTION '% of auth.login_failures is refused', TG_OP
        USING ERRCODE = 'insufficient_privilege', HINT = 'failures are counted by logins';
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION auth.admit_grant()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION auth.admit_key()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION auth.admit_permission()
 RETURNS trigger
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION auth.admit_person()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    PERFORM auth.require_one_of(ARRAY['users:create']);
    RETURN NEW;
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION auth.admit_proof()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION auth.admit_refresh_token()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    PERFORM auth.require_over(s.tenant_id, s.user_id, ARRAY['users:update'])
    FROM auth.sessions s
    WHERE (s.tenant_id, s.id) IN (
        (OLD.tenant_id, OLD.session_id), (NEW.tenant_id, NEW.session_id)
    );
    RETURN coalesce(NEW, OLD);
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION auth.admit_role()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION auth.admit_service()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION auth.admit_session()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION auth.admit_verb()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
    of_table text := TG_TABLE_SCHEMA || '.' || TG_TABLE_NAME;
    needed text[] := auth.needed_for(of_table, TG_OP);
BEGIN
    IF NOT row_security_active(TG_RELID) THEN
        RETURN coalesce(NEW, OLD);
    END IF;
    IF of_table = 'core.tenants' THEN
        PERFORM core.require_context(OLD.id);
    ELSE
        PERFORM core.require_context(coalesce(NEW.tenant_id, OLD.tenant_id));
        IF NEW.tenant_id <> OLD.tenant_id THEN
            PERFORM core.require_context(OLD.tenant_id);
        END IF;
    END IF;
    IF auth.acts_for_platform() THEN
        RETURN coalesce(NEW, OLD);
    END IF;
    IF needed IS NULL THEN
        RAISE EXCEPTION '% of % is refused', TG_OP, of_table
            USING ERRCODE = 'insufficient_privilege', HINT = 'the layer itself writes this';
    END IF;
    IF NOT EXISTS (
        SELECT FROM unnest(needed) AS n (permission)
        WHERE NOT auth.actor_lacks(
            split_part(n.permission, ':', 1), split_part(n.permission, ':', 2), clock_timestamp()
        )
    ) THEN
        RAISE EXCEPTION 'the permission % is missing', needed[1]
            USING ERRCODE = 'insufficient_privilege', CONSTRAINT = 'no_permission',
            DETAIL = needed[1];
    END IF;
    RETURN coalesce(NEW, OLD);
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION auth.covers(held text[], needed_resource text, needed_action text)
 RETURNS boolean
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN (held && ARRAY[((needed_resource || ':'::text) || needed_action), (needed_resource || ':*'::text), ('*:'::text || needed_action), '*'::text])
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION auth.goes_along(grant_kind text, before jsonb, after jsonb)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION auth.held_by_service(of_tenant uuid, of_service uuid)
 RETURNS text[]
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
RETURN (SELECT COALESCE(array_agg(DISTINCT (p.name)::text), '{}'::text[]) AS "coalesce" FROM ((auth.service_roles g JOIN auth.role_permissions rp ON (((rp.scope_id = g.role_scope_id) AND (rp.role_id = g.role_id)))) JOIN auth.permissions p ON ((p.id = rp.permission_id))) WHERE ((g.tenant_id = held_by_service.of_tenant) AND (g.service_id = held_by_service.of_service) AND (COALESCE(g.expires_at, 'infinity'::timestamp with time zone) > clock_timestamp())))
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION auth.keep_an_active_owner()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION auth.keep_an_owner()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    PERFORM auth.require_an_owner(OLD.tenant_id);
    RETURN NULL;
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION auth.keep_names_apart()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    IF NEW.tenant_id IS NOT NULL
        AND EXISTS (SELECT FROM auth.roles r WHERE r.tenant_id IS NULL AND r.name = NEW.name)
    THEN
        RAISE EXCEPTION 'a role of the platform has this name'
            USING ERRCODE = 'unique_violation', CONSTRAINT = 'roles_name_unique';
    END IF;
    RETURN NEW;
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION auth.name_keys(tenant uuid, email text, username text)
 RETURNS bigint[]
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN (core.search_keys(tenant, email, true) || core.search_keys(tenant, username, true))
    OWNER neolayer_owner
    GRANT neolayer_app=X
    GRANT neolayer_migrator=X
    GRANT neolayer_search=X

CREATE OR REPLACE FUNCTION auth.needed_for(of_table text, verb text)
 RETURNS text[]
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN (SELECT n.permissions FROM (VALUES ('core.tenants'::text,'UPDATE'::text,'{tenants:update}'::text[]), ('blockchain.wallets'::text,'INSERT'::text,'{wallets:create}'::text[]), ('blockchain.wallets'::text,'UPDATE'::text,'{wallets:update}'::text[]), ('blockchain.wallets'::text,'DELETE'::text,'{wallets:delete}'::text[]), ('enclave.attestation_policies'::text,'INSERT'::text,'{attestations:update}'::text[]), ('enclave.verifications'::text,'INSERT'::text,'{attestations:create,attestations:update}'::text[]), ('enclave.nonces'::text,'INSERT'::text,'{attestations:create}'::text[]), ('enclave.nonces'::text,'UPDATE'::text,'{attestations:create}'::text[]), ('enclave.nonces'::text,'DELETE'::text,'{attestations:update}'::text[]), ('enclave.computations'::text,'INSERT'::text,'{computations:create}'::text[]), ('enclave.computations'::text,'UPDATE'::text,'{computations:update}'::text[]), ('enclave.sealed_data'::text,'INSERT'::text,'{sealed_data:create}'::text[]), ('enclave.sealed_data'::text,'UPDATE'::text,'{sealed_data:update}'::text[]), ('enclave.sealed_data'::text,'DELETE'::text,'{sealed_data:delete}'::text[])) n(name, of_verb, permissions) WHERE ((n.name = needed_for.of_table) AND (n.of_verb = needed_for.verb)))
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION auth.refuse_escalation(missing text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    RAISE EXCEPTION 'nobody gives what they do not hold'
        USING ERRCODE = 'insufficient_privilege', CONSTRAINT = 'no_escalation', DETAIL = missing;
END
$function$
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION auth.require_all_in(of_scope uuid, of_role uuid, needed_until timestamp with time zone)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION auth.require_all_of(tenant uuid, person uuid)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
    actor text := core.current_principal();
    missing text;
BEGIN
    IF actor = 'user:' || person OR split_part(actor, ':', 1) IN ('anonymous', 'operator', 'system')
    THEN
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
$function$
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION auth.require_all_of_service(of_tenant uuid, of_service uuid, needed_until timestamp with time zone)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    PERFORM auth.require_all_in(g.role_scope_id, g.role_id, least(g.expires_at, needed_until))
    FROM auth.service_roles g
    WHERE g.tenant_id = of_tenant AND g.service_id = of_service
        AND coalesce(g.expires_at, 'infinity') > clock_timestamp();
END
$function$
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION auth.require_an_owner(tenant uuid)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION auth.require_one_of(needed text[])
 RETURNS void
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION auth.require_over(of_tenant uuid, person uuid, needed text[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    IF auth.acts_for_platform() OR core.current_principal() = 'user:' || person
        OR core.current_principal() LIKE 'anonymous:%'
    THEN
        RETURN;
    END IF;
    PERFORM auth.require_one_of(needed);
    PERFORM auth.require_all_of(of_tenant, person);
END
$function$
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION auth.search_users(term text, most integer)
 RETURNS TABLE(id uuid, email text, username text, status text, created_at timestamp with time zone, last_login_at timestamp with time zone)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$
    OWNER neolayer_search
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION blockchain.claim_transaction_keys()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
    networks uuid[] := ARRAY(SELECT DISTINCT a.network_id FROM added a);
BEGIN
    PERFORM FROM blockchain.networks n WHERE n.id = ANY (networks) FOR KEY SHARE;
    IF EXISTS (
        SELECT FROM unnest(networks) AS named (id)
        WHERE NOT EXISTS (SELECT FROM blockchain.networks n WHERE n.id = named.id)
    ) THEN
        RAISE EXCEPTION 'a transaction names a network that does not exist'
            USING ERRCODE = 'foreign_key_violation', SCHEMA = 'blockchain', TABLE = 'transactions';
    END IF;
    INSERT INTO blockchain.transaction_keys (network_id, transaction_hash)
    SELECT a.network_id, decode(substr(a.transaction_hash, 3), 'hex') FROM added a;
    RETURN NULL;
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION blockchain.ensure_partitions(starts_at timestamp with time zone, ends_at timestamp with time zone)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
DECLARE
    first_year int := extract(year FROM starts_at);
    last_year int := extract(year FROM ends_at);
    made int := 0;
    parent text;
    child text;
    opens timestamptz;
    closes timestamptz;
BEGIN
    IF last_year - first_year > 60 OR first_year < 1970 OR last_year > 2261 THEN
        RAISE EXCEPTION 'no partitions for % to %', starts_at, ends_at
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR year IN first_year .. last_year LOOP
        FOREACH parent IN ARRAY ARRAY['transactions', 'logs'] LOOP
            child := format('%s_%s', parent, year);
            CONTINUE WHEN to_regclass(format('blockchain.%I', child)) IS NOT NULL;
            
            
            EXECUTE format('LOCK TABLE ONLY blockchain.%I IN SHARE UPDATE EXCLUSIVE MODE', parent);
            CONTINUE WHEN to_regclass(format('blockchain.%I', child)) IS NOT NULL;
            opens := make_timestamptz(year, 1, 1, 0, 0, 0);
            closes := make_timestamptz(year + 1, 1, 1, 0, 0, 0);
            EXECUTE format(
                'CREATE TEMPORARY TABLE waiting ON COMMIT DROP AS '
                'SELECT * FROM blockchain.%I WHERE block_timestamp >= %L AND block_timestamp < %L',
                parent || '_default', opens, closes
            );
            EXECUTE format(
                'DELETE FROM blockchain.%I WHERE block_timestamp >= %L AND block_timestamp < %L',
                parent, opens, closes
            );
            EXECUTE format(
                'CREATE TABLE blockchain.%I PARTITION OF blockchain.%I FOR VALUES FROM (%L) TO (%L)',
                child, parent, opens, closes
            );
            EXECUTE format('ALTER TABLE blockchain.%I REPLICA IDENTITY %s', child,
                CASE parent WHEN 'transactions' THEN 'FULL' ELSE 'DEFAULT' END);
            PERFORM core.keep_rows_of_partition(format('blockchain.%I', child)::regclass);
            EXECUTE format('INSERT INTO blockchain.%I SELECT * FROM pg_temp.waiting', parent);
            DROP TABLE pg_temp.waiting;
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END
$function$
    OWNER neolayer_owner
    GRANT neolayer_ingest=X
    GRANT neolayer_migrator=X

CREATE OR REPLACE FUNCTION blockchain.is_address(address text)
 RETURNS boolean
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN ("left"(address, 2) = '0x'::text) THEN ((octet_length(address) = 42) AND (address = lower((address COLLATE "C"))) AND (octet_length(decode(substr(address, 3), 'hex'::text)) = 20)) ELSE (address ~ '^N[1-9A-HJ-NP-Za-km-z]{33}$'::text) END
    OWNER neolayer_owner
    GRANT =X

CREATE OR REPLACE FUNCTION blockchain.is_hash(hash text)
 RETURNS boolean
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN ((octet_length(hash) = 66) AND ("left"(hash, 2) = '0x'::text) AND (hash = lower((hash COLLATE "C"))) AND (octet_length(decode(substr(hash, 3), 'hex'::text)) = 32))
    OWNER neolayer_owner
    GRANT =X

CREATE OR REPLACE FUNCTION blockchain.keep_named_network()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.id = OLD.id THEN
        RETURN NULL;
    END IF;
    IF EXISTS (SELECT FROM blockchain.transaction_keys k WHERE k.network_id = OLD.id) THEN
        RAISE EXCEPTION 'network % still has transactions', OLD.name
            USING ERRCODE = 'foreign_key_violation', SCHEMA = 'blockchain', TABLE = 'networks';
    END IF;
    RETURN NULL;
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION blockchain.keep_wallet()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM FROM blockchain.networks n
        WHERE n.id = NEW.network_id
            AND (n.network_type = 'neo-n3') = (left(NEW.address, 1) = 'N');
        IF NOT FOUND AND EXISTS (SELECT FROM blockchain.networks n WHERE n.id = NEW.network_id) THEN
            RAISE EXCEPTION 'the address is not one of this kind of network'
                USING ERRCODE = 'check_violation', SCHEMA = 'blockchain', TABLE = 'wallets',
                CONSTRAINT = 'wallets_network_check';
        END IF;
        RETURN NEW;
    END IF;
    IF (NEW.tenant_id, NEW.id, NEW.network_id, NEW.address, NEW.is_hardware, NEW.created_at)
        IS DISTINCT FROM
        (OLD.tenant_id, OLD.id, OLD.network_id, OLD.address, OLD.is_hardware, OLD.created_at)
        OR NEW.public_key IS DISTINCT FROM OLD.public_key
        OR (NEW.encrypted_private_key IS NULL) <> (OLD.encrypted_private_key IS NULL) THEN
        RAISE EXCEPTION 'a wallet keeps its tenant, network, address and custody'
            USING ERRCODE = 'insufficient_privilege',
            HINT = 'delete the wallet and add another';
    END IF;
    RETURN NEW;
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION blockchain.release_transaction_keys()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    DELETE FROM blockchain.transaction_keys k USING removed r
    WHERE k.network_id = r.network_id
        AND k.transaction_hash = decode(substr(r.transaction_hash, 3), 'hex');
    RETURN NULL;
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION blockchain.wallet_transactions(of_wallet uuid, before_time timestamp with time zone, before_index integer, before_hash text, at_most integer)
 RETURNS TABLE(wallet_id uuid, direction text, transaction_hash character varying, from_address character varying, to_address character varying, value numeric, fee numeric, status character varying, nonce bigint, block_number bigint, block_timestamp timestamp with time zone, transaction_index integer, confirmation_count bigint)
 LANGUAGE plpgsql
 STABLE PARALLEL RESTRICTED
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_sort TO 'off'
 SET enable_bitmapscan TO 'off'
AS $function$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT
        w.id, m.direction, m.transaction_hash, m.from_address, m.to_address, m.value, m.fee,
        m.status, m.nonce, m.block_number, m.block_timestamp, m.transaction_index,
        CASE
            WHEN m.block_number IS NULL THEN 0
            ELSE greatest(h.head_number - m.block_number + 1, 0)
        END
    FROM blockchain.wallets w
    LEFT JOIN blockchain.chain_heads h ON h.network_id = w.network_id
    LEFT JOIN LATERAL (
        (
            SELECT
                CASE WHEN t.to_address = w.address THEN 'self' ELSE 'out' END AS direction,
                t.transaction_hash, t.from_address, t.to_address, t.value,
                t.gas_used * coalesce(t.effective_gas_price, t.gas_price, 1)
                + coalesce((t.envelope ->> 'netfee')::numeric, 0) AS fee,
                t.status, t.nonce, t.block_number, t.block_timestamp, t.transaction_index,
                coalesce(t.transaction_index, 2147483647) AS place
            FROM blockchain.transactions t
            WHERE t.from_address = w.address
                AND t.network_id = w.network_id
                AND t.block_timestamp <= before_time
                AND (
                    t.block_timestamp, coalesce(t.transaction_index, 2147483647), t.transaction_hash
                ) < (before_time, before_index, before_hash)
            ORDER BY
                t.block_timestamp DESC,
                coalesce(t.transaction_index, 2147483647) DESC,
                t.transaction_hash DESC
            LIMIT at_most
        )
        UNION ALL
        (
            SELECT
                'in',
                t.transaction_hash, t.from_address, t.to_address, t.value,
                t.gas_used * coalesce(t.effective_gas_price, t.gas_price, 1)
                + coalesce((t.envelope ->> 'netfee')::numeric, 0),
                t.status, t.nonce, t.block_number, t.block_timestamp, t.transaction_index,
                coalesce(t.transaction_index, 2147483647)
            FROM blockchain.transactions t
            WHERE t.to_address = w.address
                AND t.from_address <> w.address
                AND t.network_id = w.network_id
                AND t.block_timestamp <= before_time
                AND (
                    t.block_timestamp, coalesce(t.transaction_index, 2147483647), t.transaction_hash
                ) < (before_time, before_index, before_hash)
            ORDER BY
                t.block_timestamp DESC,
                coalesce(t.transaction_index, 2147483647) DESC,
                t.transaction_hash DESC
            LIMIT at_most
        )
    ) m ON TRUE
    WHERE w.id = of_wallet
    ORDER BY m.block_timestamp DESC, m.place DESC, m.transaction_hash DESC
    LIMIT at_most;
END
$function$
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION core.admit_delivery()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
    waiting bigint;
BEGIN
    IF NOT row_security_active('core.webhook_deliveries') THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        IF NEW.status = 'pending' AND (
            NEW.tenant_id, NEW.webhook_id, NEW.number, NEW.event_id, NEW.event_type, NEW.version,
            NEW.envelope, NEW.created_at
        ) = (
            OLD.tenant_id, OLD.webhook_id, OLD.number, OLD.event_id, OLD.event_type, OLD.version,
            OLD.envelope, OLD.created_at
        ) THEN
            RETURN NEW;
        END IF;
        RAISE EXCEPTION 'a delivery is told again as it is, and not changed'
            USING ERRCODE = 'insufficient_privilege', HINT = 'neolayer webhooks replay';
    END IF;
    IF octet_length(NEW.envelope) > 8192 THEN
        RAISE EXCEPTION 'a trial is no larger than 8 KiB' USING ERRCODE = 'check_violation',
            SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
            CONSTRAINT = 'webhook_deliveries_envelope_size_check';
    END IF;
    SELECT count(*) INTO waiting FROM (
        SELECT FROM core.webhook_deliveries d
        WHERE d.tenant_id = NEW.tenant_id AND d.webhook_id = NEW.webhook_id
            AND d.status = 'pending'
        LIMIT 1000
    ) AS w;
    IF waiting >= 1000 THEN
        RAISE EXCEPTION '1000 deliveries wait for this webhook, and a trial would wait behind them'
            USING ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
            CONSTRAINT = 'webhook_deliveries_waiting_check';
    END IF;
    RETURN NEW;
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION core.admit_webhook_secret()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    PERFORM FROM core.webhooks w
    WHERE w.tenant_id = NEW.tenant_id AND w.id = NEW.webhook_id FOR NO KEY UPDATE;
    IF (
        SELECT count(*) FROM core.webhook_secrets s
        WHERE s.tenant_id = NEW.tenant_id AND s.webhook_id = NEW.webhook_id
    ) >= 8 THEN
        RAISE EXCEPTION 'a webhook has 8 secrets and no more' USING ERRCODE = 'check_violation',
            SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
            CONSTRAINT = 'webhook_secrets_number_check',
            HINT = 'those that ended go with the next rotation, others by DELETE';
    END IF;
    RETURN NEW;
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION core.below_tenant(tenant uuid, document jsonb)
 RETURNS jsonb
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN jsonb_build_object((tenant)::text, document)
    OWNER neolayer_owner
    GRANT neolayer_app=X
    GRANT neolayer_migrator=X
    GRANT neolayer_search=X

CREATE OR REPLACE FUNCTION core.count_living()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION core.count_return()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    PERFORM core.count_usage(
        NEW.tenant_id, TG_ARGV[0], CASE WHEN NEW.deleted_at IS NULL THEN 1 ELSE -1 END
    );
    RETURN NULL;
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION core.count_rows()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION core.count_usage(of_tenant uuid, of_resource text, more bigint)
 RETURNS void
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
    favourite int := pg_backend_pid() % 8;  
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
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION core.current_principal()
 RETURNS text
 LANGUAGE sql
 STABLE PARALLEL RESTRICTED
RETURN (core.verified_context())[2]
    OWNER neolayer_owner
    GRANT neolayer_app=X
    GRANT neolayer_backup=X
    GRANT neolayer_ingest=X
    GRANT neolayer_operator=X
    GRANT neolayer_relay=X

CREATE OR REPLACE FUNCTION core.current_tenant()
 RETURNS uuid
 LANGUAGE sql
 STABLE PARALLEL RESTRICTED
RETURN (NULLIF((core.verified_context())[1], '00000000-0000-0000-0000-000000000000'::text))::uuid
    OWNER neolayer_owner
    GRANT neolayer_app=X
    GRANT neolayer_backup=X
    GRANT neolayer_ingest=X
    GRANT neolayer_operator=X
    GRANT neolayer_relay=X
    GRANT neolayer_search=X

CREATE OR REPLACE FUNCTION core.deal_quotas(of_tenant uuid, of_resource text, into_slot integer, more bigint)
 RETURNS boolean
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION core.enter(context text, state text)
 RETURNS text
 LANGUAGE sql
RETURN CASE WHEN ((core.session_state() = state) AND ((pg_my_temp_schema() = (0)::oid) OR (NOT core.has_temporary_objects()))) THEN set_config('neolayer.context'::text, context, true) ELSE core.refuse_session(core.session_state()) END
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION core.find_tenant(by_identifier text)
 RETURNS uuid
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
RETURN (SELECT s.id FROM core.tenant_standing s WHERE (((s.identifier)::text = find_tenant.by_identifier) AND (NOT s.is_closed)))
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION core.has_temporary_objects()
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    RETURN EXISTS (
        SELECT FROM pg_catalog.pg_depend d
        WHERE d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
            AND d.refobjid = pg_catalog.pg_my_temp_schema()
    );
END
$function$
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION core.is_canonical(name text)
 RETURNS boolean
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN ((name = lower(name)) AND (name IS NFC NORMALIZED) AND (name !~ '[[:space:][:cntrl:]]'::text) AND (name <> ''::text))
    OWNER neolayer_owner
    GRANT =X

CREATE OR REPLACE FUNCTION core.is_hex(digits text, digit_count integer)
 RETURNS boolean
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN ((octet_length(digits) = digit_count) AND (digits = lower((digits COLLATE "C"))) AND (octet_length(decode(digits, 'hex'::text)) = (digit_count / 2)))
    OWNER neolayer_owner
    GRANT =X

CREATE OR REPLACE FUNCTION core.is_limits(limits jsonb)
 RETURNS boolean
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN ((jsonb_typeof(limits) = 'object'::text) AND (NOT (EXISTS (SELECT FROM jsonb_each(CASE WHEN (jsonb_typeof(is_limits.limits) = 'object'::text) THEN is_limits.limits ELSE '{}'::jsonb END) l(key, value) WHERE ((l.key <> ALL (ARRAY['users'::text, 'wallets'::text, 'documents'::text, 'webhooks'::text, 'announcements'::text, 'requests_per_minute'::text])) OR (NOT ((l.value = 'null'::jsonb) OR ((l.value)::text ~ '^[0-9]{1,12}$'::text))))))))
    OWNER neolayer_owner
    GRANT =X

CREATE OR REPLACE FUNCTION core.is_uint256(number numeric)
 RETURNS boolean
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN ((number >= (0)::numeric) AND (number <= '115792089237316195423570985008687907853269984665640564039457584007913129639935'::numeric))
    OWNER neolayer_owner
    GRANT =X

CREATE OR REPLACE FUNCTION core.is_url(url text, schemes text)
 RETURNS boolean
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN (url ~ (('^('::text || schemes) || ')://[^[:space:][:cntrl:]/]+[^[:space:][:cntrl:]]*$'::text))
    OWNER neolayer_owner
    GRANT =X

CREATE OR REPLACE FUNCTION core.keep_rows_of_partition(part regclass)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    EXECUTE format(
        'CREATE TRIGGER keep_rows_of_partition BEFORE TRUNCATE ON %s '
        'FOR EACH STATEMENT EXECUTE FUNCTION core.refuse_truncate_of_partition()', part
    );
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION core.keep_tenants_to_operators()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION core.keep_to_context()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    PERFORM core.require_context(coalesce(NEW.tenant_id, OLD.tenant_id));
    IF NEW.tenant_id <> OLD.tenant_id THEN
        PERFORM core.require_context(OLD.tenant_id);
    END IF;
    RETURN coalesce(NEW, OLD);
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION core.limit_of(of_tenant uuid, of_resource text)
 RETURNS bigint
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
RETURN (SELECT (((t.limits || s.limits) ->> limit_of.of_resource))::bigint AS int8 FROM (core.tenant_standing s JOIN core.tiers t ON (((s.tier)::text = (t.tier)::text))) WHERE (s.id = limit_of.of_tenant))
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION core.my_limits()
 RETURNS TABLE(resource text, allowed bigint, used bigint)
 LANGUAGE sql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
BEGIN ATOMIC
 SELECT l.key,
     ((l.value #>> '{}'::text[]))::bigint AS int8,
     ( SELECT (COALESCE(sum(u.used), (0)::numeric))::bigint AS "coalesce"
            FROM core.usage_slots u
           WHERE ((u.tenant = s.id) AND ((u.resource)::text = l.key))) AS "coalesce"
    FROM ((core.tenant_standing s
      JOIN core.tiers t ON (((s.tier)::text = (t.tier)::text)))
      CROSS JOIN LATERAL jsonb_each((t.limits || s.limits)) l(key, value))
   WHERE (s.id = core.current_tenant())
   ORDER BY l.key;
END
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION core.note_standing()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION core.note_tier()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    PERFORM core.deal_quotas(u.tenant, u.resource, 0, 0)
    FROM (
        SELECT DISTINCT s.tenant, s.resource FROM core.usage_slots s
        INNER JOIN core.tenant_standing t ON t.id = s.tenant WHERE t.tier = NEW.tier
    ) AS u;
    RETURN NULL;
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION core.refuse_change()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    RAISE EXCEPTION '% of %.% is refused', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege', HINT = TG_ARGV[0];
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION core.refuse_session(state text)
 RETURNS text
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    RAISE EXCEPTION 'the session is not as it was when it was made'
        USING ERRCODE = 'insufficient_privilege', DETAIL = state;
END
$function$
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION core.refuse_truncate_of_partition()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_locks l
        INNER JOIN pg_inherits i ON i.inhparent = l.relation
        INNER JOIN pg_database d ON d.oid = l.database
        WHERE i.inhrelid = TG_RELID AND d.datname = current_database()
            AND l.pid = pg_backend_pid() AND l.mode = 'AccessExclusiveLock' AND l.granted
    ) THEN
        RAISE EXCEPTION 'TRUNCATE of %.% is refused', TG_TABLE_SCHEMA, TG_TABLE_NAME
            USING ERRCODE = 'insufficient_privilege',
            HINT = 'no copy would be told of it; delete rows instead';
    END IF;
    RETURN NULL;
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION core.require_context(of_tenant uuid)
 RETURNS void
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    IF (of_tenant = core.current_tenant()) IS TRUE OR NOT row_security_active('core.tenants') THEN
        RETURN;
    END IF;
    RAISE EXCEPTION 'the row is not one of the present context''s tenant'
        USING ERRCODE = 'insufficient_privilege',
        HINT = 'the context was changed, or ran out, within the statement';
END
$function$
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION core.search_documents(part jsonb, after_id uuid, most integer)
 RETURNS TABLE(data_id uuid, data jsonb, created_at timestamp with time zone, updated_at timestamp with time zone)
 LANGUAGE plpgsql
 STABLE SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
    asking uuid := core.current_tenant();
BEGIN
    IF asking IS NULL THEN
        RETURN;
    END IF;
    
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
        OFFSET 0  
    ) f
    WHERE after_id IS NULL OR f.data_id > after_id
    ORDER BY f.data_id LIMIT least(greatest(most, 0), 1000);
END
$function$
    OWNER neolayer_search
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION core.search_keys(tenant uuid, words text, opened boolean)
 RETURNS bigint[]
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN (SELECT array_agg(DISTINCT hashtextextended(((search_keys.tenant)::text || substr(w.word, p.place, 3)), (0)::bigint)) AS array_agg FROM ((SELECT (CASE WHEN search_keys.opened THEN ''::text ELSE ''::text END || search_keys.words) AS word) w CROSS JOIN LATERAL generate_series(1, (length(w.word) - 2)) p(place)))
    OWNER neolayer_owner
    GRANT neolayer_app=X
    GRANT neolayer_migrator=X
    GRANT neolayer_search=X

CREATE OR REPLACE FUNCTION core.session_state()
 RETURNS text
 LANGUAGE sql
 STABLE
RETURN ((((((((((((((((((((((((((((((((((((SESSION_USER)::text || '|'::text) || (CURRENT_USER)::text) || CASE WHEN (COALESCE(current_setting('neolayer.context'::text, true), ''::text) <> ''::text) THEN '|context'::text ELSE ''::text END) || '|'::text) || current_setting('search_path'::text)) || '|'::text) || current_setting('row_security'::text)) || '|'::text) || current_setting('TimeZone'::text)) || '|'::text) || current_setting('DateStyle'::text)) || '|'::text) || current_setting('IntervalStyle'::text)) || '|'::text) || current_setting('client_encoding'::text)) || '|'::text) || current_setting('bytea_output'::text)) || '|'::text) || current_setting('extra_float_digits'::text)) || '|'::text) || current_setting('standard_conforming_strings'::text)) || '|'::text) || current_setting('default_transaction_isolation'::text)) || '|'::text) || current_setting('default_transaction_read_only'::text)) || '|'::text) || current_setting('synchronous_commit'::text)) || '|'::text) || current_setting('statement_timeout'::text)) || '|'::text) || current_setting('lock_timeout'::text)) || '|'::text) || current_setting('idle_in_transaction_session_timeout'::text)) || '|'::text) || COALESCE(current_setting('transaction_timeout'::text, true), ''::text))
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION core.touch_updated_at()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    NEW.updated_at := clock_timestamp();
    RETURN NEW;
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION core.verified_context()
 RETURNS text[]
 LANGUAGE plpgsql
 STABLE PARALLEL RESTRICTED SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$
    OWNER neolayer_owner
    GRANT neolayer_app=X
    GRANT neolayer_backup=X
    GRANT neolayer_ingest=X
    GRANT neolayer_operator=X
    GRANT neolayer_relay=X
    GRANT neolayer_search=X

CREATE OR REPLACE FUNCTION enclave.admit_operators()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    IF core.current_principal() ~ '^(operator|system):' THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'adding to enclave.% is refused', TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege', HINT = 'an operator adds collateral';
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION enclave.guard_attestation()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    IF (NEW.tenant_id, NEW.id, NEW.enclave_id, NEW.signed_digest, NEW.created_at)
        IS DISTINCT FROM (OLD.tenant_id, OLD.id, OLD.enclave_id, OLD.signed_digest, OLD.created_at)
        OR OLD.attested_at IS NOT NULL
        AND (NEW.quote, NEW.attested_at, NEW.nonce, NEW.fmspc, NEW.ca)
        IS DISTINCT FROM (OLD.quote, OLD.attested_at, OLD.nonce, OLD.fmspc, OLD.ca)
    THEN
        RAISE EXCEPTION 'UPDATE of enclave.attestations is refused'
            USING ERRCODE = 'insufficient_privilege', HINT = 'evidence does not change';
    END IF;
    IF OLD.attested_at IS NOT NULL AND NEW.verified_at < OLD.verified_at THEN
        RAISE EXCEPTION 'an attestation is not judged for a time before its newest judgement'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'attestations_time_forward';
    END IF;
    IF OLD.status IN ('revoked', 'unverifiable') AND NEW.status <> OLD.status THEN
        RAISE EXCEPTION 'an attestation that is % stays so', OLD.status
            USING ERRCODE = 'check_violation', CONSTRAINT = 'attestations_status_final';
    END IF;
    RETURN NEW;
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION enclave.guard_computation()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
    unnamed enclave.computations := NEW;
    broken text;
BEGIN
    IF NEW.tenant_id IS DISTINCT FROM core.current_tenant() THEN
        RETURN NEW;
    ELSIF TG_OP = 'INSERT' THEN
        IF NEW.status <> 'pending' OR NEW.attempt <> 0 OR coalesce(NEW.gas_used, 0) <> 0
            OR num_nonnulls(NEW.started_at, NEW.completed_at, NEW.output_hash, NEW.result,
                NEW.error_message, NEW.worker, NEW.lease_until, NEW.heartbeat_at,
                NEW.attestation_id) > 0
        THEN
            broken := 'a computation begins as pending';
        END IF;
    ELSIF OLD.status IN ('completed', 'failed', 'cancelled') THEN
        unnamed.user_id := OLD.user_id;
        IF unnamed IS DISTINCT FROM OLD OR NEW.user_id IS NOT NULL
            AND NEW.user_id IS DISTINCT FROM OLD.user_id
        THEN
            broken := format('it is %s already', OLD.status);
        END IF;
    ELSIF (NEW.id, NEW.enclave_id, NEW.operation_type, NEW.input_hash, NEW.gas_limit,
            NEW.max_attempts, NEW.created_at)
        IS DISTINCT FROM (OLD.id, OLD.enclave_id, OLD.operation_type, OLD.input_hash,
            OLD.gas_limit, OLD.max_attempts, OLD.created_at)
    THEN
        broken := 'what was asked does not change';
    ELSIF OLD.status = 'pending' AND NEW.status = 'completed'
        OR OLD.status = 'running' AND NEW.status = 'pending'
    THEN
        broken := format('from %s it does not become %s', OLD.status, NEW.status);
    ELSIF NEW.attempt <> OLD.attempt AND NOT (
        NEW.status = 'running' AND NEW.attempt = OLD.attempt + 1
        AND (OLD.status = 'pending' OR OLD.lease_until <= NEW.heartbeat_at)
    ) OR OLD.status = 'pending' AND NEW.status = 'running' AND NEW.attempt = OLD.attempt THEN
        broken := 'it is claimed once, and again when its lease is over';
    ELSIF NEW.attempt = OLD.attempt
        AND (NEW.worker, NEW.attestation_id, NEW.started_at)
        IS DISTINCT FROM (OLD.worker, OLD.attestation_id, OLD.started_at)
    THEN
        broken := 'only a claim changes the worker';
    ELSIF coalesce(NEW.gas_used, 0) < coalesce(OLD.gas_used, 0) THEN
        broken := 'gas is used, never given back';
    ELSIF NEW.heartbeat_at < OLD.heartbeat_at THEN
        broken := 'a heart does not beat in the past';
    ELSIF (NEW.attempt <> OLD.attempt OR NEW.status = 'completed') AND NOT EXISTS (
        SELECT FROM enclave.attestations a
        WHERE a.tenant_id = NEW.tenant_id AND a.id = NEW.attestation_id
            AND a.enclave_id = NEW.enclave_id AND a.status = 'verified'
            AND a.attested_at <= NEW.heartbeat_at AND a.expires_at > NEW.heartbeat_at
            AND (NEW.status <> 'completed' OR a.expires_at > NEW.completed_at)
        FOR SHARE
    ) THEN
        RAISE EXCEPTION 'the enclave is not attested'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'computations_attested';
    END IF;
    IF broken IS NOT NULL THEN
        RAISE EXCEPTION 'a computation cannot change so: %', broken
            USING ERRCODE = 'check_violation', CONSTRAINT = 'computations_transition';
    END IF;
    RETURN NEW;
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION enclave.guard_nonce()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    IF OLD.used_at IS NOT NULL OR to_jsonb(NEW) - 'used_at' <> to_jsonb(OLD) - 'used_at' THEN
        RAISE EXCEPTION 'UPDATE of enclave.nonces is refused'
            USING ERRCODE = 'insufficient_privilege', HINT = 'a nonce is used once';
    END IF;
    RETURN NEW;
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION enclave.guard_sealed_data()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
    unowned enclave.sealed_data := NEW;
BEGIN
    unowned.owner_id := OLD.owner_id;
    unowned.updated_at := OLD.updated_at;
    IF (NEW.tenant_id, NEW.id, NEW.data_key, NEW.created_at)
        IS DISTINCT FROM (OLD.tenant_id, OLD.id, OLD.data_key, OLD.created_at)
    THEN
        RAISE EXCEPTION 'UPDATE of enclave.sealed_data is refused'
            USING ERRCODE = 'insufficient_privilege', HINT = 'a name stays with its blob';
    END IF;
    IF NEW.version <> OLD.version + 1 AND unowned IS DISTINCT FROM OLD THEN
        RAISE EXCEPTION 'sealed data changes under its next version only'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'sealed_data_version_next';
    END IF;
    RETURN NEW;
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION enclave.is_of_quote(quote bytea, quote_version integer, tee text, signed_size integer, signed_digest text, mr_enclave text, mr_signer text, isv_prod_id integer, isv_svn integer, report_data text, is_debug boolean)
 RETURNS boolean
 LANGUAGE plpgsql
 IMMUTABLE PARALLEL SAFE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
    body int := CASE WHEN quote_version = 5 THEN 54 ELSE 48 END;
BEGIN
    IF octet_length(quote) < signed_size OR signed_size < body + 384
        OR quote_version <> get_byte(quote, 0) + 256 * get_byte(quote, 1)
        OR signed_digest <> encode(sha256(substr(quote, 1, signed_size)), 'hex')
    THEN
        RETURN FALSE;
    END IF;
    IF tee = 'TDX' THEN
        RETURN signed_size >= body + 584
            AND get_byte(quote, 4) = 129
            AND mr_enclave = encode(substr(quote, body + 137, 48), 'hex')
            AND num_nonnulls(mr_signer, isv_prod_id, isv_svn) = 0
            AND report_data = encode(substr(quote, body + 521, 64), 'hex')
            AND is_debug = (get_byte(quote, body + 120) & 1 = 1);
    END IF;
    RETURN signed_size = body + 384
        AND mr_enclave = encode(substr(quote, body + 65, 32), 'hex')
        AND mr_signer = encode(substr(quote, body + 129, 32), 'hex')
        AND isv_prod_id = get_byte(quote, body + 256) + 256 * get_byte(quote, body + 257)
        AND isv_svn = get_byte(quote, body + 258) + 256 * get_byte(quote, body + 259)
        AND report_data = encode(substr(quote, body + 321, 64), 'hex')
        AND is_debug = (get_byte(quote, body + 48) & 2 = 2);
END
$function$
    OWNER neolayer_owner
    GRANT =X

TABLE audit.anchors
    COLUMN anchor_number bigint NOT NULL
    COLUMN object_key text NOT NULL
    COLUMN object_hash bytea NOT NULL
    COLUMN chain_count bigint NOT NULL
    COLUMN anchored_at timestamp with time zone NOT NULL
    CONSTRAINT anchors_check CHECK (((anchor_number > 0) AND (octet_length(object_hash) = 32) AND (chain_count > 0)))
    CONSTRAINT anchors_pkey PRIMARY KEY (anchor_number)
    CREATE TRIGGER keep_anchors BEFORE DELETE OR UPDATE OR TRUNCATE ON audit.anchors FOR EACH STATEMENT EXECUTE FUNCTION core.refuse_change('anchors are only added')
    OWNER neolayer_owner
    GRANT neolayer_auditor=ar
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r

TABLE audit.entries
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    REPLICA IDENTITY FULL
    COLUMN id uuid NOT NULL DEFAULT gen_random_uuid()
    COLUMN tenant_id uuid RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN occurred_at timestamp with time zone NOT NULL DEFAULT clock_timestamp()
    COLUMN principal character varying(255) NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN user_id uuid RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN action character varying(50) NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN resource character varying(255) NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN resource_id character varying(255) RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN changes jsonb RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN ip_address inet RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN user_agent text RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN success boolean NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN error_message text RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN transaction_id xid8 NOT NULL DEFAULT pg_current_xact_id()
    COLUMN chain_number bigint RIGHTS {neolayer_auditor=w/neolayer_owner}
    COLUMN previous_hash bytea RIGHTS {neolayer_auditor=w/neolayer_owner}
    COLUMN entry_hash bytea RIGHTS {neolayer_auditor=w/neolayer_owner}
    COLUMN sealed_at timestamp with time zone RIGHTS {neolayer_auditor=w/neolayer_owner}
    CONSTRAINT entries_pkey PRIMARY KEY (id)
    CREATE INDEX idx_entries_tenant_time ON audit.entries USING btree (tenant_id, occurred_at DESC, id DESC) WHERE (chain_number IS NOT NULL)
    CREATE INDEX idx_entries_unsealed ON audit.entries USING btree (transaction_id) WHERE (chain_number IS NULL)
    CREATE UNIQUE INDEX entries_chain_unique ON audit.entries USING btree (tenant_id, chain_number) NULLS NOT DISTINCT WHERE (chain_number IS NOT NULL)
    POLICY tenant_isolation PERMISSIVE r TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK -
    POLICY write_own PERMISSIVE a TO neolayer_app, neolayer_owner USING - CHECK ((chain_number IS NULL) AND (tenant_id IS DISTINCT FROM '00000000-0000-0000-0000-000000000000'::uuid) AND ((action)::text = ANY ((ARRAY['CREATE'::character varying, 'READ'::character varying, 'UPDATE'::character varying, 'DELETE'::character varying, 'EXECUTE'::character varying, 'LOGIN'::character varying, 'LOGOUT'::character varying])::text[])) AND ((user_id IS NULL) OR ((principal)::text = ('user:'::text || (user_id)::text))) AND (((octet_length((changes)::text) > 262144) OR (octet_length(user_agent) > 2048) OR (octet_length(error_message) > 16384)) IS NOT TRUE) AND ((((COALESCE(tenant_id, '00000000-0000-0000-0000-000000000000'::uuid))::text || '.'::text) || (principal)::text) = ( SELECT asking.writer
    FROM audit.signed_context asking)))
    CREATE TRIGGER admit_only_sealing BEFORE UPDATE ON audit.entries FOR EACH ROW EXECUTE FUNCTION audit.admit_only_sealing()
    CREATE TRIGGER keep_entries BEFORE DELETE OR TRUNCATE ON audit.entries FOR EACH STATEMENT EXECUTE FUNCTION core.refuse_change('entries are only added')
    OWNER neolayer_owner
    GRANT neolayer_app=r
    GRANT neolayer_auditor=r
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r
    GRANT neolayer_relay=r

TABLE audit.heads
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid
    COLUMN chain_number bigint NOT NULL
    COLUMN entry_hash bytea NOT NULL
    COLUMN sealed_at timestamp with time zone NOT NULL
    COLUMN anchored_number bigint NOT NULL DEFAULT 0
    CONSTRAINT heads_anchored_check CHECK (((anchored_number >= 0) AND (anchored_number <= chain_number)))
    CONSTRAINT heads_chain_check CHECK (((chain_number > 0) AND (octet_length(entry_hash) = 32)))
    CONSTRAINT heads_tenant_unique UNIQUE NULLS NOT DISTINCT (tenant_id)
    POLICY tenant_isolation PERMISSIVE r TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK -
    CREATE TRIGGER admit_only_growth BEFORE UPDATE ON audit.heads FOR EACH ROW EXECUTE FUNCTION audit.admit_only_growth()
    CREATE TRIGGER keep_heads BEFORE DELETE OR TRUNCATE ON audit.heads FOR EACH STATEMENT EXECUTE FUNCTION core.refuse_change('a chain only grows')
    OWNER neolayer_owner
    GRANT neolayer_app=r
    GRANT neolayer_auditor=arw
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r

TABLE auth.api_keys
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN id uuid NOT NULL DEFAULT gen_random_uuid() RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN service_id uuid NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN key_hash character varying(64) COLLATE "C" NOT NULL
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN expires_at timestamp with time zone NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN revoked_at timestamp with time zone RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN last_used_at timestamp with time zone RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN last_ip_address inet RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN permissions text[] NOT NULL DEFAULT '{}'::text[] RIGHTS {neolayer_operator=r/neolayer_owner}
    CONSTRAINT api_keys_hash_unique UNIQUE (tenant_id, key_hash)
    CONSTRAINT api_keys_key_hash_check CHECK (core.is_hex((key_hash)::text, 64))
    CONSTRAINT api_keys_pkey PRIMARY KEY (tenant_id, id)
    CONSTRAINT api_keys_service_fkey FOREIGN KEY (tenant_id, service_id) REFERENCES auth.service_principals(tenant_id, id) ON DELETE CASCADE
    CREATE INDEX idx_api_keys_service ON auth.api_keys USING btree (tenant_id, service_id)
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    CREATE TRIGGER admit_key BEFORE INSERT OR DELETE OR UPDATE ON auth.api_keys FOR EACH ROW EXECUTE FUNCTION auth.admit_key()
    CREATE TRIGGER keep_to_context BEFORE INSERT OR DELETE OR UPDATE ON auth.api_keys FOR EACH ROW EXECUTE FUNCTION core.keep_to_context()
    OWNER neolayer_owner
    GRANT neolayer_app=arwd
    GRANT neolayer_backup=r

TABLE auth.known_devices
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN id uuid NOT NULL DEFAULT gen_random_uuid() RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN user_id uuid NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN token_hash character varying(255) COLLATE "C" NOT NULL
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN last_seen_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN expires_at timestamp with time zone NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    CONSTRAINT known_devices_pkey PRIMARY KEY (tenant_id, id)
    CONSTRAINT known_devices_token_hash_check CHECK (core.is_hex((token_hash)::text, 64))
    CONSTRAINT known_devices_token_unique UNIQUE (tenant_id, token_hash)
    CONSTRAINT known_devices_user_fkey FOREIGN KEY (tenant_id, user_id) REFERENCES auth.users(tenant_id, id) ON DELETE CASCADE
    CREATE INDEX idx_known_devices_expires ON auth.known_devices USING btree (tenant_id, expires_at)
    CREATE INDEX idx_known_devices_user ON auth.known_devices USING btree (tenant_id, user_id)
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    CREATE TRIGGER admit_proof BEFORE INSERT OR DELETE OR UPDATE ON auth.known_devices FOR EACH ROW EXECUTE FUNCTION auth.admit_proof()
    CREATE TRIGGER keep_to_context BEFORE INSERT OR DELETE OR UPDATE ON auth.known_devices FOR EACH ROW EXECUTE FUNCTION core.keep_to_context()
    OWNER neolayer_owner
    GRANT neolayer_app=arwd
    GRANT neolayer_backup=r

TABLE auth.login_failures
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN subject bytea NOT NULL
    COLUMN kind character varying(20) NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN failures integer NOT NULL DEFAULT 0 RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN last_failed_at timestamp with time zone NOT NULL DEFAULT clock_timestamp() RIGHTS {neolayer_operator=r/neolayer_owner}
    CONSTRAINT login_failures_failures_check CHECK ((failures >= 0))
    CONSTRAINT login_failures_kind_check CHECK (((kind)::text = ANY ((ARRAY['pair'::character varying, 'source'::character varying, 'account'::character varying, 'nobody'::character varying, 'device'::character varying, 'proof'::character varying])::text[])))
    CONSTRAINT login_failures_pkey PRIMARY KEY (tenant_id, subject)
    CONSTRAINT login_failures_subject_check CHECK ((octet_length(subject) = 32))
    CREATE INDEX idx_login_failures_old ON auth.login_failures USING btree (tenant_id, last_failed_at) WHERE ((kind)::text <> 'account'::text)
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    CREATE TRIGGER admit_failure BEFORE INSERT OR DELETE OR UPDATE ON auth.login_failures FOR EACH ROW EXECUTE FUNCTION auth.admit_failure()
    CREATE TRIGGER keep_to_context BEFORE INSERT OR DELETE OR UPDATE ON auth.login_failures FOR EACH ROW EXECUTE FUNCTION core.keep_to_context()
    OWNER neolayer_owner
    GRANT neolayer_app=arwd
    GRANT neolayer_backup=r

TABLE auth.one_time_tokens
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN id uuid NOT NULL DEFAULT gen_random_uuid() RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN user_id uuid NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN purpose character varying(50) NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN email character varying(255) NOT NULL
    COLUMN token_hash character varying(255) COLLATE "C" NOT NULL
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN expires_at timestamp with time zone NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN used_at timestamp with time zone RIGHTS {neolayer_operator=r/neolayer_owner}
    CONSTRAINT one_time_tokens_email_check CHECK (core.is_canonical((email)::text))
    CONSTRAINT one_time_tokens_hash_unique UNIQUE (tenant_id, token_hash)
    CONSTRAINT one_time_tokens_pkey PRIMARY KEY (tenant_id, id)
    CONSTRAINT one_time_tokens_purpose_check CHECK (((purpose)::text = ANY ((ARRAY['email_verification'::character varying, 'password_reset'::character varying])::text[])))
    CONSTRAINT one_time_tokens_token_hash_check CHECK (core.is_hex((token_hash)::text, 64))
    CONSTRAINT one_time_tokens_user_fkey FOREIGN KEY (tenant_id, user_id) REFERENCES auth.users(tenant_id, id) ON DELETE CASCADE
    CREATE INDEX idx_one_time_tokens_expires ON auth.one_time_tokens USING btree (tenant_id, expires_at)
    CREATE INDEX idx_one_time_tokens_user ON auth.one_time_tokens USING btree (tenant_id, user_id)
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    CREATE TRIGGER admit_proof BEFORE INSERT OR DELETE OR UPDATE ON auth.one_time_tokens FOR EACH ROW EXECUTE FUNCTION auth.admit_proof()
    CREATE TRIGGER keep_to_context BEFORE INSERT OR DELETE OR UPDATE ON auth.one_time_tokens FOR EACH ROW EXECUTE FUNCTION core.keep_to_context()
    OWNER neolayer_owner
    GRANT neolayer_app=arwd
    GRANT neolayer_backup=r

TABLE auth.permissions
    COLUMN id uuid NOT NULL DEFAULT gen_random_uuid()
    COLUMN name character varying(100) NOT NULL
    COLUMN resource character varying(100) NOT NULL
    COLUMN action character varying(50) NOT NULL
    COLUMN description text
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    CONSTRAINT permissions_name_key UNIQUE (name)
    CONSTRAINT permissions_pkey PRIMARY KEY (id)
    CONSTRAINT permissions_unique UNIQUE (resource, action)
    OWNER neolayer_owner
    GRANT neolayer_app=r
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r

TABLE auth.recovery_codes
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN id uuid NOT NULL DEFAULT gen_random_uuid() RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN user_id uuid NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN code_hash character varying(255) NOT NULL
    COLUMN used_at timestamp with time zone RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP RIGHTS {neolayer_operator=r/neolayer_owner}
    CONSTRAINT recovery_codes_pkey PRIMARY KEY (tenant_id, id)
    CONSTRAINT recovery_codes_unique UNIQUE (tenant_id, user_id, code_hash)
    CONSTRAINT recovery_codes_user_fkey FOREIGN KEY (tenant_id, user_id) REFERENCES auth.users(tenant_id, id) ON DELETE CASCADE
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    CREATE TRIGGER admit_proof BEFORE INSERT OR DELETE OR UPDATE ON auth.recovery_codes FOR EACH ROW EXECUTE FUNCTION auth.admit_proof()
    CREATE TRIGGER keep_to_context BEFORE INSERT OR DELETE OR UPDATE ON auth.recovery_codes FOR EACH ROW EXECUTE FUNCTION core.keep_to_context()
    OWNER neolayer_owner
    GRANT neolayer_app=arwd
    GRANT neolayer_backup=r

TABLE auth.refresh_tokens
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN id uuid NOT NULL DEFAULT gen_random_uuid() RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN session_id uuid NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN parent_id uuid RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN token_hash character varying(255) COLLATE "C" NOT NULL
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN expires_at timestamp with time zone NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN used_at timestamp with time zone RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN child_salt bytea
    CONSTRAINT refresh_tokens_child_salt_size_check CHECK ((octet_length(child_salt) <= 64))
    CONSTRAINT refresh_tokens_hash_unique UNIQUE (tenant_id, token_hash)
    CONSTRAINT refresh_tokens_one_child UNIQUE (tenant_id, parent_id)
    CONSTRAINT refresh_tokens_parent_fkey FOREIGN KEY (tenant_id, parent_id) REFERENCES auth.refresh_tokens(tenant_id, id) ON DELETE CASCADE
    CONSTRAINT refresh_tokens_pkey PRIMARY KEY (tenant_id, id)
    CONSTRAINT refresh_tokens_session_fkey FOREIGN KEY (tenant_id, session_id) REFERENCES auth.sessions(tenant_id, id) ON DELETE CASCADE
    CONSTRAINT refresh_tokens_token_hash_check CHECK (core.is_hex((token_hash)::text, 64))
    CREATE INDEX idx_refresh_tokens_session ON auth.refresh_tokens USING btree (tenant_id, session_id)
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    CREATE TRIGGER admit_refresh_token BEFORE INSERT OR DELETE OR UPDATE ON auth.refresh_tokens FOR EACH ROW EXECUTE FUNCTION auth.admit_refresh_token()
    CREATE TRIGGER keep_to_context BEFORE INSERT OR DELETE OR UPDATE ON auth.refresh_tokens FOR EACH ROW EXECUTE FUNCTION core.keep_to_context()
    OWNER neolayer_owner
    GRANT neolayer_app=arwd
    GRANT neolayer_backup=r

TABLE auth.role_permissions
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid
    COLUMN role_id uuid NOT NULL
    COLUMN permission_id uuid NOT NULL
    COLUMN scope_id uuid NOT NULL GENERATED COALESCE(tenant_id, '00000000-0000-0000-0000-000000000000'::uuid)
    CONSTRAINT role_permissions_permission_id_fkey FOREIGN KEY (permission_id) REFERENCES auth.permissions(id) ON DELETE CASCADE
    CONSTRAINT role_permissions_pkey PRIMARY KEY (scope_id, role_id, permission_id)
    CONSTRAINT role_permissions_role_fkey FOREIGN KEY (scope_id, role_id) REFERENCES auth.roles(scope_id, id) ON DELETE CASCADE
    CONSTRAINT role_permissions_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES core.tenants(id)
    CREATE INDEX idx_role_permissions_permission ON auth.role_permissions USING btree (permission_id)
    CREATE INDEX idx_role_permissions_tenant ON auth.role_permissions USING btree (tenant_id)
    POLICY platform_roles PERMISSIVE r TO neolayer_app, neolayer_owner USING ((tenant_id IS NULL) AND (( SELECT core.current_tenant() AS current_tenant) IS NOT NULL)) CHECK -
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    CREATE TRIGGER admit_permission BEFORE INSERT OR DELETE OR UPDATE ON auth.role_permissions FOR EACH ROW EXECUTE FUNCTION auth.admit_permission()
    CREATE TRIGGER keep_to_context BEFORE INSERT OR DELETE OR UPDATE ON auth.role_permissions FOR EACH ROW EXECUTE FUNCTION core.keep_to_context()
    OWNER neolayer_owner
    GRANT neolayer_app=arwd
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r

TABLE auth.roles
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid
    COLUMN id uuid NOT NULL DEFAULT gen_random_uuid()
    COLUMN name character varying(100) NOT NULL
    COLUMN description text
    COLUMN is_system boolean NOT NULL DEFAULT false
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN updated_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN scope_id uuid NOT NULL GENERATED COALESCE(tenant_id, '00000000-0000-0000-0000-000000000000'::uuid)
    CONSTRAINT roles_description_size_check CHECK ((octet_length(description) <= 8192))
    CONSTRAINT roles_name_unique UNIQUE (scope_id, name)
    CONSTRAINT roles_pkey PRIMARY KEY (scope_id, id)
    CONSTRAINT roles_system_check CHECK ((is_system = (tenant_id IS NULL)))
    CONSTRAINT roles_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES core.tenants(id)
    CREATE INDEX idx_roles_tenant ON auth.roles USING btree (tenant_id)
    POLICY platform_roles PERMISSIVE r TO neolayer_app, neolayer_owner USING ((tenant_id IS NULL) AND (( SELECT core.current_tenant() AS current_tenant) IS NOT NULL)) CHECK -
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    CREATE TRIGGER admit_role BEFORE INSERT OR DELETE OR UPDATE ON auth.roles FOR EACH ROW EXECUTE FUNCTION auth.admit_role()
    CREATE TRIGGER keep_names_apart BEFORE INSERT OR UPDATE OF name, tenant_id ON auth.roles FOR EACH ROW EXECUTE FUNCTION auth.keep_names_apart()
    CREATE TRIGGER keep_to_context BEFORE INSERT OR DELETE OR UPDATE ON auth.roles FOR EACH ROW EXECUTE FUNCTION core.keep_to_context()
    CREATE TRIGGER touch BEFORE UPDATE ON auth.roles FOR EACH ROW EXECUTE FUNCTION core.touch_updated_at()
    OWNER neolayer_owner
    GRANT neolayer_app=arwd
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r

TABLE auth.service_principals
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL
    COLUMN id uuid NOT NULL DEFAULT gen_random_uuid()
    COLUMN name character varying(100) NOT NULL
    COLUMN description text
    COLUMN status character varying(50) NOT NULL DEFAULT 'active'::character varying
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN updated_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    CONSTRAINT service_principals_description_size_check CHECK ((octet_length(description) <= 8192))
    CONSTRAINT service_principals_name_check CHECK (core.is_canonical((name)::text))
    CONSTRAINT service_principals_name_unique UNIQUE (tenant_id, name)
    CONSTRAINT service_principals_pkey PRIMARY KEY (tenant_id, id)
    CONSTRAINT service_principals_status_check CHECK (((status)::text = ANY ((ARRAY['active'::character varying, 'disabled'::character varying])::text[])))
    CONSTRAINT service_principals_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES core.tenants(id)
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    CREATE TRIGGER admit_service BEFORE INSERT OR DELETE OR UPDATE ON auth.service_principals FOR EACH ROW EXECUTE FUNCTION auth.admit_service()
    CREATE TRIGGER keep_to_context BEFORE INSERT OR DELETE OR UPDATE ON auth.service_principals FOR EACH ROW EXECUTE FUNCTION core.keep_to_context()
    CREATE TRIGGER touch BEFORE UPDATE ON auth.service_principals FOR EACH ROW EXECUTE FUNCTION core.touch_updated_at()
    OWNER neolayer_owner
    GRANT neolayer_app=arwd
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r

TABLE auth.service_roles
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL
    COLUMN service_id uuid NOT NULL
    COLUMN role_id uuid NOT NULL
    COLUMN role_scope_id uuid NOT NULL
    COLUMN granted_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN granted_by uuid
    COLUMN expires_at timestamp with time zone
    CONSTRAINT service_roles_granted_by_fkey FOREIGN KEY (tenant_id, granted_by) REFERENCES auth.users(tenant_id, id) ON DELETE SET NULL (granted_by)
    CONSTRAINT service_roles_pkey PRIMARY KEY (tenant_id, service_id, role_id)
    CONSTRAINT service_roles_role_fkey FOREIGN KEY (role_scope_id, role_id) REFERENCES auth.roles(scope_id, id) ON DELETE CASCADE
    CONSTRAINT service_roles_scope_check CHECK (((role_scope_id = tenant_id) OR (role_scope_id = '00000000-0000-0000-0000-000000000000'::uuid)))
    CONSTRAINT service_roles_service_fkey FOREIGN KEY (tenant_id, service_id) REFERENCES auth.service_principals(tenant_id, id) ON DELETE CASCADE
    CREATE INDEX idx_service_roles_granted_by ON auth.service_roles USING btree (tenant_id, granted_by)
    CREATE INDEX idx_service_roles_role ON auth.service_roles USING btree (role_scope_id, role_id)
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    CREATE TRIGGER admit_grant BEFORE INSERT OR DELETE OR UPDATE ON auth.service_roles FOR EACH ROW EXECUTE FUNCTION auth.admit_grant('service')
    CREATE TRIGGER keep_to_context BEFORE INSERT OR DELETE OR UPDATE ON auth.service_roles FOR EACH ROW EXECUTE FUNCTION core.keep_to_context()
    OWNER neolayer_owner
    GRANT neolayer_app=arwd
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r

TABLE auth.sessions
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN id uuid NOT NULL DEFAULT gen_random_uuid() RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN user_id uuid NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN token_hash character varying(255) COLLATE "C" NOT NULL
    COLUMN ip_address inet NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN user_agent text RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN expires_at timestamp with time zone NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN revoked_at timestamp with time zone RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN last_seen_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN version integer NOT NULL DEFAULT 1 RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN access_expires_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN idle_timeout interval NOT NULL DEFAULT '01:00:00'::interval RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN last_ip_address inet RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN revoked_reason character varying(50) RIGHTS {neolayer_operator=r/neolayer_owner}
    CONSTRAINT sessions_pkey PRIMARY KEY (tenant_id, id)
    CONSTRAINT sessions_token_hash_check CHECK (core.is_hex((token_hash)::text, 64))
    CONSTRAINT sessions_token_unique UNIQUE (tenant_id, token_hash)
    CONSTRAINT sessions_user_agent_size_check CHECK ((octet_length(user_agent) <= 2048))
    CONSTRAINT sessions_user_fkey FOREIGN KEY (tenant_id, user_id) REFERENCES auth.users(tenant_id, id) ON DELETE CASCADE
    CONSTRAINT sessions_version_check CHECK ((version > 0))
    CREATE INDEX idx_sessions_expires ON auth.sessions USING btree (expires_at) WHERE (revoked_at IS NULL)
    CREATE INDEX idx_sessions_user ON auth.sessions USING btree (tenant_id, user_id)
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    CREATE TRIGGER admit_session BEFORE INSERT OR DELETE OR UPDATE ON auth.sessions FOR EACH ROW EXECUTE FUNCTION auth.admit_session()
    CREATE TRIGGER keep_to_context BEFORE INSERT OR DELETE OR UPDATE ON auth.sessions FOR EACH ROW EXECUTE FUNCTION core.keep_to_context()
    OWNER neolayer_owner
    GRANT neolayer_app=arwd
    GRANT neolayer_backup=r

TABLE auth.user_roles
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL
    COLUMN user_id uuid NOT NULL
    COLUMN role_id uuid NOT NULL
    COLUMN role_scope_id uuid NOT NULL
    COLUMN granted_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN granted_by uuid
    COLUMN expires_at timestamp with time zone
    CONSTRAINT user_roles_granted_by_fkey FOREIGN KEY (tenant_id, granted_by) REFERENCES auth.users(tenant_id, id) ON DELETE SET NULL (granted_by)
    CONSTRAINT user_roles_pkey PRIMARY KEY (tenant_id, user_id, role_id)
    CONSTRAINT user_roles_role_fkey FOREIGN KEY (role_scope_id, role_id) REFERENCES auth.roles(scope_id, id) ON DELETE CASCADE
    CONSTRAINT user_roles_scope_check CHECK (((role_scope_id = tenant_id) OR (role_scope_id = '00000000-0000-0000-0000-000000000000'::uuid)))
    CONSTRAINT user_roles_user_fkey FOREIGN KEY (tenant_id, user_id) REFERENCES auth.users(tenant_id, id) ON DELETE CASCADE
    CREATE INDEX idx_user_roles_granted_by ON auth.user_roles USING btree (tenant_id, granted_by)
    CREATE INDEX idx_user_roles_role ON auth.user_roles USING btree (role_scope_id, role_id)
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    CREATE TRIGGER admit_grant BEFORE INSERT OR DELETE OR UPDATE ON auth.user_roles FOR EACH ROW EXECUTE FUNCTION auth.admit_grant('user')
    CREATE TRIGGER keep_an_owner AFTER DELETE OR UPDATE ON auth.user_roles FOR EACH ROW WHEN (((old.role_id = '00000000-0000-4000-8000-000000000001'::uuid) AND (old.expires_at IS NULL))) EXECUTE FUNCTION auth.keep_an_owner()
    CREATE TRIGGER keep_to_context BEFORE INSERT OR DELETE OR UPDATE ON auth.user_roles FOR EACH ROW EXECUTE FUNCTION core.keep_to_context()
    OWNER neolayer_owner
    GRANT neolayer_app=arwd
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r

TABLE auth.users
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner,neolayer_search=r/neolayer_owner}
    COLUMN id uuid NOT NULL DEFAULT gen_random_uuid() RIGHTS {neolayer_operator=r/neolayer_owner,neolayer_search=r/neolayer_owner}
    COLUMN email character varying(255) NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner,neolayer_search=r/neolayer_owner}
    COLUMN username character varying(100) NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner,neolayer_search=r/neolayer_owner}
    COLUMN password_hash character varying(255) NOT NULL
    COLUMN mfa_secret character varying(255)
    COLUMN mfa_enabled boolean NOT NULL DEFAULT false RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN email_verified boolean NOT NULL DEFAULT false RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN status character varying(50) NOT NULL DEFAULT 'active'::character varying RIGHTS {neolayer_operator=r/neolayer_owner,neolayer_search=r/neolayer_owner}
    COLUMN last_login_at timestamp with time zone RIGHTS {neolayer_operator=r/neolayer_owner,neolayer_search=r/neolayer_owner}
    COLUMN failed_login_attempts integer NOT NULL DEFAULT 0 RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN locked_until timestamp with time zone RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP RIGHTS {neolayer_operator=r/neolayer_owner,neolayer_search=r/neolayer_owner}
    COLUMN updated_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN deleted_at timestamp with time zone RIGHTS {neolayer_operator=r/neolayer_owner,neolayer_search=r/neolayer_owner}
    COLUMN mfa_key_id character varying(100) RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN mfa_last_step bigint
    CONSTRAINT users_attempts_check CHECK ((failed_login_attempts >= 0))
    CONSTRAINT users_email_check CHECK ((core.is_canonical((email)::text) AND ((email)::text ~ '^[^@]+@[^@]+$'::text) AND (octet_length((email)::text) <= 320)))
    CONSTRAINT users_mfa_check CHECK ((((mfa_secret IS NULL) = (mfa_key_id IS NULL)) AND ((mfa_secret IS NOT NULL) OR (NOT mfa_enabled))))
    CONSTRAINT users_pkey PRIMARY KEY (tenant_id, id)
    CONSTRAINT users_status_check CHECK (((status)::text = ANY ((ARRAY['active'::character varying, 'inactive'::character varying, 'locked'::character varying, 'suspended'::character varying])::text[])))
    CONSTRAINT users_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES core.tenants(id)
    CONSTRAINT users_username_check CHECK (core.is_canonical((username)::text))
    CONSTRAINT users_username_no_address_check CHECK (((username)::text !~ '@'::text))
    CREATE INDEX idx_users_search ON auth.users USING gin (auth.name_keys(tenant_id, (email)::text, (username)::text)) WHERE (deleted_at IS NULL)
    CREATE UNIQUE INDEX users_email_unique ON auth.users USING btree (tenant_id, email) WHERE (deleted_at IS NULL)
    CREATE UNIQUE INDEX users_username_unique ON auth.users USING btree (tenant_id, username) WHERE (deleted_at IS NULL)
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    CREATE TRIGGER admit_credentials BEFORE UPDATE ON auth.users FOR EACH ROW WHEN ((old.* IS DISTINCT FROM new.*)) EXECUTE FUNCTION auth.admit_credentials()
    CREATE TRIGGER admit_person BEFORE INSERT ON auth.users FOR EACH ROW EXECUTE FUNCTION auth.admit_person()
    CREATE TRIGGER admit_removal BEFORE DELETE ON auth.users FOR EACH ROW EXECUTE FUNCTION auth.admit_credentials()
    CREATE TRIGGER count_added AFTER INSERT ON auth.users REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION core.count_living('users')
    CREATE TRIGGER count_removed AFTER DELETE ON auth.users REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION core.count_living('users')
    CREATE TRIGGER count_returned AFTER UPDATE OF deleted_at ON auth.users FOR EACH ROW WHEN (((old.deleted_at IS NULL) <> (new.deleted_at IS NULL))) EXECUTE FUNCTION core.count_return('users')
    CREATE TRIGGER keep_an_active_owner AFTER UPDATE OF status, deleted_at ON auth.users FOR EACH ROW WHEN ((((old.status)::text = 'active'::text) AND (old.deleted_at IS NULL) AND (((new.status)::text <> 'active'::text) OR (new.deleted_at IS NOT NULL)))) EXECUTE FUNCTION auth.keep_an_active_owner()
    CREATE TRIGGER keep_to_context BEFORE INSERT OR DELETE OR UPDATE ON auth.users FOR EACH ROW EXECUTE FUNCTION core.keep_to_context()
    CREATE TRIGGER touch BEFORE UPDATE ON auth.users FOR EACH ROW EXECUTE FUNCTION core.touch_updated_at()
    OWNER neolayer_owner
    GRANT neolayer_app=arwd
    GRANT neolayer_backup=r

TABLE blockchain.blocks
    REPLICA IDENTITY FULL
    COLUMN network_id uuid NOT NULL
    COLUMN block_number bigint NOT NULL
    COLUMN block_hash character varying(255) COLLATE "C" NOT NULL
    COLUMN parent_hash character varying(255) COLLATE "C" NOT NULL
    COLUMN block_timestamp timestamp with time zone NOT NULL
    COLUMN miner character varying(255) COLLATE "C"
    COLUMN transaction_count integer NOT NULL
    COLUMN gas_limit bigint
    COLUMN gas_used bigint
    COLUMN base_fee_per_gas numeric(78,0)
    COLUMN difficulty numeric(78,0)
    COLUMN size_bytes bigint
    COLUMN state_root character varying(255) COLLATE "C"
    COLUMN transactions_root character varying(255) COLLATE "C"
    COLUMN receipts_root character varying(255) COLLATE "C"
    COLUMN extra_data text
    COLUMN header jsonb
    COLUMN verification character varying(50) NOT NULL DEFAULT 'none'::character varying
    COLUMN is_final boolean NOT NULL DEFAULT false
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    CONSTRAINT blocks_base_fee_per_gas_check CHECK (core.is_uint256(base_fee_per_gas))
    CONSTRAINT blocks_block_hash_check CHECK (blockchain.is_hash((block_hash)::text))
    CONSTRAINT blocks_block_number_check CHECK ((block_number >= 0))
    CONSTRAINT blocks_block_timestamp_check CHECK (((block_timestamp >= '1970-01-01 00:00:00+00'::timestamp with time zone) AND (block_timestamp < '2262-01-01 00:00:00+00'::timestamp with time zone)))
    CONSTRAINT blocks_difficulty_check CHECK (core.is_uint256(difficulty))
    CONSTRAINT blocks_gas_limit_check CHECK ((gas_limit >= 0))
    CONSTRAINT blocks_gas_used_check CHECK ((gas_used >= 0))
    CONSTRAINT blocks_hash_unique UNIQUE (network_id, block_hash)
    CONSTRAINT blocks_miner_check CHECK (blockchain.is_address((miner)::text))
    CONSTRAINT blocks_network_id_fkey FOREIGN KEY (network_id) REFERENCES blockchain.networks(id)
    CONSTRAINT blocks_parent_hash_check CHECK (blockchain.is_hash((parent_hash)::text))
    CONSTRAINT blocks_pkey PRIMARY KEY (network_id, block_number)
    CONSTRAINT blocks_receipts_root_check CHECK (blockchain.is_hash((receipts_root)::text))
    CONSTRAINT blocks_size_bytes_check CHECK ((size_bytes >= 0))
    CONSTRAINT blocks_state_root_check CHECK (blockchain.is_hash((state_root)::text))
    CONSTRAINT blocks_transaction_count_check CHECK ((transaction_count >= 0))
    CONSTRAINT blocks_transactions_root_check CHECK (blockchain.is_hash((transactions_root)::text))
    CONSTRAINT blocks_verification_check CHECK (((verification)::text = ANY ((ARRAY['none'::character varying, 'transactions'::character varying, 'receipts'::character varying])::text[])))
    OWNER neolayer_owner
    GRANT neolayer_app=r
    GRANT neolayer_backup=r
    GRANT neolayer_ingest=arwd
    GRANT neolayer_operator=r
    GRANT neolayer_relay=r

TABLE blockchain.chain_heads
    WITH {fillfactor=50}
    COLUMN network_id uuid NOT NULL
    COLUMN head_number bigint
    COLUMN head_hash character varying(255) COLLATE "C"
    COLUMN finalized_number bigint
    COLUMN covered int8multirange NOT NULL DEFAULT '{}'::int8multirange
    COLUMN updated_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    CONSTRAINT chain_heads_finalized_number_check CHECK ((finalized_number >= 0))
    CONSTRAINT chain_heads_head_hash_check CHECK (blockchain.is_hash((head_hash)::text))
    CONSTRAINT chain_heads_head_number_check CHECK ((head_number >= 0))
    CONSTRAINT chain_heads_network_id_fkey FOREIGN KEY (network_id) REFERENCES blockchain.networks(id)
    CONSTRAINT chain_heads_pkey PRIMARY KEY (network_id)
    CREATE TRIGGER touch BEFORE UPDATE ON blockchain.chain_heads FOR EACH ROW EXECUTE FUNCTION core.touch_updated_at()
    OWNER neolayer_owner
    GRANT neolayer_app=r
    GRANT neolayer_backup=r
    GRANT neolayer_ingest=arwd
    GRANT neolayer_operator=r
    GRANT neolayer_relay=r

TABLE blockchain.logs
    PARTITION BY RANGE (block_timestamp)
    COLUMN network_id uuid NOT NULL
    COLUMN block_number bigint NOT NULL
    COLUMN log_index integer NOT NULL
    COLUMN block_timestamp timestamp with time zone NOT NULL
    COLUMN transaction_hash character varying(255) COLLATE "C" NOT NULL
    COLUMN transaction_index integer NOT NULL
    COLUMN address character varying(255) COLLATE "C" NOT NULL
    COLUMN topic0 character varying(66) COLLATE "C"
    COLUMN topic1 character varying(66) COLLATE "C"
    COLUMN topic2 character varying(66) COLLATE "C"
    COLUMN topic3 character varying(66) COLLATE "C"
    COLUMN data text
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    CONSTRAINT logs_address_check CHECK (blockchain.is_address((address)::text))
    CONSTRAINT logs_count_check CHECK (((block_number >= 0) AND (log_index >= 0) AND (transaction_index >= 0)))
    CONSTRAINT logs_hash_check CHECK (blockchain.is_hash((transaction_hash)::text))
    CONSTRAINT logs_pkey PRIMARY KEY (network_id, block_number, log_index, block_timestamp)
    CREATE INDEX idx_logs_event ON ONLY blockchain.logs USING btree (address, topic0, block_number)
    OWNER neolayer_owner
    GRANT neolayer_app=r
    GRANT neolayer_backup=r
    GRANT neolayer_ingest=arwd
    GRANT neolayer_operator=r
    GRANT neolayer_relay=r

TABLE blockchain.logs_default
    PARTITION OF blockchain.logs DEFAULT
    COLUMN network_id uuid NOT NULL
    COLUMN block_number bigint NOT NULL
    COLUMN log_index integer NOT NULL
    COLUMN block_timestamp timestamp with time zone NOT NULL
    COLUMN transaction_hash character varying(255) COLLATE "C" NOT NULL
    COLUMN transaction_index integer NOT NULL
    COLUMN address character varying(255) COLLATE "C" NOT NULL
    COLUMN topic0 character varying(66) COLLATE "C"
    COLUMN topic1 character varying(66) COLLATE "C"
    COLUMN topic2 character varying(66) COLLATE "C"
    COLUMN topic3 character varying(66) COLLATE "C"
    COLUMN data text
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    CONSTRAINT logs_address_check CHECK (blockchain.is_address((address)::text))
    CONSTRAINT logs_count_check CHECK (((block_number >= 0) AND (log_index >= 0) AND (transaction_index >= 0)))
    CONSTRAINT logs_hash_check CHECK (blockchain.is_hash((transaction_hash)::text))
    CREATE TRIGGER keep_rows_of_partition BEFORE TRUNCATE ON blockchain.logs_default FOR EACH STATEMENT EXECUTE FUNCTION core.refuse_truncate_of_partition()
    OWNER neolayer_owner

TABLE blockchain.networks
    COLUMN id uuid NOT NULL DEFAULT gen_random_uuid()
    COLUMN name character varying(100) NOT NULL
    COLUMN chain_id bigint NOT NULL
    COLUMN network_type character varying(50) NOT NULL
    COLUMN rpc_endpoint character varying(500)
    COLUMN ws_endpoint character varying(500)
    COLUMN explorer_url character varying(500)
    COLUMN is_testnet boolean NOT NULL DEFAULT false
    COLUMN is_active boolean NOT NULL DEFAULT true
    COLUMN finality_depth integer NOT NULL DEFAULT 64
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN updated_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    CONSTRAINT networks_chain_id_check CHECK ((chain_id > 0))
    CONSTRAINT networks_chain_id_key UNIQUE (chain_id)
    CONSTRAINT networks_explorer_url_check CHECK (core.is_url((explorer_url)::text, 'https?'::text))
    CONSTRAINT networks_finality_depth_check CHECK ((finality_depth > 0))
    CONSTRAINT networks_name_check CHECK (core.is_canonical((name)::text))
    CONSTRAINT networks_name_key UNIQUE (name)
    CONSTRAINT networks_network_type_check CHECK (((network_type)::text = ANY ((ARRAY['evm'::character varying, 'neo-n3'::character varying])::text[])))
    CONSTRAINT networks_pkey PRIMARY KEY (id)
    CONSTRAINT networks_rpc_endpoint_check CHECK (core.is_url((rpc_endpoint)::text, 'https?'::text))
    CONSTRAINT networks_ws_endpoint_check CHECK (core.is_url((ws_endpoint)::text, 'wss?'::text))
    CREATE TRIGGER keep_named AFTER DELETE OR UPDATE OF id ON blockchain.networks FOR EACH ROW EXECUTE FUNCTION blockchain.keep_named_network()
    CREATE TRIGGER touch BEFORE UPDATE ON blockchain.networks FOR EACH ROW EXECUTE FUNCTION core.touch_updated_at()
    OWNER neolayer_owner
    GRANT neolayer_app=r
    GRANT neolayer_backup=r
    GRANT neolayer_ingest=arwd
    GRANT neolayer_operator=r
    GRANT neolayer_relay=r

TABLE blockchain.orphaned_blocks
    COLUMN network_id uuid NOT NULL
    COLUMN block_hash character varying(255) COLLATE "C" NOT NULL
    COLUMN block_number bigint NOT NULL
    COLUMN parent_hash character varying(255) COLLATE "C" NOT NULL
    COLUMN block_timestamp timestamp with time zone NOT NULL
    COLUMN orphaned_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN replaced_by character varying(255) COLLATE "C"
    CONSTRAINT orphaned_blocks_block_hash_check CHECK (blockchain.is_hash((block_hash)::text))
    CONSTRAINT orphaned_blocks_block_number_check CHECK ((block_number >= 0))
    CONSTRAINT orphaned_blocks_network_id_fkey FOREIGN KEY (network_id) REFERENCES blockchain.networks(id)
    CONSTRAINT orphaned_blocks_parent_hash_check CHECK (blockchain.is_hash((parent_hash)::text))
    CONSTRAINT orphaned_blocks_pkey PRIMARY KEY (network_id, block_hash)
    CONSTRAINT orphaned_blocks_replaced_by_check CHECK (blockchain.is_hash((replaced_by)::text))
    OWNER neolayer_owner
    GRANT neolayer_app=r
    GRANT neolayer_backup=r
    GRANT neolayer_ingest=arwd
    GRANT neolayer_operator=r
    GRANT neolayer_relay=r

TABLE blockchain.smart_contracts
    REPLICA IDENTITY FULL
    COLUMN id uuid NOT NULL DEFAULT gen_random_uuid()
    COLUMN network_id uuid NOT NULL
    COLUMN address character varying(255) COLLATE "C" NOT NULL
    COLUMN name character varying(255)
    COLUMN symbol character varying(50)
    COLUMN contract_type character varying(50) NOT NULL DEFAULT 'unknown'::character varying
    COLUMN abi jsonb NOT NULL DEFAULT '[]'::jsonb
    COLUMN bytecode text
    COLUMN source_code text
    COLUMN compiler_version character varying(50)
    COLUMN optimization_enabled boolean
    COLUMN verified boolean NOT NULL DEFAULT false
    COLUMN deployed_by character varying(255) COLLATE "C"
    COLUMN deployed_at timestamp with time zone
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN deployment_transaction_hash character varying(255) COLLATE "C"
    COLUMN deployed_block_number bigint
    CONSTRAINT contracts_address_unique UNIQUE (network_id, address)
    CONSTRAINT smart_contracts_address_check CHECK (blockchain.is_address((address)::text))
    CONSTRAINT smart_contracts_deployed_block_number_check CHECK ((deployed_block_number >= 0))
    CONSTRAINT smart_contracts_deployed_by_check CHECK (blockchain.is_address((deployed_by)::text))
    CONSTRAINT smart_contracts_deployment_transaction_hash_check CHECK (blockchain.is_hash((deployment_transaction_hash)::text))
    CONSTRAINT smart_contracts_network_id_fkey FOREIGN KEY (network_id) REFERENCES blockchain.networks(id)
    CONSTRAINT smart_contracts_pkey PRIMARY KEY (id)
    CREATE INDEX idx_contracts_deployed ON blockchain.smart_contracts USING btree (network_id, deployed_block_number)
    OWNER neolayer_owner
    GRANT neolayer_app=r
    GRANT neolayer_backup=r
    GRANT neolayer_ingest=arwd
    GRANT neolayer_operator=r
    GRANT neolayer_relay=r

TABLE blockchain.transaction_keys
    COLUMN network_id uuid NOT NULL
    COLUMN transaction_hash bytea NOT NULL
    CONSTRAINT transactions_hash_unique PRIMARY KEY (network_id, transaction_hash)
    OWNER neolayer_owner
    GRANT neolayer_backup=r
    GRANT neolayer_ingest=r
    GRANT neolayer_operator=r

TABLE blockchain.transactions
    PARTITION BY RANGE (block_timestamp)
    REPLICA IDENTITY FULL
    COLUMN id uuid NOT NULL DEFAULT gen_random_uuid()
    COLUMN network_id uuid NOT NULL
    COLUMN transaction_hash character varying(255) COLLATE "C" NOT NULL
    COLUMN from_address character varying(255) COLLATE "C" NOT NULL
    COLUMN to_address character varying(255) COLLATE "C"
    COLUMN value numeric(78,0) NOT NULL DEFAULT 0
    COLUMN gas_price numeric(78,0)
    COLUMN gas_limit bigint
    COLUMN gas_used bigint
    COLUMN nonce bigint
    COLUMN input_data text
    COLUMN status character varying(50) NOT NULL DEFAULT 'pending'::character varying
    COLUMN block_number bigint
    COLUMN block_timestamp timestamp with time zone NOT NULL
    COLUMN confirmation_count integer DEFAULT 0
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN updated_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN transaction_index integer
    COLUMN transaction_type smallint
    COLUMN max_fee_per_gas numeric(78,0)
    COLUMN max_priority_fee_per_gas numeric(78,0)
    COLUMN max_fee_per_blob_gas numeric(78,0)
    COLUMN effective_gas_price numeric(78,0)
    COLUMN cumulative_gas_used bigint
    COLUMN contract_address character varying(255) COLLATE "C"
    COLUMN signature_v numeric(78,0)
    COLUMN signature_r character varying(66) COLLATE "C"
    COLUMN signature_s character varying(66) COLLATE "C"
    COLUMN envelope jsonb
    COLUMN replaced_by character varying(255) COLLATE "C"
    CONSTRAINT transactions_address_check CHECK ((blockchain.is_address((from_address)::text) AND blockchain.is_address((to_address)::text) AND blockchain.is_address((contract_address)::text)))
    CONSTRAINT transactions_count_check CHECK (((gas_limit >= 0) AND (gas_used >= 0) AND (cumulative_gas_used >= 0) AND (nonce >= 0) AND (block_number >= 0) AND (transaction_index >= 0) AND (confirmation_count >= 0)))
    CONSTRAINT transactions_hash_check CHECK ((blockchain.is_hash((transaction_hash)::text) AND blockchain.is_hash((replaced_by)::text)))
    CONSTRAINT transactions_pkey PRIMARY KEY (network_id, transaction_hash, block_timestamp)
    CONSTRAINT transactions_price_check CHECK ((core.is_uint256(gas_price) AND core.is_uint256(max_fee_per_gas) AND core.is_uint256(max_priority_fee_per_gas) AND core.is_uint256(max_fee_per_blob_gas) AND core.is_uint256(effective_gas_price) AND core.is_uint256(signature_v)))
    CONSTRAINT transactions_status_check CHECK (
    CASE
    WHEN (block_number IS NULL) THEN ((status)::text = ANY ((ARRAY['pending'::character varying, 'dropped'::character varying, 'replaced'::character varying])::text[]))
    ELSE ((status)::text = ANY ((ARRAY['confirmed'::character varying, 'failed'::character varying])::text[]))
    END)
    CONSTRAINT transactions_time_check CHECK (((block_timestamp >= '1970-01-01 00:00:00+00'::timestamp with time zone) AND (block_timestamp < '2262-01-01 00:00:00+00'::timestamp with time zone)))
    CONSTRAINT transactions_value_check CHECK (core.is_uint256(value))
    CREATE INDEX idx_transactions_block ON ONLY blockchain.transactions USING btree (network_id, block_number DESC)
    CREATE INDEX idx_transactions_pending ON ONLY blockchain.transactions USING btree (created_at) WHERE ((status)::text = 'pending'::text)
    CREATE INDEX idx_transactions_pending_nonce ON ONLY blockchain.transactions USING btree (network_id, from_address, nonce) WHERE ((status)::text = 'pending'::text)
    CREATE INDEX idx_transactions_to ON ONLY blockchain.transactions USING btree (to_address, block_timestamp DESC) WHERE (to_address IS NOT NULL)
    CREATE INDEX idx_transactions_user_time ON ONLY blockchain.transactions USING btree (from_address, block_timestamp DESC)
    CREATE TRIGGER claim_keys AFTER INSERT ON blockchain.transactions REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION blockchain.claim_transaction_keys()
    CREATE TRIGGER keep_key BEFORE UPDATE OF network_id, transaction_hash ON blockchain.transactions FOR EACH STATEMENT EXECUTE FUNCTION core.refuse_change('a transaction never changes its network or hash')
    CREATE TRIGGER keep_rows BEFORE TRUNCATE ON blockchain.transactions FOR EACH STATEMENT EXECUTE FUNCTION core.refuse_change('delete rows instead')
    CREATE TRIGGER release_keys AFTER DELETE ON blockchain.transactions REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION blockchain.release_transaction_keys()
    CREATE TRIGGER touch BEFORE UPDATE ON blockchain.transactions FOR EACH ROW EXECUTE FUNCTION core.touch_updated_at()
    OWNER neolayer_owner
    GRANT neolayer_app=r
    GRANT neolayer_backup=r
    GRANT neolayer_ingest=arwd
    GRANT neolayer_operator=r
    GRANT neolayer_relay=r

TABLE blockchain.transactions_default
    PARTITION OF blockchain.transactions DEFAULT
    REPLICA IDENTITY FULL
    COLUMN id uuid NOT NULL DEFAULT gen_random_uuid()
    COLUMN network_id uuid NOT NULL
    COLUMN transaction_hash character varying(255) COLLATE "C" NOT NULL
    COLUMN from_address character varying(255) COLLATE "C" NOT NULL
    COLUMN to_address character varying(255) COLLATE "C"
    COLUMN value numeric(78,0) NOT NULL DEFAULT 0
    COLUMN gas_price numeric(78,0)
    COLUMN gas_limit bigint
    COLUMN gas_used bigint
    COLUMN nonce bigint
    COLUMN input_data text
    COLUMN status character varying(50) NOT NULL DEFAULT 'pending'::character varying
    COLUMN block_number bigint
    COLUMN block_timestamp timestamp with time zone NOT NULL
    COLUMN confirmation_count integer DEFAULT 0
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN updated_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN transaction_index integer
    COLUMN transaction_type smallint
    COLUMN max_fee_per_gas numeric(78,0)
    COLUMN max_priority_fee_per_gas numeric(78,0)
    COLUMN max_fee_per_blob_gas numeric(78,0)
    COLUMN effective_gas_price numeric(78,0)
    COLUMN cumulative_gas_used bigint
    COLUMN contract_address character varying(255) COLLATE "C"
    COLUMN signature_v numeric(78,0)
    COLUMN signature_r character varying(66) COLLATE "C"
    COLUMN signature_s character varying(66) COLLATE "C"
    COLUMN envelope jsonb
    COLUMN replaced_by character varying(255) COLLATE "C"
    CONSTRAINT transactions_address_check CHECK ((blockchain.is_address((from_address)::text) AND blockchain.is_address((to_address)::text) AND blockchain.is_address((contract_address)::text)))
    CONSTRAINT transactions_count_check CHECK (((gas_limit >= 0) AND (gas_used >= 0) AND (cumulative_gas_used >= 0) AND (nonce >= 0) AND (block_number >= 0) AND (transaction_index >= 0) AND (confirmation_count >= 0)))
    CONSTRAINT transactions_hash_check CHECK ((blockchain.is_hash((transaction_hash)::text) AND blockchain.is_hash((replaced_by)::text)))
    CONSTRAINT transactions_price_check CHECK ((core.is_uint256(gas_price) AND core.is_uint256(max_fee_per_gas) AND core.is_uint256(max_priority_fee_per_gas) AND core.is_uint256(max_fee_per_blob_gas) AND core.is_uint256(effective_gas_price) AND core.is_uint256(signature_v)))
    CONSTRAINT transactions_status_check CHECK (
    CASE
    WHEN (block_number IS NULL) THEN ((status)::text = ANY ((ARRAY['pending'::character varying, 'dropped'::character varying, 'replaced'::character varying])::text[]))
    ELSE ((status)::text = ANY ((ARRAY['confirmed'::character varying, 'failed'::character varying])::text[]))
    END)
    CONSTRAINT transactions_time_check CHECK (((block_timestamp >= '1970-01-01 00:00:00+00'::timestamp with time zone) AND (block_timestamp < '2262-01-01 00:00:00+00'::timestamp with time zone)))
    CONSTRAINT transactions_value_check CHECK (core.is_uint256(value))
    CREATE TRIGGER keep_rows_of_partition BEFORE TRUNCATE ON blockchain.transactions_default FOR EACH STATEMENT EXECUTE FUNCTION core.refuse_truncate_of_partition()
    OWNER neolayer_owner

TABLE blockchain.wallets
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN id uuid NOT NULL DEFAULT gen_random_uuid() RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN user_id uuid RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN network_id uuid NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN address character varying(255) COLLATE "C" NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN public_key character varying(500) RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN encrypted_private_key text
    COLUMN wallet_type character varying(50) NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN is_hardware boolean NOT NULL DEFAULT false RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN key_id character varying(100) RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN name character varying(255) RIGHTS {neolayer_operator=r/neolayer_owner}
    CONSTRAINT wallets_address_check CHECK (blockchain.is_address((address)::text))
    CONSTRAINT wallets_address_unique UNIQUE (tenant_id, network_id, address)
    CONSTRAINT wallets_encrypted_private_key_size_check CHECK ((octet_length(encrypted_private_key) <= 16384))
    CONSTRAINT wallets_hardware_check CHECK (((NOT is_hardware) OR (encrypted_private_key IS NULL)))
    CONSTRAINT wallets_key_check CHECK (((encrypted_private_key IS NULL) = (key_id IS NULL)))
    CONSTRAINT wallets_name_check CHECK ((((name)::text ~ '^[^[:cntrl:]]+$'::text) AND ((name)::text = btrim((name)::text))))
    CONSTRAINT wallets_network_id_fkey FOREIGN KEY (network_id) REFERENCES blockchain.networks(id)
    CONSTRAINT wallets_pkey PRIMARY KEY (tenant_id, id)
    CONSTRAINT wallets_public_key_check CHECK (((public_key)::text ~ '^0[23][0-9a-f]{64}$'::text))
    CONSTRAINT wallets_sealed_check CHECK ((octet_length(encrypted_private_key) > 66))
    CONSTRAINT wallets_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES core.tenants(id)
    CONSTRAINT wallets_user_fkey FOREIGN KEY (tenant_id, user_id) REFERENCES auth.users(tenant_id, id) ON DELETE SET NULL (user_id)
    CONSTRAINT wallets_wallet_type_check CHECK (core.is_canonical((wallet_type)::text))
    CREATE INDEX idx_wallets_created ON blockchain.wallets USING btree (tenant_id, created_at, id)
    CREATE INDEX idx_wallets_network ON blockchain.wallets USING btree (network_id)
    CREATE INDEX idx_wallets_user ON blockchain.wallets USING btree (tenant_id, user_id)
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    CREATE CONSTRAINT TRIGGER require_entry AFTER DELETE ON blockchain.wallets DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN ((old.encrypted_private_key IS NOT NULL)) EXECUTE FUNCTION audit.require_entry('wallet')
    CREATE TRIGGER ask_permission BEFORE INSERT OR DELETE OR UPDATE ON blockchain.wallets FOR EACH ROW EXECUTE FUNCTION auth.admit_verb()
    CREATE TRIGGER count_added AFTER INSERT ON blockchain.wallets REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION core.count_rows('wallets')
    CREATE TRIGGER count_removed AFTER DELETE ON blockchain.wallets REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION core.count_rows('wallets')
    CREATE TRIGGER keep_wallet BEFORE INSERT OR UPDATE ON blockchain.wallets FOR EACH ROW EXECUTE FUNCTION blockchain.keep_wallet()
    OWNER neolayer_owner
    GRANT neolayer_app=arwd
    GRANT neolayer_backup=r

TABLE core.context_secrets
    COLUMN id smallint NOT NULL
    COLUMN inner_pad bytea NOT NULL
    COLUMN outer_pad bytea NOT NULL
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    CONSTRAINT context_secrets_inner_pad_check CHECK ((octet_length(inner_pad) = 64))
    CONSTRAINT context_secrets_outer_pad_check CHECK ((octet_length(outer_pad) = 64))
    CONSTRAINT context_secrets_pkey PRIMARY KEY (id)
    OWNER neolayer_owner

TABLE core.locked_keys
    COLUMN version integer NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN id character varying(32) NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN locked_by character varying(2048) NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN locked_key text NOT NULL
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN updated_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP RIGHTS {neolayer_operator=r/neolayer_owner}
    CONSTRAINT locked_keys_id_check CHECK (((id)::text ~ '^[a-z0-9][a-z0-9-]*$'::text))
    CONSTRAINT locked_keys_locked_key_check CHECK (((octet_length(locked_key) >= 1) AND (octet_length(locked_key) <= 8192)))
    CONSTRAINT locked_keys_pkey PRIMARY KEY (version)
    CONSTRAINT locked_keys_version_check CHECK ((version > 0))
    CREATE TRIGGER touch BEFORE UPDATE ON core.locked_keys FOR EACH ROW EXECUTE FUNCTION core.touch_updated_at()
    OWNER neolayer_owner
    GRANT neolayer_app=r
    GRANT neolayer_backup=r

TABLE core.outbox
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL
    COLUMN event_id uuid NOT NULL DEFAULT gen_random_uuid()
    COLUMN subject character varying(100) NOT NULL
    COLUMN key character varying(255) NOT NULL
    COLUMN event_type character varying(255) NOT NULL
    COLUMN event_data jsonb NOT NULL
    COLUMN schema_version integer NOT NULL DEFAULT 1
    COLUMN correlation_id uuid
    COLUMN causation_id uuid
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    CONSTRAINT outbox_event_data_size_check CHECK ((octet_length((event_data)::text) <= 1048576))
    CONSTRAINT outbox_event_type_check CHECK (((event_type)::text ~ '^[A-Za-z0-9][A-Za-z0-9._-]*$'::text))
    CONSTRAINT outbox_key_check CHECK (((key)::text <> ''::text))
    CONSTRAINT outbox_pkey PRIMARY KEY (tenant_id, event_id)
    CONSTRAINT outbox_schema_version_check CHECK ((schema_version > 0))
    CONSTRAINT outbox_subject_check CHECK (((subject)::text ~ '^[a-z0-9][a-z0-9_-]*$'::text))
    CONSTRAINT outbox_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES core.tenants(id)
    CREATE INDEX idx_outbox_created_at ON core.outbox USING brin (created_at)
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    CREATE TRIGGER count_added AFTER INSERT ON core.outbox REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION core.count_rows('announcements')
    CREATE TRIGGER count_removed AFTER DELETE ON core.outbox REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION core.count_rows('announcements')
    CREATE TRIGGER keep_rows BEFORE UPDATE ON core.outbox FOR EACH STATEMENT EXECUTE FUNCTION core.refuse_change('what was announced is not changed')
    OWNER neolayer_owner
    GRANT neolayer_app=ar
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r
    GRANT neolayer_relay=rd

TABLE core.relay_checkpoints
    COLUMN sink character varying(100) NOT NULL
    COLUMN version bigint NOT NULL
    COLUMN updated_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    CONSTRAINT relay_checkpoints_pkey PRIMARY KEY (sink)
    CONSTRAINT relay_checkpoints_version_check CHECK ((version >= 0))
    CREATE TRIGGER touch BEFORE UPDATE ON core.relay_checkpoints FOR EACH ROW EXECUTE FUNCTION core.touch_updated_at()
    OWNER neolayer_owner
    GRANT neolayer_app=r
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r
    GRANT neolayer_relay=arwd

TABLE core.relay_dead_letters
    COLUMN sink character varying(100) NOT NULL
    COLUMN table_name character varying(130) NOT NULL
    COLUMN key text[] NOT NULL
    COLUMN database character varying(63) NOT NULL
    COLUMN version bigint NOT NULL
    COLUMN deleted boolean NOT NULL
    COLUMN cause character varying(1000) NOT NULL
    COLUMN row_data jsonb NOT NULL
    COLUMN tries integer NOT NULL DEFAULT 1
    COLUMN parked_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN replay_requested_at timestamp with time zone RIGHTS {neolayer_operator=w/neolayer_owner}
    COLUMN tenant character varying(100)
    CONSTRAINT relay_dead_letters_pkey PRIMARY KEY (sink, table_name, key)
    CONSTRAINT relay_dead_letters_tries_check CHECK ((tries > 0))
    CONSTRAINT relay_dead_letters_version_check CHECK ((version >= 0))
    OWNER neolayer_owner
    GRANT neolayer_backup=r
    GRANT neolayer_operator=rd
    GRANT neolayer_relay=arwd

TABLE core.relay_rebuild_ranges
    COLUMN sink character varying(100) NOT NULL
    COLUMN table_name character varying(130) NOT NULL
    COLUMN number integer NOT NULL
    COLUMN low text[]
    COLUMN high text[]
    COLUMN row_count bigint NOT NULL DEFAULT 0
    COLUMN done_at timestamp with time zone
    COLUMN whole boolean NOT NULL DEFAULT false
    CONSTRAINT relay_rebuild_ranges_number_check CHECK ((number >= 0))
    CONSTRAINT relay_rebuild_ranges_pkey PRIMARY KEY (sink, whole, table_name, number)
    CONSTRAINT relay_rebuild_ranges_row_count_check CHECK ((row_count >= 0))
    CONSTRAINT relay_rebuild_ranges_sink_whole_table_name_fkey FOREIGN KEY (sink, whole, table_name) REFERENCES core.relay_rebuilds(sink, whole, table_name) ON DELETE CASCADE
    OWNER neolayer_owner
    GRANT neolayer_backup=r
    GRANT neolayer_operator=rd
    GRANT neolayer_relay=arwd

TABLE core.relay_rebuilds
    COLUMN sink character varying(100) NOT NULL
    COLUMN table_name character varying(130) NOT NULL
    COLUMN state character varying(20) NOT NULL DEFAULT 'requested'::character varying
    COLUMN version bigint
    COLUMN error character varying(1000)
    COLUMN requested_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN finished_at timestamp with time zone
    COLUMN whole boolean NOT NULL DEFAULT false
    COLUMN shape character varying(32)
    CONSTRAINT relay_rebuilds_pkey PRIMARY KEY (sink, whole, table_name)
    CONSTRAINT relay_rebuilds_state_check CHECK (((state)::text = ANY ((ARRAY['requested'::character varying, 'copying'::character varying, 'done'::character varying, 'failed'::character varying])::text[])))
    CONSTRAINT relay_rebuilds_version_check CHECK ((version >= 0))
    OWNER neolayer_owner
    GRANT neolayer_backup=r
    GRANT neolayer_operator=arwd
    GRANT neolayer_relay=arwd

TABLE core.relay_sinks
    COLUMN sink character varying(100) NOT NULL
    COLUMN paused_at timestamp with time zone
    COLUMN unparked bigint NOT NULL DEFAULT 0
    CONSTRAINT relay_sinks_pkey PRIMARY KEY (sink)
    CONSTRAINT relay_sinks_unparked_check CHECK ((unparked >= 0))
    OWNER neolayer_owner
    GRANT neolayer_backup=r
    GRANT neolayer_operator=arw
    GRANT neolayer_relay=arwd

TABLE core.services
    COLUMN id uuid NOT NULL DEFAULT gen_random_uuid()
    COLUMN name character varying(255) NOT NULL
    COLUMN description text
    COLUMN version character varying(50) NOT NULL
    COLUMN status character varying(50) NOT NULL DEFAULT 'inactive'::character varying
    COLUMN configuration jsonb NOT NULL DEFAULT '{}'::jsonb
    COLUMN metadata jsonb NOT NULL DEFAULT '{}'::jsonb
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN updated_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    CONSTRAINT services_name_key UNIQUE (name)
    CONSTRAINT services_pkey PRIMARY KEY (id)
    CONSTRAINT services_status_check CHECK (((status)::text = ANY ((ARRAY['active'::character varying, 'inactive'::character varying, 'degraded'::character varying, 'maintenance'::character varying])::text[])))
    CREATE INDEX idx_services_config ON core.services USING gin (configuration)
    CREATE TRIGGER touch BEFORE UPDATE ON core.services FOR EACH ROW EXECUTE FUNCTION core.touch_updated_at()
    OWNER neolayer_owner
    GRANT neolayer_app=r
    GRANT neolayer_backup=r
    GRANT neolayer_ingest=r
    GRANT neolayer_operator=r

TABLE core.subject_keys
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN id uuid NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN sealed_key text NOT NULL
    COLUMN key_id character varying(100) NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP RIGHTS {neolayer_operator=r/neolayer_owner}
    CONSTRAINT subject_keys_pkey PRIMARY KEY (tenant_id, id)
    CONSTRAINT subject_keys_sealed_key_check CHECK (((octet_length(sealed_key) >= 1) AND (octet_length(sealed_key) <= 1024)))
    CONSTRAINT subject_keys_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES core.tenants(id)
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    OWNER neolayer_owner
    GRANT neolayer_app=arwd
    GRANT neolayer_backup=r

TABLE core.tenant_data
    PARTITION BY HASH (tenant_id)
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    REPLICA IDENTITY FULL
    COLUMN tenant_id uuid NOT NULL RIGHTS {neolayer_search=r/neolayer_owner}
    COLUMN data_id uuid NOT NULL RIGHTS {neolayer_search=r/neolayer_owner}
    COLUMN data jsonb NOT NULL RIGHTS {neolayer_search=r/neolayer_owner}
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP RIGHTS {neolayer_search=r/neolayer_owner}
    COLUMN updated_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP RIGHTS {neolayer_search=r/neolayer_owner}
    CONSTRAINT tenant_data_data_size_check CHECK ((octet_length((data)::text) <= 8388608))
    CONSTRAINT tenant_data_pkey PRIMARY KEY (tenant_id, data_id)
    CONSTRAINT tenant_data_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES core.tenants(id)
    CREATE INDEX idx_tenant_data_search ON ONLY core.tenant_data USING gin (core.below_tenant(tenant_id, data) jsonb_path_ops)
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    CREATE TRIGGER count_added AFTER INSERT ON core.tenant_data REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION core.count_rows('documents')
    CREATE TRIGGER count_removed AFTER DELETE ON core.tenant_data REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION core.count_rows('documents')
    CREATE TRIGGER touch BEFORE UPDATE ON core.tenant_data FOR EACH ROW EXECUTE FUNCTION core.touch_updated_at()
    OWNER neolayer_owner
    GRANT neolayer_app=arwd
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r
    GRANT neolayer_relay=r

TABLE core.tenant_data_p0
    PARTITION OF core.tenant_data FOR VALUES WITH (modulus 4, remainder 0)
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    REPLICA IDENTITY FULL
    COLUMN tenant_id uuid NOT NULL
    COLUMN data_id uuid NOT NULL
    COLUMN data jsonb NOT NULL
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN updated_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    CONSTRAINT tenant_data_data_size_check CHECK ((octet_length((data)::text) <= 8388608))
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    CREATE TRIGGER keep_rows_of_partition BEFORE TRUNCATE ON core.tenant_data_p0 FOR EACH STATEMENT EXECUTE FUNCTION core.refuse_truncate_of_partition()
    OWNER neolayer_owner

TABLE core.tenant_data_p1
    PARTITION OF core.tenant_data FOR VALUES WITH (modulus 4, remainder 1)
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    REPLICA IDENTITY FULL
    COLUMN tenant_id uuid NOT NULL
    COLUMN data_id uuid NOT NULL
    COLUMN data jsonb NOT NULL
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN updated_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    CONSTRAINT tenant_data_data_size_check CHECK ((octet_length((data)::text) <= 8388608))
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    CREATE TRIGGER keep_rows_of_partition BEFORE TRUNCATE ON core.tenant_data_p1 FOR EACH STATEMENT EXECUTE FUNCTION core.refuse_truncate_of_partition()
    OWNER neolayer_owner

TABLE core.tenant_data_p2
    PARTITION OF core.tenant_data FOR VALUES WITH (modulus 4, remainder 2)
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    REPLICA IDENTITY FULL
    COLUMN tenant_id uuid NOT NULL
    COLUMN data_id uuid NOT NULL
    COLUMN data jsonb NOT NULL
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN updated_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    CONSTRAINT tenant_data_data_size_check CHECK ((octet_length((data)::text) <= 8388608))
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    CREATE TRIGGER keep_rows_of_partition BEFORE TRUNCATE ON core.tenant_data_p2 FOR EACH STATEMENT EXECUTE FUNCTION core.refuse_truncate_of_partition()
    OWNER neolayer_owner

TABLE core.tenant_data_p3
    PARTITION OF core.tenant_data FOR VALUES WITH (modulus 4, remainder 3)
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    REPLICA IDENTITY FULL
    COLUMN tenant_id uuid NOT NULL
    COLUMN data_id uuid NOT NULL
    COLUMN data jsonb NOT NULL
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN updated_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    CONSTRAINT tenant_data_data_size_check CHECK ((octet_length((data)::text) <= 8388608))
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    CREATE TRIGGER keep_rows_of_partition BEFORE TRUNCATE ON core.tenant_data_p3 FOR EACH STATEMENT EXECUTE FUNCTION core.refuse_truncate_of_partition()
    OWNER neolayer_owner

TABLE core.tenant_standing
    COLUMN id uuid NOT NULL RIGHTS {neolayer_relay=r/neolayer_owner}
    COLUMN identifier character varying(100) NOT NULL
    COLUMN tier character varying(50) NOT NULL
    COLUMN limits jsonb NOT NULL
    COLUMN is_closed boolean NOT NULL RIGHTS {neolayer_relay=r/neolayer_owner}
    CONSTRAINT tenant_standing_id_fkey FOREIGN KEY (id) REFERENCES core.tenants(id) ON DELETE CASCADE
    CONSTRAINT tenant_standing_identifier_key UNIQUE (identifier)
    CONSTRAINT tenant_standing_pkey PRIMARY KEY (id)
    OWNER neolayer_owner
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r

TABLE core.tenants
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN id uuid NOT NULL DEFAULT gen_random_uuid()
    COLUMN name character varying(255) NOT NULL
    COLUMN identifier character varying(100) NOT NULL
    COLUMN subscription_tier character varying(50) NOT NULL DEFAULT 'free'::character varying
    COLUMN settings jsonb NOT NULL DEFAULT '{}'::jsonb
    COLUMN limits jsonb NOT NULL DEFAULT '{}'::jsonb
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN updated_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN deleted_at timestamp with time zone
    CONSTRAINT tenants_identifier_check CHECK (((identifier)::text ~ '^[a-z0-9]([a-z0-9-]*[a-z0-9])?$'::text))
    CONSTRAINT tenants_identifier_key UNIQUE (identifier)
    CONSTRAINT tenants_limits_check CHECK (core.is_limits(limits))
    CONSTRAINT tenants_pkey PRIMARY KEY (id)
    CONSTRAINT tenants_settings_check CHECK (((jsonb_typeof(settings) = 'object'::text) AND (octet_length((settings)::text) <= 65536)))
    CONSTRAINT tenants_tier_check CHECK (((subscription_tier)::text = ANY ((ARRAY['free'::character varying, 'basic'::character varying, 'pro'::character varying, 'enterprise'::character varying])::text[])))
    CREATE INDEX idx_tenants_settings ON core.tenants USING gin (settings)
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (id = ( SELECT core.current_tenant() AS current_tenant))
    CREATE TRIGGER ask_permission BEFORE UPDATE ON core.tenants FOR EACH ROW EXECUTE FUNCTION auth.admit_verb()
    CREATE TRIGGER keep_to_operators BEFORE INSERT OR UPDATE ON core.tenants FOR EACH ROW EXECUTE FUNCTION core.keep_tenants_to_operators()
    CREATE TRIGGER note_standing AFTER INSERT OR UPDATE OF identifier, subscription_tier, limits, deleted_at ON core.tenants FOR EACH ROW EXECUTE FUNCTION core.note_standing()
    CREATE TRIGGER touch BEFORE UPDATE ON core.tenants FOR EACH ROW EXECUTE FUNCTION core.touch_updated_at()
    OWNER neolayer_owner
    GRANT neolayer_app=arw
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r

TABLE core.tiers
    COLUMN tier character varying(50) NOT NULL
    COLUMN limits jsonb NOT NULL
    CONSTRAINT tiers_limits_check CHECK (core.is_limits(limits))
    CONSTRAINT tiers_pkey PRIMARY KEY (tier)
    CREATE TRIGGER note_tier AFTER UPDATE ON core.tiers FOR EACH ROW EXECUTE FUNCTION core.note_tier()
    OWNER neolayer_owner
    GRANT neolayer_app=r
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r

TABLE core.usage_slots
    WITH {fillfactor=50}
    COLUMN tenant uuid NOT NULL
    COLUMN resource character varying(50) NOT NULL
    COLUMN slot smallint NOT NULL
    COLUMN used bigint NOT NULL
    COLUMN quota bigint
    CONSTRAINT usage_slots_pkey PRIMARY KEY (tenant, resource, slot)
    CONSTRAINT usage_slots_slot_check CHECK (((slot >= 0) AND (slot <= 7)))
    CONSTRAINT usage_slots_tenant_fkey FOREIGN KEY (tenant) REFERENCES core.tenants(id) ON DELETE CASCADE
    OWNER neolayer_owner
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r

TABLE core.webhook_deliveries
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL
    COLUMN webhook_id uuid NOT NULL
    COLUMN number bigint NOT NULL IDENTITY a
    COLUMN event_id character varying(512) NOT NULL
    COLUMN event_type character varying(255) NOT NULL
    COLUMN version bigint NOT NULL
    COLUMN envelope text NOT NULL
    COLUMN status character varying(50) NOT NULL DEFAULT 'pending'::character varying
    COLUMN attempts integer NOT NULL DEFAULT 0
    COLUMN last_error character varying(500)
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT clock_timestamp()
    COLUMN finished_at timestamp with time zone
    CONSTRAINT webhook_deliveries_envelope_size_check CHECK ((octet_length(envelope) <= 4194304))
    CONSTRAINT webhook_deliveries_event_unique UNIQUE (tenant_id, webhook_id, event_id)
    CONSTRAINT webhook_deliveries_pkey PRIMARY KEY (tenant_id, webhook_id, number)
    CONSTRAINT webhook_deliveries_status_check CHECK (((status)::text = ANY ((ARRAY['pending'::character varying, 'delivered'::character varying, 'parked'::character varying])::text[])))
    CONSTRAINT webhook_deliveries_webhook_fkey FOREIGN KEY (tenant_id, webhook_id) REFERENCES core.webhooks(tenant_id, id) ON DELETE CASCADE
    CREATE INDEX idx_webhook_deliveries_created_at ON core.webhook_deliveries USING brin (created_at)
    CREATE INDEX idx_webhook_deliveries_pending ON core.webhook_deliveries USING btree (webhook_id, number) WHERE ((status)::text = 'pending'::text)
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    CREATE TRIGGER admit_delivery BEFORE INSERT OR UPDATE ON core.webhook_deliveries FOR EACH ROW EXECUTE FUNCTION core.admit_delivery()
    OWNER neolayer_owner
    GRANT neolayer_app=arw
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r
    GRANT neolayer_relay=arwd

TABLE core.webhook_secrets
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN id uuid NOT NULL DEFAULT gen_random_uuid() RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN webhook_id uuid NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN sealed_secret character varying(255) NOT NULL
    COLUMN key_id character varying(100) NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT clock_timestamp() RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN expires_at timestamp with time zone RIGHTS {neolayer_operator=r/neolayer_owner}
    CONSTRAINT webhook_secrets_pkey PRIMARY KEY (tenant_id, id)
    CONSTRAINT webhook_secrets_webhook_fkey FOREIGN KEY (tenant_id, webhook_id) REFERENCES core.webhooks(tenant_id, id) ON DELETE CASCADE
    CREATE INDEX idx_webhook_secrets_webhook ON core.webhook_secrets USING btree (tenant_id, webhook_id)
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    CREATE TRIGGER admit_secret BEFORE INSERT ON core.webhook_secrets FOR EACH ROW EXECUTE FUNCTION core.admit_webhook_secret()
    OWNER neolayer_owner
    GRANT neolayer_app=arwd
    GRANT neolayer_backup=r
    GRANT neolayer_relay=r

TABLE core.webhooks
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL
    COLUMN id uuid NOT NULL DEFAULT gen_random_uuid()
    COLUMN name character varying(100) NOT NULL
    COLUMN url character varying(2048) NOT NULL
    COLUMN event_types text[] NOT NULL
    COLUMN status character varying(50) NOT NULL DEFAULT 'active'::character varying
    COLUMN disabled_reason character varying(500)
    COLUMN failing_since timestamp with time zone
    COLUMN last_error character varying(500)
    COLUMN last_delivered_at timestamp with time zone
    COLUMN next_attempt_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN updated_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    CONSTRAINT webhooks_event_types_check CHECK (((cardinality(event_types) >= 1) AND (cardinality(event_types) <= 100)))
    CONSTRAINT webhooks_event_types_size_check CHECK ((octet_length(array_to_string(event_types, ','::text)) <= 32768))
    CONSTRAINT webhooks_name_check CHECK (core.is_canonical((name)::text))
    CONSTRAINT webhooks_name_unique UNIQUE (tenant_id, name)
    CONSTRAINT webhooks_pkey PRIMARY KEY (tenant_id, id)
    CONSTRAINT webhooks_status_check CHECK (((status)::text = ANY ((ARRAY['active'::character varying, 'disabled'::character varying])::text[])))
    CONSTRAINT webhooks_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES core.tenants(id)
    CONSTRAINT webhooks_url_check CHECK (((url)::text ~ '^https?://'::text))
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    CREATE TRIGGER count_added AFTER INSERT ON core.webhooks REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION core.count_rows('webhooks')
    CREATE TRIGGER count_removed AFTER DELETE ON core.webhooks REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION core.count_rows('webhooks')
    CREATE TRIGGER touch BEFORE UPDATE ON core.webhooks FOR EACH ROW EXECUTE FUNCTION core.touch_updated_at()
    OWNER neolayer_owner
    GRANT neolayer_app=arwd
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r
    GRANT neolayer_relay=rw

TABLE enclave.attestation_policies
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN version integer NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN tcb_statuses text[] NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN rejected_advisories text[] NOT NULL DEFAULT '{}'::text[] RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN min_tcb_evaluation integer NOT NULL DEFAULT 0 RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN nonce_required boolean NOT NULL DEFAULT true RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN max_collateral_age interval NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN max_lifetime interval NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN allow_smt boolean NOT NULL DEFAULT false RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN allow_dynamic_platform boolean NOT NULL DEFAULT false RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN allow_cached_keys boolean NOT NULL DEFAULT false RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN enclaves jsonb NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN created_by character varying(255) NOT NULL DEFAULT COALESCE(core.current_principal(), (SESSION_USER)::text)
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    CONSTRAINT attestation_policies_enclaves_check CHECK (((jsonb_typeof(enclaves) = 'array'::text) AND (octet_length((enclaves)::text) <= 262144)))
    CONSTRAINT attestation_policies_max_collateral_age_check CHECK ((max_collateral_age > '00:00:00'::interval))
    CONSTRAINT attestation_policies_max_lifetime_check CHECK ((max_lifetime > '00:00:00'::interval))
    CONSTRAINT attestation_policies_min_tcb_evaluation_check CHECK ((min_tcb_evaluation >= 0))
    CONSTRAINT attestation_policies_pkey PRIMARY KEY (tenant_id, version)
    CONSTRAINT attestation_policies_rejected_advisories_size_check CHECK ((octet_length(array_to_string(rejected_advisories, ','::text)) <= 65536))
    CONSTRAINT attestation_policies_statuses_check CHECK ((('UpToDate'::text = ANY (tcb_statuses)) AND (tcb_statuses <@ ARRAY['UpToDate'::text, 'SWHardeningNeeded'::text, 'ConfigurationNeeded'::text, 'ConfigurationAndSWHardeningNeeded'::text, 'OutOfDate'::text, 'OutOfDateConfigurationNeeded'::text])))
    CONSTRAINT attestation_policies_tcb_statuses_size_check CHECK ((cardinality(tcb_statuses) <= 16))
    CONSTRAINT attestation_policies_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES core.tenants(id)
    CONSTRAINT attestation_policies_version_check CHECK ((version > 0))
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    CREATE TRIGGER ask_permission BEFORE INSERT ON enclave.attestation_policies FOR EACH ROW EXECUTE FUNCTION auth.admit_verb()
    CREATE TRIGGER keep_policies BEFORE DELETE OR UPDATE OR TRUNCATE ON enclave.attestation_policies FOR EACH STATEMENT EXECUTE FUNCTION core.refuse_change('a policy is replaced by a new version')
    OWNER neolayer_owner
    GRANT neolayer_app=r
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r

TABLE enclave.attestations
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN id uuid NOT NULL DEFAULT gen_random_uuid() RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN enclave_id character varying(255) NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN mr_enclave character varying(96) COLLATE "C" NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN mr_signer character varying(64) COLLATE "C" RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN isv_prod_id integer RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN isv_svn integer RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN report_data character varying(128) COLLATE "C" NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN quote bytea NOT NULL RIGHTS {neolayer_app=aw/neolayer_owner}
    COLUMN attestation_type character varying(50) NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN status character varying(50) NOT NULL DEFAULT 'pending'::character varying RIGHTS {neolayer_app=aw/neolayer_owner}
    COLUMN verified_at timestamp with time zone RIGHTS {neolayer_app=aw/neolayer_owner}
    COLUMN expires_at timestamp with time zone NOT NULL RIGHTS {neolayer_app=aw/neolayer_owner}
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN tee character varying(10) NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN quote_version smallint NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN signed_size integer NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN signed_digest character varying(64) COLLATE "C" NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN is_debug boolean NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN cpu_svn character varying(32) COLLATE "C" RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN nonce bytea RIGHTS {neolayer_app=aw/neolayer_owner}
    COLUMN reason character varying(50) NOT NULL RIGHTS {neolayer_app=aw/neolayer_owner}
    COLUMN tcb_status character varying(50) RIGHTS {neolayer_app=aw/neolayer_owner}
    COLUMN advisories text[] NOT NULL DEFAULT '{}'::text[] RIGHTS {neolayer_app=aw/neolayer_owner}
    COLUMN fmspc character varying(12) COLLATE "C" RIGHTS {neolayer_app=aw/neolayer_owner}
    COLUMN ca character varying(20) RIGHTS {neolayer_app=aw/neolayer_owner}
    COLUMN platform_id character varying(32) COLLATE "C" RIGHTS {neolayer_app=aw/neolayer_owner}
    COLUMN collateral_id character varying(64) COLLATE "C" RIGHTS {neolayer_app=aw/neolayer_owner}
    COLUMN policy_version integer RIGHTS {neolayer_app=aw/neolayer_owner}
    COLUMN verifier character varying(100) RIGHTS {neolayer_app=aw/neolayer_owner}
    COLUMN attested_at timestamp with time zone RIGHTS {neolayer_app=aw/neolayer_owner}
    COLUMN expires_because character varying(50) RIGHTS {neolayer_app=aw/neolayer_owner}
    COLUMN claims jsonb RIGHTS {neolayer_app=aw/neolayer_owner}
    COLUMN updated_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    CONSTRAINT attestations_advisories_size_check CHECK ((octet_length(array_to_string(advisories, ','::text)) <= 65536))
    CONSTRAINT attestations_claims_size_check CHECK ((octet_length((claims)::text) <= 65536))
    CONSTRAINT attestations_collateral_id_fkey FOREIGN KEY (collateral_id) REFERENCES enclave.collateral(id)
    CONSTRAINT attestations_cpu_svn_check CHECK (core.is_hex((cpu_svn)::text, 32))
    CONSTRAINT attestations_epid_check CHECK (((((attestation_type)::text = 'EPID'::text) = ((status)::text = 'unverifiable'::text)) AND (((attestation_type)::text = 'EPID'::text) = (quote_version < 3))))
    CONSTRAINT attestations_evidence_check CHECK ((enclave.is_of_quote(quote, (quote_version)::integer, (tee)::text, signed_size, (signed_digest)::text, (mr_enclave)::text, (mr_signer)::text, isv_prod_id, isv_svn, (report_data)::text, is_debug) IS TRUE))
    CONSTRAINT attestations_fmspc_check CHECK (core.is_hex((fmspc)::text, 12))
    CONSTRAINT attestations_nonce_fkey FOREIGN KEY (tenant_id, nonce) REFERENCES enclave.nonces(tenant_id, nonce)
    CONSTRAINT attestations_nonce_size_check CHECK ((octet_length(nonce) <= 64))
    CONSTRAINT attestations_pkey PRIMARY KEY (tenant_id, id)
    CONSTRAINT attestations_platform_id_check CHECK (core.is_hex((platform_id)::text, 32))
    CONSTRAINT attestations_policy_fkey FOREIGN KEY (tenant_id, policy_version) REFERENCES enclave.attestation_policies(tenant_id, version)
    CONSTRAINT attestations_quote_check CHECK (((octet_length(quote) >= 1) AND (octet_length(quote) <= 65536)))
    CONSTRAINT attestations_signed_unique UNIQUE (tenant_id, signed_digest)
    CONSTRAINT attestations_status_check CHECK (((status)::text = ANY ((ARRAY['pending'::character varying, 'verified'::character varying, 'rejected'::character varying, 'unverifiable'::character varying, 'expired'::character varying, 'revoked'::character varying])::text[])))
    CONSTRAINT attestations_tee_check CHECK (((tee)::text = ANY ((ARRAY['SGX'::character varying, 'TDX'::character varying])::text[])))
    CONSTRAINT attestations_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES core.tenants(id)
    CONSTRAINT attestations_type_check CHECK (((attestation_type)::text = ANY ((ARRAY['EPID'::character varying, 'DCAP'::character varying])::text[])))
    CONSTRAINT attestations_verified_check CHECK ((((status)::text <> 'verified'::text) OR ((num_nulls(verified_at, attested_at, tcb_status, fmspc, ca, collateral_id, policy_version, verifier, expires_because, claims) = 0) AND ((reason)::text = 'accepted'::text) AND (NOT is_debug) AND (expires_at > verified_at) AND (verified_at >= attested_at))))
    CREATE INDEX idx_attestations_collateral ON enclave.attestations USING btree (collateral_id)
    CREATE INDEX idx_attestations_enclave ON enclave.attestations USING btree (tenant_id, enclave_id, created_at DESC)
    CREATE INDEX idx_attestations_live ON enclave.attestations USING btree (tee, fmspc, ca) WHERE ((status)::text = 'verified'::text)
    CREATE INDEX idx_attestations_policy ON enclave.attestations USING btree (tenant_id, policy_version)
    CREATE UNIQUE INDEX attestations_nonce_unique ON enclave.attestations USING btree (tenant_id, nonce)
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    CREATE TRIGGER ask_permission BEFORE INSERT OR UPDATE ON enclave.attestations FOR EACH ROW EXECUTE FUNCTION auth.admit_verb()
    CREATE TRIGGER guard_attestation BEFORE UPDATE ON enclave.attestations FOR EACH ROW EXECUTE FUNCTION enclave.guard_attestation()
    CREATE TRIGGER touch BEFORE UPDATE ON enclave.attestations FOR EACH ROW EXECUTE FUNCTION core.touch_updated_at()
    OWNER neolayer_owner
    GRANT neolayer_app=r
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r

TABLE enclave.collateral
    COLUMN id character varying(64) COLLATE "C" NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN tee character varying(10) NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN fmspc character varying(12) COLLATE "C" NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN ca character varying(20) NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN tcb_evaluation_number integer NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN issued_at timestamp with time zone NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN oldest_part_at timestamp with time zone NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN tcb_info_until timestamp with time zone NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN qe_identity_until timestamp with time zone NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN root_ca_crl_until timestamp with time zone NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN pck_crl_until timestamp with time zone NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN certificates_until timestamp with time zone NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN document bytea NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN added_by character varying(255) NOT NULL DEFAULT COALESCE(core.current_principal(), (SESSION_USER)::text)
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    CONSTRAINT collateral_ca_check CHECK (((ca)::text = ANY ((ARRAY['processor'::character varying, 'platform'::character varying])::text[])))
    CONSTRAINT collateral_document_check CHECK (((octet_length(document) >= 1) AND (octet_length(document) <= 1048576)))
    CONSTRAINT collateral_fmspc_check CHECK (core.is_hex((fmspc)::text, 12))
    CONSTRAINT collateral_id_check CHECK (((id)::text = encode(sha256(document), 'hex'::text)))
    CONSTRAINT collateral_pkey PRIMARY KEY (id)
    CONSTRAINT collateral_tcb_evaluation_number_check CHECK ((tcb_evaluation_number >= 0))
    CONSTRAINT collateral_tee_check CHECK (((tee)::text = ANY ((ARRAY['SGX'::character varying, 'TDX'::character varying])::text[])))
    CONSTRAINT collateral_time_check CHECK (((oldest_part_at <= issued_at) AND (issued_at < LEAST(tcb_info_until, qe_identity_until, root_ca_crl_until, pck_crl_until, certificates_until))))
    CREATE INDEX idx_collateral_platform ON enclave.collateral USING btree (tee, fmspc, ca, issued_at DESC)
    CREATE TRIGGER admit_operators BEFORE INSERT ON enclave.collateral FOR EACH ROW EXECUTE FUNCTION enclave.admit_operators()
    CREATE TRIGGER keep_collateral BEFORE UPDATE OR TRUNCATE ON enclave.collateral FOR EACH STATEMENT EXECUTE FUNCTION core.refuse_change('collateral is added, never changed')
    OWNER neolayer_owner
    GRANT neolayer_app=r
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r

TABLE enclave.computations
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL RIGHTS {neolayer_app=a/neolayer_owner,neolayer_operator=r/neolayer_owner}
    COLUMN id uuid NOT NULL DEFAULT gen_random_uuid() RIGHTS {neolayer_app=a/neolayer_owner,neolayer_operator=r/neolayer_owner}
    COLUMN user_id uuid RIGHTS {neolayer_app=aw/neolayer_owner,neolayer_operator=r/neolayer_owner}
    COLUMN enclave_id character varying(255) NOT NULL RIGHTS {neolayer_app=a/neolayer_owner,neolayer_operator=r/neolayer_owner}
    COLUMN operation_type character varying(100) NOT NULL RIGHTS {neolayer_app=a/neolayer_owner,neolayer_operator=r/neolayer_owner}
    COLUMN input_hash character varying(64) COLLATE "C" NOT NULL RIGHTS {neolayer_app=a/neolayer_owner,neolayer_operator=r/neolayer_owner}
    COLUMN output_hash character varying(64) COLLATE "C" RIGHTS {neolayer_app=w/neolayer_owner,neolayer_operator=r/neolayer_owner}
    COLUMN status character varying(50) NOT NULL DEFAULT 'pending'::character varying RIGHTS {neolayer_app=w/neolayer_owner,neolayer_operator=r/neolayer_owner}
    COLUMN started_at timestamp with time zone RIGHTS {neolayer_app=w/neolayer_owner,neolayer_operator=r/neolayer_owner}
    COLUMN completed_at timestamp with time zone RIGHTS {neolayer_app=w/neolayer_owner,neolayer_operator=r/neolayer_owner}
    COLUMN error_message text RIGHTS {neolayer_app=w/neolayer_owner}
    COLUMN gas_used bigint RIGHTS {neolayer_app=w/neolayer_owner,neolayer_operator=r/neolayer_owner}
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN attestation_id uuid RIGHTS {neolayer_app=aw/neolayer_owner,neolayer_operator=r/neolayer_owner}
    COLUMN attempt integer NOT NULL DEFAULT 0 RIGHTS {neolayer_app=w/neolayer_owner,neolayer_operator=r/neolayer_owner}
    COLUMN max_attempts integer NOT NULL DEFAULT 5 RIGHTS {neolayer_app=a/neolayer_owner,neolayer_operator=r/neolayer_owner}
    COLUMN worker character varying(255) RIGHTS {neolayer_app=w/neolayer_owner,neolayer_operator=r/neolayer_owner}
    COLUMN heartbeat_at timestamp with time zone RIGHTS {neolayer_app=w/neolayer_owner,neolayer_operator=r/neolayer_owner}
    COLUMN lease_until timestamp with time zone RIGHTS {neolayer_app=w/neolayer_owner,neolayer_operator=r/neolayer_owner}
    COLUMN gas_limit bigint NOT NULL DEFAULT '9223372036854775807'::bigint RIGHTS {neolayer_app=a/neolayer_owner,neolayer_operator=r/neolayer_owner}
    COLUMN result bytea RIGHTS {neolayer_app=w/neolayer_owner}
    CONSTRAINT computations_attempts_check CHECK (((attempt >= 0) AND (attempt <= max_attempts)))
    CONSTRAINT computations_attestation_fkey FOREIGN KEY (tenant_id, attestation_id) REFERENCES enclave.attestations(tenant_id, id)
    CONSTRAINT computations_ended_check CHECK ((((completed_at IS NOT NULL) = ((status)::text = ANY ((ARRAY['completed'::character varying, 'failed'::character varying, 'cancelled'::character varying])::text[]))) AND (((status)::text <> 'completed'::text) OR (num_nulls(output_hash, attestation_id, started_at) = 0)) AND (((status)::text <> 'failed'::text) OR (error_message IS NOT NULL))))
    CONSTRAINT computations_error_message_size_check CHECK ((octet_length(error_message) <= 8192))
    CONSTRAINT computations_gas_limit_check CHECK ((gas_limit > 0))
    CONSTRAINT computations_gas_used_check CHECK ((gas_used >= 0))
    CONSTRAINT computations_gas_within_check CHECK ((gas_used <= gas_limit))
    CONSTRAINT computations_input_hash_check CHECK (core.is_hex((input_hash)::text, 64))
    CONSTRAINT computations_max_attempts_check CHECK (((max_attempts >= 1) AND (max_attempts <= 100)))
    CONSTRAINT computations_output_check CHECK ((((result IS NULL) OR ((output_hash)::text = encode(sha256(result), 'hex'::text))) AND ((output_hash IS NULL) OR ((status)::text = 'completed'::text))))
    CONSTRAINT computations_output_hash_check CHECK (core.is_hex((output_hash)::text, 64))
    CONSTRAINT computations_pkey PRIMARY KEY (tenant_id, id)
    CONSTRAINT computations_result_check CHECK ((octet_length(result) <= 1048576))
    CONSTRAINT computations_running_check CHECK ((((status)::text <> 'running'::text) OR ((num_nulls(attestation_id, worker, started_at, heartbeat_at, lease_until) = 0) AND (lease_until > heartbeat_at) AND (attempt > 0))))
    CONSTRAINT computations_status_check CHECK (((status)::text = ANY ((ARRAY['pending'::character varying, 'running'::character varying, 'completed'::character varying, 'failed'::character varying, 'cancelled'::character varying])::text[])))
    CONSTRAINT computations_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES core.tenants(id)
    CONSTRAINT computations_time_check CHECK ((completed_at >= started_at))
    CONSTRAINT computations_user_fkey FOREIGN KEY (tenant_id, user_id) REFERENCES auth.users(tenant_id, id) ON DELETE SET NULL (user_id)
    CREATE INDEX idx_computations_attestation ON enclave.computations USING btree (tenant_id, attestation_id)
    CREATE INDEX idx_computations_queue ON enclave.computations USING btree (tenant_id, enclave_id, created_at) WHERE ((status)::text = ANY ((ARRAY['pending'::character varying, 'running'::character varying])::text[]))
    CREATE INDEX idx_computations_user ON enclave.computations USING btree (tenant_id, user_id, created_at DESC)
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    CREATE TRIGGER ask_permission BEFORE INSERT OR UPDATE ON enclave.computations FOR EACH ROW EXECUTE FUNCTION auth.admit_verb()
    CREATE TRIGGER guard_computation BEFORE INSERT OR UPDATE ON enclave.computations FOR EACH ROW EXECUTE FUNCTION enclave.guard_computation()
    OWNER neolayer_owner
    GRANT neolayer_app=r
    GRANT neolayer_backup=r

TABLE enclave.nonces
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN nonce bytea NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN enclave_id character varying(255) NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN issued_at timestamp with time zone NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN expires_at timestamp with time zone NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN used_at timestamp with time zone RIGHTS {neolayer_app=w/neolayer_owner}
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    CONSTRAINT nonces_nonce_check CHECK ((octet_length(nonce) = 32))
    CONSTRAINT nonces_pkey PRIMARY KEY (tenant_id, nonce)
    CONSTRAINT nonces_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES core.tenants(id)
    CONSTRAINT nonces_time_check CHECK (((expires_at > issued_at) AND (used_at >= issued_at) AND (used_at < expires_at)))
    CREATE INDEX idx_nonces_unused ON enclave.nonces USING btree (tenant_id, expires_at) WHERE (used_at IS NULL)
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    CREATE TRIGGER ask_permission BEFORE INSERT OR DELETE OR UPDATE ON enclave.nonces FOR EACH ROW EXECUTE FUNCTION auth.admit_verb()
    CREATE TRIGGER guard_nonce BEFORE UPDATE ON enclave.nonces FOR EACH ROW EXECUTE FUNCTION enclave.guard_nonce()
    OWNER neolayer_owner
    GRANT neolayer_app=rd
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r

TABLE enclave.sealed_data
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN id uuid NOT NULL DEFAULT gen_random_uuid() RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN owner_id uuid NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN enclave_id character varying(255) NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN data_key character varying(255) NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN sealed_blob bytea NOT NULL
    COLUMN mac character varying(64) COLLATE "C" NOT NULL
    COLUMN policy character varying(50) NOT NULL RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN version integer NOT NULL DEFAULT 1 RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN updated_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN mr_enclave character varying(64) COLLATE "C" RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN mr_signer character varying(64) COLLATE "C" RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN isv_prod_id integer RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN isv_svn integer RIGHTS {neolayer_operator=r/neolayer_owner}
    COLUMN cpu_svn character varying(32) COLLATE "C"
    COLUMN key_id character varying(64) COLLATE "C"
    COLUMN platform_id character varying(32) COLLATE "C"
    COLUMN is_debug boolean NOT NULL DEFAULT false RIGHTS {neolayer_operator=r/neolayer_owner}
    CONSTRAINT sealed_data_cpu_svn_check CHECK (core.is_hex((cpu_svn)::text, 32))
    CONSTRAINT sealed_data_identity_check CHECK (
    CASE policy
    WHEN 'MRENCLAVE'::text THEN ((mr_enclave IS NOT NULL) AND (num_nonnulls(mr_signer, isv_prod_id, isv_svn) = 0))
    WHEN 'MRSIGNER'::text THEN ((mr_enclave IS NULL) AND (num_nulls(mr_signer, isv_prod_id, isv_svn) = 0))
    ELSE (num_nonnulls(mr_enclave, mr_signer, isv_prod_id, isv_svn) = 0)
    END)
    CONSTRAINT sealed_data_isv_prod_id_check CHECK (((isv_prod_id >= 0) AND (isv_prod_id <= 65535)))
    CONSTRAINT sealed_data_isv_svn_check CHECK (((isv_svn >= 0) AND (isv_svn <= 65535)))
    CONSTRAINT sealed_data_key_id_check CHECK (core.is_hex((key_id)::text, 64))
    CONSTRAINT sealed_data_key_unique UNIQUE (tenant_id, data_key)
    CONSTRAINT sealed_data_mac_check CHECK ((core.is_hex((mac)::text, 32) OR core.is_hex((mac)::text, 64)))
    CONSTRAINT sealed_data_mr_enclave_check CHECK (core.is_hex((mr_enclave)::text, 64))
    CONSTRAINT sealed_data_mr_signer_check CHECK (core.is_hex((mr_signer)::text, 64))
    CONSTRAINT sealed_data_owner_fkey FOREIGN KEY (tenant_id, owner_id) REFERENCES auth.users(tenant_id, id)
    CONSTRAINT sealed_data_pkey PRIMARY KEY (tenant_id, id)
    CONSTRAINT sealed_data_platform_id_check CHECK (core.is_hex((platform_id)::text, 32))
    CONSTRAINT sealed_data_policy_check CHECK (((policy)::text = ANY ((ARRAY['MRENCLAVE'::character varying, 'MRSIGNER'::character varying, 'USER_DEFINED'::character varying])::text[])))
    CONSTRAINT sealed_data_sealed_blob_check CHECK ((octet_length(sealed_blob) > 0))
    CONSTRAINT sealed_data_size_limit_check CHECK ((octet_length(sealed_blob) <= 16777216))
    CONSTRAINT sealed_data_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES core.tenants(id)
    CONSTRAINT sealed_data_version_check CHECK ((version > 0))
    CREATE INDEX idx_sealed_data_enclave ON enclave.sealed_data USING btree (tenant_id, enclave_id, data_key)
    CREATE INDEX idx_sealed_data_owner ON enclave.sealed_data USING btree (tenant_id, owner_id)
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    CREATE TRIGGER ask_permission BEFORE INSERT OR DELETE OR UPDATE ON enclave.sealed_data FOR EACH ROW EXECUTE FUNCTION auth.admit_verb()
    CREATE TRIGGER guard_sealed_data BEFORE UPDATE ON enclave.sealed_data FOR EACH ROW EXECUTE FUNCTION enclave.guard_sealed_data()
    CREATE TRIGGER touch BEFORE UPDATE ON enclave.sealed_data FOR EACH ROW EXECUTE FUNCTION core.touch_updated_at()
    OWNER neolayer_owner
    GRANT neolayer_app=arwd
    GRANT neolayer_backup=r

TABLE enclave.verifications
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN id uuid NOT NULL DEFAULT gen_random_uuid() RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN attestation_id uuid RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN enclave_id character varying(255) NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN quote_digest character varying(64) COLLATE "C" NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN quote_size integer NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN occasion character varying(20) NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN status character varying(50) NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN reason character varying(50) NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN detail character varying(500) RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN tcb_status character varying(50) RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN advisories text[] NOT NULL DEFAULT '{}'::text[] RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN collateral_id character varying(64) COLLATE "C" RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN policy_version integer RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN verified_at timestamp with time zone NOT NULL RIGHTS {neolayer_app=a/neolayer_owner}
    COLUMN verified_by character varying(255) NOT NULL DEFAULT COALESCE(core.current_principal(), (SESSION_USER)::text)
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    CONSTRAINT verifications_advisories_size_check CHECK ((octet_length(array_to_string(advisories, ','::text)) <= 65536))
    CONSTRAINT verifications_attestation_fkey FOREIGN KEY (tenant_id, attestation_id) REFERENCES enclave.attestations(tenant_id, id)
    CONSTRAINT verifications_collateral_id_fkey FOREIGN KEY (collateral_id) REFERENCES enclave.collateral(id)
    CONSTRAINT verifications_occasion_check CHECK (((occasion)::text = ANY ((ARRAY['submitted'::character varying, 'reverified'::character varying, 'expired'::character varying, 'revoked'::character varying])::text[])))
    CONSTRAINT verifications_pkey PRIMARY KEY (tenant_id, id)
    CONSTRAINT verifications_quote_digest_check CHECK (core.is_hex((quote_digest)::text, 64))
    CONSTRAINT verifications_quote_size_check CHECK ((quote_size >= 0))
    CONSTRAINT verifications_status_check CHECK ((((status)::text = ANY ((ARRAY['verified'::character varying, 'rejected'::character varying, 'unverifiable'::character varying, 'expired'::character varying, 'revoked'::character varying])::text[])) AND (((status)::text = 'verified'::text) = ((reason)::text = 'accepted'::text))))
    CONSTRAINT verifications_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES core.tenants(id)
    CREATE INDEX idx_verifications_attestation ON enclave.verifications USING btree (tenant_id, attestation_id, created_at DESC)
    CREATE INDEX idx_verifications_collateral ON enclave.verifications USING btree (collateral_id)
    CREATE INDEX idx_verifications_time ON enclave.verifications USING btree (tenant_id, created_at DESC)
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    CREATE TRIGGER ask_permission BEFORE INSERT ON enclave.verifications FOR EACH ROW EXECUTE FUNCTION auth.admit_verb()
    CREATE TRIGGER keep_verifications BEFORE DELETE OR UPDATE OR TRUNCATE ON enclave.verifications FOR EACH STATEMENT EXECUTE FUNCTION core.refuse_change('judgements are only added')
    OWNER neolayer_owner
    GRANT neolayer_app=r
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r

VIEW audit.signed_context
    WITH {security_barrier=true}
    REPLICA IDENTITY NOTHING
    COLUMN writer text
    AS  SELECT
    CASE
    WHEN (to_timestamp((split_part(current_setting('neolayer.context'::text, true), '.'::text, 3))::double precision) > clock_timestamp()) THEN "left"(current_setting('neolayer.context'::text, true), '-76'::integer)
    ELSE NULL::text
    END AS writer
    FROM core.context_secrets s
    WHERE (split_part(current_setting('neolayer.context'::text, true), '.'::text, 4) = encode(sha256((outer_pad || sha256((inner_pad || convert_to("left"(current_setting('neolayer.context'::text, true), '-65'::integer), 'UTF8'::name))))), 'hex'::text));
    OWNER neolayer_owner
    GRANT neolayer_app=r

VIEW blockchain.default_partition_rows
    REPLICA IDENTITY NOTHING
    COLUMN partition_name text
    COLUMN row_count bigint
    AS  SELECT 'blockchain.transactions_default'::text AS partition_name,
    count(*) AS row_count
    FROM blockchain.transactions_default
    UNION ALL
    SELECT 'blockchain.logs_default'::text AS partition_name,
    count(*) AS row_count
    FROM blockchain.logs_default;
    OWNER neolayer_owner
    GRANT neolayer_ingest=r
    GRANT neolayer_operator=r

VIEW blockchain.transactions_current
    WITH {security_invoker=true}
    REPLICA IDENTITY NOTHING
    COLUMN id uuid
    COLUMN network_id uuid
    COLUMN transaction_hash character varying(255) COLLATE "C"
    COLUMN from_address character varying(255) COLLATE "C"
    COLUMN to_address character varying(255) COLLATE "C"
    COLUMN value numeric(78,0)
    COLUMN gas_price numeric(78,0)
    COLUMN gas_limit bigint
    COLUMN gas_used bigint
    COLUMN nonce bigint
    COLUMN input_data text
    COLUMN status character varying(50)
    COLUMN block_number bigint
    COLUMN block_timestamp timestamp with time zone
    COLUMN confirmation_count integer
    COLUMN created_at timestamp with time zone
    COLUMN updated_at timestamp with time zone
    COLUMN transaction_index integer
    COLUMN transaction_type smallint
    COLUMN max_fee_per_gas numeric(78,0)
    COLUMN max_priority_fee_per_gas numeric(78,0)
    COLUMN max_fee_per_blob_gas numeric(78,0)
    COLUMN effective_gas_price numeric(78,0)
    COLUMN cumulative_gas_used bigint
    COLUMN contract_address character varying(255) COLLATE "C"
    COLUMN signature_v numeric(78,0)
    COLUMN signature_r character varying(66) COLLATE "C"
    COLUMN signature_s character varying(66) COLLATE "C"
    COLUMN envelope jsonb
    COLUMN replaced_by character varying(255) COLLATE "C"
    AS  SELECT t.id,
    t.network_id,
    t.transaction_hash,
    t.from_address,
    t.to_address,
    t.value,
    t.gas_price,
    t.gas_limit,
    t.gas_used,
    t.nonce,
    t.input_data,
    t.status,
    t.block_number,
    t.block_timestamp,
    CASE
    WHEN (t.block_number IS NULL) THEN 0
    ELSE (LEAST(GREATEST(((h.head_number - t.block_number) + 1), (0)::bigint), (2147483647)::bigint))::integer
    END AS confirmation_count,
    t.created_at,
    t.updated_at,
    t.transaction_index,
    t.transaction_type,
    t.max_fee_per_gas,
    t.max_priority_fee_per_gas,
    t.max_fee_per_blob_gas,
    t.effective_gas_price,
    t.cumulative_gas_used,
    t.contract_address,
    t.signature_v,
    t.signature_r,
    t.signature_s,
    t.envelope,
    t.replaced_by
    FROM (blockchain.transactions t
    LEFT JOIN blockchain.chain_heads h ON ((t.network_id = h.network_id)));
    OWNER neolayer_owner
    GRANT neolayer_app=r
    GRANT neolayer_backup=r
    GRANT neolayer_ingest=r
    GRANT neolayer_operator=r
    GRANT neolayer_relay=r

PUBLICATION neolayer_relay VIA ROOT FOR audit.entries, blockchain.blocks, blockchain.logs, blockchain.networks, blockchain.smart_contracts, blockchain.transactions, core.outbox, core.tenant_data
    OWNER neolayer_owner

-- line: event_store
SCHEMA core
    OWNER neolayer_owner
    GRANT neolayer_app=U
    GRANT neolayer_appender=U
    GRANT neolayer_backup=U
    GRANT neolayer_operator=U
    GRANT neolayer_projector=U
    GRANT neolayer_relay=U

SCHEMA read_models
    OWNER neolayer_owner
    GRANT neolayer_app=U
    GRANT neolayer_backup=U
    GRANT neolayer_operator=U
    GRANT neolayer_projector=U
    GRANT neolayer_relay=U

SCHEMA read_models_next
    OWNER neolayer_owner
    GRANT neolayer_backup=U
    GRANT neolayer_operator=U

SCHEMA read_models_previous
    OWNER neolayer_owner
    GRANT neolayer_backup=U
    GRANT neolayer_operator=U

DEFAULT RIGHTS OF neolayer_owner IN - ON f
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION core.current_principal()
 RETURNS text
 LANGUAGE sql
 STABLE PARALLEL RESTRICTED
RETURN (core.verified_context())[2]
    OWNER neolayer_owner
    GRANT neolayer_app=X
    GRANT neolayer_backup=X
    GRANT neolayer_operator=X
    GRANT neolayer_relay=X

CREATE OR REPLACE FUNCTION core.current_tenant()
 RETURNS uuid
 LANGUAGE sql
 STABLE PARALLEL RESTRICTED
RETURN (NULLIF((core.verified_context())[1], '00000000-0000-0000-0000-000000000000'::text))::uuid
    OWNER neolayer_owner
    GRANT neolayer_app=X
    GRANT neolayer_backup=X
    GRANT neolayer_operator=X
    GRANT neolayer_relay=X

CREATE OR REPLACE FUNCTION core.enter(context text, state text)
 RETURNS text
 LANGUAGE sql
RETURN CASE WHEN ((core.session_state() = state) AND ((pg_my_temp_schema() = (0)::oid) OR (NOT core.has_temporary_objects()))) THEN set_config('neolayer.context'::text, context, true) ELSE core.refuse_session(core.session_state()) END
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION core.has_temporary_objects()
 RETURNS boolean
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    RETURN EXISTS (
        SELECT FROM pg_catalog.pg_depend d
        WHERE d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
            AND d.refobjid = pg_catalog.pg_my_temp_schema()
    );
END
$function$
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION core.note_standing(closed uuid[])
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
    newly bigint;
    again bigint;
BEGIN
    IF coalesce(core.current_principal(), '') !~ '^system:' THEN
        RAISE EXCEPTION 'the standing of tenants is noted by the layer itself'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    INSERT INTO core.tenant_standing AS s (id, is_closed)
    SELECT DISTINCT c.id, true FROM unnest(closed) AS c (id)
    ON CONFLICT (id) DO UPDATE SET is_closed = true WHERE NOT s.is_closed;
    GET DIAGNOSTICS newly = ROW_COUNT;
    UPDATE core.tenant_standing s SET is_closed = false
    WHERE s.is_closed AND NOT s.id = ANY(closed);
    GET DIAGNOSTICS again = ROW_COUNT;
    RETURN newly + again;
END
$function$
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION core.refuse_change()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    RAISE EXCEPTION '% of %.% is refused', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege', HINT = TG_ARGV[0];
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION core.refuse_session(state text)
 RETURNS text
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    RAISE EXCEPTION 'the session is not as it was when it was made'
        USING ERRCODE = 'insufficient_privilege', DETAIL = state;
END
$function$
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION core.session_state()
 RETURNS text
 LANGUAGE sql
 STABLE
RETURN ((((((((((((((((((((((((((((((((((((SESSION_USER)::text || '|'::text) || (CURRENT_USER)::text) || CASE WHEN (COALESCE(current_setting('neolayer.context'::text, true), ''::text) <> ''::text) THEN '|context'::text ELSE ''::text END) || '|'::text) || current_setting('search_path'::text)) || '|'::text) || current_setting('row_security'::text)) || '|'::text) || current_setting('TimeZone'::text)) || '|'::text) || current_setting('DateStyle'::text)) || '|'::text) || current_setting('IntervalStyle'::text)) || '|'::text) || current_setting('client_encoding'::text)) || '|'::text) || current_setting('bytea_output'::text)) || '|'::text) || current_setting('extra_float_digits'::text)) || '|'::text) || current_setting('standard_conforming_strings'::text)) || '|'::text) || current_setting('default_transaction_isolation'::text)) || '|'::text) || current_setting('default_transaction_read_only'::text)) || '|'::text) || current_setting('synchronous_commit'::text)) || '|'::text) || current_setting('statement_timeout'::text)) || '|'::text) || current_setting('lock_timeout'::text)) || '|'::text) || current_setting('idle_in_transaction_session_timeout'::text)) || '|'::text) || COALESCE(current_setting('transaction_timeout'::text, true), ''::text))
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION core.touch_updated_at()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    NEW.updated_at := clock_timestamp();
    RETURN NEW;
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION core.verified_context()
 RETURNS text[]
 LANGUAGE plpgsql
 STABLE PARALLEL RESTRICTED SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
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
$function$
    OWNER neolayer_owner
    GRANT neolayer_app=X
    GRANT neolayer_appender=X
    GRANT neolayer_backup=X
    GRANT neolayer_operator=X
    GRANT neolayer_relay=X

CREATE OR REPLACE FUNCTION core.verify_context(context text)
 RETURNS text[]
 LANGUAGE plpgsql
 STABLE PARALLEL RESTRICTED SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
    parts text[];
BEGIN
    SELECT string_to_array(context, '.') INTO parts FROM core.context_secrets s
    WHERE right(context, 65) = '.' || encode(
        sha256(s.outer_pad || sha256(s.inner_pad || convert_to(left(context, -65), 'UTF8'))), 'hex'
    );
    IF parts IS NULL OR parts[3]::float8 <= date_part('epoch', clock_timestamp()) THEN
        RETURN NULL;
    END IF;
    IF left(parts[2], 9) <> 'operator:' AND left(parts[2], 7) <> 'system:' AND EXISTS (
        SELECT FROM core.tenant_standing s WHERE s.id = parts[1]::uuid AND s.is_closed
    ) THEN
        RETURN NULL;
    END IF;
    RETURN parts[1:2];
END
$function$
    OWNER neolayer_owner
    GRANT neolayer_appender=X

CREATE OR REPLACE FUNCTION public.admit_fold()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    IF NOT row_security_active(TG_RELID) THEN
        RETURN NULL;
    END IF;
    IF core.current_principal() = 'system:projections' THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION '% of %.% is refused', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege', HINT = 'a read model changes with its events';
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION public.advance_stream_heads()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
    streams bigint;
    advanced bigint;
BEGIN
    WITH batch AS (
        SELECT a.tenant_id, a.aggregate_id, min(a.aggregate_type) AS aggregate_type,
            max(a.event_version) AS version, count(*)::int AS appended,
            coalesce(bool_or(a.event_type = 'StreamClosed'), false) AS closes,
            max(a.event_version) - min(a.event_version) + 1 = count(*)
                AND min(a.aggregate_type) = max(a.aggregate_type)
                AND coalesce(
                    min(a.event_version) FILTER (WHERE a.event_type = 'StreamClosed')
                    = max(a.event_version), true
                ) AS is_unbroken
        FROM added a GROUP BY a.tenant_id, a.aggregate_id
    ), moved AS (
        INSERT INTO public.stream_heads AS h
            (tenant_id, aggregate_id, aggregate_type, version, appended, transaction_id, is_closed)
        SELECT b.tenant_id, b.aggregate_id, b.aggregate_type, b.version, b.appended,
            pg_current_xact_id(), b.closes
        FROM batch b WHERE b.is_unbroken ORDER BY b.tenant_id, b.aggregate_id
        ON CONFLICT (tenant_id, aggregate_id) DO UPDATE
        SET version = excluded.version, appended = excluded.appended,
            transaction_id = excluded.transaction_id, is_closed = excluded.is_closed
        WHERE h.version = excluded.version - excluded.appended
            AND h.aggregate_type = excluded.aggregate_type
            AND h.transaction_id <= excluded.transaction_id
            AND NOT h.is_closed
        RETURNING h.xmax = 0 AS is_new, h.version = h.appended AS is_from_first
    )
    SELECT (SELECT count(*) FROM batch), count(*) FILTER (WHERE m.is_from_first OR NOT m.is_new)
    INTO streams, advanced FROM moved m;
    IF advanced = streams THEN
        RETURN NULL;
    END IF;
    IF EXISTS (
        SELECT FROM added a INNER JOIN public.stream_heads h USING (tenant_id, aggregate_id)
        WHERE h.transaction_id > pg_current_xact_id()
    ) THEN
        RAISE EXCEPTION 'a transaction that began to write later has appended to the stream'
            USING ERRCODE = 'serialization_failure', SCHEMA = 'public', TABLE = 'events',
            HINT = 'append before anything else is written, or run the transaction again';
    END IF;
    RAISE EXCEPTION 'a version does not follow the last one of its stream'
        USING ERRCODE = 'check_violation', SCHEMA = 'public', TABLE = 'events',
        CONSTRAINT = 'events_version_gapless';
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION public.append_apart(streams uuid[], batch jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    RETURN public.append_events(streams, batch, false);
EXCEPTION WHEN OTHERS THEN
    RETURN '{"failed": true}';
END
$function$
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION public.append_event(context text, stream uuid, category text, expected integer, id uuid, kind text, data jsonb, extra jsonb, correlation uuid, causation uuid, schema integer, key text)
 RETURNS json
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
AS $function$
DECLARE
    who text[] := core.verify_context(context);
    asking uuid := nullif(who[1], '00000000-0000-0000-0000-000000000000')::uuid;
    present int;
    present_category text;
    is_closed boolean;
    status text;
    place bigint;
BEGIN
    IF asking IS NULL THEN
        RETURN '["refused"]';
    END IF;
    IF NOT pg_try_advisory_xact_lock(hashtext(asking::text), hashtext(stream::text)) THEN
        RETURN '["busy"]';
    END IF;
    SELECT h.version, h.aggregate_type, h.is_closed INTO present, present_category, is_closed
    FROM public.stream_heads h WHERE h.tenant_id = asking AND h.aggregate_id = stream;
    status := CASE
        WHEN is_closed THEN 'closed'
        WHEN category <> present_category OR coalesce(category, present_category) IS NULL
            THEN 'category'
        WHEN expected >= 0 AND expected <> coalesce(present, 0)
            OR expected = -2 AND present IS NULL THEN 'conflict'
        ELSE 'stored' END;
    IF status = 'stored' THEN
        INSERT INTO public.events (
            tenant_id, event_id, aggregate_id, aggregate_type, event_type, event_version,
            event_data, metadata, user_id, correlation_id, causation_id, schema_version, key_id
        ) VALUES (
            asking, id, stream, coalesce(category, present_category), kind,
            coalesce(present, 0) + 1, data, extra,
            CASE WHEN starts_with(who[2], 'user:') THEN substr(who[2], 6)::uuid END,
            correlation, causation, schema, key
        )
        ON CONFLICT (tenant_id, event_id) DO NOTHING
        RETURNING position INTO place;
        IF place IS NULL THEN
            status := 'known';
        ELSIF EXISTS (
            SELECT FROM public.archived_events o WHERE o.tenant_id = asking AND o.event_id = id
        ) THEN
            PERFORM public.refuse_archived(
                asking, jsonb_build_array(jsonb_build_object('i', id)), ARRAY[id]
            );
        ELSIF present IS NULL THEN
            present := 0;
            present_category := category;
            INSERT INTO public.stream_heads (
                tenant_id, aggregate_id, aggregate_type, version, appended, transaction_id, is_closed
            ) VALUES (asking, stream, category, 1, 1, pg_current_xact_id(), kind = 'StreamClosed')
            ON CONFLICT (tenant_id, aggregate_id) DO NOTHING;
        ELSE
            UPDATE public.stream_heads h
            SET version = present + 1, appended = 1, transaction_id = pg_current_xact_id(),
                is_closed = kind = 'StreamClosed'
            WHERE h.tenant_id = asking AND h.aggregate_id = stream AND h.version = present
                AND h.transaction_id <= pg_current_xact_id() AND NOT h.is_closed;
        END IF;
        IF NOT FOUND AND place IS NOT NULL THEN
            PERFORM public.refuse_unordered(asking, ARRAY[stream]);
        END IF;
    END IF;
    RETURN json_build_array(
        status, coalesce(present, 0) + (place IS NOT NULL)::int, present_category,
        pg_current_xact_id_if_assigned(), CURRENT_TIMESTAMP, place
    );
END
$function$
    OWNER neolayer_appender
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION public.append_events(streams uuid[], batch jsonb, waits boolean)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
AS $function$
DECLARE
    who text[] := core.verified_context();
    asking uuid := nullif(who[1], '00000000-0000-0000-0000-000000000000')::uuid;
    acting uuid := CASE WHEN starts_with(who[2], 'user:') THEN substr(who[2], 6)::uuid END;
    whose int := hashtext(asking::text);
    is_held boolean := false;
    free uuid[];
BEGIN
    IF asking IS NULL THEN
        RETURN '{"refused": true}';
    END IF;
    IF cardinality(streams) > 500 THEN
        RAISE EXCEPTION 'an append is to 500 streams at most, not %', cardinality(streams)
            USING ERRCODE = 'program_limit_exceeded', HINT = 'append in several transactions';
    END IF;
    IF cardinality(streams) = 1 THEN
        IF waits THEN
            PERFORM pg_advisory_xact_lock(whose, hashtext(streams[1]::text));
        ELSE
            is_held := NOT pg_try_advisory_xact_lock(whose, hashtext(streams[1]::text));
        END IF;
        RETURN public.append_to_one(asking, acting, streams[1], is_held, batch);
    END IF;
    IF waits THEN
        PERFORM pg_advisory_xact_lock(whose, k.key)
        FROM (
            SELECT DISTINCT hashtext(s.stream::text) AS key
            FROM unnest(streams) AS s (stream) ORDER BY 1
        ) AS k;
        free := streams;
    ELSE
        SELECT array_agg(s.stream) INTO free
        FROM (SELECT DISTINCT u.stream FROM unnest(streams) AS u (stream)) AS s
        WHERE pg_try_advisory_xact_lock(whose, hashtext(s.stream::text));
    END IF;
    RETURN public.append_to_many(asking, acting, free, batch);
END
$function$
    OWNER neolayer_appender
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION public.append_group(context text, streams uuid[], batch json, is_plain boolean)
 RETURNS json
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET plan_cache_mode TO 'force_generic_plan'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
AS $function$
DECLARE
    who text[] := core.verify_context(context);
    asking uuid := nullif(who[1], '00000000-0000-0000-0000-000000000000')::uuid;
    acting uuid := CASE WHEN starts_with(who[2], 'user:') THEN substr(who[2], 6)::uuid END;
    free uuid[];
BEGIN
    IF asking IS NULL THEN
        RETURN '{"refused": true}';
    END IF;
    IF cardinality(streams) > 500 THEN
        RAISE EXCEPTION 'an append is to 500 streams at most, not %', cardinality(streams)
            USING ERRCODE = 'program_limit_exceeded', HINT = 'append in several transactions';
    END IF;
    IF is_plain THEN
        RETURN public.append_to_each(asking, acting, streams, batch);
    END IF;
    IF cardinality(streams) = 1 THEN
        RETURN public.append_to_one(asking, acting, streams[1], NOT pg_try_advisory_xact_lock(
            hashtext(asking::text), hashtext(streams[1]::text)
        ), batch::jsonb);
    END IF;
    SELECT array_agg(s.stream) INTO free
    FROM (SELECT DISTINCT u.stream FROM unnest(streams) AS u (stream)) AS s
    WHERE pg_try_advisory_xact_lock(hashtext(asking::text), hashtext(s.stream::text));
    RETURN public.append_to_many(asking, acting, free, batch::jsonb);
END
$function$
    OWNER neolayer_appender
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION public.append_to_each(asking uuid, acting uuid, streams uuid[], batch json)
 RETURNS json
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
    whose int := hashtext(asking::text);
    free boolean[];
    stream uuid;
    appends json;
    wanted int;
    moved int;
    places bigint[];
    ids uuid[];
BEGIN
    FOREACH stream IN ARRAY streams LOOP
        free := free || pg_try_advisory_xact_lock(whose, hashtext(stream::text));
    END LOOP;
    WITH given AS MATERIALIZED (
        SELECT e.n, e.s, e.i, e.t, e.d, e.m, e.r, e.y, e.z, e.k,
            coalesce(e.c, h.aggregate_type) AS category, h.aggregate_type AS present_category,
            coalesce(h.version, 0) AS present, CASE
                WHEN free[e.n] IS NOT TRUE OR e.s <> streams[e.n] THEN 'busy'
                WHEN h.is_closed THEN 'closed'
                WHEN e.c <> h.aggregate_type OR coalesce(e.c, h.aggregate_type) IS NULL
                    THEN 'category'
                WHEN e.x >= 0 AND e.x <> coalesce(h.version, 0)
                    OR e.x = -2 AND h.version IS NULL THEN 'conflict'
                ELSE 'stored' END AS status
        FROM ROWS FROM (json_to_recordset(batch) AS (
            s uuid, c text, x int, i uuid, t text, d jsonb, m jsonb, r uuid, y uuid, z int, k text
        )) WITH ORDINALITY AS e (s, c, x, i, t, d, m, r, y, z, k, n)
        LEFT JOIN LATERAL (
            SELECT * FROM public.stream_heads o
            WHERE o.tenant_id = asking AND o.aggregate_id = e.s LIMIT 1
        ) AS h ON true
    ), added AS (
        INSERT INTO public.events (
            tenant_id, event_id, aggregate_id, aggregate_type, event_type, event_version,
            event_data, metadata, user_id, correlation_id, causation_id, schema_version, key_id
        )
        SELECT asking, g.i, g.s, g.category, g.t, g.present + 1, g.d, coalesce(g.m, '{}'), acting,
            g.r, g.y, coalesce(g.z, 1), g.k
        FROM given g WHERE g.status = 'stored'
        ON CONFLICT (tenant_id, event_id) DO NOTHING
        RETURNING aggregate_id, aggregate_type, event_version, event_type, position, event_id
    ), moved AS (
        INSERT INTO public.stream_heads AS h
            (tenant_id, aggregate_id, aggregate_type, version, appended, transaction_id, is_closed)
        SELECT asking, a.aggregate_id, a.aggregate_type, a.event_version, 1, pg_current_xact_id(),
            a.event_type = 'StreamClosed'
        FROM added a
        ON CONFLICT (tenant_id, aggregate_id) DO UPDATE
        SET version = excluded.version, appended = excluded.appended,
            transaction_id = excluded.transaction_id, is_closed = excluded.is_closed
        WHERE h.version = excluded.version - 1
            AND h.transaction_id <= excluded.transaction_id AND NOT h.is_closed
        RETURNING 1
    ), written AS (
        SELECT array_agg(a.position) AS places, array_agg(a.event_id) AS ids FROM added a
    )
    SELECT
        json_agg(json_build_array(
            g.n - 1, g.status, g.present + (g.status = 'stored')::int,
            CASE WHEN g.status = 'stored' THEN g.category ELSE g.present_category END
        )),
        count(*) FILTER (WHERE g.status = 'stored'), (SELECT count(*) FROM moved),
        (SELECT w.places FROM written w), (SELECT w.ids FROM written w)
    INTO appends, wanted, moved, places, ids
    FROM given g;
    IF coalesce(cardinality(places), 0) < wanted THEN
        PERFORM public.refuse_known(batch::jsonb, coalesce(ids, '{}'));
    END IF;
    IF EXISTS (
        SELECT FROM public.archived_events o
        WHERE o.tenant_id = asking AND o.event_id = ANY(ids)
    ) THEN
        PERFORM public.refuse_archived(asking, batch::jsonb, ids);
    END IF;
    IF moved < wanted THEN
        PERFORM public.refuse_unordered(asking, streams);
    END IF;
    RETURN json_build_object(
        'transaction', pg_current_xact_id_if_assigned(), 'at', CURRENT_TIMESTAMP,
        'appends', appends, 'positions', places
    );
END
$function$
    OWNER neolayer_owner
    GRANT neolayer_appender=X

CREATE OR REPLACE FUNCTION public.append_to_many(asking uuid, acting uuid, free uuid[], batch jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
    decided jsonb;
    wanted int;
    is_broken boolean;
    positions bigint[];
    ids uuid[];
    streams int;
    moved int;
BEGIN
    WITH given AS MATERIALIZED (
        SELECT e.* FROM ROWS FROM (jsonb_to_recordset(batch) AS (
            u int, a int, s uuid, c text, x int, i uuid, t text, d jsonb, m jsonb, r uuid, y uuid,
            z int, k text
        )) WITH ORDINALITY AS e (u, a, s, c, x, i, t, d, m, r, y, z, k, n)
    ), appends AS (
        SELECT g.a, g.u, g.s, g.c, g.x, count(*)::int AS events,
            bool_or(g.t = 'StreamClosed') AS closes,
            coalesce(min(g.n) FILTER (WHERE g.t = 'StreamClosed') < max(g.n), false) AS is_broken
        FROM given g GROUP BY g.a, g.u, g.s, g.c, g.x
    ), placed AS (
        SELECT p.a, p.u, p.s, p.x, p.events, p.closes, p.is_broken,
            coalesce(h.aggregate_type, first_value(p.c) OVER stream) AS present_category,
            coalesce(p.c, h.aggregate_type, first_value(p.c) OVER stream) AS category,
            coalesce(h.version, 0) AS version,
            coalesce(h.is_closed, false) OR coalesce(bool_or(p.closes) OVER earlier, false)
                AS is_closed,
            coalesce(h.version, 0) + coalesce(sum(p.events) OVER earlier, 0)::int AS before
        FROM appends p
        LEFT JOIN LATERAL (
            SELECT * FROM public.stream_heads s
            WHERE s.tenant_id = asking AND s.aggregate_id = p.s LIMIT 1
        ) AS h ON true
        WINDOW stream AS (PARTITION BY p.s ORDER BY p.a), earlier AS (
            PARTITION BY p.s ORDER BY p.a ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        )
    ), judged AS (
        SELECT p.*, CASE
            WHEN (p.s = ANY(free)) IS NOT TRUE THEN 'busy'
            WHEN p.is_closed THEN 'closed'
            WHEN p.category <> p.present_category OR p.category IS NULL THEN 'category'
            WHEN p.x >= 0 AND p.x <> p.before OR p.x = -2 AND p.before = 0 THEN 'conflict'
            ELSE 'stored' END AS status
        FROM placed p
    ), decided AS (
        SELECT j.*, bool_and(j.status = 'stored') OVER (PARTITION BY j.u) AS is_stored FROM judged j
    ), added AS (
        INSERT INTO public.events (
            tenant_id, event_id, aggregate_id, aggregate_type, event_type, event_version,
            event_data, metadata, user_id, correlation_id, causation_id, schema_version, key_id
        )
        SELECT asking, g.i, g.s, j.category, g.t,
            j.before + row_number() OVER (PARTITION BY g.a ORDER BY g.n)::int,
            g.d, coalesce(g.m, '{}'), acting, g.r, g.y, coalesce(g.z, 1), g.k
        FROM given g INNER JOIN decided j ON g.a = j.a AND j.is_stored
        ORDER BY g.a, g.n
        ON CONFLICT (tenant_id, event_id) DO NOTHING
        RETURNING position, event_id
    )
    SELECT
        jsonb_agg(to_jsonb(d) ORDER BY d.a),
        coalesce(sum(d.events) FILTER (WHERE d.is_stored), 0),
        bool_or(d.is_stored AND d.is_broken) OR count(*) > count(DISTINCT d.a),
        (SELECT array_agg(e.position ORDER BY e.position) FROM added e),
        (SELECT array_agg(e.event_id) FROM added e)
    INTO decided, wanted, is_broken, positions, ids
    FROM decided d;
    IF is_broken THEN
        PERFORM public.refuse_unordered(asking, '{}');
    END IF;
    IF cardinality(positions) < wanted THEN
        PERFORM public.refuse_known(batch, ids);
    END IF;
    IF EXISTS (
        SELECT FROM public.archived_events o
        WHERE o.tenant_id = asking AND o.event_id = ANY(ids)
    ) THEN
        PERFORM public.refuse_archived(asking, batch, ids);
    END IF;
    IF positions IS NOT NULL THEN
        INSERT INTO public.stream_heads AS h
            (tenant_id, aggregate_id, aggregate_type, version, appended, transaction_id, is_closed)
        SELECT asking, d.s, min(d.category), max(d.before + d.events), sum(d.events)::int,
            pg_current_xact_id(), bool_or(d.closes)
        FROM jsonb_to_recordset(decided) AS d (
            s uuid, category text, version int, before int, events int, closes boolean,
            is_stored boolean
        )
        WHERE d.is_stored GROUP BY d.s
        
        HAVING max(d.before + d.events) = min(d.version) + sum(d.events)
        ORDER BY d.s
        ON CONFLICT (tenant_id, aggregate_id) DO UPDATE
        SET version = excluded.version, appended = excluded.appended,
            transaction_id = excluded.transaction_id, is_closed = excluded.is_closed
        WHERE h.version = excluded.version - excluded.appended
            AND h.aggregate_type = excluded.aggregate_type
            AND h.transaction_id <= excluded.transaction_id
            AND NOT h.is_closed;
        GET DIAGNOSTICS moved = ROW_COUNT;
        SELECT count(DISTINCT d.s) INTO streams
        FROM jsonb_to_recordset(decided) AS d (s uuid, is_stored boolean) WHERE d.is_stored;
        IF moved < streams THEN
            PERFORM public.refuse_unordered(asking, free);
        END IF;
    END IF;
    RETURN public.appended((
        SELECT jsonb_agg(jsonb_build_array(
            d.a,
            CASE
                WHEN d.is_stored AND positions IS NULL THEN 'known'
                WHEN d.is_stored OR d.status <> 'stored' THEN d.status
                ELSE 'aside' END,
            CASE WHEN d.is_stored THEN d.before + 1 ELSE d.version END,
            CASE WHEN d.is_stored THEN d.category ELSE d.present_category END
        ) ORDER BY d.a)
        FROM jsonb_to_recordset(decided) AS d (
            a int, status text, is_stored boolean, before int, version int, category text,
            present_category text
        )
    ), positions);
END
$function$
    OWNER neolayer_owner
    GRANT neolayer_appender=X

CREATE OR REPLACE FUNCTION public.append_to_one(asking uuid, acting uuid, stream uuid, is_held boolean, batch jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
    head record;
    present int;
    category text := batch -> 0 ->> 'c';
    expected int := (batch -> 0 ->> 'x')::int;
    wanted int := jsonb_array_length(batch);
    status text;
    positions bigint[];
    ids uuid[];
BEGIN
    SELECT h.aggregate_type, h.version, h.is_closed INTO head FROM public.stream_heads h
    WHERE h.tenant_id = asking AND h.aggregate_id = stream;
    present := coalesce(head.version, 0);
    category := coalesce(category, head.aggregate_type);
    status := CASE
        WHEN is_held THEN 'busy'
        WHEN head.is_closed THEN 'closed'
        WHEN category IS NULL OR category <> head.aggregate_type THEN 'category'
        WHEN expected >= 0 AND expected <> present OR expected = -2 AND present = 0
            THEN 'conflict'
        ELSE 'stored' END;
    IF status <> 'stored' THEN
        RETURN public.appended(jsonb_build_array(
            jsonb_build_array(0, status, present, head.aggregate_type)
        ), NULL);
    END IF;
    IF wanted > 1 AND jsonb_path_exists(batch, '$[0 to last - 1] ? (@.t == "StreamClosed")') THEN
        PERFORM public.refuse_unordered(asking, '{}');
    END IF;
    WITH added AS (
        INSERT INTO public.events (
            tenant_id, event_id, aggregate_id, aggregate_type, event_type, event_version,
            event_data, metadata, user_id, correlation_id, causation_id, schema_version, key_id
        )
        SELECT asking, g.i, stream, category, g.t, present + g.n::int,
            g.d, coalesce(g.m, '{}'), acting, g.r, g.y, coalesce(g.z, 1), g.k
        FROM ROWS FROM (jsonb_to_recordset(batch) AS (
            i uuid, t text, d jsonb, m jsonb, r uuid, y uuid, z int, k text
        )) WITH ORDINALITY AS g (i, t, d, m, r, y, z, k, n)
        ON CONFLICT (tenant_id, event_id) DO NOTHING
        RETURNING position, event_id
    )
    SELECT array_agg(a.position), array_agg(a.event_id) INTO positions, ids FROM added a;
    IF positions IS NULL THEN
        RETURN public.appended(jsonb_build_array(
            jsonb_build_array(0, 'known', present, head.aggregate_type)
        ), NULL);
    END IF;
    IF cardinality(positions) < wanted THEN
        PERFORM public.refuse_known(batch, ids);
    END IF;
    IF EXISTS (
        SELECT FROM public.archived_events o
        WHERE o.tenant_id = asking AND o.event_id = ANY(ids)
    ) THEN
        PERFORM public.refuse_archived(asking, batch, ids);
    END IF;
    INSERT INTO public.stream_heads AS h
        (tenant_id, aggregate_id, aggregate_type, version, appended, transaction_id, is_closed)
    VALUES (asking, stream, category, present + wanted, wanted, pg_current_xact_id(),
        batch -> -1 ->> 't' = 'StreamClosed')
    ON CONFLICT (tenant_id, aggregate_id) DO UPDATE
    SET version = excluded.version, appended = excluded.appended,
        transaction_id = excluded.transaction_id, is_closed = excluded.is_closed
    WHERE h.version = excluded.version - excluded.appended
        AND h.aggregate_type = excluded.aggregate_type
        AND h.transaction_id <= excluded.transaction_id
        AND NOT h.is_closed;
    IF NOT FOUND THEN
        PERFORM public.refuse_unordered(asking, ARRAY[stream]);
    END IF;
    RETURN public.appended(jsonb_build_array(
        jsonb_build_array(0, 'stored', present + 1, category)
    ), positions);
END
$function$
    OWNER neolayer_owner
    GRANT neolayer_appender=X

CREATE OR REPLACE FUNCTION public.append_within(streams uuid[], batch jsonb)
 RETURNS jsonb
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
    present text := pg_current_xact_id_if_assigned()::text;
    outcome jsonb;
BEGIN
    IF present IS DISTINCT FROM nullif(current_setting('neolayer.appending', true), '')
        AND present IS NOT NULL
    THEN
        RETURN '{"late": true}';
    END IF;
    outcome := public.append_events(streams, batch, true);
    PERFORM set_config('neolayer.appending', pg_current_xact_id_if_assigned()::text, true);
    RETURN outcome;
END
$function$
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION public.appended(appends jsonb, positions bigint[])
 RETURNS jsonb
 LANGUAGE sql
 STABLE
RETURN jsonb_build_object('transaction', (pg_current_xact_id_if_assigned())::text, 'at', CURRENT_TIMESTAMP, 'appends', appends, 'positions', to_jsonb(positions))
    OWNER neolayer_owner
    GRANT neolayer_appender=X

CREATE OR REPLACE FUNCTION public.archive_stream(of_stream uuid, bytes bigint, lines_hash text)
 RETURNS jsonb
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
    asking uuid := core.current_tenant();
    head public.stream_heads%ROWTYPE;
    opening public.events%ROWTYPE;
    closing public.events%ROWTYPE;
    needed jsonb;
    present text;
    size bigint;
    removed int;
BEGIN
    IF asking IS NULL OR core.current_principal() !~ '^(operator|system):' THEN
        RAISE EXCEPTION 'streams are archived by operators and by the layer itself'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    SELECT * INTO head FROM public.stream_heads h
    WHERE h.tenant_id = asking AND h.aggregate_id = of_stream FOR UPDATE;
    IF NOT FOUND THEN
        RETURN '{"kept": [["absent", null]]}';
    END IF;
    IF NOT head.is_closed THEN
        RETURN '{"kept": [["open", null]]}';
    END IF;
    SELECT * INTO closing FROM public.events e
    WHERE e.tenant_id = asking AND e.aggregate_id = of_stream AND e.event_version = head.version;
    IF NOT FOUND THEN
        RETURN '{"kept": [["archived", null]]}';
    END IF;
    SELECT jsonb_agg(jsonb_build_array(n.why, n.who) ORDER BY n.why, n.who) INTO needed
    FROM (
        SELECT 'running' AS why, NULL AS who
        WHERE closing.transaction_id >= pg_snapshot_xmin(pg_current_snapshot())
        UNION ALL
        SELECT 'subscription', s.subscription FROM public.subscriptions s
        INNER JOIN public.subscription_partitions p USING (tenant_id, subscription)
        WHERE s.tenant_id = asking
            AND p.partition = (hashtextextended(of_stream::text, 0) & 1073741823) % s.partitions
            AND (p.transaction_id, p.position) < (closing.transaction_id, closing.position)
        UNION ALL
        SELECT 'parked', k.subscription FROM public.parked_events k
        WHERE k.tenant_id = asking AND k.aggregate_id = of_stream GROUP BY k.subscription
        UNION ALL
        SELECT 'projection', p.projection_name FROM public.projections p
        WHERE p.mode = 'async' AND p.projection_name NOT LIKE '%:%'
            AND (coalesce(p.last_processed_transaction, '0'), coalesce(p.last_processed_position, 0))
            < (closing.transaction_id, closing.position)
        UNION ALL
        SELECT 'standing', k.projection_name FROM public.projection_parked_events k
        WHERE k.tenant_id = asking AND k.aggregate_id = of_stream AND k.discarded_at IS NULL
            AND k.projection_name NOT LIKE '%:previous'
        GROUP BY k.projection_name
    ) AS n;
    IF needed IS NOT NULL OR lines_hash IS NULL THEN
        RETURN jsonb_build_object('kept', coalesce(needed, '[]'));
    END IF;
    SELECT encode(sha256(l.all_lines), 'hex'), octet_length(l.all_lines) INTO present, size
    FROM (
        SELECT convert_to(string_agg(o.line, E'\n'), 'UTF8') AS all_lines
        FROM public.stream_lines(of_stream) AS o
    ) AS l;
    IF present IS DISTINCT FROM lines_hash THEN
        RETURN '{"kept": [["different", null]]}';
    END IF;
    SELECT * INTO opening FROM public.events e
    WHERE e.tenant_id = asking AND e.aggregate_id = of_stream AND e.event_version = 1;
    INSERT INTO public.archived_streams (
        tenant_id, aggregate_id, version, object_key, object_hash, object_bytes, lines_bytes,
        first_transaction_id, first_position, last_transaction_id, last_position
    ) VALUES (
        asking, of_stream, head.version,
        'events/archive/' || asking || '/' || present || '.jsonl.gz', present, bytes, size,
        opening.transaction_id, opening.position, closing.transaction_id, closing.position
    );
    PERFORM set_config('neolayer.archiving', pg_current_xact_id()::text, true);
    WITH gone AS (
        DELETE FROM public.events e WHERE e.tenant_id = asking AND e.aggregate_id = of_stream
        RETURNING e.event_id, e.event_version
    )
    INSERT INTO public.archived_events (tenant_id, event_id, aggregate_id, event_version)
    SELECT asking, g.event_id, of_stream, g.event_version FROM gone g;
    GET DIAGNOSTICS removed = ROW_COUNT;
    PERFORM set_config('neolayer.archiving', '', true);
    RETURN jsonb_build_object('events', removed);
END
$function$
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION public.archived_behind(transaction xid8, index bigint, most bigint)
 RETURNS TABLE(tenant_id uuid, event_id uuid, aggregate_id uuid, aggregate_type character varying, event_type character varying, event_version integer, event_data text, metadata text, user_id uuid, correlation_id uuid, causation_id uuid, created_at timestamp with time zone, schema_version integer, key_id character varying, transaction_id xid8, "position" bigint)
 LANGUAGE sql
 STABLE
BEGIN ATOMIC
 SELECT a.tenant_id,
     NULL::uuid AS uuid,
     a.aggregate_id,
     h.aggregate_type,
     NULL::character varying AS "varchar",
     a.version,
     (a.object_key)::text AS object_key,
     (a.object_hash)::text AS object_hash,
     NULL::uuid AS uuid,
     NULL::uuid AS uuid,
     NULL::uuid AS uuid,
     NULL::timestamp with time zone AS timestamptz,
     NULL::integer AS int4,
     (a.lines_bytes)::character varying AS lines_bytes,
     a.first_transaction_id,
     a.first_position
    FROM (public.archived_streams a
      JOIN public.stream_heads h ON (((a.tenant_id = h.tenant_id) AND (a.aggregate_id = h.aggregate_id))))
   WHERE ((a.tenant_id = ( SELECT core.current_tenant() AS current_tenant)) AND (ROW(a.last_transaction_id, a.last_position) > ROW(archived_behind.transaction, archived_behind.index)))
   ORDER BY a.first_transaction_id, a.first_position
  LIMIT archived_behind.most;
END
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION public.bound_read_model(at regclass)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
    bytes text;
BEGIN
    SELECT string_agg(format('coalesce(octet_length(%I::text), 0)::bigint', a.attname), ' + '
        ORDER BY a.attnum)
    INTO bytes
    FROM pg_attribute a
    WHERE a.attrelid = at AND a.attnum > 0 AND NOT a.attisdropped
        AND a.atttypid IN ('text'::regtype, 'jsonb'::regtype);
    IF bytes IS NOT NULL THEN
        EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I CHECK (%s <= 8388608) NOT VALID', at,
            (SELECT c.relname || '_row_size_check' FROM pg_class c WHERE c.oid = at), bytes);
    END IF;
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION public.claim_partitions(named text, by_consumer text, lease interval)
 RETURNS TABLE(claimed integer, fence bigint, transaction_id xid8, "position" bigint)
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
#variable_conflict use_column
DECLARE
    asking uuid := core.current_tenant();
    share int;
    present timestamptz := clock_timestamp();
BEGIN
    INSERT INTO public.subscription_consumers AS c (tenant_id, subscription, consumer, seen_until)
    SELECT s.tenant_id, s.subscription, by_consumer, present + lease
    FROM public.subscriptions s WHERE s.tenant_id = asking AND s.subscription = named
    ON CONFLICT (tenant_id, subscription, consumer) DO UPDATE SET seen_until = excluded.seen_until;
    DELETE FROM public.subscription_consumers c
    USING (
        SELECT d.consumer FROM public.subscription_consumers d
        WHERE d.tenant_id = asking AND d.subscription = named AND d.seen_until <= present
        FOR UPDATE SKIP LOCKED
    ) AS dead
    WHERE c.tenant_id = asking AND c.subscription = named AND c.consumer = dead.consumer;
    SELECT ceil(s.partitions::numeric / greatest((
        SELECT count(*) FROM public.subscription_consumers c
        WHERE c.tenant_id = asking AND c.subscription = named AND c.seen_until > present
    ), 1)) INTO share
    FROM public.subscriptions s WHERE s.tenant_id = asking AND s.subscription = named;
    UPDATE public.subscription_partitions p
    SET owned_until = CASE WHEN k.place <= share THEN present + lease END,
        owner = CASE WHEN k.place <= share THEN by_consumer END
    FROM (
        SELECT o.partition, row_number() OVER (ORDER BY o.partition) AS place
        FROM public.subscription_partitions o
        WHERE o.tenant_id = asking AND o.subscription = named AND o.owner = by_consumer
            AND o.owned_until > present
    ) AS k
    WHERE p.tenant_id = asking AND p.subscription = named AND p.partition = k.partition
        AND p.owner = by_consumer;
    UPDATE public.subscription_partitions p
    SET owner = by_consumer, owned_until = present + lease, fence = p.fence + 1
    FROM (
        SELECT f.partition FROM public.subscription_partitions f
        WHERE f.tenant_id = asking AND f.subscription = named
            AND (f.owned_until IS NULL OR f.owned_until <= present)
        ORDER BY f.partition
        LIMIT greatest(0, share - (
            SELECT count(*) FROM public.subscription_partitions o
            WHERE o.tenant_id = asking AND o.subscription = named AND o.owner = by_consumer
                AND o.owned_until > present
        ))
        FOR UPDATE SKIP LOCKED
    ) AS f
    WHERE p.tenant_id = asking AND p.subscription = named AND p.partition = f.partition;
    RETURN QUERY
    SELECT p.partition, p.fence, p.transaction_id, p.position
    FROM public.subscription_partitions p
    WHERE p.tenant_id = asking AND p.subscription = named AND p.owner = by_consumer
        AND p.owned_until > present
    ORDER BY p.partition;
END
$function$
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION public.guard_read_model(at regclass)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    EXECUTE format('CREATE TRIGGER admit_fold BEFORE INSERT OR UPDATE OR DELETE ON %s '
        'FOR EACH STATEMENT EXECUTE FUNCTION public.admit_fold()', at);
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION public.keep_events()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    IF TG_OP = 'DELETE'
        AND current_setting('neolayer.archiving', true) = pg_current_xact_id_if_assigned()::text
    THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION '% of %.% is refused', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege', HINT = 'events are only appended';
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION public.keep_unarchived()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    IF EXISTS (
        SELECT FROM gone g WHERE NOT EXISTS (
            SELECT FROM public.archived_streams a
            WHERE a.tenant_id = g.tenant_id AND a.aggregate_id = g.aggregate_id
                AND a.archived_in = pg_current_xact_id()
        )
    ) THEN
        RAISE EXCEPTION 'DELETE of public.events is refused'
            USING ERRCODE = 'insufficient_privilege', HINT = 'only archived streams go';
    END IF;
    RETURN NULL;
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION public.lock_read_model_rows(projection text, keys text[])
 RETURNS bigint
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
    asking uuid := core.current_tenant();
    taken bigint := 0;
BEGIN
    IF asking IS NULL THEN
        RETURN 0;
    END IF;
    IF cardinality(keys) > 500 THEN
        RAISE EXCEPTION 'an append concerns 500 rows of % at most, not %', projection, cardinality(keys)
            USING ERRCODE = 'program_limit_exceeded', HINT = 'append fewer events at once';
    END IF;
    PERFORM pg_advisory_xact_lock(k.key)
    FROM (
        SELECT DISTINCT hashtextextended(format('%s %s %s', asking, projection, u.key), 1) AS key
        FROM unnest(keys) AS u (key) ORDER BY 1
    ) AS k;
    GET DIAGNOSTICS taken = ROW_COUNT;
    RETURN taken;
END
$function$
    OWNER neolayer_owner
    GRANT neolayer_app=X

CREATE OR REPLACE FUNCTION public.refuse_archived(asking uuid, batch jsonb, ids uuid[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    PERFORM public.refuse_known(batch, ARRAY(
        SELECT u.id FROM unnest(ids) AS u (id)
        EXCEPT SELECT a.event_id FROM public.archived_events a WHERE a.tenant_id = asking
            AND a.event_id = ANY(ids)
    ));
END
$function$
    OWNER neolayer_owner
    GRANT neolayer_appender=X

CREATE OR REPLACE FUNCTION public.refuse_known(batch jsonb, new_ids uuid[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    RAISE EXCEPTION 'some of these events are stored already'
        USING ERRCODE = 'unique_violation', SCHEMA = 'public', TABLE = 'events',
        CONSTRAINT = 'events_pkey', DETAIL = (
            SELECT e.event ->> 'i' FROM jsonb_array_elements(batch) WITH ORDINALITY AS e (event, n)
            WHERE NOT (e.event ->> 'i')::uuid = ANY(new_ids) OR (
                
                SELECT count(*) FROM jsonb_array_elements(batch) AS o (event)
                WHERE o.event ->> 'i' = e.event ->> 'i'
            ) > 1
            ORDER BY e.n LIMIT 1
        );
END
$function$
    OWNER neolayer_owner
    GRANT neolayer_appender=X

CREATE OR REPLACE FUNCTION public.refuse_unordered(asking uuid, streams uuid[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    IF EXISTS (
        SELECT FROM public.stream_heads h
        WHERE h.tenant_id = asking AND h.aggregate_id = ANY(streams)
            AND h.transaction_id > pg_current_xact_id()
    ) THEN
        RAISE EXCEPTION 'a transaction that began to write later has appended to the stream'
            USING ERRCODE = 'serialization_failure', SCHEMA = 'public', TABLE = 'events',
            HINT = 'append before anything else is written, or run the transaction again';
    END IF;
    RAISE EXCEPTION 'a version does not follow the last one of its stream'
        USING ERRCODE = 'check_violation', SCHEMA = 'public', TABLE = 'events',
        CONSTRAINT = 'events_version_gapless';
END
$function$
    OWNER neolayer_owner
    GRANT neolayer_appender=X

CREATE OR REPLACE FUNCTION public.stream_lines(of_stream uuid)
 RETURNS TABLE(line text)
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
BEGIN ATOMIC
 SELECT (jsonb_build_array(e.tenant_id, e.event_id, e.aggregate_id, e.aggregate_type, e.event_type, e.event_version, e.event_data, e.metadata, e.user_id, e.correlation_id, e.causation_id, e.created_at, e.schema_version, e.key_id, ((e.transaction_id)::text)::bigint, e."position"))::text AS jsonb_build_array
    FROM public.events e
   WHERE ((e.tenant_id = ( SELECT core.current_tenant() AS current_tenant)) AND (e.aggregate_id = stream_lines.of_stream))
   ORDER BY e.event_version;
END
    OWNER neolayer_owner
    GRANT neolayer_app=X

TABLE core.context_secrets
    COLUMN id smallint NOT NULL
    COLUMN inner_pad bytea NOT NULL
    COLUMN outer_pad bytea NOT NULL
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    CONSTRAINT context_secrets_inner_pad_check CHECK ((octet_length(inner_pad) = 64))
    CONSTRAINT context_secrets_outer_pad_check CHECK ((octet_length(outer_pad) = 64))
    CONSTRAINT context_secrets_pkey PRIMARY KEY (id)
    OWNER neolayer_owner

TABLE core.tenant_standing
    COLUMN id uuid NOT NULL
    COLUMN is_closed boolean NOT NULL
    CONSTRAINT tenant_standing_pkey PRIMARY KEY (id)
    OWNER neolayer_owner
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r

TABLE public.archived_events
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL
    COLUMN event_id uuid NOT NULL
    COLUMN aggregate_id uuid NOT NULL
    COLUMN event_version integer NOT NULL
    CONSTRAINT archived_events_event_version_check CHECK ((event_version > 0))
    CONSTRAINT archived_events_pkey PRIMARY KEY (tenant_id, event_id)
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    OWNER neolayer_owner
    GRANT neolayer_app=r
    GRANT neolayer_appender=r
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r

TABLE public.archived_streams
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL
    COLUMN aggregate_id uuid NOT NULL
    COLUMN version integer NOT NULL
    COLUMN object_key character varying(500) NOT NULL
    COLUMN object_hash character varying(64) NOT NULL
    COLUMN object_bytes bigint NOT NULL
    COLUMN last_transaction_id xid8 NOT NULL
    COLUMN last_position bigint NOT NULL
    COLUMN archived_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN archived_in xid8 NOT NULL DEFAULT pg_current_xact_id()
    COLUMN lines_bytes bigint
    COLUMN first_transaction_id xid8 NOT NULL DEFAULT '0'::xid8
    COLUMN first_position bigint NOT NULL DEFAULT 0
    CONSTRAINT archived_streams_object_bytes_check CHECK ((object_bytes > 0))
    CONSTRAINT archived_streams_object_hash_check CHECK (((object_hash)::text ~ '^[0-9a-f]{64}$'::text))
    CONSTRAINT archived_streams_pkey PRIMARY KEY (tenant_id, aggregate_id)
    CONSTRAINT archived_streams_stream_fkey FOREIGN KEY (tenant_id, aggregate_id) REFERENCES public.stream_heads(tenant_id, aggregate_id)
    CONSTRAINT archived_streams_version_check CHECK ((version > 0))
    CREATE INDEX idx_archived_streams_last ON public.archived_streams USING btree (tenant_id, last_transaction_id, last_position)
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    OWNER neolayer_owner
    GRANT neolayer_app=r
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r

TABLE public.events
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL
    COLUMN event_id uuid NOT NULL DEFAULT gen_random_uuid()
    COLUMN aggregate_id uuid NOT NULL
    COLUMN aggregate_type character varying(255) NOT NULL
    COLUMN event_type character varying(255) NOT NULL
    COLUMN event_version integer NOT NULL
    COLUMN event_data jsonb NOT NULL
    COLUMN metadata jsonb NOT NULL DEFAULT '{}'::jsonb
    COLUMN user_id uuid
    COLUMN correlation_id uuid
    COLUMN causation_id uuid
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN schema_version integer NOT NULL DEFAULT 1
    COLUMN key_id character varying(100)
    COLUMN "position" bigint NOT NULL IDENTITY a
    COLUMN transaction_id xid8 NOT NULL DEFAULT pg_current_xact_id()
    CONSTRAINT events_event_data_size_check CHECK ((octet_length((event_data)::text) <= 1048576))
    CONSTRAINT events_event_version_check CHECK ((event_version > 0))
    CONSTRAINT events_metadata_size_check CHECK ((octet_length((metadata)::text) <= 262144))
    CONSTRAINT events_pkey PRIMARY KEY (tenant_id, event_id)
    CONSTRAINT events_schema_version_check CHECK ((schema_version > 0))
    CONSTRAINT events_unique UNIQUE (tenant_id, aggregate_id, event_version)
    CREATE INDEX idx_events_category ON public.events USING btree (tenant_id, aggregate_type, transaction_id, "position")
    CREATE INDEX idx_events_correlation ON public.events USING btree (tenant_id, correlation_id) WHERE (correlation_id IS NOT NULL)
    CREATE INDEX idx_events_position ON public.events USING btree (transaction_id, "position")
    CREATE INDEX idx_events_tenant ON public.events USING btree (tenant_id, transaction_id, "position")
    CREATE INDEX idx_events_type ON public.events USING btree (tenant_id, event_type, transaction_id, "position")
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    CREATE TRIGGER advance_heads AFTER INSERT ON public.events REFERENCING NEW TABLE AS added FOR EACH STATEMENT WHEN ((CURRENT_USER <> 'neolayer_appender'::name)) EXECUTE FUNCTION public.advance_stream_heads()
    CREATE TRIGGER keep_events BEFORE DELETE OR UPDATE OR TRUNCATE ON public.events FOR EACH STATEMENT EXECUTE FUNCTION public.keep_events()
    CREATE TRIGGER keep_unarchived AFTER DELETE ON public.events REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION public.keep_unarchived()
    OWNER neolayer_owner
    GRANT neolayer_app=r
    GRANT neolayer_appender=ar
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r
    GRANT neolayer_projector=r
    GRANT neolayer_relay=r

TABLE public.parked_events
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL
    COLUMN subscription character varying(255) NOT NULL
    COLUMN aggregate_id uuid NOT NULL
    COLUMN event_version integer NOT NULL
    COLUMN cause text
    COLUMN attempts integer NOT NULL
    COLUMN parked_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    CONSTRAINT parked_events_attempts_check CHECK ((attempts >= 0))
    CONSTRAINT parked_events_cause_size_check CHECK ((octet_length(cause) <= 16384))
    CONSTRAINT parked_events_event_version_check CHECK ((event_version > 0))
    CONSTRAINT parked_events_pkey PRIMARY KEY (tenant_id, subscription, aggregate_id, event_version)
    CONSTRAINT parked_events_subscription_fkey FOREIGN KEY (tenant_id, subscription) REFERENCES public.subscriptions(tenant_id, subscription) ON DELETE CASCADE
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    OWNER neolayer_owner
    GRANT neolayer_app=arwd
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r

TABLE public.projection_certificates
    COLUMN id bigint NOT NULL IDENTITY a
    COLUMN projection_name character varying(255) NOT NULL
    COLUMN as_of_transaction xid8 NOT NULL
    COLUMN as_of_position bigint NOT NULL
    COLUMN live_rows bigint NOT NULL
    COLUMN live_digest character varying(64) NOT NULL
    COLUMN replay_rows bigint NOT NULL
    COLUMN replay_digest character varying(64) NOT NULL
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN live_waiting bigint NOT NULL DEFAULT 0
    COLUMN replay_waiting bigint NOT NULL DEFAULT 0
    COLUMN discarded bigint NOT NULL DEFAULT 0
    CONSTRAINT projection_certificates_pkey PRIMARY KEY (id)
    CREATE INDEX idx_projection_certificates_name ON public.projection_certificates USING btree (projection_name, id DESC)
    OWNER neolayer_owner
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r

TABLE public.projection_parked_events
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL
    COLUMN projection_name character varying(255) NOT NULL
    COLUMN aggregate_id uuid NOT NULL
    COLUMN event_version integer NOT NULL
    COLUMN event_id uuid NOT NULL
    COLUMN cause text NOT NULL
    COLUMN attempts integer NOT NULL DEFAULT 1
    COLUMN parked_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN discarded_at timestamp with time zone
    COLUMN discarded_by character varying(255)
    CONSTRAINT projection_parked_events_attempts_check CHECK ((attempts > 0))
    CONSTRAINT projection_parked_events_event_version_check CHECK ((event_version > 0))
    CONSTRAINT projection_parked_events_pkey PRIMARY KEY (tenant_id, projection_name, aggregate_id, event_version)
    CONSTRAINT projection_parked_events_projection_fkey FOREIGN KEY (projection_name) REFERENCES public.projections(projection_name) ON UPDATE CASCADE ON DELETE CASCADE
    CREATE INDEX idx_projection_parked_events_projection ON public.projection_parked_events USING btree (projection_name)
    CREATE UNIQUE INDEX projection_parked_events_stream ON public.projection_parked_events USING btree (tenant_id, projection_name, aggregate_id) WHERE (discarded_at IS NULL)
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    OWNER neolayer_owner
    GRANT neolayer_app=r
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r
    GRANT neolayer_projector=ar

TABLE public.projections
    COLUMN projection_id uuid NOT NULL DEFAULT gen_random_uuid()
    COLUMN projection_name character varying(255) NOT NULL RIGHTS {neolayer_app=r/neolayer_owner}
    COLUMN last_processed_event_id uuid
    COLUMN last_processed_timestamp timestamp with time zone
    COLUMN checkpoint_data jsonb
    COLUMN status character varying(50) NOT NULL DEFAULT 'active'::character varying RIGHTS {neolayer_app=r/neolayer_owner}
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN updated_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN last_processed_transaction xid8 RIGHTS {neolayer_app=r/neolayer_owner}
    COLUMN last_processed_position bigint RIGHTS {neolayer_app=r/neolayer_owner}
    COLUMN mode character varying(20) NOT NULL DEFAULT 'async'::character varying RIGHTS {neolayer_app=r/neolayer_owner}
    COLUMN shape character varying(64)
    COLUMN cause text
    COLUMN seen_snapshot pg_snapshot
    CONSTRAINT projections_mode_check CHECK (((mode)::text = ANY ((ARRAY['inline'::character varying, 'async'::character varying])::text[])))
    CONSTRAINT projections_pkey PRIMARY KEY (projection_id)
    CONSTRAINT projections_projection_name_key UNIQUE (projection_name)
    CONSTRAINT projections_status_check CHECK (((status)::text = ANY ((ARRAY['active'::character varying, 'paused'::character varying, 'rebuilding'::character varying, 'failed'::character varying])::text[])))
    CREATE TRIGGER touch BEFORE UPDATE ON public.projections FOR EACH ROW EXECUTE FUNCTION core.touch_updated_at()
    OWNER neolayer_owner
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r
    GRANT neolayer_projector=rw

TABLE public.snapshots
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL
    COLUMN snapshot_id uuid NOT NULL DEFAULT gen_random_uuid()
    COLUMN aggregate_id uuid NOT NULL
    COLUMN aggregate_type character varying(255) NOT NULL
    COLUMN snapshot_version integer NOT NULL
    COLUMN snapshot_data jsonb NOT NULL
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN schema_version integer NOT NULL DEFAULT 1
    COLUMN key_id character varying(100)
    CONSTRAINT snapshots_pkey PRIMARY KEY (tenant_id, snapshot_id)
    CONSTRAINT snapshots_schema_version_check CHECK ((schema_version > 0))
    CONSTRAINT snapshots_snapshot_data_size_check CHECK ((octet_length((snapshot_data)::text) <= 16777216))
    CONSTRAINT snapshots_snapshot_version_check CHECK ((snapshot_version > 0))
    CONSTRAINT snapshots_stream_fkey FOREIGN KEY (tenant_id, aggregate_id) REFERENCES public.stream_heads(tenant_id, aggregate_id)
    CONSTRAINT snapshots_unique UNIQUE (tenant_id, aggregate_id, snapshot_version)
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    OWNER neolayer_owner
    GRANT neolayer_app=ard
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r
    GRANT neolayer_relay=r

TABLE public.stream_heads
    WITH {fillfactor=70}
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL
    COLUMN aggregate_id uuid NOT NULL
    COLUMN aggregate_type character varying(255) NOT NULL
    COLUMN version integer NOT NULL
    COLUMN appended integer NOT NULL
    COLUMN transaction_id xid8 NOT NULL DEFAULT '0'::xid8
    COLUMN is_closed boolean NOT NULL DEFAULT false
    CONSTRAINT stream_heads_appended_check CHECK ((appended > 0))
    CONSTRAINT stream_heads_pkey PRIMARY KEY (tenant_id, aggregate_id)
    CONSTRAINT stream_heads_version_check CHECK ((version > 0))
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    OWNER neolayer_owner
    GRANT neolayer_app=r
    GRANT neolayer_appender=arw
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r
    GRANT neolayer_relay=r

TABLE public.subscription_consumers
    WITH {fillfactor=50}
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL
    COLUMN subscription character varying(255) NOT NULL
    COLUMN consumer character varying(255) NOT NULL
    COLUMN seen_until timestamp with time zone NOT NULL
    CONSTRAINT subscription_consumers_pkey PRIMARY KEY (tenant_id, subscription, consumer)
    CONSTRAINT subscription_consumers_subscription_fkey FOREIGN KEY (tenant_id, subscription) REFERENCES public.subscriptions(tenant_id, subscription) ON DELETE CASCADE
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    OWNER neolayer_owner
    GRANT neolayer_app=arwd
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r

TABLE public.subscription_partitions
    WITH {fillfactor=50}
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL
    COLUMN subscription character varying(255) NOT NULL
    COLUMN partition integer NOT NULL
    COLUMN transaction_id xid8 NOT NULL DEFAULT '0'::xid8
    COLUMN "position" bigint NOT NULL DEFAULT 0
    COLUMN owner character varying(255)
    COLUMN owned_until timestamp with time zone
    COLUMN fence bigint NOT NULL DEFAULT 0
    CONSTRAINT subscription_partitions_partition_check CHECK ((partition >= 0))
    CONSTRAINT subscription_partitions_pkey PRIMARY KEY (tenant_id, subscription, partition)
    CONSTRAINT subscription_partitions_subscription_fkey FOREIGN KEY (tenant_id, subscription) REFERENCES public.subscriptions(tenant_id, subscription) ON DELETE CASCADE
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    OWNER neolayer_owner
    GRANT neolayer_app=arwd
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r

TABLE public.subscriptions
    ROW LEVEL SECURITY
    FORCE ROW LEVEL SECURITY
    COLUMN tenant_id uuid NOT NULL
    COLUMN subscription character varying(255) NOT NULL
    COLUMN partitions integer NOT NULL
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    COLUMN types character varying(255)[]
    COLUMN started_transaction_id xid8
    COLUMN started_position bigint
    COLUMN types_known boolean NOT NULL DEFAULT false
    CONSTRAINT subscriptions_partitions_check CHECK (((partitions >= 1) AND (partitions <= 1024)))
    CONSTRAINT subscriptions_pkey PRIMARY KEY (tenant_id, subscription)
    CONSTRAINT subscriptions_started_check CHECK (((started_transaction_id IS NULL) = (started_position IS NULL)))
    CONSTRAINT subscriptions_types_check CHECK (((cardinality(types) >= 1) AND (cardinality(types) <= 1000)))
    POLICY tenant_isolation PERMISSIVE * TO neolayer_app, neolayer_owner USING (tenant_id = ( SELECT core.current_tenant() AS current_tenant)) CHECK (tenant_id = ( SELECT core.current_tenant() AS current_tenant))
    OWNER neolayer_owner
    GRANT neolayer_app=arwd
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r

PUBLICATION neolayer_relay VIA ROOT FOR public.events
    OWNER neolayer_owner

-- line: timeseries
DEFAULT RIGHTS OF neolayer_owner IN - ON f
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION public.ensure_partitions(starts_at timestamp with time zone, ends_at timestamp with time zone)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
 SET "TimeZone" TO 'UTC'
AS $function$
DECLARE
    made int := 0;
    part record;
BEGIN
    IF ends_at - starts_at > interval '400 days' THEN
        RAISE EXCEPTION 'no partitions for % to %: at most 400 days at once', starts_at, ends_at
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR part IN
        SELECT 'metric_samples' AS parent, 'time' AS key, d AS opens,
            d + interval '1 day' AS closes, to_char(d, '"metric_samples_"YYYYMMDD') AS child
        FROM generate_series(date_trunc('day', starts_at), ends_at, interval '1 day') d
        UNION ALL
        SELECT 'metric_rollups_hourly', 'bucket', m, m + interval '1 month',
            to_char(m, '"metric_rollups_hourly_"YYYYMM')
        FROM generate_series(date_trunc('month', starts_at), ends_at, interval '1 month') m
    LOOP
        CONTINUE WHEN to_regclass(format('public.%I', part.child)) IS NOT NULL;
        EXECUTE format('LOCK TABLE ONLY public.%I IN SHARE UPDATE EXCLUSIVE MODE', part.parent);
        CONTINUE WHEN to_regclass(format('public.%I', part.child)) IS NOT NULL;
        EXECUTE format(
            'CREATE TEMPORARY TABLE waiting ON COMMIT DROP AS '
            'SELECT * FROM public.%I WHERE %I >= %L AND %I < %L',
            part.parent || '_default', part.key, part.opens, part.key, part.closes
        );
        EXECUTE format(
            'DELETE FROM public.%I WHERE %I >= %L AND %I < %L',
            part.parent || '_default', part.key, part.opens, part.key, part.closes
        );
        EXECUTE format(
            'CREATE TABLE public.%I PARTITION OF public.%I FOR VALUES FROM (%L) TO (%L)',
            part.child, part.parent, part.opens, part.closes
        );
        EXECUTE format('INSERT INTO public.%I SELECT * FROM pg_temp.waiting', part.parent);
        DROP TABLE pg_temp.waiting;
        made := made + 1;
    END LOOP;
    RETURN made;
END
$function$
    OWNER neolayer_owner
    GRANT neolayer_ingest=X

CREATE OR REPLACE FUNCTION public.insert_metric()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
    series bigint;
BEGIN
    SELECT r.series_id INTO series FROM public.metric_series r
    WHERE r.service_id = NEW.service_id AND r.metric_name = NEW.metric_name
        AND r.unit IS NOT DISTINCT FROM NEW.unit AND r.tags = coalesce(NEW.tags, '{}');
    IF series IS NULL THEN
        INSERT INTO public.metric_series (service_id, metric_name, unit, tags)
        VALUES (NEW.service_id, NEW.metric_name, NEW.unit, coalesce(NEW.tags, '{}'))
        ON CONFLICT (service_id, metric_name, unit, tags) DO UPDATE SET unit = excluded.unit
        RETURNING series_id INTO series;
    END IF;
    INSERT INTO public.metric_samples (series_id, time, value)
    VALUES (series, NEW.time, NEW.value)
    ON CONFLICT (series_id, time) DO UPDATE SET value = excluded.value;
    RETURN NEW;
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION public.note_touched_hours()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
BEGIN
    IF EXISTS (
        SELECT FROM (SELECT DISTINCT t.series_id FROM touched t) AS named
        WHERE NOT EXISTS (
            SELECT FROM public.metric_series s WHERE s.series_id = named.series_id
        )
    ) THEN
        RAISE EXCEPTION 'a sample names a series that does not exist'
            USING ERRCODE = 'foreign_key_violation', SCHEMA = 'public', TABLE = 'metric_samples';
    END IF;
    INSERT INTO public.metric_invalidations (bucket, series_id)
    SELECT DISTINCT date_trunc('hour', t.time, 'UTC'), t.series_id FROM touched t;
    RETURN NULL;
END
$function$
    OWNER neolayer_owner

CREATE OR REPLACE FUNCTION public.refresh_metrics_hourly(hour_limit integer DEFAULT 10000)
 RETURNS integer
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
DECLARE
    refreshed int;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('public.refresh_metrics_hourly', 0));
    WITH chosen AS (
        SELECT DISTINCT i.bucket, i.series_id FROM public.metric_invalidations i
        ORDER BY i.bucket, i.series_id LIMIT hour_limit
    ), taken AS (
        DELETE FROM public.metric_invalidations i USING chosen c
        WHERE i.bucket = c.bucket AND i.series_id = c.series_id
    ), fresh AS (
        SELECT c.series_id, c.bucket, count(*) AS value_count, sum(s.value) AS value_sum,
            min(s.value) AS value_min, max(s.value) AS value_max
        FROM chosen c
        JOIN public.metric_samples s ON s.series_id = c.series_id
            AND s.time >= c.bucket AND s.time < c.bucket + interval '1 hour'
        GROUP BY c.series_id, c.bucket
    )
    INSERT INTO public.metric_rollups_hourly AS r
        (series_id, bucket, value_count, value_sum, value_min, value_max)
    SELECT f.series_id, f.bucket, f.value_count, f.value_sum, f.value_min, f.value_max
    FROM fresh f
    ON CONFLICT (series_id, bucket) DO UPDATE SET value_count = excluded.value_count,
        value_sum = excluded.value_sum, value_min = excluded.value_min,
        value_max = excluded.value_max, refreshed_at = CURRENT_TIMESTAMP;
    GET DIAGNOSTICS refreshed = ROW_COUNT;
    RETURN refreshed;
END
$function$
    OWNER neolayer_owner
    GRANT neolayer_ingest=X

TABLE public.metric_invalidations
    COLUMN bucket timestamp with time zone NOT NULL
    COLUMN series_id bigint NOT NULL
    CREATE INDEX idx_metric_invalidations_bucket ON public.metric_invalidations USING btree (bucket)
    OWNER neolayer_owner
    GRANT neolayer_backup=r
    GRANT neolayer_operator=r

TABLE public.metric_rollups_hourly
    PARTITION BY RANGE (bucket)
    COLUMN series_id bigint NOT NULL
    COLUMN bucket timestamp with time zone NOT NULL
    COLUMN value_count bigint NOT NULL
    COLUMN value_sum double precision NOT NULL
    COLUMN value_min double precision NOT NULL
    COLUMN value_max double precision NOT NULL
    COLUMN refreshed_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    CONSTRAINT metric_rollups_hourly_pkey PRIMARY KEY (series_id, bucket)
    CONSTRAINT metric_rollups_hourly_series_id_fkey FOREIGN KEY (series_id) REFERENCES public.metric_series(series_id)
    CONSTRAINT metric_rollups_hourly_value_count_check CHECK ((value_count > 0))
    OWNER neolayer_owner
    GRANT neolayer_backup=r
    GRANT neolayer_ingest=r
    GRANT neolayer_operator=r

TABLE public.metric_rollups_hourly_default
    PARTITION OF public.metric_rollups_hourly DEFAULT
    COLUMN series_id bigint NOT NULL
    COLUMN bucket timestamp with time zone NOT NULL
    COLUMN value_count bigint NOT NULL
    COLUMN value_sum double precision NOT NULL
    COLUMN value_min double precision NOT NULL
    COLUMN value_max double precision NOT NULL
    COLUMN refreshed_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    CONSTRAINT metric_rollups_hourly_value_count_check CHECK ((value_count > 0))
    OWNER neolayer_owner

TABLE public.metric_samples
    PARTITION BY RANGE ("time")
    COLUMN series_id bigint NOT NULL
    COLUMN "time" timestamp with time zone NOT NULL
    COLUMN value double precision NOT NULL
    CONSTRAINT metric_samples_pkey PRIMARY KEY (series_id, "time")
    CONSTRAINT metric_samples_time_check CHECK ((("time" >= '1970-01-01 00:00:00+00'::timestamp with time zone) AND ("time" < '2262-01-01 00:00:00+00'::timestamp with time zone)))
    CREATE TRIGGER note_inserted AFTER INSERT ON public.metric_samples REFERENCING NEW TABLE AS touched FOR EACH STATEMENT EXECUTE FUNCTION public.note_touched_hours()
    CREATE TRIGGER note_updated AFTER UPDATE ON public.metric_samples REFERENCING NEW TABLE AS touched FOR EACH STATEMENT EXECUTE FUNCTION public.note_touched_hours()
    OWNER neolayer_owner
    GRANT neolayer_backup=r
    GRANT neolayer_ingest=arw
    GRANT neolayer_operator=r

TABLE public.metric_samples_default
    PARTITION OF public.metric_samples DEFAULT
    COLUMN series_id bigint NOT NULL
    COLUMN "time" timestamp with time zone NOT NULL
    COLUMN value double precision NOT NULL
    CONSTRAINT metric_samples_time_check CHECK ((("time" >= '1970-01-01 00:00:00+00'::timestamp with time zone) AND ("time" < '2262-01-01 00:00:00+00'::timestamp with time zone)))
    OWNER neolayer_owner

TABLE public.metric_series
    COLUMN series_id bigint NOT NULL IDENTITY a
    COLUMN service_id uuid NOT NULL
    COLUMN metric_name character varying(255) NOT NULL
    COLUMN tags jsonb NOT NULL DEFAULT '{}'::jsonb
    COLUMN unit character varying(50)
    COLUMN created_at timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
    CONSTRAINT metric_series_metric_name_check CHECK (((metric_name)::text <> ''::text))
    CONSTRAINT metric_series_pkey PRIMARY KEY (series_id)
    CONSTRAINT metric_series_tags_check CHECK (((jsonb_typeof(tags) = 'object'::text) AND (octet_length((tags)::text) <= 1000)))
    CONSTRAINT metric_series_unique UNIQUE NULLS NOT DISTINCT (service_id, metric_name, unit, tags)
    OWNER neolayer_owner
    GRANT neolayer_backup=r
    GRANT neolayer_ingest=arw
    GRANT neolayer_operator=r

VIEW public.default_partition_rows
    REPLICA IDENTITY NOTHING
    COLUMN partition_name text
    COLUMN row_count bigint
    AS  SELECT 'public.metric_samples_default'::text AS partition_name,
    count(*) AS row_count
    FROM public.metric_samples_default
    UNION ALL
    SELECT 'public.metric_rollups_hourly_default'::text AS partition_name,
    count(*) AS row_count
    FROM public.metric_rollups_hourly_default;
    OWNER neolayer_owner
    GRANT neolayer_backup=r
    GRANT neolayer_ingest=r
    GRANT neolayer_operator=r

VIEW public.metrics
    WITH {security_invoker=true}
    REPLICA IDENTITY NOTHING
    COLUMN "time" timestamp with time zone
    COLUMN service_id uuid
    COLUMN metric_name character varying(255)
    COLUMN value double precision
    COLUMN tags jsonb
    COLUMN unit character varying(50)
    CREATE TRIGGER insert_metric INSTEAD OF INSERT ON public.metrics FOR EACH ROW EXECUTE FUNCTION public.insert_metric()
    AS  SELECT s."time",
    r.service_id,
    r.metric_name,
    s.value,
    r.tags,
    r.unit
    FROM (public.metric_samples s
    JOIN public.metric_series r ON ((s.series_id = r.series_id)));
    OWNER neolayer_owner
    GRANT neolayer_backup=r
    GRANT neolayer_ingest=arw
    GRANT neolayer_operator=r

VIEW public.metrics_hourly
    WITH {security_invoker=true}
    REPLICA IDENTITY NOTHING
    COLUMN bucket timestamp with time zone
    COLUMN service_id uuid
    COLUMN metric_name character varying(255)
    COLUMN avg_value double precision
    COLUMN min_value double precision
    COLUMN max_value double precision
    COLUMN count bigint
    COLUMN sum_value double precision
    AS  SELECT h.bucket,
    r.service_id,
    r.metric_name,
    (sum(h.value_sum) / (sum(h.value_count))::double precision) AS avg_value,
    min(h.value_min) AS min_value,
    max(h.value_max) AS max_value,
    (sum(h.value_count))::bigint AS count,
    sum(h.value_sum) AS sum_value
    FROM (public.metric_rollups_hourly h
    JOIN public.metric_series r ON ((h.series_id = r.series_id)))
    GROUP BY h.bucket, r.service_id, r.metric_name;
    OWNER neolayer_owner
    GRANT neolayer_backup=r
    GRANT neolayer_ingest=r
    GRANT neolayer_operator=r

-- line: clickhouse
CREATE TABLE blocks (`network_id` UUID,
    `block_number` Int64,
    `block_hash` String,
    `parent_hash` String,
    `block_timestamp` DateTime64(6, 'UTC'),
    `miner` Nullable(String),
    `transaction_count` Int32,
    `gas_limit` Nullable(Int64),
    `gas_used` Nullable(Int64),
    `base_fee_per_gas` Nullable(UInt256),
    `difficulty` Nullable(UInt256),
    `size_bytes` Nullable(Int64),
    `state_root` Nullable(String),
    `transactions_root` Nullable(String),
    `receipts_root` Nullable(String),
    `extra_data` Nullable(String),
    `header` Nullable(String) CODEC(ZSTD(3)),
    `verification` LowCardinality(String),
    `is_final` Bool,
    `created_at` DateTime64(6, 'UTC'),
    `_version` UInt64,
    `_deleted` UInt8,
    `ingested_at` DateTime('UTC') DEFAULT if((_deleted = 1) OR (created_at < '1971-01-01'), now(), toDateTime(least(created_at, now64(6)))))
ENGINE = ReplacingMergeTree(_version, _deleted)
ORDER BY (network_id, block_number)
TTL ingested_at + toIntervalYear(1)
SETTINGS index_granularity = 8192

CREATE TABLE logs (`network_id` UUID,
    `block_number` Int64,
    `log_index` Int32,
    `block_timestamp` DateTime64(6, 'UTC'),
    `transaction_hash` String,
    `transaction_index` Int32,
    `address` String,
    `topic0` Nullable(String),
    `topic1` Nullable(String),
    `topic2` Nullable(String),
    `topic3` Nullable(String),
    `data` Nullable(String) CODEC(ZSTD(3)),
    `created_at` DateTime64(6, 'UTC'),
    `_version` UInt64,
    `_deleted` UInt8,
    `ingested_at` DateTime('UTC') DEFAULT if((_deleted = 1) OR (created_at < '1971-01-01'), now(), toDateTime(least(created_at, now64(6)))))
ENGINE = ReplacingMergeTree(_version, _deleted)
ORDER BY (network_id, block_number, log_index)
TTL ingested_at + toIntervalYear(1)
SETTINGS index_granularity = 8192

CREATE TABLE networks (`id` UUID,
    `name` LowCardinality(String),
    `chain_id` Int64,
    `network_type` LowCardinality(String),
    `rpc_endpoint` Nullable(String),
    `ws_endpoint` Nullable(String),
    `explorer_url` Nullable(String),
    `is_testnet` Bool,
    `is_active` Bool,
    `finality_depth` Int32,
    `created_at` DateTime64(6, 'UTC'),
    `updated_at` DateTime64(6, 'UTC'),
    `_version` UInt64,
    `_deleted` UInt8,
    `ingested_at` DateTime('UTC') DEFAULT now())
ENGINE = ReplacingMergeTree(_version, _deleted)
ORDER BY id
SETTINGS index_granularity = 8192

CREATE TABLE relay_checkpoints (`sink` String,
    `version` UInt64,
    `updated_at` DateTime64(6, 'UTC') DEFAULT now64(6))
ENGINE = ReplacingMergeTree(version)
ORDER BY sink
SETTINGS index_granularity = 8192

CREATE TABLE smart_contracts (`id` UUID,
    `network_id` UUID,
    `address` String,
    `name` Nullable(String),
    `symbol` Nullable(String),
    `contract_type` LowCardinality(String),
    `abi` String CODEC(ZSTD(3)),
    `bytecode` Nullable(String) CODEC(ZSTD(3)),
    `source_code` Nullable(String) CODEC(ZSTD(3)),
    `compiler_version` Nullable(String),
    `optimization_enabled` Nullable(Bool),
    `verified` Bool,
    `deployed_by` Nullable(String),
    `deployed_at` Nullable(DateTime64(6, 'UTC')),
    `created_at` DateTime64(6, 'UTC'),
    `deployment_transaction_hash` Nullable(String),
    `deployed_block_number` Nullable(Int64),
    `_version` UInt64,
    `_deleted` UInt8,
    `ingested_at` DateTime('UTC') DEFAULT if((_deleted = 1) OR (created_at < '1971-01-01'), now(), toDateTime(least(created_at, now64(6)))))
ENGINE = ReplacingMergeTree(_version, _deleted)
ORDER BY (network_id, address)
TTL ingested_at + toIntervalYear(1)
SETTINGS index_granularity = 8192

CREATE TABLE transactions (`id` UUID,
    `network_id` UUID,
    `transaction_hash` String,
    `from_address` String,
    `to_address` Nullable(String),
    `value` UInt256,
    `gas_price` Nullable(UInt256),
    `gas_limit` Nullable(Int64),
    `gas_used` Nullable(Int64),
    `nonce` Nullable(Int64),
    `input_data` Nullable(String) CODEC(ZSTD(3)),
    `status` LowCardinality(String),
    `block_number` Nullable(Int64),
    `block_timestamp` DateTime64(6, 'UTC'),
    `confirmation_count` Nullable(Int32),
    `created_at` DateTime64(6, 'UTC'),
    `updated_at` DateTime64(6, 'UTC'),
    `transaction_index` Nullable(Int32),
    `transaction_type` Nullable(Int16),
    `max_fee_per_gas` Nullable(UInt256),
    `max_priority_fee_per_gas` Nullable(UInt256),
    `max_fee_per_blob_gas` Nullable(UInt256),
    `effective_gas_price` Nullable(UInt256),
    `cumulative_gas_used` Nullable(Int64),
    `contract_address` Nullable(String),
    `signature_v` Nullable(UInt256),
    `signature_r` Nullable(String),
    `signature_s` Nullable(String),
    `envelope` Nullable(String) CODEC(ZSTD(3)),
    `replaced_by` Nullable(String),
    `_version` UInt64,
    `_deleted` UInt8,
    `ingested_at` DateTime('UTC') DEFAULT if((_deleted = 1) OR (created_at < '1971-01-01'), now(), toDateTime(least(created_at, now64(6)))),
    INDEX time_index block_timestamp TYPE minmax GRANULARITY 1)
ENGINE = ReplacingMergeTree(_version, _deleted)
ORDER BY (network_id, transaction_hash)
TTL ingested_at + toIntervalYear(1)
SETTINGS index_granularity = 8192
