-- tenant_id --
-- The id of a living tenant, by its id or its identifier.
SELECT id FROM core.tenants
WHERE (id::text = %(tenant)s OR identifier = %(tenant)s) AND deleted_at IS NULL;

-- be_owner --
-- Only the owner may read the key that signs contexts.
SET LOCAL ROLE neolayer_owner;

-- assume_context --
-- Be a tenant for the rest of this transaction; the database checks the signature.
SELECT set_config('neolayer.context', %(context)s, true);

-- no_other_limits --
-- A question has its own limit on time, and keeps nobody back: it writes nothing.
SELECT set_config(s.name, '0', true) FROM pg_settings AS s
WHERE s.name IN ('transaction_timeout', 'idle_in_transaction_session_timeout');

-- parked_subscriptions --
-- Subscriptions with events that they could not handle, and how many wait behind those.
SELECT
    p.tenant_id, p.subscription, count(*) FILTER (WHERE p.cause IS NOT NULL),
    count(*) FILTER (WHERE p.cause IS NULL)
FROM public.parked_events AS p
GROUP BY p.tenant_id, p.subscription
ORDER BY count(*) DESC, p.tenant_id, p.subscription LIMIT 100;

-- standing_read_models --
-- Read models that stand still, and in how many streams the others do.
SELECT p.projection_name, p.status = 'failed', coalesce(w.streams, 0)
FROM public.projections AS p
LEFT JOIN (
    SELECT e.projection_name, count(*) AS streams FROM public.projection_parked_events AS e
    WHERE e.discarded_at IS NULL GROUP BY e.projection_name
) AS w ON w.projection_name = p.projection_name
WHERE p.status = 'failed' OR w.streams > 0
ORDER BY coalesce(w.streams, 0) DESC, p.projection_name LIMIT 100;
