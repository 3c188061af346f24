"""Databases, roles and extensions: what must be there before the first migration.

Repeatable: a second run changes nothing but passwords that were changed meanwhile. Roles belong to
the whole cluster; the databases are made with UTF-8 and closed to PUBLIC.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import LiteralString

import psycopg
from psycopg import sql

from neolayer.engines.endpoints import Database, Endpoints, PostgresEndpoint, Role
from neolayer.engines.postgres.connections import Connection, connect
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import EngineTooOld, MigrationError

QUERIES = load_queries("neolayer.schema")
OLDEST = 150000

# Created where the server has them. Nothing at run time depends on the first two.
EXTENSIONS = ("uuid-ossp", "pgcrypto", "pg_trgm", "btree_gist", "pg_stat_statements")


@dataclass(frozen=True, slots=True)
class RoleRule:
    """What a role is (`attributes`), whose rights it shares (`member_of`), what it may do in a
    database beside connecting (`TEMPORARY` tables: staging for bulk loads), and what its sessions
    begin with (`settings`)."""

    attributes: LiteralString
    member_of: tuple[str, ...] = ()
    temporary: bool = False
    settings: Mapping[str, str] = field(default_factory=dict[str, str])


# A transaction that has written keeps the readers of all events back until it ends, whoever's it is
# (decision 29). So none of the application's lasts longer than this, or idles longer; what must may
# SET LOCAL its own limits. Before PostgreSQL 17 a server knows the second one only.
TRANSACTION_TIMEOUT = "transaction_timeout"
MEMBERS_LIMITS = {TRANSACTION_TIMEOUT: "1min", "idle_in_transaction_session_timeout": "20s"}
WRITERS_LIMITS = {"idle_in_transaction_session_timeout": "60s"}


# Under FORCE ROW LEVEL SECURITY a role without BYPASSRLS reads 0 rows in silence where it has no
# tenant; who copies, backs up, backfills, operates, seals or projects therefore has it, and nobody
# else.
RULES: dict[Role, RoleRule] = {
    Role.OWNER: RoleRule("NOLOGIN NOBYPASSRLS NOREPLICATION"),
    # Owns the search functions and nothing else: an operator such as @> is not leakproof, so an
    # index behind it is dead for whoever a policy holds. It may read what is searched.
    Role.SEARCH: RoleRule("NOLOGIN BYPASSRLS NOREPLICATION"),
    # Owns the function that appends events and nothing else: it asks for the tenant itself, once,
    # where a policy has it verified for each table in each statement.
    Role.APPENDER: RoleRule("NOLOGIN BYPASSRLS NOREPLICATION"),
    Role.MIGRATOR: RoleRule(
        "LOGIN BYPASSRLS NOREPLICATION",
        member_of=(Role.OWNER, Role.SEARCH, Role.APPENDER, "pg_monitor"),
        temporary=True,
    ),
    Role.APP: RoleRule("LOGIN NOBYPASSRLS NOREPLICATION", temporary=True, settings=MEMBERS_LIMITS),
    Role.INGEST: RoleRule(
        "LOGIN NOBYPASSRLS NOREPLICATION", temporary=True, settings=WRITERS_LIMITS
    ),
    Role.RELAY: RoleRule("LOGIN BYPASSRLS REPLICATION"),
    Role.BACKUP: RoleRule("LOGIN BYPASSRLS REPLICATION"),
    Role.OPERATOR: RoleRule(
        "LOGIN BYPASSRLS NOREPLICATION",
        member_of=("pg_monitor",),
        settings={"default_transaction_read_only": "on"},
    ),
    Role.AUDITOR: RoleRule("LOGIN BYPASSRLS NOREPLICATION", settings=WRITERS_LIMITS),
    Role.PROJECTOR: RoleRule("LOGIN BYPASSRLS NOREPLICATION", settings=WRITERS_LIMITS),
}

# What the server lets everybody call and a tenant could use against the others: functions by their
# names, and who may call them all the same. A reader with an advisory lock makes writers wait for
# ever; large objects belong to the role and not to a tenant, so that all read what one wrote; a
# session may end others of its role; and the prepared statements of a connection are what its next
# borrower sends.
_WRITERS = (Role.OWNER, Role.APPENDER, Role.MIGRATOR, Role.INGEST, Role.RELAY, Role.AUDITOR)
_NOT_TENANTS = tuple(role for role in RULES if role not in (Role.APP, Role.SEARCH, Role.APPENDER))
KEPT_FUNCTIONS: dict[str, tuple[Role, ...]] = {
    "^pg_(try_)?advisory_": _WRITERS,
    "^(lo_|loread$|lowrite$)": (Role.MIGRATOR, Role.BACKUP),
    "^pg_(terminate|cancel)_backend$": _NOT_TENANTS,
    "^pg_prepared_statement$": _NOT_TENANTS,
}


async def provision(endpoints: Endpoints, *, databases: Iterable[Database] = Database) -> None:
    """Make roles, databases and extensions that are missing. Raises MigrationError, EngineError."""
    by_cluster: dict[str, list[Database]] = {}
    for database in databases:
        by_cluster.setdefault(endpoints.cluster(database).admin_dsn, []).append(database)
    for names in by_cluster.values():
        await _provision_cluster(endpoints.cluster(names[0]), names)


async def _provision_cluster(cluster: PostgresEndpoint, databases: list[Database]) -> None:
    async with await _admin(cluster, None) as admin:
        await _check_version(admin)
        # Two provisioners of one cluster would trip over each other's catalogue rows.
        await admin.execute("SELECT pg_advisory_lock(hashtextextended('neolayer provision', 0))")
        try:
            async with admin.transaction():
                await make_roles(admin, cluster)
            for database in databases:
                await make_database(admin, database)
                await _make_extensions(cluster, database)
                await _keep_functions(cluster, database)
        except psycopg.errors.InsufficientPrivilege as exc:
            raise MigrationError(
                f"{cluster.address}: the DSN's user may not create roles and databases: {exc}",
                hint="give a superuser, or a role with CREATEROLE, CREATEDB and BYPASSRLS",
            ) from exc


async def _admin(cluster: PostgresEndpoint, database: Database | None) -> Connection:
    dsn = cluster.admin_dsn if database is None else cluster.dsn(Role.ADMIN, database)
    connection = await connect(dsn, autocommit=True, application_name="provision")
    await connection.execute("SET client_min_messages = warning")
    return connection


async def _check_version(admin: Connection) -> None:
    if admin.info.server_version < OLDEST:
        version = admin.info.parameter_status("server_version")
        raise EngineTooOld("postgres", f"version {version} is too old: 15 to 18 are supported")


async def make_roles(admin: Connection, cluster: PostgresEndpoint) -> None:
    """All roles with their attributes, memberships and passwords."""
    rows = await admin.execute(QUERIES.existing_roles, {"roles": [str(role) for role in RULES]})
    existing = {row[0] for row in await rows.fetchall()}
    for role, rule in RULES.items():
        name = sql.Identifier(role)
        if role not in existing:
            await admin.execute(sql.SQL("CREATE ROLE {}").format(name))
        await admin.execute(
            sql.SQL("ALTER ROLE {} NOSUPERUSER NOCREATEDB NOCREATEROLE {}").format(
                name, sql.SQL(rule.attributes)
            )
        )
        if role in cluster.passwords:
            await _set_password(admin, role, cluster.passwords[role])
        for group in rule.member_of:
            await admin.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), name))
        await _set_defaults(admin, name, rule.settings)
    # Who is not a superuser may hand a database only to a role it belongs to.
    await admin.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(sql.Identifier(Role.OWNER)))


async def _set_defaults(
    admin: Connection, role: sql.Identifier, settings: Mapping[str, str]
) -> None:
    for setting, value in settings.items():
        if setting == TRANSACTION_TIMEOUT and admin.info.server_version < 170000:
            continue
        await admin.execute(
            sql.SQL("ALTER ROLE {} SET {} = {}").format(
                role, sql.Identifier(setting), sql.Literal(value)
            )
        )


async def _set_password(admin: Connection, role: Role, password: str) -> None:
    """As a SCRAM verifier made here, so that no log and no statistic ever sees the password."""
    verifier = admin.pgconn.encrypt_password(
        password.encode(), role.encode(), b"scram-sha-256"
    ).decode()
    await admin.execute(
        sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(verifier))
    )


async def make_database(admin: Connection, database: str) -> None:
    """One database that belongs to the owner role and is closed to everybody else's roles."""
    row = await (await admin.execute(QUERIES.database_exists, {"database": database})).fetchone()
    if row is None or not row[0]:
        await admin.execute(
            sql.SQL("CREATE DATABASE {} OWNER {} ENCODING 'UTF8' TEMPLATE template0").format(
                sql.Identifier(database), sql.Identifier(Role.OWNER)
            )
        )
    else:
        await admin.execute(
            sql.SQL("ALTER DATABASE {} OWNER TO {}").format(
                sql.Identifier(database), sql.Identifier(Role.OWNER)
            )
        )
    await grant_database(admin, database)


