"""A server that goes away under a run, at any moment: the run waits for it and goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from psycopg import errors as pg
from tests.fixtures.fabricated import fabricate_chain
from tests.fixtures.fix_chain import Stored
from tests.fixtures.fix_rpc import PlayedNode
from tests.fixtures.followers import Follower, eventually, following

from neolayer.chain import finality, follow, ingest, lanes, outages, reorg
from neolayer.chain.lanes import SteadyStore
from neolayer.chain.pending import Pool
from neolayer.chain.sources.jsonrpc import JsonRpc, open_rpc
from neolayer.chain.store import BlockStore, errors_at_the_door, sql
from neolayer.chain.synthetic import SyntheticChain, make_chain
from neolayer.errors import EngineUnavailable, SourceError


@pytest.fixture(scope="module")
def chain() -> SyntheticChain:
    return make_chain(blocks=14, transactions_per_block=4, seed=7, reorg_at=8, reorg_depth=3)


@pytest_asyncio.fixture
async def rpc(played_node: PlayedNode) -> AsyncIterator[JsonRpc]:
    played_node.chain_id = 1337
    async with open_rpc(played_node.url, timeout_s=5) as opened:
        yield opened


class Killer:
    """Ends the backend of a store as it is about to do something, at the given call of it."""

    def __init__(self, stored: Stored, *, at_call: int) -> None:
        self._stored = stored
        self._left = at_call
        self.kills = 0

    def before(self, verb: Callable[..., Any], store_of: Callable[[Any], BlockStore]) -> Any:
        async def killing(subject: Any, *args: Any, **kwargs: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                await self._kill(store_of(subject))
            return await verb(subject, *args, **kwargs)

        return killing

    async def _kill(self, store: BlockStore) -> None:
        pid = store.connection.info.backend_pid
        assert await self._stored.value("SELECT pg_terminate_backend(%s, 5000)", pid)
        self.kills += 1


VERBS = ("head", "known", "commit", "position", "record_pending", "pending", "drop_pending")


@pytest.mark.parametrize(
    ("place", "at_call"),
    [
        *((verb, 1) for verb in VERBS),
        *(("head", 2), ("known", 2), ("known", 3), ("commit", 2)),
        *(("finalise", 1), ("opened", 3), ("highest_stored", 2)),
    ],
)
async def test_a_follower_goes_on(
    stored: Stored,
    rpc: JsonRpc,
    played_node: PlayedNode,
    chain: SyntheticChain,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    at_call: int,
) -> None:
    """Whatever a follower was about to do when its connection went, it does over a new one."""
    killer = Killer(stored, at_call=at_call)
    match place:
        case "finalise":
            monkeypatch.setattr(follow, place, killer.before(finality.finalise, lambda s: s))
        case "opened":
            held = killer.before(SteadyStore.opened, lambda server: server._store)
            monkeypatch.setattr(SteadyStore, place, held)
        case "highest_stored":
            found = killer.before(reorg.highest_stored, lambda s: s)
            monkeypatch.setattr(follow, place, found)
        case _:
            held = killer.before(getattr(BlockStore, place), lambda store: store)
            monkeypatch.setattr(BlockStore, place, held)
    orphaned = [tx for mined in chain.orphaned for tx in mined.block["transactions"]]
    lost = set(chain.dropped)
    played_node.serve(chain.first[:7])
    played_node.pool = [tx for tx in orphaned if tx["hash"] in lost]
    follower = Follower(stored, rpc)
    async with following(follower, Pool(rpc, drop_after=timedelta(seconds=0.1))):
        await follower.reaches(chain.first[6].block)
        await eventually(_count(stored, "pending", len(lost)), beside=follower.task)
        played_node.serve(chain.first)
        await follower.reaches(chain.first[-1].block)
        played_node.pool = []
        played_node.serve(chain.fork)
        await follower.reaches(chain.fork[-1].block)
        await eventually(_count(stored, "dropped", len(lost)), beside=follower.task)
    assert killer.kills == 1
    assert await stored.value("SELECT covered::text FROM blockchain.chain_heads") == "{[1,15)}"
    assert follower.reports[-1].position is not None


def _count(stored: Stored, status: str, wanted: int) -> Callable[[], Any]:
    async def look() -> bool:
        return list((await stored.statuses()).values()).count(status) == wanted

    return look


async def test_a_follower_that_lost_a_deadlock(
    stored: Stored, rpc: JsonRpc, played_node: PlayedNode, chain: SyntheticChain
) -> None:
    """Another writer may hold what a follower records, and want what it holds: the follower lets
    it go first, and records afterwards."""
    waits = chain.first[0].block["transactions"][0]
    played_node.serve(chain.first[1:2])
    played_node.pool = [waits]
    task = None
    follower = Follower(stored, rpc)
    try:
        async with stored.admin.transaction(force_rollback=True):
            await stored.admin.execute("SET LOCAL deadlock_timeout = '60s'")
            await stored.admin.execute(
                "INSERT INTO blockchain.transactions"
                " (network_id, transaction_hash, from_address, block_timestamp)"
                " VALUES (%s, %s, %s, now())",
                (stored.network.id, waits["hash"], waits["from"]),
            )
            task = asyncio.create_task(follower.run(Pool(rpc)))
            await eventually(_blocked(stored), beside=task)
            await stored.admin.execute(sql.lock_network, {"network_id": stored.network.id})
        await eventually(_count(stored, "pending", 1), beside=task)
    finally:
        follower.stop.set()
        if task is not None:
            await task


def _blocked(stored: Stored) -> Callable[[], Any]:
    async def look() -> bool:
        query = "SELECT count(*) FROM pg_catalog.pg_locks WHERE NOT granted"
        return await stored.value(query) > 0

    return look


async def test_a_server_that_stays_away(
    stored: Stored,
    rpc: JsonRpc,
    played_node: PlayedNode,
    chain: SyntheticChain,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the time limit there is one error; one who is told to stop does not wait for it."""
    monkeypatch.setattr(outages, "SERVER_AWAY_S", 0.5)
    played_node.serve(chain.first)
    await Follower(stored, rpc).run(until=10)

    async def away(self: Any) -> None:
        raise EngineUnavailable("postgres", "is away")

    for told_to_stop in (False, True):
        follower = Follower(stored, rpc)
        with monkeypatch.context() as patch:
            opened, calls = SteadyStore.opened, iter(range(1000))
            patch.setattr(
                SteadyStore,
                "opened",
                lambda self, o=opened, c=calls: o(self) if next(c) < 2 else away(self),
            )
            if told_to_stop:
                patch.setattr(outages, "SERVER_AWAY_S", 60)
                asyncio.get_running_loop().call_later(0.5, follower.stop.set)
            started = asyncio.get_running_loop().time()
            with pytest.raises(EngineUnavailable, match="is away"):
                await follower.run()
        assert 0.4 < asyncio.get_running_loop().time() - started < 10


