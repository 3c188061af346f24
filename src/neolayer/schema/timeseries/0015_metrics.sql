-- migrate:up
-- Functions are executable by everybody unless said otherwise; the schema public is the owner's.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO neolayer_ingest, neolayer_backup, neolayer_operator;

-- Time series on plain PostgreSQL, where TimescaleDB is not. A series is named once; a sample then
-- carries 24 bytes instead of name, unit and tags. Tags are bounded because they are indexed.
CREATE TABLE public.metric_series (
    series_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    service_id uuid NOT NULL,
    metric_name varchar(255) NOT NULL CHECK (metric_name <> ''),
    tags jsonb NOT NULL DEFAULT '{}' CHECK (
        jsonb_typeof(tags) = 'object' AND octet_length(tags::text) <= 1000
    ),
    unit varchar(50),
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    CONSTRAINT metric_series_unique
    UNIQUE NULLS NOT DISTINCT (service_id, metric_name, unit, tags)
);

-- Samples by day, kept 90 days; whole days leave at once. One value a series and instant, so that a
-- batch may be sent twice.
CREATE TABLE public.metric_samples (
    series_id bigint NOT NULL,
    time timestamptz NOT NULL,
    value double precision NOT NULL,
    PRIMARY KEY (series_id, time),
    CONSTRAINT metric_samples_time_check CHECK (
        time >= '1970-01-01 00:00:00+00' AND time < '2262-01-01 00:00:00+00'
    )
) PARTITION BY RANGE (time);
CREATE TABLE public.metric_samples_default PARTITION OF public.metric_samples DEFAULT;

-- Hourly rollups by month, kept 2 years. Sum and count can be merged into longer spans, the
-- specification's average could not.
CREATE TABLE public.metric_rollups_hourly (
    series_id bigint NOT NULL REFERENCES public.metric_series (series_id),
    bucket timestamptz NOT NULL,
    value_count bigint NOT NULL CHECK (value_count > 0),
    value_sum double precision NOT NULL,
    value_min double precision NOT NULL,
    value_max double precision NOT NULL,
    refreshed_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (series_id, bucket)
) PARTITION BY RANGE (bucket);
CREATE TABLE public.metric_rollups_hourly_default
PARTITION OF public.metric_rollups_hourly DEFAULT;

-- Which hours were touched since their rollup. Only grows under writers (no key to wait at);
-- refreshing takes rows out. A late sample leaves its trace like any other.
CREATE TABLE public.metric_invalidations (
    bucket timestamptz NOT NULL,
    series_id bigint NOT NULL
);
-- Oldest hours first.
CREATE INDEX idx_metric_invalidations_bucket ON public.metric_invalidations (bucket);

-- One row an hour and series of each statement.
CREATE FUNCTION public.note_touched_hours() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
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
$$;
CREATE TRIGGER note_inserted AFTER INSERT ON public.metric_samples
REFERENCING NEW TABLE AS touched
FOR EACH STATEMENT EXECUTE FUNCTION public.note_touched_hours();
CREATE TRIGGER note_updated AFTER UPDATE ON public.metric_samples
REFERENCING NEW TABLE AS touched
FOR EACH STATEMENT EXECUTE FUNCTION public.note_touched_hours();

-- Recomputes touched hours, oldest first, and returns how many. Recomputed, never added up: adding
-- would double what is sent twice. One at a time, or an older picture could overwrite a newer one.
CREATE FUNCTION public.refresh_metrics_hourly(hour_limit int DEFAULT 10000) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
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
$$;

-- The specification's table, as a view over the series.
CREATE VIEW public.metrics WITH (security_invoker = true) AS
SELECT s.time, r.service_id, r.metric_name, s.value, r.tags, r.unit
FROM public.metric_samples AS s
INNER JOIN public.metric_series AS r ON s.series_id = r.series_id;

-- Rows put into the view find or make their series. For bulk, name the series once and copy
-- samples.
CREATE FUNCTION public.insert_metric() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
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
$$;
CREATE TRIGGER insert_metric INSTEAD OF INSERT ON public.metrics
FOR EACH ROW EXECUTE FUNCTION public.insert_metric();

-- The specification's continuous aggregate, from what can be merged.
CREATE VIEW public.metrics_hourly WITH (security_invoker = true) AS
SELECT
    h.bucket,
    r.service_id,
    r.metric_name,
    sum(h.value_sum) / sum(h.value_count) AS avg_value,
    min(h.value_min) AS min_value,
    max(h.value_max) AS max_value,
    sum(h.value_count)::bigint AS count,
    sum(h.value_sum) AS sum_value
FROM public.metric_rollups_hourly AS h
INNER JOIN public.metric_series AS r ON h.series_id = r.series_id
GROUP BY h.bucket, r.service_id, r.metric_name;

-- Makes the day partitions of samples and the month partitions of rollups that cover an interval,
-- where missing, and moves rows that waited in a default partition.
CREATE FUNCTION public.ensure_partitions(starts_at timestamptz, ends_at timestamptz) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $$
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
$$;
GRANT EXECUTE ON FUNCTION
public.ensure_partitions(timestamptz, timestamptz), public.refresh_metrics_hourly(int)
TO neolayer_ingest;

-- Not empty means: a day or month that nobody made a partition for. `status` alarms on it.
CREATE VIEW public.default_partition_rows AS
SELECT 'public.metric_samples_default' AS partition_name, count(*) AS row_count
FROM public.metric_samples_default
UNION ALL
SELECT 'public.metric_rollups_hourly_default' AS partition_name, count(*) AS row_count
FROM public.metric_rollups_hourly_default;

-- Metrics are the operators' data; tenants reach theirs through functions, later.
GRANT SELECT, INSERT, UPDATE ON
public.metric_series, public.metric_samples, public.metrics TO neolayer_ingest;
GRANT SELECT ON public.metric_rollups_hourly, public.metrics_hourly, public.default_partition_rows
TO neolayer_ingest;
GRANT SELECT ON
public.metric_series,
public.metric_samples,
public.metric_rollups_hourly,
public.metric_invalidations,
public.metrics,
public.metrics_hourly,
public.default_partition_rows
TO neolayer_backup, neolayer_operator;

-- migrate:down
-- A way back while there is nothing to lose.
SELECT neolayer_schema.refuse_to_lose('public.metric_series');
DROP VIEW public.default_partition_rows;
DROP FUNCTION public.ensure_partitions(timestamptz, timestamptz);
DROP VIEW public.metrics_hourly;
DROP VIEW public.metrics;
DROP FUNCTION public.insert_metric();
DROP FUNCTION public.refresh_metrics_hourly(int);
DROP TABLE public.metric_samples;
DROP FUNCTION public.note_touched_hours();
DROP TABLE public.metric_invalidations;
DROP TABLE public.metric_rollups_hourly;
DROP TABLE public.metric_series;
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC;
