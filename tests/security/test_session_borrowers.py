"""E13: somebody with SQL prepares a trap on a connection; who borrows it next does not fall in."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID, uuid4

import psycopg
import pytest

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres import connections, round_trip
from neolayer.errors import EngineUnavailable
from neolayer.schema.provision import MEMBERS_LIMITS
from neolayer.tenancy import CoreDatabase, Principal, Scope, lending, open_core, session
from neolayer.tenancy.session import SETTINGS
from tests.fixtures.fix_tenancy import NewTenant

QUERY = "SELECT data_id, created_at IS NULL FROM core.tenant_data WHERE data_id > %(low)s"
LOW = {"low": UUID(int=0)}
ADD = "INSERT INTO core.tenant_data (tenant_id, data_id, data) VALUES (%s, %s, '{}')"
NAMES = "SELECT name, statement FROM pg_prepared_statements"
USER_SETTINGS = """
    SELECT name, setting, vartype, enumvals, min_val, max_val FROM pg_settings
    WHERE context = 'user' AND name NOT LIKE 'transaction%' ORDER BY name
"""
CHANGED = "SELECT name FROM pg_settings WHERE source IN ('session', 'interactive')"
SET = "SELECT set_config(%s, %s, false)"
# Settings that keep the session from saying how it went on.
ENDS_THE_SESSION = ("client_encoding", "exit_on_error")


@pytest.fixture(scope="module")
def layer_databases(module_databases: Endpoints) -> Endpoints:
    return module_databases


@dataclass(frozen=True, slots=True)
class Pair:
    """Two tenants that share the only connection, and a row of each."""

    core: CoreDatabase
    bad: Scope
    good: Scope
    row: UUID

    async def read(self) -> list[tuple[object, ...]]:
        return await self.good.fetch(QUERY, LOW)

    async def warm(self) -> None:
        """So often that everything is prepared."""
        for _ in range(5):
            await self.unharmed()

    async def unharmed(self) -> None:
        """The second tenant, in a statement and in a transaction, gets its own answers."""
        assert await self.read() == [(self.row, False)]
        async with self.good.transaction() as tx:
            assert await tx.fetch(QUERY, LOW) == [(self.row, False)]
            assert await tx.one("SELECT core.current_tenant()") == (self.good.tenant,)


@pytest.fixture
def is_seen(layer_databases: Endpoints, request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether a session may look at its prepared statements: `migrate up` takes that right away,
    where the server lets it."""
    dsn = layer_databases.postgres.dsn(Role.ADMIN, Database.CORE)
    function = "EXECUTE ON FUNCTION pg_catalog.pg_prepared_statement()"
    seen: bool = getattr(request, "param", True)
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(f"REVOKE {function} FROM PUBLIC")  # type: ignore[arg-type]
        if seen:
            admin.execute(f"GRANT {function} TO PUBLIC")  # type: ignore[arg-type]
        yield seen
        admin.execute(f"REVOKE {function} FROM PUBLIC")  # type: ignore[arg-type]


@pytest.fixture
async def pair(
    layer_databases: Endpoints, new_tenant: NewTenant, is_seen: bool
) -> AsyncIterator[Pair]:
    bad, good = await new_tenant(), await new_tenant()
    async with open_core(layer_databases, size=1, application_name="tests") as core:
        assert bad.tenant is not None and good.tenant is not None
        attacker = core.scope(bad.tenant, by=Principal.user(uuid4()))
        borrower = core.scope(good.tenant, by=Principal.user(uuid4()))
        row = uuid4()
        await attacker.fetch(f"{ADD} RETURNING 1", (bad.tenant, uuid4()))
        await borrower.fetch(f"{ADD} RETURNING 1", (good.tenant, row))
        found = Pair(core, attacker, borrower, row)
        await found.warm()
        yield found


async def _traps(pair: Pair) -> list[str]:
    """Statements that put others under the names of ours: the first tenant's context at the door,
    and rows that the attacker chose."""
    context = pair.core.signer.sign(pair.bad.tenant, pair.bad.by)
    forged = {
        "core.enter": f"(text, text) AS SELECT set_config('neolayer.context', '{context}', true)",
        "core.tenant_data": f"(uuid) AS SELECT '{uuid4()}'::uuid, true",
    }
    found: list[str] = []
    for name, statement in await pair.bad.fetch(NAMES):
        for part, instead in forged.items():
            if part in statement:
                found += [f'DEALLOCATE "{name}"', f'PREPARE "{name}" {instead}']
    assert len(found) == 4, "both are prepared by now, and seen"
    return found


