-- migrate:up
-- A sink that missed changes is copied as a whole: nobody asks for it, the relay does it and writes
-- down here how far it is, beside the rebuilds that were asked for. Its tables bear one version.
-- When all are copied its rows go, and a rebuild of one of them stays what it was.
ALTER TABLE core.relay_rebuild_ranges
DROP CONSTRAINT relay_rebuild_ranges_sink_table_name_fkey,
DROP CONSTRAINT relay_rebuild_ranges_pkey,
ADD COLUMN whole boolean NOT NULL DEFAULT false;
ALTER TABLE core.relay_rebuilds
DROP CONSTRAINT relay_rebuilds_pkey,
ADD COLUMN whole boolean NOT NULL DEFAULT false,
ADD PRIMARY KEY (sink, whole, table_name);
ALTER TABLE core.relay_rebuild_ranges
ADD PRIMARY KEY (sink, whole, table_name, number),
ADD FOREIGN KEY (sink, whole, table_name) REFERENCES core.relay_rebuilds (sink, whole, table_name)
ON DELETE CASCADE;

-- migrate:down
-- What is lost is how far copies are: they start over.
DELETE FROM core.relay_rebuilds WHERE whole;
ALTER TABLE core.relay_rebuild_ranges
DROP CONSTRAINT relay_rebuild_ranges_sink_whole_table_name_fkey,
DROP COLUMN whole,
ADD PRIMARY KEY (sink, table_name, number);
ALTER TABLE core.relay_rebuilds
DROP COLUMN whole,
ADD PRIMARY KEY (sink, table_name);
ALTER TABLE core.relay_rebuild_ranges
ADD FOREIGN KEY (sink, table_name) REFERENCES core.relay_rebuilds (sink, table_name)
ON DELETE CASCADE;
