-- columns --
-- A table's columns: type, its number, how a cast names it, and whether it is ordered as text: so
-- are the words of an enumeration, whose own order no store knows.
SELECT
    a.attname, t.typname, a.atttypid::int8, format_type(a.atttypid, NULL),
    a.attcollation <> 0 OR t.typtype = 'e'
FROM pg_attribute AS a
JOIN pg_type AS t ON t.oid = a.atttypid
WHERE a.attrelid = %(table)s::regclass AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum;
