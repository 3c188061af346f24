-- subject_keys --
-- The sealed keys of some data subjects; an erased one has none.
SELECT id, sealed_key FROM core.subject_keys WHERE id = ANY(%(subjects)s::uuid []);

-- add_subject_keys --
-- Keys for subjects that have none; where somebody else was first, theirs stays.
INSERT INTO core.subject_keys (tenant_id, id, sealed_key, key_id)
SELECT %(tenant)s::uuid, n.id, n.sealed, n.key
FROM unnest(%(subjects)s::uuid [], %(sealed)s::text [], %(keys)s::text []) AS n (id, sealed, key)
ON CONFLICT (tenant_id, id) DO NOTHING;

-- delete_subject_key --
-- Forget a key, and with it whatever it sealed; its id where there was one.
DELETE FROM core.subject_keys WHERE id = %(subject)s::uuid RETURNING id;
