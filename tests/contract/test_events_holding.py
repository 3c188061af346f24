"""A transaction that does not end: named while readers of events wait for it, and ended in time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from tests.fixtures.fix_events import NewEvents
from tests.fixtures.fix_tenancy import NewTenant
from tests.fixtures.patience import PATIENCE_S

from neolayer.cli import doctor
from neolayer.engines.embedded.machine import Check
from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.errors import NeolayerError
from neolayer.events import Events, NewEvent, RecordedEvent, StreamAppend, open_event_store
from neolayer.events.holding import Holding, who_holds
from neolayer.insight.querying import Target, ask
from neolayer.insight.waiting import what_waits
from neolayer.schema.provision import MEMBERS_LIMITS
from neolayer.settings import Settings
from neolayer.tenancy import Principal, Transaction
from neolayer.tenancy.session import SETTINGS

LIMIT_S = 0.5
EVENT = NewEvent("Deposited", {"amount": 1})


@pytest.fixture(scope="module")
def layer_databases(module_databases: Endpoints) -> Endpoints:
    return module_databases


@pytest.fixture
def admin(module_databases: Endpoints) -> Iterator[psycopg.Connection]:
    dsn = module_databases.event_store.dsn(Role.ADMIN, Database.EVENT_STORE)
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


async def put(events: Events, stream: UUID | None = None) -> None:
    await events.append(stream or uuid4(), [NewEvent("Deposited", {})], category="account")


@asynccontextmanager
async def kept_open(endpoints: Endpoints, tenant: UUID) -> AsyncIterator[Transaction]:
    """A transaction of a tenant, in a process of its own, that has appended and does not end."""
    async with open_event_store(endpoints, size=1, application_name="forgetful") as other:
        events = other.events(tenant, by=Principal.operator("other"))
        async with events.scope.transaction() as tx:
            await events.append_in(tx, [StreamAppend(uuid4(), [EVENT], "account")])
            yield tx


async def test_who_holds_readers_back_is_named(
    new_events: NewEvents, new_tenant: NewTenant, module_databases: Endpoints
) -> None:
    """Nobody, as long as nothing waits; then the process, its name, role, database, tenant and
    tables, in an alarm of `status` with what ends it. A transaction that only reads is nobody."""
    tenant = (await new_tenant()).tenant
    assert tenant is not None
    reader = new_events()
    async with reader.scope.transaction() as reading:
        await reading.fetch("SELECT count(*) FROM public.events")
        await put(new_events())
        assert await who_holds(module_databases, patience_s=0) is None
    async with kept_open(module_databases, tenant) as tx:
        assert await who_holds(module_databases, patience_s=0) is None
        await put(new_events())
        row = await tx.one("SELECT pg_backend_pid()")
        assert row is not None
        found = await who_holds(module_databases, patience_s=0)
        assert found is not None
        assert (found.pid, found.application, found.role, found.database, found.state) == (
            row[0],
            "neolayer forgetful",
            "neolayer_app",
            "event_store",
            "idle in transaction",
        )
        assert found.tenants == (tenant,)
        assert set(found.tables) >= {"events", "stream_heads"}
        assert 0 <= found.waiting_s <= found.open_s
        assert await who_holds(module_databases) is None  # it waits for less than some seconds
        assert str(found).endswith(f"SELECT pg_terminate_backend({found.pid})")
        assert str(tenant) in str(found)
    assert await who_holds(module_databases, patience_s=0) is None


async def test_a_transaction_of_another_database_is_named_too(
    new_events: NewEvents, module_databases: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Transaction ids are the cluster's: bulk work in the core database holds readers of events
    back. It is an alarm of `status`."""
    monkeypatch.setattr("neolayer.insight.waiting.who_holds", _at_once)
    dsn = module_databases.postgres.dsn(Role.ADMIN)
    async with await psycopg.AsyncConnection.connect(dsn, application_name="by hand") as core:
        await core.execute("SELECT pg_current_xact_id()")
        await put(new_events())
        (told,) = (await what_waits(module_databases)).alarms(log_bytes=1 << 20)
        assert f"process {core.info.backend_pid} (by hand), " in told
        assert re.search(r" in neolayer: open for \d+ s, idle in transaction", told)


