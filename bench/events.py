"""The event store: appends against bare INSERTs into the same table, and reading in order.

The floor is psycopg's own INSERT as a superuser, whom no row security holds, one connection a
writer: the same table with its indexes and its trigger, and nothing of what an append promises (no
expected version, no ids looked up, no tenant entered, no position). Ours has all of that. The
trigger sees to it that versions have no gaps and keeps the streams' heads, whoever inserts; our
append does both by itself, in the same transaction, and is let off the trigger. So there is a
second floor that is let off too and does neither: less than any event store does, the least that
the table costs. For batches it has a rival, binary COPY. All run in one event loop, on a server
that waits for the disk at every commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.types.json import Jsonb

from bench.harness import Figure, Plan, compare, rounds
from bench.peers import peer_python
from bench.process import Process, running
from bench.schema import endpoints_of
from bench.server import open_folder, postgres
from neolayer.engines.endpoints import Database, Endpoints, PostgresEndpoint, Role
from neolayer.events import BEGINNING, Events, NewEvent, open_event_store
from neolayer.schema.lines import Line
from neolayer.schema.runner import migrate_up
from neolayer.tenancy import Principal

OURS, BARE = "ours", "bare INSERT"
UNCHECKED = "INSERT without the trigger"
COPY = "binary COPY without the trigger"
PLAIN, FUNCTIONS = "eventsourcing", "eventsourcing with database functions"
NOTIFICATIONS = "eventsourcing select_notifications"
_PAGE = 1_000
_BATCH = 100
_DATA = {"account": "4711", "amount": 125, "currency": "EUR", "note": "a deposit at the counter"}
_INSERT = """
    INSERT INTO public.events (tenant_id, event_id, aggregate_id, aggregate_type, event_type,
        event_version, event_data)
    VALUES (%s, %s, %s, 'account', 'Deposited', %s, %s)
"""
_INSERT_MANY = """
    INSERT INTO public.events (tenant_id, event_id, aggregate_id, aggregate_type, event_type,
        event_version, event_data)
    SELECT %s, e.id, %s, 'account', 'Deposited', e.version, e.data
    FROM unnest(%s::uuid[], %s::int[], %s::jsonb[]) AS e (id, version, data)
"""
_COPY = """
    COPY public.events (tenant_id, event_id, aggregate_id, aggregate_type, event_type,
        event_version, event_data)
    FROM STDIN (FORMAT binary)
