-- schemas --
-- Each schema of ours.
SELECT format('SCHEMA %%I', n.nspname), n.nspacl::text [], n.nspowner::regrole::text
FROM pg_catalog.pg_namespace AS n
WHERE
    n.nspname !~ '^pg_'
    AND n.nspname NOT IN ('information_schema', 'neolayer_schema', 'public')
ORDER BY 1;

-- relations --
-- Tables and views with what concerns the whole of them. Partitions by date are not named: which
-- ones there are depends on the day, and all are like their parent. Nor are read models, which are
-- made as programs declare them.
SELECT
    c.oid,
    format(
        '%%s %%s',
        CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END,
        c.oid::regclass
    ) AS headline,
    array_remove(
        ARRAY[
            CASE WHEN c.relkind = 'p' THEN 'PARTITION BY ' || pg_get_partkeydef(c.oid) END,
            CASE WHEN c.relispartition THEN format(
                'PARTITION OF %%s %%s',
                (SELECT i.inhparent::regclass FROM pg_catalog.pg_inherits AS i WHERE i.inhrelid = c.oid),
                pg_get_expr(c.relpartbound, c.oid)
            ) END,
            CASE WHEN c.reloptions IS NOT NULL THEN 'WITH ' || c.reloptions::text END,
            CASE WHEN c.relrowsecurity THEN 'ROW LEVEL SECURITY' END,
            CASE WHEN c.relforcerowsecurity THEN 'FORCE ROW LEVEL SECURITY' END,
            CASE c.relreplident
                WHEN 'f' THEN 'REPLICA IDENTITY FULL'
                WHEN 'i' THEN 'REPLICA IDENTITY INDEX'
                WHEN 'n' THEN 'REPLICA IDENTITY NOTHING'
            END
        ],
        NULL
    ) AS properties,
    c.relacl::text [] AS rights,
    c.relowner::regrole::text AS owner
FROM pg_catalog.pg_class AS c
INNER JOIN pg_catalog.pg_namespace AS n ON c.relnamespace = n.oid
WHERE
    c.relkind IN ('r', 'p', 'v', 'm')
    AND n.nspname !~ '^pg_'
    AND n.nspname NOT IN ('information_schema', 'neolayer_schema')
    AND n.nspname NOT LIKE 'read_models%%'
    AND NOT (c.relispartition AND c.relname ~ '_[0-9]{4,8}$')
    AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_depend AS d WHERE d.objid = c.oid AND d.deptype = 'e'
    )
ORDER BY 2;

-- parts --
-- Everything that hangs on a table or view, as the server itself writes it, in a fixed order.
SELECT p.text FROM (
    SELECT
        1 AS kind,
        a.attnum AS place,
        format('COLUMN %%I %%s', a.attname, format_type(a.atttypid, a.atttypmod))
        || CASE
            WHEN a.attcollation <> t.typcollation
                THEN ' COLLATE ' || a.attcollation::regcollation::text
            ELSE ''
        END
        || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
        || CASE WHEN a.attidentity <> '' THEN ' IDENTITY ' || a.attidentity::text ELSE '' END
        || coalesce(
            CASE a.attgenerated WHEN 's' THEN ' GENERATED ' ELSE ' DEFAULT ' END
            || pg_get_expr(d.adbin, d.adrelid), ''
        )
        || coalesce(' RIGHTS ' || a.attacl::text, '') AS text
    FROM pg_catalog.pg_attribute AS a
    INNER JOIN pg_catalog.pg_type AS t ON a.atttypid = t.oid
    LEFT JOIN pg_catalog.pg_attrdef AS d ON a.attrelid = d.adrelid AND a.attnum = d.adnum
    WHERE a.attrelid = %(relation)s::oid AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT
        2,
        0,
        format('CONSTRAINT %%I %%s', c.conname, pg_get_constraintdef(c.oid))
    FROM pg_catalog.pg_constraint AS c
    WHERE
        c.conrelid = %(relation)s::oid AND c.contype IN ('c', 'f', 'p', 'u', 'x') AND c.conparentid = 0
    UNION ALL
    SELECT
        3,
        0,
        pg_get_indexdef(i.indexrelid)
        || CASE WHEN i.indisvalid THEN '' ELSE ' INVALID' END
    FROM pg_catalog.pg_index AS i
    WHERE
        i.indrelid = %(relation)s::oid
        AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_constraint AS c WHERE c.conindid = i.indexrelid
        )
        AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_inherits AS h WHERE h.inhrelid = i.indexrelid
        )
    UNION ALL
    SELECT
        4,
        0,
        format(
            'POLICY %%I %%s %%s TO %%s USING %%s CHECK %%s',
            p.polname,
            CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
            p.polcmd,
            (
                SELECT string_agg(r.role::regrole::text, ', ' ORDER BY r.role::regrole::text)
                FROM unnest(p.polroles) AS r (role)
            ),
            coalesce(pg_get_expr(p.polqual, p.polrelid), '-'),
            coalesce(pg_get_expr(p.polwithcheck, p.polrelid), '-')
        )
    FROM pg_catalog.pg_policy AS p
    WHERE p.polrelid = %(relation)s::oid
    UNION ALL
    SELECT
        5,
        0,
        pg_get_triggerdef(t.oid)
        || CASE t.tgenabled WHEN 'O' THEN '' ELSE ' ENABLED ' || t.tgenabled::text END
    FROM pg_catalog.pg_trigger AS t
    WHERE t.tgrelid = %(relation)s::oid AND NOT t.tgisinternal AND t.tgparentid = 0
    UNION ALL
    SELECT
        6,
        0,
        'AS ' || pg_get_viewdef(c.oid)
    FROM pg_catalog.pg_class AS c
    WHERE c.oid = %(relation)s::oid AND c.relkind IN ('v', 'm')
) AS p
ORDER BY p.kind, p.place, p.text;

-- functions --
-- Functions, whole.
SELECT pg_get_functiondef(p.oid), p.proacl::text [], p.proowner::regrole::text
FROM pg_catalog.pg_proc AS p
INNER JOIN pg_catalog.pg_namespace AS n ON p.pronamespace = n.oid
WHERE
    n.nspname !~ '^pg_'
    AND n.nspname NOT IN ('information_schema', 'neolayer_schema')
    AND p.prokind IN ('f', 'p')
    AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_depend AS d WHERE d.objid = p.oid AND d.deptype = 'e'
    )
ORDER BY p.oid::regprocedure::text;

-- publications --
-- What the relay may read.
SELECT
    format(
        'PUBLICATION %%I%%s FOR %%s',
        p.pubname,
        CASE WHEN p.pubviaroot THEN ' VIA ROOT' ELSE '' END,
        (
            SELECT string_agg(r.prrelid::regclass::text, ', ' ORDER BY r.prrelid::regclass::text)
            FROM pg_catalog.pg_publication_rel AS r
            WHERE r.prpubid = p.oid
        )
    ),
    NULL::text [],
    p.pubowner::regrole::text
FROM pg_catalog.pg_publication AS p
ORDER BY 1;

-- default_rights --
-- Rights that new objects get.
SELECT
    format(
        'DEFAULT RIGHTS OF %%s IN %%s ON %%s',
        d.defaclrole::regrole,
        coalesce(d.defaclnamespace::regnamespace::text, 'any schema'),
        d.defaclobjtype
    ),
    d.defaclacl::text [],
    d.defaclrole::regrole::text
FROM pg_catalog.pg_default_acl AS d
ORDER BY 1;
