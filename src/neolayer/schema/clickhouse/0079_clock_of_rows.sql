-- migrate:up
-- The year of a row runs from when PostgreSQL took it in, not from when it came here: a table that is
-- rebuilt would keep another year what is a year old. The trace of a deletion knows only its key; it
-- counts from its arrival, so that it outlives every version of the row that it hides.
ALTER TABLE blocks MODIFY COLUMN IF EXISTS ingested_at DateTime('UTC')
DEFAULT if(_deleted = 1 OR created_at < '1971-01-01', now(), toDateTime(least(created_at, now64(6))));
ALTER TABLE transactions MODIFY COLUMN IF EXISTS ingested_at DateTime('UTC')
DEFAULT if(_deleted = 1 OR created_at < '1971-01-01', now(), toDateTime(least(created_at, now64(6))));
ALTER TABLE logs MODIFY COLUMN IF EXISTS ingested_at DateTime('UTC')
DEFAULT if(_deleted = 1 OR created_at < '1971-01-01', now(), toDateTime(least(created_at, now64(6))));
ALTER TABLE smart_contracts MODIFY COLUMN IF EXISTS ingested_at DateTime('UTC')
DEFAULT if(_deleted = 1 OR created_at < '1971-01-01', now(), toDateTime(least(created_at, now64(6))));

-- migrate:down
ALTER TABLE smart_contracts MODIFY COLUMN IF EXISTS ingested_at DateTime('UTC') DEFAULT now();
ALTER TABLE logs MODIFY COLUMN IF EXISTS ingested_at DateTime('UTC') DEFAULT now();
ALTER TABLE transactions MODIFY COLUMN IF EXISTS ingested_at DateTime('UTC') DEFAULT now();
ALTER TABLE blocks MODIFY COLUMN IF EXISTS ingested_at DateTime('UTC') DEFAULT now();
