-- migrate:up
-- Each webhook is told each announcement it asks for, by workers of all tenants: who may write both
-- by SQL could have them make as many deliveries as they like. So both are counted as 0030 counts
-- documents, and end at a tier's limit: an announcement counts until it is swept, after three days.
CREATE OR REPLACE FUNCTION core.is_limits(limits jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN jsonb_typeof(limits) = 'object' AND NOT EXISTS (
    SELECT FROM jsonb_each(CASE WHEN jsonb_typeof(limits) = 'object' THEN limits ELSE '{}' END) AS l
    WHERE l.key NOT IN (
        'users', 'wallets', 'documents', 'webhooks', 'announcements', 'requests_per_minute'
    )
        OR NOT (l.value = 'null' OR l.value::text ~ '^[0-9]{1,12}$')
);
UPDATE core.tiers AS t SET limits = d.limits || t.limits
FROM (
    VALUES
    ('free', '{"webhooks": 3, "announcements": 20000}'::jsonb),
    ('basic', '{"webhooks": 10, "announcements": 200000}'),
    ('pro', '{"webhooks": 50, "announcements": 2000000}'),
    ('enterprise', '{"webhooks": 500, "announcements": 20000000}')
) AS d (tier, limits)
WHERE d.tier = t.tier;

-- Rows that are older than the counting; what a tenant has beyond its limit stays. FORCE holds the
-- owner too, hence the pause; it ends with this transaction, and nobody else gets in before.
ALTER TABLE core.webhooks NO FORCE ROW LEVEL SECURITY;
ALTER TABLE core.outbox NO FORCE ROW LEVEL SECURITY;
INSERT INTO core.usage_slots (tenant, resource, slot, used, quota)
SELECT c.tenant, c.resource, s.slot, CASE s.slot WHEN 0 THEN c.rows ELSE 0 END, 0
FROM (
    SELECT tenant_id AS tenant, 'webhooks' AS resource, count(*) AS rows FROM core.webhooks
    GROUP BY tenant_id
    UNION ALL
    SELECT tenant_id, 'announcements', count(*) FROM core.outbox GROUP BY tenant_id
) AS c
CROSS JOIN generate_series(0, 7) AS s (slot);
ALTER TABLE core.webhooks FORCE ROW LEVEL SECURITY;
ALTER TABLE core.outbox FORCE ROW LEVEL SECURITY;

-- From here on whoever writes is counted, and refused beyond the limit.
CREATE TRIGGER count_added AFTER INSERT ON core.webhooks
REFERENCING NEW TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION core.count_rows('webhooks');
CREATE TRIGGER count_removed AFTER DELETE ON core.webhooks
REFERENCING OLD TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION core.count_rows('webhooks');
CREATE TRIGGER count_added AFTER INSERT ON core.outbox
REFERENCING NEW TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION core.count_rows('announcements');
CREATE TRIGGER count_removed AFTER DELETE ON core.outbox
REFERENCING OLD TABLE AS changed
FOR EACH STATEMENT EXECUTE FUNCTION core.count_rows('announcements');

-- migrate:down
-- Limits of what is no longer limited say nothing.
DROP TRIGGER count_removed ON core.outbox;
DROP TRIGGER count_added ON core.outbox;
DROP TRIGGER count_removed ON core.webhooks;
DROP TRIGGER count_added ON core.webhooks;
DELETE FROM core.usage_slots WHERE resource IN ('webhooks', 'announcements');
UPDATE core.tiers SET limits = limits - 'webhooks' - 'announcements';
ALTER TABLE core.tenants NO FORCE ROW LEVEL SECURITY;
UPDATE core.tenants SET limits = limits - 'webhooks' - 'announcements'
WHERE limits ?| ARRAY['webhooks', 'announcements'];
ALTER TABLE core.tenants FORCE ROW LEVEL SECURITY;
CREATE OR REPLACE FUNCTION core.is_limits(limits jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN jsonb_typeof(limits) = 'object' AND NOT EXISTS (
    SELECT FROM jsonb_each(CASE WHEN jsonb_typeof(limits) = 'object' THEN limits ELSE '{}' END) AS l
    WHERE l.key NOT IN ('users', 'wallets', 'documents', 'requests_per_minute')
        OR NOT (l.value = 'null' OR l.value::text ~ '^[0-9]{1,12}$')
);
