-- migrate:up
-- What the relay reads from the commit log. Under the parents' names, so that a new partition is
-- one more drawer of the same table to every sink.
CREATE PUBLICATION neolayer_relay FOR TABLE
blockchain.networks,
blockchain.blocks,
blockchain.transactions,
blockchain.logs,
blockchain.smart_contracts
WITH (publish_via_partition_root = true);

-- migrate:down
-- The relay's slot stays; without its publication it stops and says so.
DROP PUBLICATION neolayer_relay;
