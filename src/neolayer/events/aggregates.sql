-- load --
-- The newest usable snapshot of a stream and the events after it: their types, schema versions and
-- data as one JSON text, because a column and a row less a value is what loading costs.
WITH kept AS (
    SELECT s.snapshot_version, s.snapshot_data, s.key_id
    FROM public.snapshots AS s
    WHERE
        s.aggregate_id = %(stream)s::uuid
        AND s.schema_version = %(schema_version)s::int
        AND s.snapshot_data ->> 'form' = %(form)s
        AND s.snapshot_version > %(after)s::int
        AND %(snapshots)s::boolean
    ORDER BY s.snapshot_version DESC
    LIMIT 1
),

later AS (
    SELECT e.event_version, e.event_type, e.schema_version, e.event_data, e.key_id
    FROM public.events AS e
    WHERE
        e.aggregate_id = %(stream)s::uuid
        AND e.event_version > coalesce((SELECT k.snapshot_version FROM kept AS k), %(after)s::int)
    ORDER BY e.event_version
    LIMIT %(limit)s::int
)

SELECT
    (SELECT k.snapshot_version FROM kept AS k),
    (SELECT k.snapshot_data::text FROM kept AS k),
    (SELECT k.key_id FROM kept AS k),
    (SELECT count(*)::int FROM later),
    (
        SELECT
            '[' || string_agg(
                concat(
                    '[', to_json(l.event_type), ',', l.schema_version, ',',
                    coalesce(to_json(l.key_id)::text, 'null'), ',', l.event_data, ']'
                ),
                ',' ORDER BY l.event_version
            ) || ']'
        FROM later AS l
    ),
    EXISTS (SELECT FROM public.archived_streams AS a WHERE a.aggregate_id = %(stream)s::uuid),
    (SELECT h.aggregate_type FROM public.stream_heads AS h WHERE h.aggregate_id = %(stream)s::uuid);

-- stored_at --
-- Where the event of this id stands: its stream and version.
SELECT e.aggregate_id, e.event_version FROM public.events AS e
WHERE e.tenant_id = (SELECT core.current_tenant()) AND e.event_id = %(event)s::uuid
UNION ALL
SELECT o.aggregate_id, o.event_version FROM public.archived_events AS o
WHERE o.tenant_id = (SELECT core.current_tenant()) AND o.event_id = %(event)s::uuid
LIMIT 1;

-- take_snapshot --
-- Keep a state; where somebody has kept one of that version meanwhile, theirs stays.
INSERT INTO public.snapshots (
    tenant_id, aggregate_id, aggregate_type, snapshot_version, snapshot_data, schema_version, key_id
)
SELECT
    %(tenant)s::uuid, %(stream)s::uuid, %(category)s, %(version)s::int, %(data)s::jsonb,
    %(schema_version)s::int, %(key_id)s
ON CONFLICT (tenant_id, aggregate_id, snapshot_version) DO NOTHING;

-- drop_older --
-- An aggregate's snapshots up to a version are of no use once there is a new one of it; nor are
-- those that do not say whose they are.
DELETE FROM public.snapshots
WHERE
    aggregate_id = %(stream)s::uuid AND snapshot_version <= %(version)s::int
    AND coalesce(snapshot_data ->> 'of', %(of)s) = %(of)s;

-- delete_snapshots --
-- Forget the snapshots of a stream; loading takes longer until there is one again.
DELETE FROM public.snapshots WHERE aggregate_id = %(stream)s::uuid RETURNING snapshot_id;
