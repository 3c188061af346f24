-- pauses --
-- The sinks that are held.
SELECT sink FROM core.relay_sinks WHERE paused_at IS NOT NULL;

-- pause --
-- Hold a sink; when it is held already, since when stays.
INSERT INTO core.relay_sinks AS s (sink, paused_at) VALUES (%(sink)s, CURRENT_TIMESTAMP)
ON CONFLICT (sink) DO UPDATE SET paused_at = coalesce(s.paused_at, excluded.paused_at);

-- resume --
-- Let a sink go on; returns whether it was held.
UPDATE core.relay_sinks SET paused_at = NULL
WHERE sink = %(sink)s AND paused_at IS NOT NULL RETURNING sink;

-- lock_letters --
-- One at a time, so that the number of letters is what was counted.
SELECT pg_advisory_xact_lock(hashtextextended('core.relay_dead_letters', 0));

-- held_letters --
-- How many letters of a sink each tenant has.
SELECT h.tenant, count(*) FROM core.relay_dead_letters AS h
WHERE h.sink = %(sink)s GROUP BY h.tenant;

-- known_letters --
-- Which of these keys have a letter.
SELECT l.table_name, l.key
FROM jsonb_to_recordset(%(asked)s::jsonb) AS a (table_name text, key text [])
INNER JOIN core.relay_dead_letters AS l
    ON l.sink = %(sink)s AND l.table_name = a.table_name AND l.key = a.key;

-- park --
-- Keep a refused change, over an older one of its key.
INSERT INTO core.relay_dead_letters AS l
(sink, table_name, key, database, version, deleted, cause, row_data, tenant)
VALUES (
    %(sink)s::text, %(table)s::text, %(key)s::text [], %(database)s::text, %(version)s::bigint,
    %(deleted)s::boolean, %(cause)s::text, %(row)s::jsonb, %(tenant)s::text
)
ON CONFLICT (sink, table_name, key) DO UPDATE SET
    version = greatest(l.version, excluded.version),
    deleted = CASE WHEN excluded.version >= l.version THEN excluded.deleted ELSE l.deleted END,
    cause = CASE WHEN excluded.version >= l.version THEN excluded.cause ELSE l.cause END,
    row_data = CASE WHEN excluded.version >= l.version THEN excluded.row_data ELSE l.row_data END,
    tries = l.tries + CASE WHEN excluded.version > l.version THEN 1 ELSE 0 END,
    replay_requested_at = NULL;

-- take_away_newest --
-- So many letters of a tenant give way to those of others.
DELETE FROM core.relay_dead_letters AS d USING (
    SELECT l.table_name, l.key FROM core.relay_dead_letters AS l
    WHERE l.sink = %(sink)s AND l.tenant IS NOT DISTINCT FROM %(tenant)s::text
    ORDER BY l.parked_at DESC, l.table_name DESC, l.key DESC LIMIT %(letters)s::bigint
) AS n
WHERE d.sink = %(sink)s AND d.table_name = n.table_name AND d.key = n.key;

-- count_unparked --
-- Remember that there was no room for so many.
INSERT INTO core.relay_sinks AS s (sink, unparked) VALUES (%(sink)s, %(count)s)
ON CONFLICT (sink) DO UPDATE SET unparked = s.unparked + excluded.unparked;

-- letters --
-- What a sink refused, oldest first.
SELECT
    sink, table_name AS table, key, database, version, deleted, cause, row_data AS row, tenant,
    tries, parked_at
FROM core.relay_dead_letters
WHERE sink = %(sink)s ORDER BY parked_at, table_name, key LIMIT %(limit)s;

-- request_replay --
-- Ask that letters be sent again: all of the sink's, or those of a table, or of one key; returns
-- them.
UPDATE core.relay_dead_letters SET replay_requested_at = CURRENT_TIMESTAMP
WHERE sink = %(sink)s AND (%(table)s::text IS NULL OR table_name = %(table)s)
    AND (%(key)s::text [] IS NULL OR key = %(key)s)
RETURNING table_name, key;

-- still_requested --
-- How many of a sink's letters have still to be sent again.
SELECT count(*) FROM core.relay_dead_letters
WHERE sink = %(sink)s AND replay_requested_at IS NOT NULL;

-- requested_letters --
-- The next ones to send again, so many of each table of each of these sinks: what cannot be sent
-- holds up nothing else.
SELECT t.sink, t.table_name, l.key
FROM (
    SELECT DISTINCT d.sink, d.table_name FROM core.relay_dead_letters AS d
    WHERE d.sink = any(%(sinks)s) AND d.replay_requested_at IS NOT NULL
) AS t
CROSS JOIN LATERAL (
    SELECT d.key FROM core.relay_dead_letters AS d
    WHERE
        d.sink = t.sink AND d.table_name = t.table_name AND d.replay_requested_at IS NOT NULL
    ORDER BY d.parked_at, d.key LIMIT %(limit)s
) AS l
ORDER BY t.sink, t.table_name;

-- end_replay --
-- What was asked for cannot be done: the letters stay, and the request does not.
UPDATE core.relay_dead_letters SET replay_requested_at = NULL
WHERE sink = %(sink)s AND table_name = %(table)s AND replay_requested_at IS NOT NULL;