async def test_doctor_says_what_to_do(
    new_events: NewEvents, module_databases: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order where nothing waits; else the sentence, and the statement that ends it."""
    monkeypatch.setattr(doctor, "endpoints", lambda _: module_databases)
    monkeypatch.setattr(doctor, "who_holds", _at_once)

    async def checked() -> Check:
        (check,) = [check async for check in doctor._readers(Settings())]
        return check

    assert (await checked()).ok
    async with kept_open(module_databases, uuid4()) as tx:
        await put(new_events())
        row = await tx.one("SELECT pg_backend_pid()")
        assert row is not None
        check = await checked()
        assert not check.ok and f"process {row[0]} (neolayer forgetful)" in check.found
        assert check.remedy == f"SELECT pg_terminate_backend({row[0]})"


async def _at_once(at: Endpoints) -> object:
    return await who_holds(at, patience_s=0)


@pytest.fixture
def short_limits(admin: psycopg.Connection, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The application's limits, in the proportion that they have, in tenths of seconds; of its
    role, and of the sessions that the layer begins."""
    for setting, limit_s in zip(MEMBERS_LIMITS, (LIMIT_S, LIMIT_S / 3), strict=True):
        _limit(admin, setting, f"{limit_s * 1000:.0f}ms")
        monkeypatch.setitem(SETTINGS, setting, f"{limit_s * 1000:.0f}ms")
    yield
    for setting, value in MEMBERS_LIMITS.items():
        _limit(admin, setting, value)


def _limit(admin: psycopg.Connection, setting: str, value: str) -> None:
    statement = sql.SQL("ALTER ROLE neolayer_app SET {} = {}")
    admin.execute(statement.format(sql.Identifier(setting), sql.Literal(value)))


async def busy(tx: Transaction) -> None:
    """Never idle for long, and never done."""
    while True:
        await tx.execute("SELECT pg_sleep(0.01)")
        await asyncio.sleep(0.01)


async def idle(tx: Transaction) -> None:
    """Holds it without a word, for as long as it may."""
    await asyncio.Event().wait()


@pytest.mark.usefixtures("short_limits")
@pytest.mark.parametrize("attack", [busy, idle])
async def test_E17_one_tenant_holds_all_others_back_no_longer_than_the_limit(
    attack: Callable[[Transaction], Awaitable[None]], module_databases: Endpoints
) -> None:
    """A tenant's program keeps a transaction open that has written, idle or busily: another
    tenant's subscription goes on when the server has ended it, and all it had written is gone."""
    victim, attacker = uuid4(), uuid4()
    loop = asyncio.get_running_loop()
    async with open_event_store(module_databases, application_name="victim") as store:
        events = store.events(victim, by=Principal.operator("tests"))
        seen = asyncio.Event()

        async def handle(tx: Transaction, event: RecordedEvent) -> None:
            seen.set()

        subscription = await events.subscribe("feed", poll=timedelta(milliseconds=10))
        stop = asyncio.Event()
        running = asyncio.create_task(subscription.run(handle, until=stop))
        begun = asyncio.Event()
        attacking = asyncio.create_task(_attack(module_databases, attacker, attack, begun))
        await asyncio.wait_for(begun.wait(), PATIENCE_S)
        began = loop.time()
        await put(events)
        await asyncio.wait_for(seen.wait(), PATIENCE_S)
        assert loop.time() - began < 20 * LIMIT_S  # with all that a busy machine adds
        stop.set()
        await running
        attacking.cancel()
        await asyncio.wait([attacking])
        assert await store.events(attacker, by=Principal.operator("tests")).read_all() == []


@pytest.mark.usefixtures("short_limits")
async def test_a_question_of_a_tenant_has_its_own_limit(
    new_tenant: NewTenant, module_databases: Endpoints
) -> None:
    """`neolayer query` may take longer than a transaction that writes."""
    tenant = (await new_tenant()).tenant
    statement = f"SELECT pg_sleep({2 * LIMIT_S})"
    async with ask(module_databases, Target.EVENTS, statement, tenant=str(tenant)) as answer:
        assert len([row async for block in answer.blocks for row in block]) == 1


async def _attack(
    endpoints: Endpoints,
    tenant: UUID,
    attack: Callable[[Transaction], Awaitable[None]],
    begun: asyncio.Event,
) -> None:
    while True:
        try:
            async with kept_open(endpoints, tenant) as tx:
                begun.set()
                return await attack(tx)
        except NeolayerError:
            if begun.is_set():
                raise  # else a busy machine let its limit strike before it had begun


def test_the_remedy_quotes_what_a_prepared_transaction_is_called() -> None:
    """Whoever prepares one may call it anything: what an operator pastes is one statement."""
    holding = Holding(
        None, "a'; DROP TABLE t; --", "app", "db", "prepared", None, 60.0, 60.0, (), ()
    )
    assert holding.remedy == "ROLLBACK PREPARED 'a''; DROP TABLE t; --'"
