-- migrate:up
-- A core row that must be announced writes a row here in its own transaction: the commit log
-- carries it to the outgoing streams (NATS, Kafka) and webhooks. A table and not a message in the
-- log alone, so that a stream that has to start over finds what it missed; rows go after some days.
CREATE TABLE core.outbox (
    tenant_id uuid NOT NULL REFERENCES core.tenants (id),
    event_id uuid NOT NULL DEFAULT gen_random_uuid(),
    subject varchar(100) NOT NULL CHECK (subject ~ '^[a-z0-9][a-z0-9_-]*$'),
    key varchar(255) NOT NULL CHECK (key <> ''),
    event_type varchar(255) NOT NULL CHECK (event_type ~ '^[A-Za-z0-9][A-Za-z0-9._-]*$'),
    event_data jsonb NOT NULL,
    schema_version int NOT NULL DEFAULT 1 CHECK (schema_version > 0),
    correlation_id uuid,
    causation_id uuid,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (tenant_id, event_id)
);
-- What is old enough to go. Rows are only added, so their time follows their place on disk.
CREATE INDEX idx_outbox_created_at ON core.outbox USING brin (created_at);
CREATE TRIGGER keep_rows BEFORE UPDATE ON core.outbox
FOR EACH STATEMENT EXECUTE FUNCTION core.refuse_change('what was announced is not changed');

-- Where a tenant wants to be told of events, and of which: 'wallet.*' is what begins with
-- 'wallet.', '*' is all. next_attempt_at holds back an endpoint that failed.
CREATE TABLE core.webhooks (
    tenant_id uuid NOT NULL REFERENCES core.tenants (id),
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    name varchar(100) NOT NULL,
    url varchar(2048) NOT NULL CHECK (url ~ '^https?://'),
    event_types text [] NOT NULL CHECK (cardinality(event_types) BETWEEN 1 AND 100),
    status varchar(50) NOT NULL DEFAULT 'active',
    disabled_reason varchar(500),
    failing_since timestamptz,
    last_error varchar(500),
    last_delivered_at timestamptz,
    next_attempt_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT webhooks_name_unique UNIQUE (tenant_id, name),
    CONSTRAINT webhooks_name_check CHECK (core.is_canonical(name)),
    CONSTRAINT webhooks_status_check CHECK (status IN ('active', 'disabled'))
);
CREATE TRIGGER touch BEFORE UPDATE ON core.webhooks
FOR EACH ROW EXECUTE FUNCTION core.touch_updated_at();

-- What signs the deliveries, sealed by the keyring. After a rotation the old one signs beside the
-- new one until it expires.
CREATE TABLE core.webhook_secrets (
    tenant_id uuid NOT NULL,
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    webhook_id uuid NOT NULL,
    sealed_secret varchar(255) NOT NULL,
    key_id varchar(100) NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz,
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT webhook_secrets_webhook_fkey FOREIGN KEY (tenant_id, webhook_id)
    REFERENCES core.webhooks (tenant_id, id) ON DELETE CASCADE
);
-- The secrets of a webhook.
CREATE INDEX idx_webhook_secrets_webhook ON core.webhook_secrets (tenant_id, webhook_id);

-- One event for one endpoint: delivered in the order of number, until taken or parked. Delivered
-- ones stay for a while, so that an event that comes again is known, and can be sent again.
CREATE TABLE core.webhook_deliveries (
    tenant_id uuid NOT NULL,
    webhook_id uuid NOT NULL,
    number bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    event_id varchar(512) NOT NULL,
    event_type varchar(255) NOT NULL,
    version bigint NOT NULL,
    envelope text NOT NULL,
    status varchar(50) NOT NULL DEFAULT 'pending',
    attempts int NOT NULL DEFAULT 0,
    last_error varchar(500),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    PRIMARY KEY (tenant_id, webhook_id, number),
    CONSTRAINT webhook_deliveries_event_unique UNIQUE (tenant_id, webhook_id, event_id),
    CONSTRAINT webhook_deliveries_status_check CHECK (
        status IN ('pending', 'delivered', 'parked')
    ),
    CONSTRAINT webhook_deliveries_webhook_fkey FOREIGN KEY (tenant_id, webhook_id)
    REFERENCES core.webhooks (tenant_id, id) ON DELETE CASCADE
);
-- What waits, by endpoint and in order.
CREATE INDEX idx_webhook_deliveries_pending ON core.webhook_deliveries
(webhook_id, number) WHERE status = 'pending';
-- What is old enough to go.
CREATE INDEX idx_webhook_deliveries_created_at ON core.webhook_deliveries USING brin (created_at);

-- How far the sinks are that live in this database.
CREATE TABLE core.relay_checkpoints (
    sink varchar(100) PRIMARY KEY,
    version bigint NOT NULL CHECK (version >= 0),
    updated_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE TRIGGER touch BEFORE UPDATE ON core.relay_checkpoints
FOR EACH ROW EXECUTE FUNCTION core.touch_updated_at();

-- Each tenant sees its own.
ALTER TABLE core.outbox ENABLE ROW LEVEL SECURITY;
ALTER TABLE core.outbox FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON core.outbox TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
ALTER TABLE core.webhooks ENABLE ROW LEVEL SECURITY;
ALTER TABLE core.webhooks FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON core.webhooks TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
ALTER TABLE core.webhook_secrets ENABLE ROW LEVEL SECURITY;
ALTER TABLE core.webhook_secrets FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON core.webhook_secrets TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
ALTER TABLE core.webhook_deliveries ENABLE ROW LEVEL SECURITY;
ALTER TABLE core.webhook_deliveries FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON core.webhook_deliveries TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));

-- The application announces and says who is told; the relay tells, and puts old rows away.
GRANT SELECT, INSERT ON core.outbox TO neolayer_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON core.webhooks, core.webhook_secrets TO neolayer_app;
GRANT SELECT, INSERT, UPDATE ON core.webhook_deliveries TO neolayer_app;
GRANT SELECT, DELETE ON core.outbox TO neolayer_relay;
GRANT SELECT, UPDATE ON core.webhooks TO neolayer_relay;
GRANT SELECT ON core.webhook_secrets TO neolayer_relay;
GRANT SELECT, INSERT, UPDATE, DELETE ON core.webhook_deliveries, core.relay_checkpoints
TO neolayer_relay;
GRANT SELECT ON
core.outbox, core.webhooks, core.webhook_secrets, core.webhook_deliveries, core.relay_checkpoints
TO neolayer_backup;
GRANT SELECT ON core.relay_checkpoints TO neolayer_app;
GRANT SELECT ON core.outbox, core.webhooks, core.webhook_deliveries, core.relay_checkpoints
TO neolayer_operator;
GRANT SELECT (tenant_id, id, webhook_id, key_id, created_at, expires_at)
ON core.webhook_secrets TO neolayer_operator;

-- What the relay reads: announcements are on their way out.
ALTER PUBLICATION neolayer_relay ADD TABLE core.outbox;

-- migrate:down
-- A way back while there is nothing to lose; checkpoints alone say only that nothing waits.
SELECT neolayer_schema.refuse_to_lose('core.outbox', 'core.webhooks', 'core.webhook_deliveries');
DROP TABLE core.relay_checkpoints;
DROP TABLE core.webhook_deliveries;
DROP TABLE core.webhook_secrets;
DROP TABLE core.webhooks;
DROP TABLE core.outbox;
