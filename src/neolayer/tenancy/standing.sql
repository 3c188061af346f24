-- closed_tenants --
-- In the core database, for operators: the tenants that are deleted.
SELECT id FROM core.tenant_standing WHERE is_closed;

-- note_standing --
-- In the event store: these are the deleted tenants, and no others; how many that changes.
SELECT core.note_standing(%(closed)s::uuid []);