def _do(statements: list[str], *more: str) -> str:
    body = "".join(f"EXECUTE $a${statement}$a$; " for statement in statements)
    return f"DO $do$ BEGIN {body} {' '.join(more)} END $do$"


async def _one_by_one(pair: Pair, traps: list[str]) -> None:
    async with pair.bad.transaction() as tx:
        for trap in traps:
            await tx.execute(trap)  # type: ignore[arg-type]


async def _undone(pair: Pair, traps: list[str]) -> None:
    """PREPARE stays where its transaction does not."""
    with pytest.raises(RuntimeError):
        async with pair.bad.transaction() as tx:
            for trap in traps:
                await tx.execute(trap)  # type: ignore[arg-type]
            raise RuntimeError


async def _by_scope(pair: Pair, traps: list[str]) -> None:
    for trap in traps:
        with suppress(psycopg.errors.InvalidSqlStatementName):  # on another connection by now
            await pair.bad.fetch(trap)  # type: ignore[arg-type]


async def _in_a_block(pair: Pair, traps: list[str]) -> None:
    await pair.bad.fetch(_do(traps))  # type: ignore[arg-type]


async def _in_a_block_that_fails(pair: Pair, traps: list[str]) -> None:
    """No tag tells what such a statement has done."""
    with pytest.raises(psycopg.errors.RaiseException):
        await pair.bad.fetch(_do(traps, "RAISE EXCEPTION 'x';"))  # type: ignore[arg-type]


async def _in_a_block_that_is_forgiven(pair: Pair, traps: list[str]) -> None:
    """The failure ends at a savepoint, and the block of the caller ends well."""
    async with pair.bad.transaction() as tx:
        await tx.execute("SAVEPOINT here")
        with pytest.raises(psycopg.errors.RaiseException):
            await tx.execute(_do(traps, "RAISE EXCEPTION 'x';"))  # type: ignore[arg-type]
        await tx.execute("ROLLBACK TO SAVEPOINT here")


async def _by_a_function(pair: Pair, traps: list[str]) -> None:
    async with pair.bad.transaction() as tx:
        body = " ".join(f"EXECUTE $a${trap}$a$;" for trap in traps)
        await tx.execute(
            f"CREATE FUNCTION pg_temp.trap() RETURNS int LANGUAGE plpgsql"  # type: ignore[arg-type]
            f" AS $f$ BEGIN {body} RETURN 1; END $f$"
        )
        await tx.execute("SELECT pg_temp.trap()")
        await tx.execute("DROP FUNCTION pg_temp.trap()")


