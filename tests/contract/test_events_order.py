"""C: the order in which all events are read never skips one, whoever aborts, stalls or is killed.

Writers in raw transactions of their own, so that each step is the test's: begin, append, wait,
commit, roll back, be killed. They go through each of the database's doors: one event, a group, a
batch. A reader reads on all the while and keeps its place, by each of the store's queries. The same
schedule with a reader that polls `position > cursor` loses events: so the test can fail. Real
clients that are killed are in tests/crash/test_C1_order_kill.py.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, LiteralString
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.types.json import Json, Jsonb
from tests.crash.kept_seeds import keeping, kept
from tests.fixtures.patience import PATIENCE_S

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.queries import load_queries
from neolayer.events import BEGINNING, Place
from neolayer.tenancy import Principal
from neolayer.tenancy.context import read_signer

SQL = load_queries("neolayer.events.store")
FOLLOWED = load_queries("neolayer.events.subscriptions", "subscriptions.sql")
KIND = "order"  # of the seeds that are kept
CORRELATION = uuid4()
Session = psycopg.Connection[Any]
APPEND = "SELECT public.append_events(%s::uuid[], %s::jsonb, true)"
APPEND_GROUP = "SELECT public.append_group(%s, %s::uuid[], %s::json, %s)"
APPEND_EVENT = """SELECT public.append_event(
    %s, %s, 'account', -1, %s, 'Deposited', '{}', '{}', %s, NULL, 1, NULL
)"""


@dataclass
class Store:
    """What the schedules run on: sessions as the application, all in one tenant's name."""

    dsn: str
    admin: Session
    sign: Callable[[], str]

    @contextmanager
    def session(self) -> Iterator[Session]:
        with psycopg.connect(self.dsn) as session:
            yield session

    def enter(self, session: Session) -> None:
        session.execute("SELECT set_config('neolayer.context', %s, true)", (self.sign(),))

    def settle(self) -> None:
        """Wait until no transaction runs that began to write before now: none of the server's."""
        query = "SELECT pg_current_xact_id()::text::bigint"
        ((now,),) = self.admin.execute(query).fetchall()
        query = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint > %s"
        deadline = time.monotonic() + PATIENCE_S
        while self.admin.execute(query, (now,)).fetchone() != (True,):
            assert time.monotonic() < deadline, "an older transaction goes on"
            time.sleep(0.01)


@pytest.fixture(scope="module")
def sign(module_databases: Endpoints) -> Callable[[], str]:
    """A fresh context of one tenant: it holds for five minutes, and the long form takes more."""
    signer, tenant = asyncio.run(read_signer(module_databases)), uuid4()
    return lambda: signer.sign(tenant, Principal.operator("tests"))


@pytest.fixture
def store(module_databases: Endpoints, sign: Callable[[], str]) -> Iterator[Store]:
    cluster = module_databases.event_store
    with psycopg.connect(cluster.dsn(Role.ADMIN, Database.EVENT_STORE), autocommit=True) as admin:
        yield Store(cluster.dsn(Role.APP, Database.EVENT_STORE), admin, sign)


@dataclass
class Reader:
    """Reads on from its place; `read` asks for the next page."""

    store: Store
    session: Session
    read: Callable[[Session, Any], list[tuple[Any, ...]]]
    place: Any
    seen: list[UUID] = field(default_factory=list[UUID])

    def poll(self) -> None:
        self.store.enter(self.session)
        found = self.read(self.session, self.place)
        self.session.commit()
        if found:
            self.seen += [row[1] for row in found]
            self.place = found[-1]


def _page(session: Session, last: Any, query: LiteralString, **more: Any) -> list[tuple[Any, ...]]:
    after = BEGINNING if last is None else Place(int(last[14]), last[15])
    place = {"transaction": str(after.transaction), "index": after.index}
    return session.execute(query, place | {"limit": 10_000, "markers": 1} | more).fetchall()


def in_order(session: Session, last: Any) -> list[tuple[Any, ...]]:
    """What the store does."""
    return _page(session, last, SQL.all)


def by_type(session: Session, last: Any) -> list[tuple[Any, ...]]:
    return _page(session, last, SQL.by_type, types=["Deposited"])


def by_category(session: Session, last: Any) -> list[tuple[Any, ...]]:
    return _page(session, last, SQL.by_category, categories=["account"])


def by_correlation(session: Session, last: Any) -> list[tuple[Any, ...]]:
    return _page(session, last, SQL.by_correlation, correlation=CORRELATION)


