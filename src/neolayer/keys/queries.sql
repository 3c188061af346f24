-- key_names --
-- Every locked key of the layer, the current one last.
SELECT id, version FROM core.locked_keys ORDER BY version;

-- locked_key --
-- One key as the service locked it.
SELECT locked_by, locked_key FROM core.locked_keys WHERE id = %(id)s AND version = %(version)s;

-- add_locked_key --
-- A new version; where somebody else was first, theirs stays.
INSERT INTO core.locked_keys (id, version, locked_by, locked_key)
VALUES (%(id)s, %(version)s, %(locked_by)s, %(locked_key)s)
ON CONFLICT (version) DO NOTHING;

-- replace_locked_key --
-- The same key locked otherwise, if nobody else has done so meanwhile.
UPDATE core.locked_keys SET locked_by = %(locked_by)s, locked_key = %(locked_key)s
WHERE id = %(id)s AND version = %(version)s AND locked_key = %(old_key)s;
