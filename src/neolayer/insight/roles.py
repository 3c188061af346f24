"""Whether the roles are as `migrate up` made them.

A role may change its own password and what its sessions begin with, for good (ALTER ROLE ... SET),
so whoever has SQL as the application can. The layer's own sessions do not go by it; those of other
programs do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.connections import connect
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import EngineUnavailable
from neolayer.schema.provision import RULES, TRANSACTION_TIMEOUT
from neolayer.tenancy.lending import open_lender

_sql = load_queries(__name__, "roles.sql")
_OLDEST_WITH_LIMIT = 170000
_AGAIN = "neolayer migrate up gives the roles their passwords and settings again"
_Told = Mapping[tuple[str, str | None, str], str]
_USED = (Database.CORE, Database.EVENT_STORE)  # by the application


@dataclass(frozen=True, slots=True)
class RoleTrouble:
    """What a role is that it should not be, and what ends it."""

    found: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.found}: {self.remedy}"


async def role_troubles(at: Endpoints) -> list[RoleTrouble]:
    """All of it, the application's login first. Raises EngineUnavailable, psycopg.Error."""
    troubles = [found for database in _USED if (found := await _login(at, database)) is not None]
    for database in {at.cluster(each).admin_dsn: each for each in reversed(_USED)}.values():
        troubles += await _settings(at, database)
    return troubles


async def _login(at: Endpoints, database: Database) -> RoleTrouble | None:
    """Whether a session of the application begins, and as it should."""
    dsn = at.cluster(database).dsn(Role.APP, database)
    try:
        async with open_lender(dsn, size=1, application_name="doctor"):
            return None
    except EngineUnavailable as exc:
        return RoleTrouble(
            f"{Role.APP} cannot work in {database}: {exc.message}",
            _AGAIN,
        )


async def _settings(at: Endpoints, database: Database) -> list[RoleTrouble]:
    dsn = at.cluster(database).dsn(Role.OPERATOR, database)
    async with await connect(dsn, autocommit=True, application_name="doctor") as operator:
        asked = {"roles": [str(role) for role in RULES]}
        rows = await (await operator.execute(_sql.role_settings, asked)).fetchall()
        has_limit = operator.info.server_version >= _OLDEST_WITH_LIMIT
    told: _Told = {(role, where, name): value for role, where, name, value in rows}
    wanted: _Told = {
        (str(role), None, name): value
        for role, rule in RULES.items()
        for name, value in rule.settings.items()
        if name != TRANSACTION_TIMEOUT or has_limit
    }
    return [*_changed(told, wanted), *_missing(told, wanted)]


def _changed(told: _Told, wanted: _Told) -> Iterator[RoleTrouble]:
    for (role, where, name), value in told.items():
        if wanted.get((role, where, name)) == value:
            continue
        place = f" in {where}" if where else ""
        found = f"sessions of {role}{place} begin with {name} = {value}"
        if (role, where, name) in wanted:
            yield RoleTrouble(found, _AGAIN)
        else:
            within = f" IN DATABASE {where}" if where else ""
            yield RoleTrouble(found, f"ALTER ROLE {role}{within} RESET {name}")


def _missing(told: _Told, wanted: _Told) -> Iterator[RoleTrouble]:
    for role, _, name in sorted(wanted.keys() - told.keys()):
        yield RoleTrouble(f"sessions of {role} begin without their {name}", _AGAIN)
