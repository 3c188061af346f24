-- server_version --
-- The server's version as a number, such as 170010.
SELECT current_setting('server_version_num')::int;

-- existing_roles --
-- Which of these roles the cluster has.
SELECT rolname FROM pg_catalog.pg_roles WHERE rolname = ANY (%(roles)s::text []);

-- database_exists --
-- Whether the cluster has a database of this name.
SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = %(database)s::text);

-- available_extensions --
-- Which of these extensions the server could create and has not created in this database.
SELECT name FROM pg_catalog.pg_available_extensions
WHERE name = ANY (%(extensions)s::text []) AND installed_version IS NULL;

-- server_functions --
-- The server's own functions of such names that everybody may call, or not yet each of these roles.
SELECT p.oid::regprocedure::text
FROM pg_catalog.pg_proc AS p
WHERE
    p.pronamespace = 'pg_catalog'::regnamespace AND p.proname ~ %(names)s
    AND (
        has_function_privilege('public', p.oid, 'EXECUTE')
        OR EXISTS (
            SELECT FROM unnest(%(roles)s::text []) AS r (name)
            WHERE NOT has_function_privilege(r.name, p.oid, 'EXECUTE')
        )
    )
ORDER BY 1;

-- marks_exist --
-- Whether this database was ever migrated.
SELECT to_regclass('neolayer_schema.applied') IS NOT NULL;

-- create_bookkeeping_schema --
-- Where the runner keeps its books; in every database.
CREATE SCHEMA IF NOT EXISTS neolayer_schema;

-- create_marks --
-- What this database has seen of its line. Written in the transaction of the change itself, so it
-- cannot disagree with what is there.
CREATE TABLE IF NOT EXISTS neolayer_schema.applied (
    number int PRIMARY KEY,
    line text NOT NULL,
    name text NOT NULL,
    checksum text NOT NULL,
    direction text NOT NULL,
    statements_done int NOT NULL,
    is_finished boolean NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP
);

-- create_history --
-- The one ordered history over all lines; in the core database. Only grows.
CREATE TABLE IF NOT EXISTS neolayer_schema.history (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    number int NOT NULL,
    line text NOT NULL,
    name text NOT NULL,
    direction text NOT NULL,
    checksum text NOT NULL,
    performed_by text NOT NULL DEFAULT session_user,
    finished_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP
);

-- create_loss_guard --
-- For the way back: refuses to go on where a table still has rows. As the migrator, because under
-- FORCE ROW LEVEL SECURITY the owner would see none and drop them all.
CREATE OR REPLACE FUNCTION neolayer_schema.refuse_to_lose(VARIADIC tables text [])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET role = neolayer_migrator
AS $$
DECLARE
    table_name text;
    has_rows boolean;
BEGIN
    FOREACH table_name IN ARRAY tables LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %s)', table_name::regclass) INTO has_rows;
        IF has_rows THEN
            RAISE EXCEPTION '% has rows, which the way back would lose', table_name
                USING ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
    END LOOP;
END
$$;

-- open_bookkeeping --
-- Everybody who works here may see which version the schema has.
GRANT USAGE ON SCHEMA neolayer_schema
TO neolayer_app, neolayer_ingest, neolayer_relay, neolayer_backup, neolayer_operator;

-- open_books --
-- See above; writing stays with the owner.
GRANT SELECT ON ALL TABLES IN SCHEMA neolayer_schema
TO neolayer_app, neolayer_ingest, neolayer_relay, neolayer_backup, neolayer_operator;

-- marks --
-- Every migration this database has begun or finished, in order.
SELECT number, line, name, checksum, direction, statements_done, is_finished
FROM neolayer_schema.applied ORDER BY number;

-- write_mark --
-- How far a migration came.
INSERT INTO neolayer_schema.applied (
    number, line, name, checksum, direction, statements_done, is_finished
) VALUES (
    %(number)s::int,
    %(line)s::text,
    %(name)s::text,
    %(checksum)s::text,
    %(direction)s::text,
    %(statements_done)s::int,
    %(is_finished)s::boolean
)
ON CONFLICT (number) DO UPDATE SET
    line = excluded.line,
    name = excluded.name,
    checksum = excluded.checksum,
    direction = excluded.direction,
    statements_done = excluded.statements_done,
    is_finished = excluded.is_finished,
    changed_at = CURRENT_TIMESTAMP;

-- remove_mark --
-- A migration that was taken back was never here.
DELETE FROM neolayer_schema.applied WHERE number = %(number)s::int;

-- write_history --
-- One line more in the history.
INSERT INTO neolayer_schema.history (number, line, name, direction, checksum)
VALUES (
    %(number)s::int, %(line)s::text, %(name)s::text, %(direction)s::text, %(checksum)s::text
);

