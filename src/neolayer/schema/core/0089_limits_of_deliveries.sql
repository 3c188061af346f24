-- migrate:up
-- The relay makes deliveries of announcements, which are counted (0083). What a tenant writes into
-- them itself is a trial, small and behind few that wait, and that one is to be told again; else
-- whoever writes by SQL would have deliveries made past every limit. The relay is above row security.
CREATE FUNCTION core.admit_delivery() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    waiting bigint;
BEGIN
    IF NOT row_security_active('core.webhook_deliveries') THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        IF NEW.status = 'pending' AND (
            NEW.tenant_id, NEW.webhook_id, NEW.number, NEW.event_id, NEW.event_type, NEW.version,
            NEW.envelope, NEW.created_at
        ) = (
            OLD.tenant_id, OLD.webhook_id, OLD.number, OLD.event_id, OLD.event_type, OLD.version,
            OLD.envelope, OLD.created_at
        ) THEN
            RETURN NEW;
        END IF;
        RAISE EXCEPTION 'a delivery is told again as it is, and not changed'
            USING ERRCODE = 'insufficient_privilege', HINT = 'neolayer webhooks replay';
    END IF;
    IF octet_length(NEW.envelope) > 8192 THEN
        RAISE EXCEPTION 'a trial is no larger than 8 KiB' USING ERRCODE = 'check_violation',
            SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
            CONSTRAINT = 'webhook_deliveries_envelope_size_check';
    END IF;
    SELECT count(*) INTO waiting FROM (
        SELECT FROM core.webhook_deliveries d
        WHERE d.tenant_id = NEW.tenant_id AND d.webhook_id = NEW.webhook_id
            AND d.status = 'pending'
        LIMIT 1000
    ) AS w;
    IF waiting >= 1000 THEN
        RAISE EXCEPTION '1000 deliveries wait for this webhook, and a trial would wait behind them'
            USING ERRCODE = 'check_violation', SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
            CONSTRAINT = 'webhook_deliveries_waiting_check';
    END IF;
    RETURN NEW;
END
$$;
-- Whoever writes there is asked.
CREATE TRIGGER admit_delivery BEFORE INSERT OR UPDATE ON core.webhook_deliveries
FOR EACH ROW EXECUTE FUNCTION core.admit_delivery();

-- Every delivery is signed with each secret: there are as many as a rotation leaves, whoever adds
-- them. Whoever adds one has the webhook, so that two who do so at once both count.
CREATE FUNCTION core.admit_webhook_secret() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM FROM core.webhooks w
    WHERE w.tenant_id = NEW.tenant_id AND w.id = NEW.webhook_id FOR NO KEY UPDATE;
    IF (
        SELECT count(*) FROM core.webhook_secrets s
        WHERE s.tenant_id = NEW.tenant_id AND s.webhook_id = NEW.webhook_id
    ) >= 8 THEN
        RAISE EXCEPTION 'a webhook has 8 secrets and no more' USING ERRCODE = 'check_violation',
            SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME,
            CONSTRAINT = 'webhook_secrets_number_check',
            HINT = 'those that ended go with the next rotation, others by DELETE';
    END IF;
    RETURN NEW;
END
$$;
-- The same of secrets.
CREATE TRIGGER admit_secret BEFORE INSERT ON core.webhook_secrets
FOR EACH ROW EXECUTE FUNCTION core.admit_webhook_secret();

-- migrate:down
DROP TRIGGER admit_secret ON core.webhook_secrets;
DROP FUNCTION core.admit_webhook_secret();
DROP TRIGGER admit_delivery ON core.webhook_deliveries;
DROP FUNCTION core.admit_delivery();