def by_subscription(session: Session, last: Any) -> list[tuple[Any, ...]]:
    """What consumers do, of a subscription with one partition."""
    return _page(session, last, FOLLOWED.next_events, partitions=1, partition=0, types=None)


READERS = (in_order, by_type, by_category, by_correlation, by_subscription)


def by_position(session: Session, last: Any) -> list[tuple[Any, ...]]:
    """The mutant: what everybody who stores events in PostgreSQL has shipped once."""
    query = "SELECT position, event_id FROM public.events WHERE position > %s ORDER BY position"
    return session.execute(query, (0 if last is None else last[0],)).fetchall()


def up_to_now(session: Session, last: Any) -> list[tuple[Any, ...]]:
    """A second mutant: the right order, without looking who still runs."""
    after = (0, 0) if last is None else last[2:]
    query = (
        "SELECT position, event_id, transaction_id::text::bigint, position FROM public.events"
        " WHERE (transaction_id, position) > (%s::text::xid8, %s)"
        " ORDER BY transaction_id, position"
    )
    return session.execute(query, (str(after[0]), after[1])).fetchall()


def append(store: Store, writer: Session, used: list[UUID], dice: random.Random) -> list[UUID]:
    """Append by one of the doors in an open transaction; the events' ids."""
    door = dice.choice(("event", "group", "group", "batch"))
    if door == "event":
        ids = [uuid4()]
        params = (store.sign(), used[0], ids[0], CORRELATION)
        row = writer.execute(APPEND_EVENT, params).fetchone()
        assert row is not None and row[0][0] == "stored", row
        return ids
    rows = [event_row(number, stream) for number, stream in enumerate(used)]
    is_plain = len(used) > 1 and dice.random() < 0.5  # one event to each has a way of its own
    if not is_plain:
        last = len(used) - 1
        rows += [event_row(last, used[last]) for _ in range(dice.randint(0, 2))]
    if door == "group":
        params = (store.sign(), used, Json(rows), is_plain)
        row = writer.execute(APPEND_GROUP, params).fetchone()
    else:
        row = writer.execute(APPEND, (used, Jsonb(rows))).fetchone()
    assert row is not None and {one[1] for one in row[0]["appends"]} == {"stored"}, row
    return [UUID(one["i"]) for one in rows]


def event_row(number: int, stream: UUID) -> dict[str, Any]:
    """An event as the doors take it: a unit of its own stream."""
    where = {"u": number, "a": number, "s": str(stream), "c": "account", "x": -1}
    return where | {"i": str(uuid4()), "t": "Deposited", "d": {}, "r": str(CORRELATION)}


def schedule(store: Store, reader: Reader, seed: int, steps: int) -> tuple[list[UUID], list[UUID]]:
    """Run `steps` of a seeded schedule; the events that were committed, and the streams used."""
    dice = random.Random(seed)
    committed: list[UUID] = []
    streams = [uuid4() for _ in range(6)]
    with ExitStack() as stack:
        writers = [stack.enter_context(store.session()) for _ in range(5)]
        open_: dict[int, list[UUID]] = {}
        busy: dict[UUID, int] = {}
        for _ in range(steps):
            number = dice.randrange(len(writers))
            writer = writers[number]
            action = dice.choice(("append", "append", "append", "end", "poll", "poll"))
            if action == "poll":
                reader.poll()
            elif action == "append":
                free = [s for s in streams if busy.get(s, number) == number]
                if not free:
                    continue
                if number not in open_:
                    store.enter(writer)
                    open_[number] = []
                used = dice.sample(free, dice.randint(1, min(2, len(free))))
                busy |= dict.fromkeys(used, number)
                try:
                    ids = append(store, writer, used, dice)
                except psycopg.errors.SerializationFailure:  # it would stand before what it follows
                    writer.rollback()
                    del open_[number]
                    busy = {s: holder for s, holder in busy.items() if holder != number}
                    continue
                open_[number] += ids
            elif number in open_:
                end = dice.choice(("commit", "commit", "commit", "roll back", "kill"))
                if end == "commit":
                    writer.commit()
                    committed += open_[number]
                elif end == "roll back":
                    writer.rollback()
                else:
                    pid = writer.info.backend_pid
                    store.admin.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
                    writer.close()
                    writers[number] = stack.enter_context(store.session())
                del open_[number]
                busy = {s: holder for s, holder in busy.items() if holder != number}
        for number, ids in open_.items():
            writers[number].commit()
            committed += ids
    store.settle()
    reader.poll()
    return committed, streams


