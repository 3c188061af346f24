"""Anchors: written once, in order, by one at a time, whatever happens in between."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest
from tests.fixtures.fix_audit import Trail

from neolayer.audit.anchors import Anchor, Anchorer, key_of
from neolayer.audit.reading import audit_status, heads
from neolayer.audit.tasks import tasks
from neolayer.audit.verify import verify
from neolayer.engines.endpoints import Endpoints
from neolayer.errors import EngineUnavailable
from neolayer.settings import AuditSettings


def path_of(trail: Trail, number: int) -> Path:
    folder = trail.anchorer.store.endpoint.folder
    assert folder is not None
    return folder / key_of(number)


async def seal_one(trail: Trail) -> None:
    await trail.write(1)
    await trail.sealer.seal_waiting()


async def test_an_anchor_names_the_chains_that_have_grown(trail: Trail) -> None:
    """Both chains first, then the one that grew; nothing where none did; each names the last."""
    await trail.write_without_tenant(2)
    await seal_one(trail)
    first = await trail.anchorer.write_anchor()
    assert first is not None
    assert {head[:2] for head in first.anchor.heads} == {(None, 2), (trail.scope.tenant, 1)}
    assert await trail.anchorer.write_anchor() is None
    await seal_one(trail)
    second = await trail.anchorer.write_anchor()
    assert second is not None
    assert [head[:2] for head in second.anchor.heads] == [(trail.scope.tenant, 2)]
    content = path_of(trail, 1).read_bytes()
    assert second.anchor.previous == sha256(content).hexdigest() == first.hash.hex()
    assert not path_of(trail, 3).exists()


async def test_an_anchor_is_never_overwritten(trail: Trail) -> None:
    """Putting another one of the same number leaves the first as it was."""
    store = trail.anchorer.store
    one = Anchor(1, datetime.now(UTC), "0" * 64, [(None, 1, "ab")])
    other = Anchor(1, datetime.now(UTC), "0" * 64, [(None, 2, "cd")])
    assert await store.put(one) is not None
    assert await store.put(other) is None
    stored = await store.get(1)
    assert stored is not None and stored.anchor == one


async def test_an_anchor_that_was_put_and_not_noted_is_found(trail: Trail) -> None:
    """Killed between the object and the database: the next one notes it and goes on from there."""
    await seal_one(trail)
    (head,) = await heads(trail.operator_dsn)
    lost = Anchor(1, datetime.now(UTC), "0" * 64, [(head.tenant, 1, head.hash.hex())])
    assert await trail.anchorer.store.put(lost) is not None
    assert await trail.anchorer.write_anchor() is None
    assert await trail.rows("SELECT anchor_number FROM audit.anchors") == [(1,)]
    await seal_one(trail)
    second = await trail.anchorer.write_anchor()
    assert second is not None and second.anchor.anchor == 2
    assert (await verify(trail.operator_dsn, trail.anchorer.store)).is_intact


async def test_two_who_anchor_at_once_take_turns(trail: Trail) -> None:
    """Each head stands in one anchor only, and the numbers have no gap."""
    await seal_one(trail)
    rival = Anchorer(trail.anchorer.dsn, trail.anchorer.store)
    written = await asyncio.gather(*(each.write_anchor() for each in (trail.anchorer, rival) * 3))
    assert [each.anchor.anchor for each in written if each is not None] == [1]


async def test_a_store_that_cannot_be_used_leaves_nothing_noted(trail: Trail) -> None:
    """One sentence, and the heads wait for the next time."""
    await seal_one(trail)
    folder = trail.anchorer.store.endpoint.folder
    assert folder is not None
    folder.mkdir(exist_ok=True)
    (folder / "audit").write_text("a file where a folder should be")
    with pytest.raises(EngineUnavailable, match="objects"):
        await trail.anchorer.write_anchor()
    assert await trail.rows("SELECT count(*) FROM audit.anchors") == [(0,)]
    (folder / "audit").unlink()
    assert await trail.anchorer.write_anchor() is not None


async def test_status_tells_what_waits(trail: Trail) -> None:
    """Unsealed entries with their age, unanchored chains, and the last anchor."""
    await trail.write(2)
    before = await audit_status(trail.operator_dsn)
    assert (before.unsealed, before.chains, before.last_anchor) == (2, 0, None)
    assert before.lag_seconds > 0
    await trail.sealer.seal_waiting()
    sealed = await audit_status(trail.operator_dsn)
    assert (sealed.unsealed, sealed.lag_seconds, sealed.unanchored_chains) == (0, 0, 1)
    await trail.anchorer.write_anchor()
    after = await audit_status(trail.operator_dsn)
    assert (after.unanchored_chains, after.last_anchor) == (0, 1)
    assert after.anchored_at is not None


async def test_the_worker_seals_and_anchors_by_the_clock(
    trail: Trail, module_databases: Endpoints
) -> None:
    """What `neolayer up` does again and again, as often as the settings say: an entry is sealed,
    then its chain's head is outside."""
    at = replace(module_databases, objects=trail.anchorer.store.endpoint)
    settings = AuditSettings(seal_seconds=0.5, anchor_seconds=60)
    await trail.write(1)
    async with tasks(at, settings) as planned:
        assert {task.name: task.every.total_seconds() for task in planned} == {
            "audit: seal": 0.5,
            "audit: anchor": 60,
        }
        for task in planned:
            await task.run()
    assert path_of(trail, 1).exists()
    (head,) = await heads(trail.operator_dsn)
    assert head.anchored_number == head.number == 1
