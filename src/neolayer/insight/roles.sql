-- role_settings --
-- What sessions of these roles were told to begin with, everywhere or in one database.
SELECT
    r.rolname::text,
    d.datname::text,
    split_part(told.setting, '=', 1),
    substr(told.setting, strpos(told.setting, '=') + 1)
FROM pg_catalog.pg_db_role_setting AS s
INNER JOIN pg_catalog.pg_roles AS r ON s.setrole = r.oid
LEFT JOIN pg_catalog.pg_database AS d ON s.setdatabase = d.oid
CROSS JOIN LATERAL unnest(s.setconfig) AS told (setting)
WHERE r.rolname = ANY (%(roles)s::text [])
ORDER BY r.rolname, d.datname, told.setting;
