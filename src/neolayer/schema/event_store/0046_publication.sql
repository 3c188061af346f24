-- migrate:up
-- What the event store's reader takes from its commit log: facts, to be sent on and searched.
-- Streams' heads, snapshots and projections are derived here, or stay here.
CREATE PUBLICATION neolayer_relay FOR TABLE public.events
WITH (publish_via_partition_root = true);

-- migrate:down
-- The slot stays; without its publication the reader stops and says so.
DROP PUBLICATION neolayer_relay;