-- remove_letter --
-- The sink has the row now, as of that version; a newer letter stays.
DELETE FROM core.relay_dead_letters
WHERE sink = %(sink)s AND table_name = %(table)s AND key = %(key)s::text []
    AND version <= %(version)s;

-- request_rebuild --
-- Ask for a table to be made anew; one that is under way goes on.
INSERT INTO core.relay_rebuilds AS r (sink, table_name) VALUES (%(sink)s, %(table)s)
ON CONFLICT (sink, whole, table_name) DO UPDATE SET
    state = 'requested', version = NULL, error = NULL, requested_at = CURRENT_TIMESTAMP,
    finished_at = NULL
WHERE r.state IN ('done', 'failed')
RETURNING sink;

-- forget_ranges --
-- The parts of an earlier rebuild.
DELETE FROM core.relay_rebuild_ranges
WHERE sink = %(sink)s AND whole = %(whole)s AND table_name = %(table)s;

-- wanted_rebuilds --
-- What these sinks have to make anew, or to go on with.
SELECT sink, table_name, version, whole, shape FROM core.relay_rebuilds
WHERE sink = any(%(sinks)s) AND state IN ('requested', 'copying') ORDER BY requested_at;

-- begin_copy --
-- All tables of a sink are to be copied.
INSERT INTO core.relay_rebuilds (sink, whole, table_name)
SELECT %(sink)s::text, true, t.name FROM unnest(%(tables)s::text []) AS t (name);

-- copy_of --
-- The tables of such a copy.
SELECT sink, table_name, version, whole, shape FROM core.relay_rebuilds
WHERE sink = %(sink)s AND whole ORDER BY table_name;

-- forget_copy --
-- It is complete, or will not be gone on with; without a version, whichever it is. Tables that were
-- begun anew bear a later version than the copy.
DELETE FROM core.relay_rebuilds
WHERE
    sink = %(sink)s AND whole
    AND (
        %(version)s::bigint IS NULL
        OR %(version)s = (
            SELECT min(r.version) FROM core.relay_rebuilds AS r
            WHERE r.sink = %(sink)s AND r.whole
        )
    );

-- begin_table --
-- The snapshot is there, and the parts are known.
UPDATE core.relay_rebuilds SET
    state = 'copying', version = %(version)s, shape = %(shape)s
WHERE sink = %(sink)s AND whole = %(whole)s AND table_name = %(table)s;

-- add_range --
-- One part.
INSERT INTO core.relay_rebuild_ranges (sink, whole, table_name, number, low, high)
VALUES (%(sink)s, %(whole)s, %(table)s, %(number)s, %(low)s::text [], %(high)s::text []);

-- ranges_left --
-- The parts that are still to be copied.
SELECT number, low, high FROM core.relay_rebuild_ranges
WHERE
    sink = %(sink)s AND whole = %(whole)s AND table_name = %(table)s AND done_at IS NULL
ORDER BY number;

-- range_done --
-- A part is in the sink.
UPDATE core.relay_rebuild_ranges SET done_at = CURRENT_TIMESTAMP, row_count = %(rows)s
WHERE
    sink = %(sink)s AND whole = %(whole)s AND table_name = %(table)s AND number = %(number)s;

-- end_rebuild --
-- It is done, or will never be: then with its error.
UPDATE core.relay_rebuilds SET state = %(state)s, error = %(error)s,
    finished_at = CURRENT_TIMESTAMP
WHERE sink = %(sink)s AND whole = %(whole)s AND table_name = %(table)s;

-- rebuilds --
-- Every rebuild that was asked for and every copy of all tables, and how far it is.
SELECT
    r.sink, r.table_name AS table, r.whole, r.state, r.error, r.requested_at, r.finished_at,
    count(g.number) AS ranges, count(g.done_at) AS ranges_done,
    coalesce(sum(g.row_count), 0)::bigint AS rows
FROM core.relay_rebuilds AS r
LEFT JOIN core.relay_rebuild_ranges AS g
    ON g.sink = r.sink AND g.whole = r.whole AND g.table_name = r.table_name
WHERE
    %(sink)s::text IS NULL
    OR (r.sink = %(sink)s AND NOT r.whole AND r.table_name = %(table)s)
GROUP BY r.sink, r.whole, r.table_name ORDER BY r.requested_at, r.table_name;

-- standing --
-- What is asked of each sink, and what it refused.
SELECT
    coalesce(s.sink, l.sink) AS sink, s.paused_at, coalesce(s.unparked, 0) AS unparked,
    coalesce(l.letters, 0)::bigint AS letters, l.most_of, coalesce(l.most, 0) AS most
FROM core.relay_sinks AS s
FULL JOIN (
    SELECT
        t.sink, sum(t.letters) AS letters, max(t.letters) FILTER (WHERE t.tenant IS NOT NULL) AS most,
        (array_agg(t.tenant ORDER BY t.letters DESC) FILTER (WHERE t.tenant IS NOT NULL))[1] AS most_of
    FROM (
        SELECT d.sink, d.tenant, count(*) AS letters FROM core.relay_dead_letters AS d
        GROUP BY d.sink, d.tenant
    ) AS t GROUP BY t.sink
) AS l ON l.sink = s.sink
ORDER BY 1;
