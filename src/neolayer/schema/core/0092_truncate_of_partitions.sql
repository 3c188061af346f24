-- migrate:up
-- A partition that is emptied by its own name is emptied unseen: the commit log is published under
-- the parents' names, and tells of a TRUNCATE only where it named the parent. So it must name that.
-- Whoever truncates a parent has it locked by the time its partitions' triggers fire.
CREATE FUNCTION core.refuse_truncate_of_partition() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
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
$$;

-- Such triggers are not inherited: whoever makes a partition gives it one.
CREATE FUNCTION core.keep_rows_of_partition(part regclass) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE format(
        'CREATE TRIGGER keep_rows_of_partition BEFORE TRUNCATE ON %s '
        'FOR EACH STATEMENT EXECUTE FUNCTION core.refuse_truncate_of_partition()', part
    );
END
$$;
SELECT core.keep_rows_of_partition(t.relid)
FROM unnest(
    ARRAY['blockchain.transactions', 'blockchain.logs', 'core.tenant_data']::regclass []
) AS parents (parent)
CROSS JOIN LATERAL pg_partition_tree(parents.parent) AS t
WHERE t.isleaf;

-- As in 0006; each partition is given its trigger when it is made.
CREATE OR REPLACE FUNCTION blockchain.ensure_partitions(starts_at timestamptz, ends_at timestamptz)
RETURNS int
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $$
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
            -- Two makers of one partition: the second waits, and finds it made. After an advisory
            -- lock it would not: only a table's lock refreshes what a session knows of tables.
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
$$;

-- migrate:down
-- Partitions may be emptied by their own names again.
CREATE OR REPLACE FUNCTION blockchain.ensure_partitions(starts_at timestamptz, ends_at timestamptz)
RETURNS int
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $$
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
            -- Two makers of one partition: the second waits, and finds it made. After an advisory
            -- lock it would not: only a table's lock refreshes what a session knows of tables.
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
            EXECUTE format('INSERT INTO blockchain.%I SELECT * FROM pg_temp.waiting', parent);
            DROP TABLE pg_temp.waiting;
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END
$$;
DO $$
DECLARE
    part regclass;
BEGIN
    FOR part IN
        SELECT t.tgrelid FROM pg_trigger t WHERE t.tgname = 'keep_rows_of_partition'
    LOOP
        EXECUTE format('DROP TRIGGER keep_rows_of_partition ON %s', part);
    END LOOP;
END
$$;
DROP FUNCTION core.keep_rows_of_partition(regclass);
DROP FUNCTION core.refuse_truncate_of_partition();
