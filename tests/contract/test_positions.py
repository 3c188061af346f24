"""A tenant's position: all that was written through a view, in either database."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, get_type_hints
from uuid import UUID, uuid4

import psycopg
import pytest
from tests.fixtures import bank

from neolayer.engines.endpoints import Database, Endpoints, RedisEndpoint, Role
from neolayer.errors import InvalidInput
from neolayer.events import NotFoldedYet
from neolayer.face import Platform, TenantView, open_at
from neolayer.position import Position, Positions
from neolayer.settings import EventSettings, Settings
from neolayer.tenancy import Scope

READS = {
    "scope": "position",
    "tenants": "allowances get id_of open_id",
    "users": "find get hashed list",
    "sessions": "list",
    "roles": "explain get grants list permissions",
    "services": "get keys list",
    "wallets": "balance find get list transactions",
    "attestations": "attestation list policy verifications",
    "sealed_data": "describe get list may_open stranded_by",
    "computations": "computation list result",
    "events": "follow opened position read_all read_stream state",
    "aggregates": "load",
    "read_models": "get get_as_of list list_as_of place",
    "subjects": "keys",
    "webhooks": "deliveries get list",
    "audit": "list",
}
# By what they return, or by the scope that they write through.
WRITES = {
    "scope": "fetch one run",
    "tenants": "change_settings change_tier create delete rename restore set_limits",
    "users": "anonymise change_email change_password create delete move rename set_password"
    " set_status update",
    "login": "check prove",
    "letters": "request_reset request_verification reset_password verify_email",
    "sessions": "check log_out refresh revoke revoke_all start",
    "roles": "create delete grant revoke update",
    "services": "check create delete disable enable make_key revoke_key rotate_key",
    "wallets": "add_hardware create delete export_keystore import_key import_keystore"
    " sign_message sign_transaction update watch",
    "attestations": "forget_nonces issue_nonce reverify revoke set_policy verify",
    "sealed_data": "delete put",
    "computations": "beat cancel claim complete fail give_up submit",
    "events": "append append_all close subscribe",
    "aggregates": "delete_snapshots execute",
    "subjects": "erase keys_for_writing",
    "webhooks": "change create delete disable enable replay rotate send_trial",
}
ROOMS = get_type_hints(TenantView)
Verb = Callable[[TenantView], Awaitable[Any]]


@pytest.fixture
async def platform(
    module_databases: Endpoints, redis_server: RedisEndpoint
) -> AsyncIterator[Platform]:
    settings = Settings(events=EventSettings(modules=("tests.fixtures.bank",)))
    async with open_at(settings, replace(module_databases, redis=redis_server)) as opened:
        yield opened


@pytest.fixture
async def acme(platform: Platform) -> TenantView:
    tenant = await platform.tenants.create(name="Acme", identifier=f"t-{uuid4()}", tier="pro")
    return platform.view(tenant.id, by=platform.tenants.scope.by)


@pytest.mark.parametrize("room", ROOMS)
def test_every_verb_is_known_to_write_or_to_read(room: str) -> None:
    """Whoever adds a verb says which it is; one that writes tells its position as the others do."""
    found = {
        name
        for name, verb in inspect.getmembers(ROOMS[room])
        if not name.startswith("_")
        and (inspect.iscoroutinefunction(verb) or inspect.isasyncgenfunction(verb))
    }
    assert found == {*READS.get(room, "").split(), *WRITES.get(room, "").split()}


async def test_every_room_writes_where_the_position_is_asked(acme: TenantView) -> None:
    """Each is bound to one of the view's two scopes, whose logs the token is made of."""
    asked = {id(acme.scope.written), id(acme.events.scope.written)}
    assert {acme.scope.core.database, acme.events.scope.core.database} == {
        Database.CORE,
        Database.EVENT_STORE,
    }
    for name in WRITES:
        room: Any = getattr(acme, name)
        bound: Scope | None = room if name == "scope" else getattr(room, "scope", None)
        bound = bound or room.events.scope
        assert id(bound.written) in asked, name


async def subscribe(acme: TenantView) -> None:
    await acme.events.subscribe("letters")


async def unsubscribe(acme: TenantView) -> None:
    await acme.events.subscribe("brief")
    await acme.events.subscriptions.delete("brief")


async def execute(acme: TenantView) -> None:
    await acme.aggregates.execute(bank.KEPT_ACCOUNT, uuid4(), bank.Open(uuid4(), "Ann"))


async def erase(acme: TenantView) -> None:
    customer = uuid4()
    await acme.subjects.keys_for_writing([customer])
    assert await acme.subjects.erase(customer)


VERBS: dict[str, Verb] = {
    "events.append": lambda acme: acme.events.append(uuid4(), [bank.Deposited(5)]),
    "events.subscribe": subscribe,
    "subscriptions.delete": unsubscribe,
    "aggregates.execute": execute,
    "subjects.erase": erase,
    "roles.create": lambda acme: acme.roles.create("clerk", permissions=[]),
    "services.create": lambda acme: acme.services.create("robot"),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_what_a_verb_wrote_is_in_the_position(
    acme: TenantView, module_databases: Endpoints, verb: str
) -> None:
    """In its own database's part, and wherever the log of either stood when it returned."""
    await VERBS[verb](acme)
    stood = {database: flushed(module_databases, database) for database in acme_databases(acme)}
    position = await acme.position()
    assert {one.database for one in position.each} == {"neolayer", "event_store"}
    for database, lsn in stood.items():
        at = position.at(database)
        assert at is not None and at >= lsn
    assert Positions.parse(str(position)) == position


def acme_databases(acme: TenantView) -> tuple[Database, Database]:
    return acme.scope.core.database, acme.events.scope.core.database


def flushed(at: Endpoints, database: Database) -> Position:
    dsn = at.cluster(database).dsn(Role.ADMIN, database)
    with psycopg.connect(dsn, autocommit=True) as admin:
        (text,) = admin.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone() or ("",)
    return Position.parse(f"{database}:1:{text}")


async def test_a_read_model_takes_the_position_as_it_is(
    platform: Platform, acme: TenantView
) -> None:
    """Of the token the event store's part counts; one that has none asks for nothing, and a bare
    position of the other database is a mistake."""
    account: UUID = uuid4()
    await acme.events.append(account, [bank.Deposited(5)])
    position = await acme.position()
    row = await acme.read_models.get(bank.INLINE_BALANCES, account, at_least=position)
    assert row == bank.Balance(account, 5, 1)
    of_core = Positions.of(position.at("neolayer"))
    assert await acme.read_models.list(bank.INLINE_BALANCES, at_least=of_core) == [row]
    with pytest.raises(InvalidInput, match="made of event_store, not of neolayer"):
        await acme.read_models.get(bank.INLINE_BALANCES, account, at_least=position.at("neolayer"))
    ahead = Positions.of(Position(7, 5, "event_store"))
    with pytest.raises(NotFoldedYet, match="the log is at event_store:"):
        await acme.read_models.get(
            bank.INLINE_BALANCES, account, at_least=ahead, within=timedelta(0)
        )
