-- migrate:up
-- What the parts of a table that are in the sink were copied as: a mark of its key and columns. A
-- program that copies others begins the table anew; so it does where nothing is noted.
ALTER TABLE core.relay_rebuilds ADD COLUMN shape varchar(32);

-- migrate:down
ALTER TABLE core.relay_rebuilds DROP COLUMN shape;
