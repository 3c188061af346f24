"""What `doctor` and `status` tell of roles that were changed by themselves."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from neolayer.cli import doctor, status
from neolayer.engines.embedded.machine import Check
from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.insight.health import Health
from neolayer.insight.roles import role_troubles
from neolayer.schema.provision import MEMBERS_LIMITS
from neolayer.settings import Settings

AGAIN = "neolayer migrate up gives the roles their passwords and settings again"


@pytest.fixture(scope="module")
def layer_databases(module_databases: Endpoints) -> Endpoints:
    return module_databases


@pytest.fixture
def role(layer_databases: Endpoints) -> Iterator[psycopg.Connection]:
    """A session as the application, whose role is mended afterwards."""
    admin_dsn = layer_databases.postgres.dsn(Role.ADMIN, Database.CORE)
    app_dsn = layer_databases.postgres.dsn(Role.APP, Database.CORE)
    password = layer_databases.postgres.passwords[Role.APP]
    with psycopg.connect(app_dsn, autocommit=True) as app:
        database = sql.Identifier(app.info.dbname)
        try:
            yield app
        finally:
            with psycopg.connect(admin_dsn, autocommit=True) as admin:
                alter = sql.SQL("ALTER ROLE neolayer_app {}")
                within = sql.SQL("IN DATABASE {} RESET ALL").format(database)
                admin.execute(alter.format(within))
                admin.execute(alter.format(sql.SQL("RESET ALL")))
                admin.execute(alter.format(sql.SQL("PASSWORD {}").format(password)))
                for name, value in MEMBERS_LIMITS.items():
                    setting = sql.SQL("SET {} = {}").format(sql.Identifier(name), value)
                    admin.execute(alter.format(setting))


async def test_E13_a_role_that_was_told_something_for_later_is_named(
    layer_databases: Endpoints, role: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order at first; then each setting that is not ours, everywhere and in one database, one of
    ours with another value, and one that is gone: each with what ends it."""
    monkeypatch.setattr(doctor, "endpoints", lambda _: layer_databases)
    assert await checked() == [Check("roles", True, "as migrate up made them")]
    database = sql.Identifier(role.info.dbname)
    role.execute("ALTER ROLE neolayer_app SET row_security = off")
    role.execute(sql.SQL("ALTER ROLE neolayer_app IN DATABASE {} SET jit = off").format(database))
    role.execute("ALTER ROLE neolayer_app SET transaction_timeout = 0")
    role.execute("ALTER ROLE neolayer_app RESET idle_in_transaction_session_timeout")
    name = role.info.dbname
    found = {check.found: check.remedy for check in await checked() if not check.ok}
    assert found == {
        "sessions of neolayer_app begin with row_security = off": "ALTER ROLE neolayer_app RESET"
        " row_security",
        f"sessions of neolayer_app in {name} begin with jit = off": "ALTER ROLE neolayer_app"
        f" IN DATABASE {name} RESET jit",
        "sessions of neolayer_app begin with transaction_timeout = 0": AGAIN,
        "sessions of neolayer_app begin without their idle_in_transaction_session_timeout": AGAIN,
    }
    troubles = tuple(await role_troubles(layer_databases))
    health = Health((), None, (), roles=troubles)
    assert status._alarms(health, Settings()) == [str(trouble) for trouble in troubles]


async def test_E13_a_password_that_is_not_ours_any_more_is_named(
    layer_databases: Endpoints, role: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The role may change its own: connections that are open go on, no new one is let in."""
    monkeypatch.setattr(doctor, "endpoints", lambda _: layer_databases)
    role.execute("ALTER ROLE neolayer_app PASSWORD 'x'")
    checks = await checked()
    assert len(checks) == 2 and not any(check.ok for check in checks)
    assert all("neolayer_app cannot work in" in check.found for check in checks)
    assert all("refuses the password" in check.found for check in checks)


async def checked() -> list[Check]:
    return [check async for check in doctor._roles(Settings())]
