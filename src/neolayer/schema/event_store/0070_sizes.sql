-- migrate:up
-- What 0069 of the core database says holds here too: what one tenant writes, projections, the relay
-- and consumers of all tenants read. JSON is measured as the text that a reader gets.
ALTER TABLE public.events
ADD CONSTRAINT events_event_data_size_check CHECK (octet_length(event_data::text) <= 1048576),
ADD CONSTRAINT events_metadata_size_check CHECK (octet_length(metadata::text) <= 262144);
ALTER TABLE public.snapshots ADD CONSTRAINT snapshots_snapshot_data_size_check
CHECK (octet_length(snapshot_data::text) <= 16777216);
ALTER TABLE public.parked_events ADD CONSTRAINT parked_events_cause_size_check
CHECK (octet_length(cause) <= 16384);

-- migrate:down
ALTER TABLE public.parked_events DROP CONSTRAINT parked_events_cause_size_check;
ALTER TABLE public.snapshots DROP CONSTRAINT snapshots_snapshot_data_size_check;
ALTER TABLE public.events
DROP CONSTRAINT events_metadata_size_check,
DROP CONSTRAINT events_event_data_size_check;
