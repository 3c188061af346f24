-- checkpoint --
-- The position up to which a sink is complete here; 0 where nothing has arrived.
SELECT max(version) FROM relay_checkpoints WHERE sink = {sink:String};

-- column_types --
-- Of one table, as it is now; what is in its key cannot be altered.
SELECT name, type, is_in_sorting_key OR is_in_partition_key AS is_key
FROM system.columns
WHERE database = currentDatabase() AND table = {table:String};

-- count_below --
-- Whether there is anything to remove: a mutation costs more than a look.
SELECT count() FROM {table:Identifier} WHERE _version < {version:UInt64};

-- delete_below --
-- Remove what is older than a version, and return when it is gone.
ALTER TABLE {table:Identifier} DELETE WHERE _version < {version:UInt64} SETTINGS mutations_sync = 2;
