-- checkpoint --
-- How far the sink is.
SELECT c.version FROM core.relay_checkpoints AS c WHERE c.sink = %(sink)s;

-- move --
-- The sink is there now.
INSERT INTO core.relay_checkpoints AS c (sink, version) VALUES (%(sink)s, %(version)s)
ON CONFLICT (sink) DO UPDATE SET version = excluded.version
RETURNING c.version;

-- subscriptions --
-- What the active endpoints of these tenants want to be told, and since when, within the years that
-- Python knows: a tenant may write others; of open tenants only.
SELECT
    w.tenant_id, w.id, w.event_types,
    least(greatest(w.created_at, '0002-01-01 00:00+00'), '9999-01-01 00:00+00')
FROM core.webhooks AS w
JOIN core.tenant_standing AS t ON t.id = w.tenant_id AND NOT t.is_closed
WHERE w.status = 'active' AND w.tenant_id = ANY (%(tenants)s::uuid []);

-- wait_a_moment --
-- For locks, until the end of this transaction or savepoint.
SELECT set_config('lock_timeout', %(lock_ms)s, true);

-- enqueue --
-- Events behind what waits already; one that an endpoint has or had is left out.
INSERT INTO core.webhook_deliveries (
    tenant_id, webhook_id, event_id, event_type, version, envelope
)
SELECT e.tenant_id, e.webhook_id, e.event_id, e.event_type, e.version, e.envelope
FROM unnest(
    %(tenants)s::uuid [], %(webhooks)s::uuid [], %(events)s::text [], %(types)s::text [],
    %(versions)s::bigint [], %(envelopes)s::text []
) WITH ORDINALITY AS e (tenant_id, webhook_id, event_id, event_type, version, envelope, place)
ORDER BY e.place
ON CONFLICT (tenant_id, webhook_id, event_id) DO NOTHING;
