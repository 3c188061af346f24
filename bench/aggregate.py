"""An aggregate of 1,000 events rebuilt: ours, `eventsourcing`, and a bare SELECT with json.loads.

Ours is the room's own `load`: row security, types, the state folded from the first event on. The
peer's is its `repository.get`, without snapshot or cache. The bare one reads the same rows as a
superuser and decodes their data, and folds nothing.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import msgspec
import psycopg
from psycopg.conninfo import conninfo_to_dict

from bench.harness import Figure, Plan, compare, rounds
from bench.peers import peer_python
from bench.process import Process, running
from bench.schema import endpoints_of
from bench.server import open_folder, postgres
from neolayer.engines.endpoints import Database, Endpoints, PostgresEndpoint, Role
from neolayer.events import Aggregate, Domain, EventTypes, SnapshotPolicy, open_event_rooms
from neolayer.events.rooms import TenantRooms
from neolayer.keys import Keyring
from neolayer.keys.providers.file import FileKeys
from neolayer.schema.lines import Line
from neolayer.schema.runner import migrate_up
from neolayer.tenancy import Principal, open_core

EVENTS = 1_000
OURS, KEPT = "ours", "ours with a snapshot"
PEER, BARE = "eventsourcing repository.get", "SELECT and json.loads"
_DATA = {"account": "4711", "amount": 125, "currency": "EUR", "note": "a deposit at the counter"}
_SELECT = (
    "SELECT event_type, event_version, event_data::text FROM public.events"
    " WHERE tenant_id = %s AND aggregate_id = %s ORDER BY event_version"
)

accounts = EventTypes("account")


@accounts.event("opened")
class Opened(msgspec.Struct, frozen=True):
    pass


@accounts.event("deposited")
class Deposited(msgspec.Struct, frozen=True):
    account: str
    amount: int
    currency: str
    note: str


class Account(msgspec.Struct, frozen=True):
    balance: int = 0


def evolve(state: Account, event: msgspec.Struct) -> Account:
    return Account(state.balance + event.amount) if isinstance(event, Deposited) else state


ACCOUNT = Aggregate("account", Account(), evolve, lambda command, state: [Deposited(**_DATA)])
KEPT_ACCOUNT = Aggregate("account", Account(), evolve, ACCOUNT.decide, SnapshotPolicy(every=EVENTS))


def figures(plan: Plan) -> Iterator[Figure]:
    with (
        open_folder() as folder,
        postgres(folder) as endpoint,
        asyncio.Runner() as runner,
        running("eventsourcing_aggregate", peer_python()) as peer,
    ):
        at = endpoints_of(endpoint)
        runner.run(migrate_up(at, lines=(Line.CORE, Line.EVENT_STORE)))
        _prepare_peer(peer, endpoint)
        opened = _Scene(at, Keyring(FileKeys(folder / "keys")))
        runner.run(opened.open())
        try:
            times = plan.pick(20, 100)
            samples = rounds(
                {
                    OURS: lambda: runner.run(opened.load(ACCOUNT, times)),
                    KEPT: lambda: runner.run(opened.load(KEPT_ACCOUNT, times)),
                    PEER: lambda: peer.run(events=EVENTS, times=times).seconds / times * 1e3,
                    BARE: lambda: runner.run(opened.select(times)),
                },
                plan.pick(5, 15),
            )
        finally:
            runner.run(opened.close())
        yield compare("events-rebuild", samples, OURS, PEER)
        yield compare("events-rebuild-bare", samples, OURS, BARE)
        yield compare("events-rebuild-snapshot", samples, KEPT, PEER)


def _prepare_peer(peer: Process, endpoint: PostgresEndpoint) -> None:
    with psycopg.connect(endpoint.dsn(Role.ADMIN, "postgres"), autocommit=True) as admin:
        admin.execute("CREATE DATABASE eventsourcing")
    values: dict[str, Any] = conninfo_to_dict(endpoint.dsn(Role.ADMIN, "eventsourcing"))
    names = ("dbname", "host", "port", "user", "password")
    peer.prepare(events=EVENTS, data=_DATA, **{name: values[name] for name in names})


class _Scene:
    """A tenant with one account, and a superuser's connection."""

    def __init__(self, at: Endpoints, keyring: Keyring) -> None:
        self._core = open_core(at, application_name="bench")
        domain = Domain.of([accounts])
        self._rooms = open_event_rooms(at, domain, keyring, application_name="bench")
        self._dsn = at.event_store.dsn(Role.ADMIN, Database.EVENT_STORE)
        self.stream = uuid4()
        self.tenant: UUID = uuid4()

    async def open(self) -> None:
        core, rooms = await self._core.__aenter__(), await self._rooms.__aenter__()
        scope = core.scope(self.tenant, by=Principal.operator("bench"))
        self.acme: TenantRooms = rooms.tenant(scope)
        self.bare = await psycopg.AsyncConnection[Any].connect(self._dsn, autocommit=True)
        before = [Opened(), *[Deposited(**_DATA)] * (EVENTS - 2)]
        await self.acme.events.append(self.stream, before)
        await self.acme.aggregates.execute(KEPT_ACCOUNT, self.stream, None)
        await rooms.background.settle()
        await self.bare.execute("ANALYZE")

    async def close(self) -> None:
        await self.bare.close()
        await self._rooms.__aexit__(None, None, None)
        await self._core.__aexit__(None, None, None)

    async def load(self, aggregate: Aggregate[Account], times: int) -> float:
        """Milliseconds a load."""
        started = time.perf_counter()
        for _ in range(times):
            loaded = await self.acme.aggregates.load(aggregate, self.stream)
            assert loaded.version == EVENTS
        return (time.perf_counter() - started) / times * 1e3

    async def select(self, times: int) -> float:
        started = time.perf_counter()
        for _ in range(times):
            rows = await (await self.bare.execute(_SELECT, (self.tenant, self.stream))).fetchall()
            assert len([json.loads(data) for _, _, data in rows]) == EVENTS
        return (time.perf_counter() - started) / times * 1e3