-- history_heads --
-- What the history says last about each migration.
SELECT DISTINCT ON (number) number, line, name, checksum, direction
FROM neolayer_schema.history ORDER BY number ASC, id DESC;

-- take_migrator_lock --
-- True for the one migrator this database admits; held until the connection ends.
SELECT pg_try_advisory_lock(hashtextextended('neolayer migrate', 0));

-- migrator_lock_holder --
-- Who holds the migrator's lock, and since when.
SELECT a.pid, a.application_name, coalesce(host(a.client_addr), 'local') AS client, a.backend_start
FROM pg_catalog.pg_locks AS l
INNER JOIN pg_catalog.pg_stat_activity AS a ON l.pid = a.pid
WHERE
    l.locktype = 'advisory'
    AND l.granted
    AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
    AND ((l.classid::bigint << 32) | l.objid::bigint) = hashtextextended('neolayer migrate', 0);

-- long_transactions --
-- Whose transactions may hold what a migration waits for: the oldest first.
SELECT pid, coalesce(application_name, '') AS application_name, xact_start
FROM pg_catalog.pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
ORDER BY xact_start LIMIT 3;

-- invalid_index --
-- The leftover of a concurrent index build that was killed.
SELECT c.oid::regclass::text
FROM pg_catalog.pg_index AS i
INNER JOIN pg_catalog.pg_class AS c ON i.indexrelid = c.oid
INNER JOIN pg_catalog.pg_namespace AS n ON c.relnamespace = n.oid
WHERE NOT i.indisvalid AND c.relname = %(index)s::text AND n.nspname = %(schema)s::text;

-- has_context_secrets --
-- Whether this database checks signed contexts.
SELECT to_regclass('core.context_secrets') IS NOT NULL;

-- read_context_secret --
-- The key that signs contexts, as HMAC's padded blocks.
SELECT inner_pad, outer_pad FROM core.context_secrets ORDER BY created_at DESC, id LIMIT 1;

-- write_context_secret --
-- Puts the key of the other databases here too.
INSERT INTO core.context_secrets (id, inner_pad, outer_pad)
VALUES (1, %(inner_pad)s::bytea, %(outer_pad)s::bytea)
ON CONFLICT (id) DO UPDATE SET inner_pad = excluded.inner_pad, outer_pad = excluded.outer_pad;

-- has_function --
-- Whether this database has a function of this signature.
SELECT to_regprocedure(%(signature)s::text) IS NOT NULL;

-- ensure_chain_partitions --
-- Last year's, this year's and the next year's partitions of chain data, where missing.
SELECT blockchain.ensure_partitions(now() - interval '1 year', now() + interval '1 year');

-- ensure_metric_partitions --
-- Yesterday's to next week's partitions of samples, and the months of their rollups.
SELECT public.ensure_partitions(now() - interval '1 day', now() + interval '7 days');

-- existing_relations --
-- What is there before a plan is tried out; locks on anything newer hinder nobody.
SELECT array_agg(c.oid)
FROM pg_catalog.pg_class AS c
INNER JOIN pg_catalog.pg_namespace AS n ON c.relnamespace = n.oid
WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'neolayer_schema');

-- locks_held --
-- The strongest locks that this session holds on what was there before.
SELECT c.oid::regclass::text, l.mode, greatest(c.reltuples, 0)::bigint
FROM pg_catalog.pg_locks AS l
INNER JOIN pg_catalog.pg_class AS c ON l.relation = c.oid
WHERE
    l.pid = pg_backend_pid()
    AND l.locktype = 'relation'
    AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
    AND c.oid = ANY (%(existing)s::oid [])
    AND l.mode NOT IN ('AccessShareLock', 'RowShareLock')
    AND c.relkind IN ('r', 'p', 'v', 'm')
ORDER BY 1, 2;

-- columns --
-- A table's columns in order, and whether each is part of its key.
SELECT a.attname::text, coalesce(a.attnum = ANY(i.indkey), false)
FROM pg_catalog.pg_attribute AS a
INNER JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
LEFT JOIN pg_catalog.pg_index AS i ON i.indrelid = c.oid AND i.indisprimary
WHERE
    c.relnamespace::regnamespace::text = %(schema)s AND c.relname = %(table)s
    AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum;

-- check_expression --
-- What a check of a table demands.
SELECT pg_catalog.pg_get_expr(k.conbin, k.conrelid)
FROM pg_catalog.pg_constraint AS k
INNER JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid
WHERE
    c.relnamespace::regnamespace::text = %(schema)s AND c.relname = %(table)s
    AND k.conname = %(constraint)s;
