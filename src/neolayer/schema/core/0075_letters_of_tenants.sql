-- migrate:up
-- Whose row a letter is about, NULL for what is everybody's: where there is no more room, the one
-- who has the most letters gives way, so that one tenant's poison rows do not hide those of others.
ALTER TABLE core.relay_dead_letters ADD COLUMN tenant varchar(100);

-- migrate:down
ALTER TABLE core.relay_dead_letters DROP COLUMN tenant;