async def test_a_wrong_address_is_told_at_once(rpc: JsonRpc, stored: Stored) -> None:
    """What cannot be reached from the start is not waited for."""
    nowhere = Stored(stored.network, "postgresql://nobody@127.0.0.1:1/none", stored.admin)
    async with asyncio.timeout(lanes.SERVER_AWAY_S / 2):
        with pytest.raises(EngineUnavailable):
            await Follower(nowhere, rpc).run()


async def test_each_outage_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit counts from the first failure of an outage, not from the start of the work, and
    anew after something worked; what is no outage is not repeated."""
    now = [0.0]
    monkeypatch.setattr(outages, "monotonic", lambda: now[0])
    monkeypatch.setattr(outages, "FIRST_WAIT_S", 0.0)
    monkeypatch.setattr(outages, "LONGEST_WAIT_S", 0.0)
    outage = outages.Outage()
    tries = 0

    async def works_for_hours() -> str:
        nonlocal tries
        tries += 1
        now[0] += 40 if tries % 2 else 10_000
        if tries % 2 == 0:
            outage.ended()
        if tries < 9:
            raise EngineUnavailable("postgres", "is away")
        return "done"

    assert await outages.through_outages(works_for_hours, outage) == "done"

    async def never_works() -> None:
        now[0] += 25
        raise pg.AdminShutdown("terminated")

    now[0] = 0.0
    with pytest.raises(EngineUnavailable):
        await outages.through_outages(never_works, outages.Outage())
    assert now[0] == 100

    async def is_wrong() -> None:
        now[0] += 1
        raise SourceError("another thing")

    with pytest.raises(SourceError):
        await outages.through_outages(is_wrong, outages.Outage())
    assert now[0] == 101


@pytest.mark.parametrize(("place", "at_call"), [("head", 1), ("position", 1), ("opened", None)])
async def test_an_ingest_ends_well(
    stored: Stored, monkeypatch: pytest.MonkeyPatch, place: str, at_call: int | None
) -> None:
    """Where the connection goes after the last commit, the report is the same, with a position."""
    killer = Killer(stored, at_call=at_call or 1)
    if place == "opened":

        def store_of(run: Any) -> BlockStore:
            return run._idle[-1]._store

        monkeypatch.setattr(lanes.Lanes, place, killer.before(lanes.Lanes.opened, store_of))
    else:
        verb = killer.before(getattr(BlockStore, place), lambda store: store)
        monkeypatch.setattr(BlockStore, place, verb)
    blocks = fabricate_chain(range(1, 9))
    report = await ingest.ingest(
        blocks, dsn=stored.dsn, network=stored.network, blocks_per_commit=3
    )
    assert killer.kills == 1
    assert (report.blocks, report.skipped, report.refused) == (8, 0, ())
    assert report.position is not None


@pytest.mark.parametrize(
    "error", [psycopg.OperationalError("gone"), psycopg.errors.DeadlockDetected()]
)
def test_what_is_waited_for_has_an_address(error: psycopg.Error) -> None:
    """`again in 0.2 s: ...` says which server went away."""
    info = SimpleNamespace(host="db.example.com", port=5433)
    connection: Any = SimpleNamespace(info=info)
    named = pytest.raises(EngineUnavailable, match=r"^postgres: db\.example\.com:5433 ")
    with named, errors_at_the_door(connection):
        raise error