def run(store: Store, read: Any, seed: int, steps: int) -> tuple[Reader, list[UUID], list[UUID]]:
    with store.session() as session:
        store.enter(session)
        start = session.execute("SELECT max(position), NULL FROM public.events").fetchone()
        end = session.execute(
            "SELECT transaction_id::text::bigint, position FROM public.events"
            " WHERE transaction_id < pg_snapshot_xmin(pg_current_snapshot())"
            " ORDER BY transaction_id DESC, position DESC LIMIT 1"
        ).fetchone()
        session.commit()
        assert start is not None
        begin = (*[None] * 14, *end) if end else None
        if read is by_position:
            begin = (start[0] or 0,)
        elif read is up_to_now:
            begin = (0, 0, *end) if end else None
        reader = Reader(store, session, read, begin)
        committed, streams = schedule(store, reader, seed, steps)
    return reader, committed, streams


def check(store: Store, seed: int, steps: int) -> int:
    """One seed, which is kept if it fails. The reader follows from it."""
    with keeping(KIND, seed):
        return judged(store, seed, steps)


def judged(store: Store, seed: int, steps: int) -> int:
    """Every committed event is seen once, in an order that its streams agree with."""
    reader, committed, streams = run(store, READERS[seed % len(READERS)], seed, steps)
    assert sorted(reader.seen) == sorted(committed), f"seed {seed}"
    versions = dict(
        store.admin.execute(
            "SELECT event_id, (aggregate_id, event_version)::text FROM public.events"
            " WHERE aggregate_id = ANY(%s)",
            (streams,),
        ).fetchall()
    )
    per_stream: dict[str, list[int]] = {}
    for event_id in reader.seen:
        stream, version = versions[event_id].strip("()").split(",")
        per_stream.setdefault(stream, []).append(int(version))
    for found in per_stream.values():
        assert found == list(range(1, len(found) + 1)), f"seed {seed}"
    return len(committed)


@pytest.mark.parametrize("seed", [*kept(KIND), *range(3 * len(READERS))])
def test_C_no_event_is_skipped(store: Store, seed: int) -> None:
    """Five writers of six streams that commit, roll back, stall and are killed; three schedules for
    each way to read: all, by type, by category, by correlation, as a subscription does."""
    assert check(store, seed, 60) > 0


@pytest.mark.parametrize("mutant", [by_position, up_to_now])
def test_C_the_proof_can_fail(store: Store, mutant: Any) -> None:
    """A reader that does not wait for older transactions loses events on the same schedules."""
    lost = 0
    for seed in range(8):
        reader, committed, _ = run(store, mutant, seed, 60)
        lost += len(set(committed) - set(reader.seen))
    assert lost > 0


@pytest.mark.faults
@pytest.mark.timeout(1200)
def test_C_no_event_is_skipped_in_five_hundred_schedules(
    store: Store, pytestconfig: pytest.Config
) -> None:
    """The long form: 500 seeds of 120 steps."""
    seeds = [*kept(KIND), *range(1_000, 1_500)]
    assert sum(check(store, seed, 120) for seed in seeds) > 10_000
    assert pytestconfig.cache is not None
    figures = {"seeds": len(seeds), "lost": 0, "doubled": 0}
    pytestconfig.cache.set("faults/order", figures)


def test_what_an_appender_could_see_stands_before_it(store: Store) -> None:
    """An event that was committed when an append began is read before it; also where the later
    one's transaction began first, because it gets its id by appending."""
    one, two = uuid4(), uuid4()
    with store.session() as early, store.session() as late:
        store.enter(early)
        early.execute("SELECT 1")  # the transaction is open, and has no id yet
        _append(store, late, one)
        late.commit()
        assert early.execute("SELECT count(*) FROM public.stream_heads").fetchone() != (0,)
        _append(store, early, two)
        early.commit()
        store.settle()
        store.enter(early)
        order = [row[2] for row in in_order(early, None) if row[2] in (one, two)]
    assert order == [one, two]


def test_a_late_transaction_cannot_stand_before_what_it_follows(store: Store) -> None:
    """A transaction with an id older than the stream's last event is told to run again: otherwise
    readers would get version 2 before version 1."""
    stream = uuid4()
    with store.session() as early, store.session() as late:
        store.enter(early)
        early.execute("SELECT pg_current_xact_id()")
        _append(store, late, stream)
        late.commit()
        with pytest.raises(psycopg.errors.SerializationFailure, match="began to write later"):
            _append(store, early, stream)


def _append(store: Store, session: Session, stream: UUID) -> None:
    store.enter(session)
    row = {"u": 0, "a": 0, "s": str(stream), "c": "account", "x": -1, "i": str(uuid4())}
    session.execute(APPEND, ([stream], Jsonb([row | {"t": "Deposited", "d": {}}])))
