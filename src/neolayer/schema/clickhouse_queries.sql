-- create_marks --
-- What this database has seen of its line. ClickHouse has no transactions: a mark is written before
-- each statement, and each statement may run twice.
CREATE TABLE IF NOT EXISTS schema_marks (
    number UInt32,
    line String,
    name String,
    checksum String,
    direction String,
    statements_done UInt32,
    is_finished Bool,
    version UInt64,
    is_removed UInt8
)
ENGINE = ReplacingMergeTree(version, is_removed)
ORDER BY number;

-- marks --
-- Every migration this database has begun or finished, in order.
SELECT number, line, name, checksum, direction, statements_done, is_finished
FROM {database:Identifier}.schema_marks FINAL ORDER BY number;

-- databases --
-- The databases of the server.
SELECT name FROM system.databases;

-- has_marks --
-- One row where this database was ever migrated.
SELECT name FROM system.tables WHERE database = {database:String} AND name = 'schema_marks';

-- table_definitions --
-- The schema as it stands.
SELECT name, create_table_query FROM system.tables
WHERE database = {database:String} AND name <> 'schema_marks' ORDER BY name;
