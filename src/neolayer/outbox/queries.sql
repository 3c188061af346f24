-- announce --
-- One event of the current transaction; an id that was announced before is refused.
INSERT INTO core.outbox (
    tenant_id, event_id, subject, key, event_type, event_data, schema_version,
    correlation_id, causation_id
)
VALUES (
    %(tenant_id)s, %(event_id)s, %(subject)s, %(key)s, %(event_type)s, %(event_data)s,
    %(schema_version)s, %(correlation_id)s, %(causation_id)s
);

-- sweep_outbox --
-- Delete some events older than so long; the number of rows is what went.
DELETE FROM core.outbox
WHERE ctid = ANY (
    ARRAY(
        SELECT o.ctid FROM core.outbox AS o
        WHERE o.created_at < clock_timestamp() - %(keep)s::interval
        LIMIT %(limit)s::int
    )
)
RETURNING 1;