"""
_COPIED = ("uuid", "uuid", "uuid", "varchar", "varchar", "int4", "jsonb")
Connection = psycopg.AsyncConnection[Any]


@dataclass(slots=True)
class Scene:
    """One tenant's events, and superusers' connections that act in its name."""

    tenant: UUID
    events: Events
    bare: list[Connection]
    unchecked: list[Connection]  # which no trigger of a table concerns

    async def ours(self, writers: int, each: int) -> float:
        """Appends a second: each writer has a stream and appends one event after another."""

        async def write() -> None:
            stream = uuid4()
            for version in range(each):
                event = NewEvent("Deposited", _DATA)
                await self.events.append(
                    stream, [event], category="account", expected_version=version
                )

        return await _rate(writers * each, [write] * writers)

    async def inserts(self, connections: list[Connection], each: int) -> float:
        def writer(connection: Connection) -> Callable[[], Awaitable[None]]:
            async def write() -> None:
                stream = uuid4()
                for version in range(1, each + 1):
                    await connection.execute(
                        _INSERT, (self.tenant, uuid4(), stream, version, Jsonb(_DATA))
                    )

            return write

        return await _rate(len(connections) * each, [writer(one) for one in connections])

    async def our_batches(self, count: int) -> float:
        async def write() -> None:
            stream = uuid4()
            for number in range(count):
                batch = [NewEvent("Deposited", _DATA) for _ in range(_BATCH)]
                await self.events.append(
                    stream, batch, category="account", expected_version=number * _BATCH
                )

        return await _rate(count * _BATCH, [write])

    async def bare_batches(self, connection: Connection, count: int) -> float:
        async def write() -> None:
            stream = uuid4()
            for number in range(count):
                ids = [uuid4() for _ in range(_BATCH)]
                versions = [number * _BATCH + n for n in range(1, _BATCH + 1)]
                data = [Jsonb(_DATA) for _ in range(_BATCH)]
                await connection.execute(_INSERT_MANY, (self.tenant, stream, ids, versions, data))

        return await _rate(count * _BATCH, [write])

    async def copied_batches(self, connection: Connection, count: int) -> float:
        async def write() -> None:
            stream = uuid4()
            for number in range(count):
                async with connection.cursor().copy(_COPY) as copy:
                    copy.set_types(_COPIED)
                    for version in range(number * _BATCH + 1, (number + 1) * _BATCH + 1):
                        row = (self.tenant, uuid4(), stream, "account", "Deposited", version)
                        await copy.write_row((*row, Jsonb(_DATA)))

        return await _rate(count * _BATCH, [write])

    async def read_all(self, page: int) -> float:
        """Events a second, by position, each with its data."""
        place, read = BEGINNING, 0
        started = time.perf_counter()
        while True:
            found = await self.events.read_all(after=place, limit=page)
            if not found:
                return read / (time.perf_counter() - started)
            read += sum(event.data["amount"] == 125 for event in found)
            place = found[-1].place


async def _rate(events: int, work: list[Callable[[], Awaitable[None]]]) -> float:
    started = time.perf_counter()
    await asyncio.gather(*(each() for each in work))
    return events / (time.perf_counter() - started)


@contextlib.asynccontextmanager
async def _opened(endpoints: Endpoints) -> AsyncGenerator[Scene]:
    tenant, by = uuid4(), Principal.operator("bench")
    dsn = endpoints.event_store.dsn(Role.ADMIN, Database.EVENT_STORE)
    async with open_event_store(endpoints) as store, contextlib.AsyncExitStack() as stack:
        context = store.database.signer.sign(tenant, by)

        async def connections(setting: str, value: str) -> list[Connection]:
            opened: list[Connection] = []
            for _ in range(32):
                connection = await Connection.connect(dsn, autocommit=True)
                opened.append(await stack.enter_async_context(connection))
                await connection.execute("SELECT set_config(%s, %s, false)", (setting, value))
            return opened

        bare = await connections("neolayer.context", context)
        unchecked = await connections("session_replication_role", "replica")
        yield Scene(tenant, store.events(tenant, by=by), bare, unchecked)


def figures(plan: Plan) -> Iterator[Figure]:
    with (
        open_folder() as folder,
        postgres(folder) as endpoint,
        running("eventsourcing_events", peer_python()) as peer,
    ):
        endpoints = endpoints_of(endpoint)
        _prepare_peer(peer, endpoint)
        asyncio.run(migrate_up(endpoints, lines=(Line.CORE, Line.EVENT_STORE)))
        with asyncio.Runner() as runner:
            opened = _opened(endpoints)
            scene = runner.run(opened.__aenter__())
            yield from _measured(runner, scene, plan)
            yield from _against_peer(runner, scene, peer, plan)
            runner.run(opened.__aexit__(None, None, None))


def _measured(runner: asyncio.Runner, scene: Scene, plan: Plan) -> Iterator[Figure]:
    for writers, each in ((1, 300), (8, 150), (32, 60)):
        contenders = {
            OURS: lambda w=writers, n=each: runner.run(scene.ours(w, n)),
            BARE: lambda w=writers, n=each: runner.run(scene.inserts(scene.bare[:w], n)),
            UNCHECKED: lambda w=writers, n=each: runner.run(scene.inserts(scene.unchecked[:w], n)),
        }
        samples = rounds(contenders, plan.pick(8, 30))
        yield compare(f"events-append-{writers}", samples, OURS, BARE)
        yield compare(f"events-append-{writers}-vs-unchecked", samples, OURS, UNCHECKED)
    contenders = {
        OURS: lambda: runner.run(scene.our_batches(30)),
        BARE: lambda: runner.run(scene.bare_batches(scene.bare[0], 30)),
        UNCHECKED: lambda: runner.run(scene.bare_batches(scene.unchecked[0], 30)),
        COPY: lambda: runner.run(scene.copied_batches(scene.unchecked[0], 30)),
    }
    samples = rounds(contenders, plan.pick(8, 30))
    yield compare("events-append-batches", samples, OURS, BARE)
    yield compare("events-append-batches-vs-unchecked", samples, OURS, UNCHECKED)
    yield compare("events-append-batches-vs-copy", samples, OURS, COPY)


def _prepare_peer(peer: Process, endpoint: PostgresEndpoint) -> None:
    with psycopg.connect(endpoint.dsn(Role.ADMIN, "postgres"), autocommit=True) as admin:
        admin.execute("CREATE DATABASE eventsourcing")
    values: dict[str, Any] = conninfo_to_dict(endpoint.dsn(Role.ADMIN, "eventsourcing"))
    names = ("dbname", "host", "port", "user", "password")
    peer.prepare(**{name: values[name] for name in names})


def _against_peer(
    runner: asyncio.Runner, scene: Scene, peer: Process, plan: Plan
) -> Iterator[Figure]:
    def appends(functions: bool) -> Callable[[], float]:
        job = {"route": "append", "writers": 8, "each": 100, "data": _DATA}
        return lambda: peer.run(functions=functions, **job).per_second

    contenders = {
        OURS: lambda: runner.run(scene.ours(8, 100)),
        PLAIN: appends(False),
        FUNCTIONS: appends(True),
    }
    samples = rounds(contenders, plan.pick(6, 20))
    yield compare("events-append-vs-eventsourcing", samples, OURS, PLAIN)
    yield compare("events-append-vs-functions", samples, OURS, FUNCTIONS)
    reads = {"route": "select", "functions": True, "page": _PAGE, "amount": _DATA["amount"]}
    contenders = {
        OURS: lambda: runner.run(scene.read_all(_PAGE)),
        NOTIFICATIONS: lambda: peer.run(**reads).per_second,
    }
    yield compare("events-read-all", rounds(contenders, plan.pick(6, 20)), OURS, NOTIFICATIONS)
