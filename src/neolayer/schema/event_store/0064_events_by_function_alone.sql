-- migrate:up
-- Events are written by append_events() alone: an INSERT of its own could name a transaction, a time
-- and a user that were others.
REVOKE INSERT ON public.events FROM neolayer_app;

-- As in 0051_projections.sql, and so many rows at most, since each is a lock in the memory that all
-- sessions share.
CREATE OR REPLACE FUNCTION public.lock_read_model_rows(projection text, keys text []) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
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
$$;

-- What is archived is found by its place, too; rows from before say that they begin anywhere. The
-- hash is of the lines, as the database has computed it (0066_parked_by_projections.sql): where
-- lines_bytes is NULL, of the compressed bytes, as it was told.
ALTER TABLE public.archived_streams ADD COLUMN lines_bytes bigint;
ALTER TABLE public.archived_streams ADD COLUMN first_transaction_id xid8 NOT NULL DEFAULT '0';
ALTER TABLE public.archived_streams ADD COLUMN first_position bigint NOT NULL DEFAULT 0;
CREATE INDEX idx_archived_streams_last
ON public.archived_streams (tenant_id, last_transaction_id, last_position);

-- Archived streams that have events behind a place, those that begin first: as rows of events, so
-- that one statement, hence one snapshot, gives what is in the table and what is not any more. They
-- have no event_id; event_data is the object's key, metadata its hash, key_id the size of its lines.
-- Without SET, so that it becomes a part of the statement that calls it.
CREATE FUNCTION public.archived_behind(transaction xid8, index bigint, most bigint) RETURNS TABLE (
    tenant_id uuid, event_id uuid, aggregate_id uuid, aggregate_type varchar, event_type varchar,
    event_version int, event_data text, metadata text, user_id uuid, correlation_id uuid,
    causation_id uuid, created_at timestamptz, schema_version int, key_id varchar,
    transaction_id xid8, "position" bigint
)
LANGUAGE sql STABLE
BEGIN ATOMIC
SELECT
    a.tenant_id, NULL::uuid, a.aggregate_id, h.aggregate_type, NULL::varchar,
    a.version, a.object_key::text, a.object_hash::text, NULL::uuid, NULL::uuid,
    NULL::uuid, NULL::timestamptz, NULL::int, a.lines_bytes::varchar,
    a.first_transaction_id, a.first_position
FROM public.archived_streams AS a
INNER JOIN public.stream_heads AS h
    ON a.tenant_id = h.tenant_id AND a.aggregate_id = h.aggregate_id
WHERE
    a.tenant_id = (SELECT core.current_tenant())
    AND (a.last_transaction_id, a.last_position) > (transaction, index)
ORDER BY a.first_transaction_id, a.first_position
LIMIT most;
END;
GRANT EXECUTE ON FUNCTION public.archived_behind(xid8, bigint, bigint) TO neolayer_app;

-- migrate:down
-- Where archived events stood would be forgotten.
SELECT neolayer_schema.refuse_to_lose('public.archived_streams');
DROP FUNCTION public.archived_behind(xid8, bigint, bigint);
DROP INDEX public.idx_archived_streams_last;
ALTER TABLE public.archived_streams DROP COLUMN first_position;
ALTER TABLE public.archived_streams DROP COLUMN first_transaction_id;
ALTER TABLE public.archived_streams DROP COLUMN lines_bytes;
CREATE OR REPLACE FUNCTION public.lock_read_model_rows(projection text, keys text []) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    asking uuid := core.current_tenant();
    taken bigint := 0;
BEGIN
    IF asking IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM pg_advisory_xact_lock(k.key)
    FROM (
        SELECT DISTINCT hashtextextended(format('%s %s %s', asking, projection, u.key), 1) AS key
        FROM unnest(keys) AS u (key) ORDER BY 1
    ) AS k;
    GET DIAGNOSTICS taken = ROW_COUNT;
    RETURN taken;
END
$$;
GRANT INSERT ON public.events TO neolayer_app;
