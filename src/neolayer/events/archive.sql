-- closed_streams --
-- Streams that are closed and still in the table, closed behind a place and up to one; the oldest
-- first, each with where its closing event stands.
SELECT h.aggregate_id, e.transaction_id::text::bigint, e.position FROM public.stream_heads AS h
INNER JOIN public.events AS e
    ON h.tenant_id = e.tenant_id AND h.aggregate_id = e.aggregate_id AND h.version = e.event_version
WHERE
    h.tenant_id = (SELECT core.current_tenant()) AND h.is_closed
    AND (e.transaction_id, e.position) > (%(after_transaction)s::text::xid8, %(after_index)s::bigint)
    AND (e.transaction_id, e.position) <= (%(transaction)s::text::xid8, %(index)s::bigint)
ORDER BY e.transaction_id, e.position
LIMIT %(limit)s::bigint;

-- stream_lines --
-- A stream's events as a segment's lines.
SELECT line FROM public.stream_lines(%(stream)s::uuid);

-- archive_stream --
-- Take its events out of the table, if they are what was read back.
SELECT public.archive_stream(%(stream)s::uuid, %(bytes)s::bigint, %(lines_hash)s::text);

-- archived_stream --
-- Where a stream's events are.
SELECT object_key, object_hash, lines_bytes FROM public.archived_streams
WHERE tenant_id = (SELECT core.current_tenant()) AND aggregate_id = %(stream)s::uuid;
