"""C1: consumers of a subscription are killed; every event has its effect once, streams in order."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from tests.crash.archiving_process import segments_in
from tests.fixtures.patience import PATIENCE_S

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.events import NewEvent, RecordedEvent, open_event_store
from neolayer.tenancy import Principal, Transaction

CONSUMER = Path(__file__).with_name("events_consumer.py")
ARCHIVER = Path(__file__).with_name("archiving_process.py")
DISCARDER = Path(__file__).with_name("discarding_process.py")
POINTS = ("events.before_checkpoint", "events.before_commit", "events.after_commit")


def started(
    script: Path, endpoints: Endpoints, *more: str, crash_at: str
) -> subprocess.Popen[bytes]:
    cluster = endpoints.event_store
    passwords = {str(role): word for role, word in cluster.passwords.items()}
    at = json.dumps({"dsn": cluster.admin_dsn, "passwords": passwords})
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    if crash_at:
        environment["NEOLAYER_CRASH_AT"] = crash_at
    argv = [sys.executable, "-W", "ignore", str(script), at, *more]
    return subprocess.Popen(argv, env=environment)


@contextmanager
def consumer(
    endpoints: Endpoints, tenant: UUID, crash_at: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    process = started(CONSUMER, endpoints, str(tenant), crash_at=crash_at)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def admin(endpoints: Endpoints) -> psycopg.Connection:
    dsn = endpoints.event_store.dsn(Role.ADMIN, Database.EVENT_STORE)
    return psycopg.connect(dsn, autocommit=True)


def prepare(endpoints: Endpoints) -> None:
    with admin(endpoints) as session:
        session.execute(
            "CREATE TABLE IF NOT EXISTS public.handled (n serial, stream uuid, version int)"
        )
        session.execute("GRANT ALL ON public.handled, public.handled_n_seq TO neolayer_app")


async def fill(endpoints: Endpoints, tenant: UUID, streams: list[UUID], each: int) -> None:
    async with open_event_store(endpoints, size=2, application_name="tests") as store:
        events = store.events(tenant, by=Principal.operator("tests"))
        for _ in range(each):
            await asyncio.gather(
                *(
                    events.append(s, [NewEvent("Deposited", {})], category="account")
                    for s in streams
                )
            )


def await_all(endpoints: Endpoints, streams: list[UUID], each: int) -> None:
    """Until as many effects are there as events; then they must be those, in order, once."""
    deadline = time.monotonic() + PATIENCE_S
    with admin(endpoints) as session:
        while True:
            rows = session.execute(
                "SELECT stream, version FROM public.handled WHERE stream = ANY(%s) ORDER BY n",
                (streams,),
            ).fetchall()
            if len(rows) >= len(streams) * each:
                break
            assert time.monotonic() < deadline, f"{len(rows)} of {len(streams) * each}"
            time.sleep(0.05)
    for stream in streams:
        assert [version for of, version in rows if of == stream] == list(range(1, each + 1))


@pytest.mark.parametrize("point", POINTS)
def test_C1_a_killed_consumer_leaves_each_event_once(
    layer_databases: Endpoints, point: str
) -> None:
    """Killed in its second transaction; another takes its partitions over and ends the work."""
    tenant, streams = uuid4(), [uuid4() for _ in range(6)]
    prepare(layer_databases)
    asyncio.run(fill(layer_databases, tenant, streams, 3))
    with consumer(layer_databases, tenant, f"{point}:2") as first:
        assert first.wait(timeout=PATIENCE_S) == -signal.SIGKILL
    with consumer(layer_databases, tenant):
        await_all(layer_databases, streams, 3)


@pytest.mark.faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(10))
def test_C1_consumers_killed_at_any_moment(layer_databases: Endpoints, seed: int) -> None:
    """Two consumers, one of them killed again and again while events come in."""
    dice = random.Random(seed)
    tenant, streams = uuid4(), [uuid4() for _ in range(8)]
    prepare(layer_databases)
    with consumer(layer_databases, tenant):
        for _ in range(5):
            point = f"{dice.choice(POINTS)}:{dice.randint(1, 4)}" if dice.random() < 0.5 else ""
            with consumer(layer_databases, tenant, point) as mortal:
                asyncio.run(fill(layer_databases, tenant, streams, 4))
                with suppress(subprocess.TimeoutExpired):
                    mortal.wait(timeout=dice.uniform(0.2, 3))
        await_all(layer_databases, streams, 20)


async def test_C1_archiving_dies_at_every_step(module_databases: Endpoints, tmp_path: Path) -> None:
    """Until a stream is out of the table it is there as ever; done again, it is archived once."""
    tenant, stream = uuid4(), uuid4()
    async with open_event_store(module_databases, size=2, application_name="tests") as store:
        events = store.events(tenant, by=Principal.operator("tests"))
        events = replace(events, segments=segments_in(tmp_path))
        await events.append(stream, [NewEvent("Deposited", {"n": n}) for n in (1, 2)], category="a")
        await events.close(stream, {})
        before = [event async for event in events.read_stream(stream)]
        more = (str(tenant), str(tmp_path), str(stream))
        for point in ("events.after_segment", "events.before_removal"):
            process = started(ARCHIVER, module_databases, *more, crash_at=point)
            assert await asyncio.to_thread(process.wait, PATIENCE_S) == -signal.SIGKILL, point
            assert [event async for event in events.read_stream(stream)] == before
        process = started(ARCHIVER, module_databases, *more, crash_at="")
        assert await asyncio.to_thread(process.wait, PATIENCE_S) == 0
        assert [event async for event in events.read_stream(stream)] == before
        assert [one for one in await events.read_all() if one.stream_id == stream] == before


async def test_C1_giving_up_an_event_dies_before_its_commit(module_databases: Endpoints) -> None:
    """The audit trail says so already, and the event is still parked: an entry too many, never one
    too few. Done again, it is given up once."""
    tenant, stream = uuid4(), uuid4()

    async def refuse(tx: Transaction, event: RecordedEvent) -> None:
        raise ValueError("no")

    async with open_event_store(module_databases, size=2, application_name="tests") as store:
        events = store.events(tenant, by=Principal.operator("tests"))
        await events.append(stream, [NewEvent("Deposited", {})], category="account")
        subscription = await events.subscribe("letters", partitions=1)
        await subscription.catch_up(refuse)
        for crash_at, code, left in (("events.in_discard", -signal.SIGKILL, 1), ("", 0, 0)):
            more = (str(tenant), "letters", str(stream))
            process = started(DISCARDER, module_databases, *more, crash_at=crash_at)
            assert await asyncio.to_thread(process.wait, PATIENCE_S) == code
            assert len(await subscription.parked()) == left
    with psycopg.connect(module_databases.postgres.dsn(Role.ADMIN)) as session:
        entries = session.execute(
            "SELECT principal, action FROM audit.entries"
            " WHERE tenant_id = %s AND resource = 'parked_event'",
            (tenant,),
        ).fetchall()
    assert entries == [("operator:ann", "DELETE")] * 2