async def grant_database(admin: Connection, database: str) -> None:
    """Who may connect, and who may make temporary tables."""
    name = sql.Identifier(database)
    async with admin.transaction():
        await admin.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))
        for role, rule in RULES.items():
            rights = sql.SQL("CONNECT, TEMPORARY" if rule.temporary else "CONNECT")
            await admin.execute(
                sql.SQL("GRANT {} ON DATABASE {} TO {}").format(rights, name, sql.Identifier(role))
            )


async def _make_extensions(cluster: PostgresEndpoint, database: Database) -> None:
    async with await _admin(cluster, database) as admin:
        found = await admin.execute(QUERIES.available_extensions, {"extensions": list(EXTENSIONS)})
        for (name,) in await found.fetchall():
            create = sql.SQL("CREATE EXTENSION IF NOT EXISTS {}").format(sql.Identifier(name))
            try:
                await admin.execute(create)
            except psycopg.errors.InsufficientPrivilege:
                continue  # a hosted server may keep it to itself; nothing depends on it


async def _keep_functions(cluster: PostgresEndpoint, database: Database) -> None:
    """Take from everybody what `KEPT_FUNCTIONS` says, and give it to who needs it.

    The functions are the server's own; a hosted one may leave them to everybody.
    """
    async with await _admin(cluster, database) as admin:
        with suppress(psycopg.errors.InsufficientPrivilege):
            async with admin.transaction():
                for names, roles in KEPT_FUNCTIONS.items():
                    await _keep(admin, names, roles)


async def _keep(admin: Connection, names: str, roles: Iterable[Role]) -> None:
    asked = {"names": names, "roles": list(roles)}
    rows = await (await admin.execute(QUERIES.server_functions, asked)).fetchall()
    if not rows:
        return
    functions = sql.SQL(", ").join(sql.SQL(signature) for (signature,) in rows)
    who = sql.SQL(", ").join(map(sql.Identifier, roles))
    await admin.execute(sql.SQL("REVOKE EXECUTE ON FUNCTION {} FROM PUBLIC").format(functions))
    await admin.execute(sql.SQL("GRANT EXECUTE ON FUNCTION {} TO {}").format(functions, who))
