"""The NATS sink against a real nats-server: order, once, what is refused, and what breaks."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import msgspec
import nats
import pytest
from tests.fixtures.batches import (
    CLASSES,
    COINS,
    OUTBOX,
    PlainSnapshot,
    at,
    batch,
    changes,
    event_row,
    events,
)
from tests.fixtures.copies import Undivided, copy_whole, way_to
from tests.fixtures.fix_nats import NatsServer
from tests.fixtures.patience import PATIENCE_S

from neolayer.catalogue import DataClass, OutgoingCopy
from neolayer.engines.endpoints import NatsEndpoint
from neolayer.engines.engine import Level
from neolayer.engines.nats.dsn import address_of_urls
from neolayer.engines.nats.engine import NatsEngine
from neolayer.errors import EngineUnavailable
from neolayer.relay.changes import DELETE, INSERT, UPDATE
from neolayer.relay.copying.progress import OwnProgress
from neolayer.relay.copying.whole import WholeCopy
from neolayer.relay.sinks.nats import NatsSink
from neolayer.relay.sinks.sink import CopyLost

pytestmark = pytest.mark.engines
TENANT = UUID(int=5)
TABLES = {"core.outbox": OUTBOX, "public.coins": COINS}
BILLS = DataClass(
    "bills",
    "event_store",
    "public.coins",
    copies=(OutgoingCopy("bills.{owner}", key=("id",), columns=("id", "owner")),),
)


async def stored(
    server: NatsServer, stream: str = "neolayer", *, whole: bool = False
) -> list[tuple[str, dict[str, Any]]]:
    """(subject, envelope) of every message, as a consumer of one's own reads them; unless `whole`
    without the mark that begins a copy."""
    client = await nats.connect(f"nats://127.0.0.1:{server.port}")
    try:
        jetstream = client.jetstream()
        found = []
        for seq in range(1, (await jetstream.stream_info(stream)).state.last_seq + 1):
            message = await jetstream.get_msg(stream, seq)
            envelope = msgspec.json.decode(message.data or b"")
            if whole or not envelope["type"].endswith(".truncated"):
                found.append((message.subject, envelope))
        return found
    finally:
        await client.close()


def keys(count: int) -> list[tuple[str | None, ...]]:
    return [event_row(TENANT, f"k{number % 7}") for number in range(count)]


async def test_every_change_is_stored_in_order_under_its_subject(nats_server: NatsServer) -> None:
    """Tenant and kind of thing in the subject, the envelope as body, the checkpoint after it."""
    sink = NatsSink(nats_server.endpoint(), CLASSES)
    assert await sink.open(at(1)) is None
    await copy_whole(sink, PlainSnapshot(at(1), {t: (r, []) for t, r in TABLES.items()}))
    rows = keys(3)
    coins = changes(
        COINS,
        (at(3), INSERT, ["1", "ann", "1", None]),
        (at(3), UPDATE, ["1", "ann", "2", None]),
        (at(3), DELETE, ["1", None, None, None]),
    )
    assert await sink.write([events(at(2), *rows), batch(coins, position=at(3))]) == []
    found = await stored(nats_server)
    assert [e["id"] for _, e in found[:3]] == [row[1] for row in rows]
    assert [subject for subject, _ in found] == [
        *[f"neolayer.{TENANT}.outbox.wallets"] * 3,
        *["neolayer.public.coins.ann"] * 2,
        "neolayer.public.coins._",
    ]
    assert await sink.open(at(2)) == at(3)
    assert await sink.open(at(4)) is None
    await sink.close()


async def opened(server: NatsServer, **options: Any) -> NatsSink:
    """A sink that has nothing to copy."""
    sink = NatsSink(server.endpoint(**options), CLASSES)
    await sink.open(at(1))
    await copy_whole(sink, PlainSnapshot(at(1), {t: (r, []) for t, r in TABLES.items()}))
    return sink


async def test_C14_twice_and_late_is_stored_once(nats_server: NatsServer) -> None:
    """By the same sink, and by one that starts anew after the data and before the checkpoint."""
    sink = await opened(nats_server)
    rows = keys(2_500)
    whole = events(at(2), *rows)
    await sink.write([events(at(2), *rows[:1_700])])
    await sink.write([whole])
    again = NatsSink(nats_server.endpoint(), CLASSES)
    assert await again.open(at(1)) == at(2)
    await again.write([whole])
    assert [e["id"] for _, e in await stored(nats_server)] == [row[1] for row in rows]
    await sink.close()
    await again.close()


async def test_C1_the_streams_end_says_what_was_published_beyond_the_window_for_doubles(
    nats_server: NatsServer,
) -> None:
    """A relay that died between messages and checkpoint comes back after hours: still once."""
    sink = await opened(nats_server)
    client = await nats.connect(f"nats://127.0.0.1:{nats_server.port}")
    jetstream = client.jetstream()
    config = (await jetstream.stream_info("neolayer")).config
    config.duplicate_window = 0.1  # the server's shortest
    await jetstream.update_stream(config)
    first, second = keys(30), keys(30)
    made = sink._envelopes.of([events(at(2), *first)])
    await sink._connected()
    await sink._publish(made[:20])
    await asyncio.sleep(0.5)  # the window, on the server's clock
    await client.close()
    again = NatsSink(nats_server.endpoint(), CLASSES)
    assert await again.open(at(1)) == at(1)
    await again.write([events(at(2), *first), events(at(3), *second)])
    assert [e["id"] for _, e in await stored(nats_server)] == [row[1] for row in first + second]
    await sink.close()
    await again.close()


async def test_C5_a_connection_lost_inside_a_commit_loses_none_of_it(
    nats_server: NatsServer,
) -> None:
    """What is behind the last message that the stream has, and of the same commit, still goes."""
    sink = await opened(nats_server)
    rows = keys(60)
    for start in range(0, 60, 20):
        part = changes(OUTBOX, *((at(2), INSERT, row) for row in rows[start : start + 20]))
        last = start == 40
        await sink.write([batch(part, position=at(2 if last else 1), unfinished=at(2))])
        await sink._drop()
    assert [e["id"] for _, e in await stored(nats_server)] == [row[1] for row in rows]
    await sink.close()


async def test_C2_a_server_killed_under_load_loses_and_doubles_nothing(
    nats_server: NatsServer,
) -> None:
    """It is killed and started again while batches are written; a failed write is tried again."""
    sink = await opened(nats_server)
    rows = keys(6_000)
    writes = [events(at(2 + n), *rows[n * 200 : n * 200 + 200]) for n in range(30)]

    moments = {len(writes) * n // 4: asyncio.Event() for n in (1, 2, 3)}

    async def write_all() -> int:
        failures = 0
        for number, one in enumerate(writes):
            if number in moments:
                moments[number].set()
            while True:
                try:
                    await sink.write([one])
                    break
                except EngineUnavailable:
                    failures += 1
                    await asyncio.sleep(0.05)
        return failures

    writing = asyncio.create_task(write_all())
    for moment in moments.values():
        await asyncio.wait_for(moment.wait(), PATIENCE_S)
        await asyncio.to_thread(nats_server.kill)
        await asyncio.to_thread(nats_server.start)
    failures = await asyncio.wait_for(writing, PATIENCE_S)
    assert failures > 0
    assert [e["id"] for _, e in await stored(nats_server)] == [row[1] for row in rows]
    await sink.close()


async def test_C8_what_the_server_will_never_take_is_set_aside(nats_server: NatsServer) -> None:
    """A message over the size limit comes back with the cause; its neighbours are stored."""
    sink = await opened(nats_server)
    client = await nats.connect(f"nats://127.0.0.1:{nats_server.port}")
    jetstream = client.jetstream()
    config = (await jetstream.stream_info("neolayer")).config
    config.max_msg_size = 20_000
    await jetstream.update_stream(config)
    await client.close()
    rows = keys(40)
    for number, size in ((7, 30_000), (8, 30_000), (20, 2_000_000)):
        data = msgspec.json.encode({"text": "x" * size}).decode()
        rows[number] = event_row(TENANT, data=data)
    rejected = await sink.write([events(at(2), *rows)])
    assert {one.key for one in rejected} == {(rows[number][1],) for number in (7, 8, 20)}
    assert len(rejected) == 3 and all("exceed" in one.cause for one in rejected)
    expected = [row[1] for number, row in enumerate(rows) if number not in (7, 8, 20)]
    assert [e["id"] for _, e in await stored(nats_server)] == expected
    assert await sink.open(at(2)) == at(2)
    await sink.close()


async def test_C7_a_full_stream_is_said_and_later_filled(nats_server: NatsServer) -> None:
    """What the stream has no room for is an error that is tried again, not a loss."""
    sink = await opened(nats_server)
    client = await nats.connect(f"nats://127.0.0.1:{nats_server.port}")
    jetstream = client.jetstream()
    config = (await jetstream.stream_info("neolayer")).config
    config.max_msgs, config.discard = 10, nats.js.api.DiscardPolicy.NEW
    await jetstream.update_stream(config)
    rows = keys(25)
    with pytest.raises(EngineUnavailable, match="maximum messages"):
        await sink.write([events(at(2), *rows)])
    config.max_msgs = -1
    await jetstream.update_stream(config)
    await client.close()
    assert await sink.write([events(at(2), *rows)]) == []
    assert [e["id"] for _, e in await stored(nats_server)] == [row[1] for row in rows]
    await sink.close()


async def test_another_writer_of_the_stream_does_not_stop_us(nats_server: NatsServer) -> None:
    """The streams are ours; where somebody writes there all the same, we go on."""
    sink = await opened(nats_server)
    client = await nats.connect(f"nats://127.0.0.1:{nats_server.port}")
    jetstream = client.jetstream()
    rows = keys(3_000)
    strangers = [jetstream.publish(f"neolayer.{TENANT}.outbox.x", b"!") for _ in range(20)]
    await asyncio.gather(sink.write([events(at(2), *rows)]), *strangers)
    await client.close()
    again = NatsSink(nats_server.endpoint(), CLASSES)
    assert await again.open(at(1)) == at(2)
    await again.write([events(at(2), *rows)])
    client = await nats.connect(f"nats://127.0.0.1:{nats_server.port}")
    info = await client.jetstream().stream_info("neolayer")
    await client.close()
    assert info.state.messages == 3_021
    await sink.close()
    await again.close()


async def test_a_server_that_was_emptied_is_copied_to_anew(nats_server: NatsServer) -> None:
    """Its checkpoint is gone with its messages: the sink says so instead of going on."""
    sink = await opened(nats_server)
    await sink.write([events(at(2), *keys(3))])
    client = await nats.connect(f"nats://127.0.0.1:{nats_server.port}")
    for stream in ("neolayer", "KV_neolayer_checkpoints"):
        await client.jetstream().delete_stream(stream)
    await client.close()
    nats_server.kill()
    nats_server.start()
    with pytest.raises(EngineUnavailable):
        await sink.write([events(at(3), *keys(3))])
    with pytest.raises(CopyLost):
        await sink.write([events(at(3), *keys(3))])
    row, coin = event_row(TENANT), ["1", "ann", "1", None]
    snapshot = PlainSnapshot(
        at(3), {"core.outbox": (OUTBOX, [row]), "public.coins": (COINS, [coin])}
    )
    assert await sink.open(at(3)) is None
    await copy_whole(sink, snapshot)
    last = event_row(TENANT)
    await sink.write([events(at(4), last)])
    told = [(e["type"], e["id"]) for _, e in await stored(nats_server, whole=True)]
    types = ["wallet.created", "coins.truncated", "coins.copied", "wallet.created"]
    assert [kind for kind, _ in told] == types
    assert (told[0][1], told[3][1]) == (row[1], last[1])
    await sink.close()


@pytest.mark.parametrize("made_anew", [True, False])
async def test_streams_that_are_emptied_in_mid_copy_are_noticed_at_its_end(
    nats_server: NatsServer, made_anew: bool
) -> None:
    """Also over a connection that lasts: what was told before is gone, so the copy does not count,
    and the next one goes on with nothing of it."""
    sink = NatsSink(nats_server.endpoint(), CLASSES)
    assert await sink.open(at(1)) is None
    progress = OwnProgress()
    copy = WholeCopy(way_to(sink, progress, []))
    await copy.begin()
    copied = sink.copy_part

    async def copy_part(part: Any, table: str, *rest: Any, **options: Any) -> None:
        await copied(part, table, *rest, **options)
        if table == max(TABLES):
            await empty(nats_server, made_anew=made_anew)

    sink.copy_part = copy_part  # type: ignore[method-assign]
    with pytest.raises(CopyLost):
        await copy.run(Undivided(PlainSnapshot(at(2), {t: (r, []) for t, r in TABLES.items()})))
    again = WholeCopy(way_to(sink, progress, []))
    assert not await again.resume(reaches_back_to=at(1))
    assert await sink.open(at(1)) is None
    await sink.close()


async def empty(server: NatsServer, *, made_anew: bool) -> None:
    """Somebody deletes both streams, and makes them anew."""
    client = await nats.connect(f"nats://127.0.0.1:{server.port}")
    jetstream = client.jetstream()
    for stream in ("neolayer", "KV_neolayer_checkpoints"):
        config = (await jetstream.stream_info(stream)).config
        await jetstream.delete_stream(stream)
        if made_anew:
            await jetstream.add_stream(config)
    await client.close()


async def test_two_databases_write_streams_of_their_own(nats_server: NatsServer) -> None:
    """With a checkpoint each, on one server."""
    core = await opened(nats_server)
    other = NatsSink(nats_server.endpoint(), [BILLS], database="event_store")
    assert other.name == "nats:event_store" and await other.open(at(1)) is None
    await copy_whole(
        other, PlainSnapshot(at(5), {"public.coins": (COINS, [["1", "ann", "1", None]])})
    )
    assert await other.open(at(1)) == at(5)
    assert await core.open(at(1)) == at(1)
    found = await stored(nats_server, "neolayer_event_store")
    assert [e["type"] for _, e in found] == ["bills.copied"]
    await core.close()
    await other.close()


async def test_the_engine_says_how_it_is(nats_server: NatsServer) -> None:
    """Version and health of a running one, one sentence without the password for a dead one."""
    engine = NatsEngine(nats_server.endpoint())
    status = await engine.status()
    assert status.healthy and status.version == "2.15.2"
    await engine.close()
    url = "nats://ann:secret@127.0.0.1:1"
    dead = NatsEngine(NatsEndpoint(Level.REAL, url, address_of_urls(url)))
    status = await dead.status()
    assert not status.healthy and "127.0.0.1:1" in (status.detail or "")
    assert "secret" not in (status.detail or "")


async def test_what_is_published_can_be_read_by_tenant(nats_server: NatsServer) -> None:
    """A consumer filters by subject: one tenant's events, of one kind."""
    sink = await opened(nats_server)
    other = uuid4()
    rows = [event_row(TENANT), event_row(other), event_row(TENANT, subject="users")]
    await sink.write([events(at(2), *rows)])
    client = await nats.connect(f"nats://127.0.0.1:{nats_server.port}")
    consumer = await client.jetstream().pull_subscribe(f"neolayer.{TENANT}.outbox.wallets")
    messages = await consumer.fetch(1, timeout=PATIENCE_S)
    assert (await consumer.consumer_info()).num_pending == 0
    assert [msgspec.json.decode(m.data)["id"] for m in messages] == [rows[0][1]]
    await client.close()
    await sink.close()
