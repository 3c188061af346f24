-- migrate:up
-- A named reader of a tenant's events, shared by several consumers: each event belongs to one of
-- its partitions, by the hash of its stream, so that a stream's events are handled in order.
CREATE TABLE public.subscriptions (
    tenant_id uuid NOT NULL,
    subscription varchar(255) NOT NULL,
    partitions int NOT NULL CHECK (partitions BETWEEN 1 AND 1024),
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (tenant_id, subscription)
);

-- Where each partition is, and who works on it until when. fence rises with every new owner: who
-- lost a partition without noticing stores nothing more for it.
CREATE TABLE public.subscription_partitions (
    tenant_id uuid NOT NULL,
    subscription varchar(255) NOT NULL,
    partition int NOT NULL CHECK (partition >= 0),
    transaction_id xid8 NOT NULL DEFAULT '0',
    position bigint NOT NULL DEFAULT 0,
    owner varchar(255),
    owned_until timestamptz,
    fence bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, subscription, partition),
    CONSTRAINT subscription_partitions_subscription_fkey FOREIGN KEY (tenant_id, subscription)
    REFERENCES public.subscriptions (tenant_id, subscription) ON DELETE CASCADE
) WITH (fillfactor = 50);

-- Who is there to work, so that partitions are shared out evenly.
CREATE TABLE public.subscription_consumers (
    tenant_id uuid NOT NULL,
    subscription varchar(255) NOT NULL,
    consumer varchar(255) NOT NULL,
    seen_until timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, subscription, consumer),
    CONSTRAINT subscription_consumers_subscription_fkey FOREIGN KEY (tenant_id, subscription)
    REFERENCES public.subscriptions (tenant_id, subscription) ON DELETE CASCADE
) WITH (fillfactor = 50);

-- Events that a subscription could not handle, each with its cause; or that wait behind one of
-- their stream (cause NULL). The event itself stays where it is.
CREATE TABLE public.parked_events (
    tenant_id uuid NOT NULL,
    subscription varchar(255) NOT NULL,
    aggregate_id uuid NOT NULL,
    event_version int NOT NULL CHECK (event_version > 0),
    cause text,
    attempts int NOT NULL CHECK (attempts >= 0),
    parked_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (tenant_id, subscription, aggregate_id, event_version),
    CONSTRAINT parked_events_subscription_fkey FOREIGN KEY (tenant_id, subscription)
    REFERENCES public.subscriptions (tenant_id, subscription) ON DELETE CASCADE
);

-- Each tenant sees its own.
ALTER TABLE public.subscriptions ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.subscriptions FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON public.subscriptions TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
ALTER TABLE public.subscription_partitions ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.subscription_partitions FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON public.subscription_partitions TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
ALTER TABLE public.subscription_consumers ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.subscription_consumers FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON public.subscription_consumers TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
ALTER TABLE public.parked_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.parked_events FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant_isolation ON public.parked_events TO neolayer_app, neolayer_owner
USING (tenant_id = (SELECT core.current_tenant()))
WITH CHECK (tenant_id = (SELECT core.current_tenant()));
GRANT SELECT, INSERT, UPDATE, DELETE ON public.subscriptions, public.subscription_partitions,
public.subscription_consumers, public.parked_events
TO neolayer_app;
GRANT SELECT ON public.subscriptions, public.subscription_partitions,
public.subscription_consumers, public.parked_events
TO neolayer_backup, neolayer_operator;

-- Say that a consumer is there for as long as `lease`, keep its partitions, give up what is more
-- than its share of them and take what nobody holds up to it. Returns what it holds.
CREATE FUNCTION public.claim_partitions(named text, by_consumer text, lease interval)
RETURNS TABLE (claimed int, fence bigint, transaction_id xid8, "position" bigint)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    asking uuid := core.current_tenant();
    share int;
    present timestamptz := clock_timestamp();
BEGIN
    INSERT INTO public.subscription_consumers AS c (tenant_id, subscription, consumer, seen_until)
    SELECT s.tenant_id, s.subscription, by_consumer, present + lease
    FROM public.subscriptions s WHERE s.tenant_id = asking AND s.subscription = named
    ON CONFLICT (tenant_id, subscription, consumer) DO UPDATE SET seen_until = excluded.seen_until;
    SELECT ceil(s.partitions::numeric / greatest((
        SELECT count(*) FROM public.subscription_consumers c
        WHERE c.tenant_id = asking AND c.subscription = named AND c.seen_until > present
    ), 1)) INTO share
    FROM public.subscriptions s WHERE s.tenant_id = asking AND s.subscription = named;
    UPDATE public.subscription_partitions p
    SET owned_until = CASE WHEN k.place <= share THEN present + lease END,
        owner = CASE WHEN k.place <= share THEN by_consumer END
    FROM (
        SELECT o.partition, row_number() OVER (ORDER BY o.partition) AS place
        FROM public.subscription_partitions o
        WHERE o.tenant_id = asking AND o.subscription = named AND o.owner = by_consumer
            AND o.owned_until > present
    ) AS k
    WHERE p.tenant_id = asking AND p.subscription = named AND p.partition = k.partition
        AND p.owner = by_consumer;
    UPDATE public.subscription_partitions p
    SET owner = by_consumer, owned_until = present + lease, fence = p.fence + 1
    FROM (
        SELECT f.partition FROM public.subscription_partitions f
        WHERE f.tenant_id = asking AND f.subscription = named
            AND (f.owned_until IS NULL OR f.owned_until <= present)
        ORDER BY f.partition
        LIMIT greatest(0, share - (
            SELECT count(*) FROM public.subscription_partitions o
            WHERE o.tenant_id = asking AND o.subscription = named AND o.owner = by_consumer
                AND o.owned_until > present
        ))
        FOR UPDATE SKIP LOCKED
    ) AS f
    WHERE p.tenant_id = asking AND p.subscription = named AND p.partition = f.partition;
    RETURN QUERY
    SELECT p.partition, p.fence, p.transaction_id, p.position
    FROM public.subscription_partitions p
    WHERE p.tenant_id = asking AND p.subscription = named AND p.owner = by_consumer
        AND p.owned_until > present
    ORDER BY p.partition;
END
$$;
GRANT EXECUTE ON FUNCTION public.claim_partitions(text, text, interval) TO neolayer_app;

-- migrate:down
-- Where each reader is would be lost, and what it could not handle.
SELECT neolayer_schema.refuse_to_lose('public.subscriptions');
DROP FUNCTION public.claim_partitions(text, text, interval);
DROP TABLE public.parked_events;
DROP TABLE public.subscription_consumers;
DROP TABLE public.subscription_partitions;
DROP TABLE public.subscriptions;
