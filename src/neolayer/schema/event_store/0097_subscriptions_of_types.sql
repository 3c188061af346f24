-- migrate:up
-- What a subscription reads and where it began belong to it: whoever asks for it later with other
-- types would pass over events without a word. No types: all. Neither is known of those made before;
-- whoever subscribes next says it.
ALTER TABLE public.subscriptions
ADD COLUMN types varchar(255) [],
ADD COLUMN started_transaction_id xid8,
ADD COLUMN started_position bigint,
ADD CONSTRAINT subscriptions_types_check CHECK (cardinality(types) BETWEEN 1 AND 1000),
ADD CONSTRAINT subscriptions_started_check
CHECK ((started_transaction_id IS NULL) = (started_position IS NULL));

-- As in 0053_subscriptions.sql, and rows of killed consumers do not stay.
-- Say that a consumer is there for as long as `lease`, keep its partitions, give up what is more
-- than its share of them and take what nobody holds up to it. Returns what it holds. Consumers that
-- went without a word are forgotten here.
CREATE OR REPLACE FUNCTION public.claim_partitions(named text, by_consumer text, lease interval)
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
    DELETE FROM public.subscription_consumers c
    USING (
        SELECT d.consumer FROM public.subscription_consumers d
        WHERE d.tenant_id = asking AND d.subscription = named AND d.seen_until <= present
        FOR UPDATE SKIP LOCKED
    ) AS dead
    WHERE c.tenant_id = asking AND c.subscription = named AND c.consumer = dead.consumer;
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

-- migrate:down
SELECT neolayer_schema.refuse_to_lose('public.subscriptions');
-- Say that a consumer is there for as long as `lease`, keep its partitions, give up what is more
-- than its share of them and take what nobody holds up to it. Returns what it holds.
CREATE OR REPLACE FUNCTION public.claim_partitions(named text, by_consumer text, lease interval)
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
ALTER TABLE public.subscriptions
DROP COLUMN types,
DROP COLUMN started_transaction_id,
DROP COLUMN started_position;