Way = Callable[[Pair, list[str]], Awaitable[None]]
WAYS: list[Way] = [
    _one_by_one,
    _undone,
    _by_scope,
    _in_a_block,
    _in_a_block_that_fails,
    _in_a_block_that_is_forgiven,
    _by_a_function,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_E13_a_replaced_statement_is_not_run(pair: Pair, way: Way) -> None:
    """Neither the one that says who is asking nor one that reads: the next borrower sees its own
    rows as itself, whichever way the names came to stand for something else."""
    await way(pair, await _traps(pair))
    await pair.unharmed()
    await pair.warm()


def _trusting_tags(patch: pytest.MonkeyPatch) -> Way:
    patch.setattr(round_trip, "_is_plain", lambda status: True)
    return _in_a_block


def _not_looking(patch: pytest.MonkeyPatch) -> Way:
    patch.setattr(lending.CoreConnection, "clear", _clear_only)
    return _in_a_block_that_fails


async def _clear_only(connection: lending.CoreConnection) -> bool:
    connection.is_in_doubt = False
    await connection.round_trip([], leaving=True)
    return True


@pytest.mark.parametrize("without", [_trusting_tags, _not_looking], ids=lambda f: f.__name__)
async def test_E4_without_a_guard_a_replaced_statement_is_run(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, without: Callable[[pytest.MonkeyPatch], Way]
) -> None:
    """So the test above would notice that one was taken away."""
    way = without(monkeypatch)
    await way(pair, await _traps(pair))
    assert await pair.good.one("SELECT core.current_tenant()") == (pair.bad.tenant,)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("is_seen", [True, False], ids=["seen", "hidden"], indirect=True)
async def test_E13_deallocated_statements_fail_nobody(pair: Pair, way: Way, is_seen: bool) -> None:
    """They are prepared anew, on the same connection or another. Where none can be looked at, the
    next borrower's first statement misses its name: nothing was done, so it goes again."""
    if not is_seen:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await pair.bad.fetch(NAMES)
    await way(pair, ["DEALLOCATE ALL"])
    await pair.unharmed()
    await pair.warm()


async def test_E13_names_of_prepared_statements_cannot_be_guessed(
    layer_databases: Endpoints, pair: Pair
) -> None:
    """None is on two connections, and each holds sixteen random digits."""
    mine = {name for name, _ in await pair.bad.fetch(NAMES)}
    async with open_core(layer_databases, size=1, application_name="tests") as core:
        other = Pair(
            core, pair.bad, core.scope(cast("UUID", pair.good.tenant), by=pair.good.by), pair.row
        )
        await other.warm()
        others = {name for name, _ in await other.good.fetch(NAMES)}
    assert mine and others and not mine & others
    assert all(re.fullmatch("neolayer_[0-9a-f]{16}_[0-9]+", name) for name in mine | others)


async def test_E13_nothing_is_prepared_under_a_borrowers_settings(pair: Pair) -> None:
    """What a statement's literals mean is decided when it is prepared, and then stays: that is
    not while a borrower's settings hold."""
    statement = "SELECT 'a\\\\b', timestamptz '2026-01-02 03:04', NULL = NULL"
    async with pair.bad.transaction() as tx:
        await tx.execute("SET LOCAL standard_conforming_strings = off")
        await tx.execute("SET LOCAL TIME ZONE 'Asia/Tokyo'")
        await tx.execute("SET LOCAL transform_null_equals = on")
        for _ in range(5):
            odd = await tx.one(statement)
    plain = await pair.good.one(statement)
    assert plain == ("a\\\\b", datetime(2026, 1, 2, 3, 4, tzinfo=UTC), None)
    assert odd == ("a\\b", datetime(2026, 1, 1, 18, 4, tzinfo=UTC), True)


async def test_E13_nobody_hears_what_another_listens_to(pair: Pair) -> None:
    """LISTEN ends with whoever said it, however it was said."""
    channels = "SELECT pg_listening_channels()"
    for statement in ("LISTEN evil", "DO $$ BEGIN EXECUTE 'LISTEN evil'; END $$"):
        await pair.bad.fetch(statement)  # type: ignore[arg-type]
        assert await pair.good.fetch(channels) == []
        async with pair.bad.transaction() as tx:
            await tx.execute(statement)  # type: ignore[arg-type]
        assert await pair.good.fetch(channels) == []


def _odd_values(
    setting: str, kind: str, words: list[str] | None, low: str | None, high: str | None
) -> Iterator[str]:
    """Values of a setting that are not its own."""
    every = {
        "bool": ["on", "off"],
        "enum": words or [],
        "string": ["odd"],
    }.get(kind, [low or "0", high or "0", "1000"])
    yield from [value for value in every if value != setting][:2]


async def _by_a_statement(pair: Pair, name: str, value: str) -> None:
    await pair.bad.fetch(SET, (name, value))


async def _by_a_transaction(pair: Pair, name: str, value: str) -> None:
    async with pair.bad.transaction() as tx:
        await tx.execute(SET, (name, value))


async def _and_an_error(pair: Pair, name: str, value: str) -> None:
    with pytest.raises(RuntimeError):
        async with pair.bad.transaction() as tx:
            await tx.execute(SET, (name, value))
            await tx.execute("COMMIT")
            raise RuntimeError


async def test_E13_no_setting_outlives_its_borrower(pair: Pair) -> None:
    """Every one that the application's role may change, by SET and by set_config(), in a statement
    and in transactions that end well and badly; and one of its own invention."""
    settings = [
        (name, odd)
        for name, *facts in await pair.bad.fetch(USER_SETTINGS)
        if name not in ENDS_THE_SESSION
        for odd in _odd_values(*facts)
    ]
    changed = 0
    for name, value in [*settings, ("tests.invented", "left")]:
        for way in (_by_a_statement, _by_a_transaction, _and_an_error):
            with suppress(psycopg.Error):  # a value that the setting does not take
                await way(pair, name, value)
                changed += 1
            assert await pair.good.fetch(CHANGED) == [], (name, way.__name__)
    assert changed > 300
    assert await pair.good.one("SELECT current_setting('tests.invented', true)") in ((None,), ("",))


POISON = {
    "row_security": "off",
    "search_path": "pg_temp, blockchain",
    "TimeZone": "Asia/Tokyo",
    "DateStyle": "SQL, DMY",
    "bytea_output": "escape",
    "standard_conforming_strings": "off",
    "transform_null_equals": "on",
    "default_transaction_read_only": "on",
    "default_transaction_isolation": "serializable",
    "synchronous_commit": "off",
    "statement_timeout": "1",
    "idle_session_timeout": "1",
    "transaction_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "local_preload_libraries": "nowhere",
    "exit_on_error": "on",
}


@pytest.fixture
def mended(layer_databases: Endpoints) -> Iterator[psycopg.Connection]:
    """The application's role, as `migrate up` leaves it, afterwards."""
    dsn = layer_databases.postgres.dsn(Role.ADMIN, Database.CORE)
    with psycopg.connect(dsn, autocommit=True) as admin:
        try:
            yield admin
        finally:
            _mend(admin, layer_databases)


def _mend(admin: psycopg.Connection, endpoints: Endpoints) -> None:
    admin.execute(f"ALTER ROLE {Role.APP} IN DATABASE {admin.info.dbname} RESET ALL")  # type: ignore[arg-type]
    admin.execute(f"ALTER ROLE {Role.APP} RESET ALL")  # type: ignore[arg-type]
    for setting, value in MEMBERS_LIMITS.items():
        admin.execute(f"ALTER ROLE {Role.APP} SET {setting} = '{value}'")  # type: ignore[arg-type]


@pytest.mark.parametrize("where", ["", "IN DATABASE"])
async def test_E13_what_a_role_is_told_for_later_changes_no_session(
    layer_databases: Endpoints, pair: Pair, mended: psycopg.Connection, where: str
) -> None:
    """The application's role may change what its sessions begin with, for good; those of the layer
    begin with what the layer says, whichever was changed, and however."""
    narrower = f'{where} "{mended.info.dbname}"' if where else ""
    for name, value in POISON.items():
        await pair.bad.fetch(f"ALTER ROLE neolayer_app {narrower} SET {name} = {value!r}")  # type: ignore[arg-type]
    told = mended.execute(
        "SELECT cardinality(setconfig) FROM pg_db_role_setting"
        " WHERE setrole = 'neolayer_app'::regrole"
    )
    assert len(POISON) in {count for (count,) in told}
    async with open_core(layer_databases, size=1, application_name="tests") as core:
        good = core.scope(cast("UUID", pair.good.tenant), by=pair.good.by)
        await Pair(core, pair.bad, good, pair.row).warm()
        for name, value in SETTINGS.items():
            assert await good.one("SELECT current_setting(%s)", (name,)) == (value,), name


async def test_E13_a_session_that_begins_otherwise_is_refused(
    layer_databases: Endpoints,
    pair: Pair,
    mended: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Through a pooler that passes no settings on, those of the role must be the layer's."""
    monkeypatch.setattr(connections, "with_settings", lambda dsn, settings: dsn)
    async with open_core(layer_databases, size=1, application_name="tests") as core:
        assert await core.scope(cast("UUID", pair.good.tenant), by=pair.good.by).one("SELECT 1")
    await pair.bad.fetch("ALTER ROLE neolayer_app SET row_security = off")
    with pytest.raises(EngineUnavailable, match="begin with row_security = 'off', not 'on'"):
        async with open_core(layer_databases, size=1, application_name="tests"):
            pass


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ('unrecognized configuration parameter "transaction_timeout"', len(SETTINGS) - 1),
        ("unsupported startup parameter: options", 0),
    ],
)
async def test_older_servers_and_poolers_are_asked_for_less(
    layer_databases: Endpoints, monkeypatch: pytest.MonkeyPatch, said: str, left: int
) -> None:
    """What they refuse is left out; the session is looked at all the same."""
    asked: list[int] = []
    connecting = session.connect_as

    async def connect_as(*args: Any, settings: dict[str, str], **more: Any) -> Any:
        asked.append(len(settings))
        if len(settings) > left:
            raise EngineUnavailable("postgres", "no") from psycopg.OperationalError(said)
        return await connecting(*args, settings=settings, **more)

    monkeypatch.setattr(session, "connect_as", connect_as)
    async with open_core(layer_databases, size=1, application_name="tests"):
        assert asked == [len(SETTINGS), left]
