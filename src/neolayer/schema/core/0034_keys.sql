-- migrate:up
-- The keys that seal secrets, where a key of AWS KMS or Vault locks them: worthless without that
-- service, and in every backup of what they seal. One id for the whole layer; versions rise.
CREATE TABLE core.locked_keys (
    version int PRIMARY KEY CHECK (version > 0),
    id varchar(32) NOT NULL CHECK (id ~ '^[a-z0-9][a-z0-9-]*$'),
    locked_by varchar(2048) NOT NULL,
    locked_key text NOT NULL CHECK (octet_length(locked_key) BETWEEN 1 AND 8192),
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    updated_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE TRIGGER touch BEFORE UPDATE ON core.locked_keys
FOR EACH ROW EXECUTE FUNCTION core.touch_updated_at();

-- The application reads them and cannot put another in a key's place; versions are made by the
-- migrator's login.
GRANT SELECT ON core.locked_keys TO neolayer_app, neolayer_backup;
GRANT SELECT (version, id, locked_by, created_at, updated_at) ON core.locked_keys
TO neolayer_operator;

-- migrate:down
-- A way back while there is nothing to lose.
SELECT neolayer_schema.refuse_to_lose('core.locked_keys');
DROP TABLE core.locked_keys;
