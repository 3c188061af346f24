"""Computations: claimed by one attested worker at a time, ended once, whoever writes."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest
from tests.fixtures import quotes
from tests.fixtures.fix_databases import postgres_only
from tests.fixtures.fix_enclave import Attesting, stand_in
from tests.fixtures.quotes import SGX, THEN, TOLERANT, quote
from tests.fixtures.shared_data import REPOSITORY

from neolayer.enclave import (
    Attestations,
    Claim,
    ComputationEnded,
    ComputationNotFound,
    Computations,
    ComputationStatus,
    LeaseLost,
    NotAttested,
    OutOfGas,
    ResultCache,
)
from neolayer.enclave.catalogue import RESULT_KEY
from neolayer.enclave.tasks import EnclaveKeeper
from neolayer.engines.endpoints import Endpoints, RedisEndpoint, Role
from neolayer.engines.redis import client as redis_client
from neolayer.errors import InvalidInput
from neolayer.tenancy import CoreDatabase, open_core

INPUT = hashlib.sha256(b"input").hexdigest()
AT = datetime(2026, 1, 1, tzinfo=UTC)
S = timedelta(seconds=1)
ENCLAVE = "vault"
SEED = int(os.environ.get("TEST_SEED", "20261127"))


@dataclass(frozen=True)
class Room:
    """A tenant with an attested enclave."""

    computations: Computations
    attestation: UUID

    async def submit(self, **more: int) -> UUID:
        return await self.computations.submit(
            enclave_id=ENCLAVE, operation_type="sum", input_hash=INPUT, **more
        )

    async def claim(self, at: datetime, worker: str = "w1") -> Claim | None:
        return await self.computations.claim(
            enclave_id=ENCLAVE, attestation_id=self.attestation, worker=worker, lease=10 * S, at=at
        )

    async def claimed(self, at: datetime = AT) -> Claim:
        await self.submit()
        found = await self.claim(at)
        assert found is not None
        return found

    async def status(self, computation_id: UUID) -> ComputationStatus:
        return (await self.computations.computation(computation_id)).status


NewRoom = Callable[[], Awaitable[Room]]


@pytest.fixture
def new_room(attesting: Attesting) -> NewRoom:
    async def make() -> Room:
        scope = (await attesting()).scope
        held = await stand_in(scope, enclave_id=ENCLAVE, at=AT)
        return Room(Computations(scope), held)

    return make


async def test_a_computation_is_claimed_worked_on_and_completed(new_room: NewRoom) -> None:
    """From asking to the output, with the gas that was used."""
    room = await new_room()
    asked = await room.submit(gas_limit=100)
    claim = await room.claim(AT)
    assert claim is not None and (claim.id, claim.attempt) == (asked, 1)
    assert await room.claim(AT) is None
    claim = await room.computations.beat(claim, gas=30, lease=10 * S, at=AT + 5 * S)
    assert claim.lease_until == AT + 15 * S
    await room.computations.complete(claim, b"42", gas=20, at=AT + 6 * S)
    done = await room.computations.computation(asked)
    assert (done.status, done.gas_used, done.worker) == (ComputationStatus.COMPLETED, 50, "w1")
    assert done.output_hash == hashlib.sha256(b"42").hexdigest()
    result = await room.computations.result(asked, at=AT + 7 * S)
    assert result is not None
    assert (result.output, result.is_attested, result.from_cache) == (b"42", True, False)


async def test_the_oldest_goes_first(new_room: NewRoom) -> None:
    """A queue, by the time of asking."""
    room = await new_room()
    asked = [await room.submit() for _ in range(3)]
    claims = [await room.claim(AT) for _ in range(3)]
    assert [claim and claim.id for claim in claims] == asked


async def test_C1_a_silent_worker_loses_its_computation(new_room: NewRoom) -> None:
    """Not before its lease is over; afterwards whoever comes back can neither beat nor end it."""
    room = await new_room()
    old = await room.claimed()
    assert await room.claim(AT + 9 * S, "w2") is None
    new = await room.claim(AT + 10 * S, "w2")
    assert new is not None and (new.id, new.attempt) == (old.id, 2)
    for late in (
        room.computations.beat(old, at=AT + 11 * S),
        room.computations.complete(old, b"old", at=AT + 11 * S),
        room.computations.fail(old, "old", at=AT + 11 * S),
    ):
        with pytest.raises(LeaseLost):
            await late
    await room.computations.complete(new, b"new", at=AT + 12 * S)
    with pytest.raises(LeaseLost):
        await room.computations.complete(new, b"again", at=AT + 12 * S)
    result = await room.computations.result(old.id, at=AT + 13 * S)
    assert result is not None and result.output == b"new"


async def test_a_late_beat_keeps_what_nobody_took(new_room: NewRoom) -> None:
    """A lease that is over but was not taken over is still the worker's."""
    room = await new_room()
    claim = await room.claimed()
    claim = await room.computations.beat(claim, lease=10 * S, at=AT + 30 * S)
    assert await room.claim(AT + 39 * S, "w2") is None
    await room.computations.complete(claim, b"", at=AT + 60 * S)


async def test_what_kills_every_worker_is_given_up(new_room: NewRoom) -> None:
    """After `max_attempts` silent workers it is failed, not claimed again."""
    room = await new_room()
    asked = await room.submit(max_attempts=2)
    assert await room.claim(AT) and await room.claim(AT + 10 * S)
    assert await room.claim(AT + 20 * S) is None
    assert await room.computations.give_up(at=AT + 19 * S) == 0
    assert await room.computations.give_up(at=AT + 20 * S) == 1
    ended = await room.computations.computation(asked)
    assert ended.status is ComputationStatus.FAILED and "silent" in (ended.error_message or "")


async def test_gas_only_grows_up_to_its_limit(new_room: NewRoom) -> None:
    """Over all attempts together; what would go beyond is refused and leaves all as it was."""
    room = await new_room()
    asked = await room.submit(gas_limit=100)
    first = await room.claim(AT)
    assert first is not None
    await room.computations.beat(first, gas=60, lease=10 * S, at=AT + S)
    second = await room.claim(AT + 11 * S)
    assert second is not None and second.gas_used == 60
    for gas in (41, 2**63 - 1):
        with pytest.raises(OutOfGas):
            await room.computations.complete(second, b"", gas=gas, at=AT + 12 * S)
    with pytest.raises(InvalidInput):
        await room.computations.beat(second, gas=-1, at=AT + 12 * S)
    await room.computations.fail(second, "out of gas", gas=40, at=AT + 13 * S)
    ended = await room.computations.computation(asked)
    assert (ended.gas_used, ended.status) == (100, ComputationStatus.FAILED)


async def test_cancelled_is_cancelled(new_room: NewRoom) -> None:
    """Waiting or running; the worker learns it at its next beat, and nothing is cancelled twice."""
    room = await new_room()
    waiting = await room.submit()
    await room.computations.cancel(waiting, at=AT)
    claim = await room.claimed()
    await room.computations.cancel(claim.id, at=AT + S)
    with pytest.raises(LeaseLost, match="cancelled"):
        await room.computations.beat(claim, at=AT + 2 * S)
    with pytest.raises(ComputationEnded):
        await room.computations.cancel(waiting, at=AT + S)
    assert await room.claim(AT + 60 * S) is None


async def test_only_an_attested_enclave_claims(new_room: NewRoom) -> None:
    """Absent, another tenant's, of another enclave, over, not yet, revoked: each is refused."""
    room, other = await new_room(), await new_room()
    scope = room.computations.scope
    await room.submit()
    foreign = await stand_in(scope, enclave_id="another", at=AT)
    revoked = await stand_in(scope, enclave_id=ENCLAVE, at=AT)
    await Attestations(scope).revoke(revoked, at=AT, because="leaked")
    for attestation in (uuid4(), other.attestation, foreign, revoked):
        with pytest.raises(NotAttested):
            await replace(room, attestation=attestation).claim(AT)
    for at in (AT + timedelta(hours=1), AT - S):
        with pytest.raises(NotAttested):
            await room.claim(at)
    ahead = await stand_in(scope, enclave_id=ENCLAVE, at=AT)
    await Attestations(scope).revoke(ahead, at=AT + 60 * S, because="by a clock that is ahead")
    with pytest.raises(NotAttested):
        await replace(room, attestation=ahead).claim(AT + S)
    assert await room.claim(AT) is not None


async def test_an_enclave_that_lost_its_attestation_completes_nothing(new_room: NewRoom) -> None:
    """Expired or revoked while it ran: its output is not taken, its failure is."""
    room = await new_room()
    claim = await room.claimed()
    with pytest.raises(NotAttested):
        await room.computations.complete(claim, b"x", at=AT + timedelta(hours=1))
    scope = room.computations.scope
    await Attestations(scope).revoke(room.attestation, at=AT + S, because="leaked")
    with pytest.raises(NotAttested):
        await room.computations.complete(claim, b"x", at=AT + 2 * S)
    await room.computations.fail(claim, "lost its attestation", at=AT + 2 * S)
    assert await room.status(claim.id) is ComputationStatus.FAILED


async def test_a_real_quote_lets_an_enclave_work(attesting: Attesting) -> None:
    """From Intel's sample to a completed computation, at the sample's time."""
    attestations = await attesting()
    outcome = await attestations.verify(quote(SGX), enclave_id=ENCLAVE, at=THEN)
    assert outcome.attestation_id
    room = Room(Computations(attestations.scope), outcome.attestation_id)
    await room.submit()
    claim = await room.claim(THEN + S)
    assert claim is not None
    await attestations.set_policy(replace(TOLERANT, tcb_statuses=("UpToDate",)))
    await attestations.reverify(at=THEN + 2 * S)
    with pytest.raises(NotAttested):
        await room.computations.complete(claim, b"42", at=THEN + 3 * S)


STATES = ("pending", "running", "completed", "failed", "cancelled")
ALLOWED = {
    ("pending", "running"),
    ("pending", "failed"),
    ("pending", "cancelled"),
    ("running", "running"),
    ("running", "completed"),
    ("running", "failed"),
    ("running", "cancelled"),
}
# What a writer would set, to make each move look as right as it can.
MOVES = {
    "pending": "status = 'pending', attempt = 0, worker = NULL, lease_until = NULL,"
    " heartbeat_at = NULL, started_at = NULL, attestation_id = NULL, completed_at = NULL,"
    " output_hash = NULL, result = NULL, error_message = NULL",
    "running": "status = 'running', attempt = attempt + 1, worker = 'w2', started_at = %(at)s,"
    " heartbeat_at = %(at)s, lease_until = %(until)s, attestation_id = %(attestation)s,"
    " completed_at = NULL, output_hash = NULL, result = NULL, error_message = NULL",
    "completed": "status = 'completed', completed_at = %(at)s, heartbeat_at = %(at)s,"
    " started_at = coalesce(started_at, %(at)s), attestation_id = %(attestation)s,"
    " output_hash = encode(sha256('x'), 'hex'), result = 'x', error_message = NULL",
    "failed": "status = 'failed', completed_at = %(at)s, error_message = 'e', result = NULL,"
    " output_hash = NULL",
    "cancelled": "status = 'cancelled', completed_at = %(at)s, result = NULL, output_hash = NULL",
}


async def brought_to(room: Room, state: str) -> UUID:
    """A computation in a state, by the room's verbs."""
    asked = await room.submit()
    if state == "pending":
        return asked
    if state == "cancelled":
        await room.computations.cancel(asked, at=AT)
        return asked
    claim = await room.claim(AT)
    assert claim is not None
    if state == "completed":
        await room.computations.complete(claim, b"x", at=AT)
    if state == "failed":
        await room.computations.fail(claim, "e", at=AT)
    return asked


@pytest.mark.parametrize("old", STATES)
async def test_the_database_itself_keeps_the_state_machine(new_room: NewRoom, old: str) -> None:
    """Raw SQL of the application's role makes the moves that are allowed, and no other."""
    room = await new_room()
    later = AT + 20 * S  # every lease is over
    for new in STATES:
        asked = await brought_to(room, old)
        names = {
            "id": asked,
            "at": later,
            "until": later + S,
            "attestation": room.attestation,
        }
        query = f"UPDATE enclave.computations SET {MOVES[new]} WHERE id = %(id)s RETURNING 1"
        if (old, new) in ALLOWED or (old, new) == ("pending", "pending"):
            assert await room.computations.scope.one(query, names) is not None, new  # type: ignore[arg-type]
        else:
            with pytest.raises(psycopg.errors.CheckViolation):
                await room.computations.scope.one(query, names)  # type: ignore[arg-type]
            assert await room.status(asked) == old
        if (old, new) == ("pending", "pending"):
            await room.computations.cancel(asked, at=AT)  # out of the way of the next claim


FORGERIES = {
    "taken from a live worker": "attempt = attempt + 1, worker = 'w2', heartbeat_at = heartbeat_at"
    " + interval '1 s', started_at = started_at",
    "an attempt skipped": "attempt = attempt + 2, heartbeat_at = lease_until, lease_until ="
    " lease_until + interval '1 s'",
    "another worker under the same attempt": "worker = 'w2'",
    "gas given back": "gas_used = 0",
    "a beat in the past": "heartbeat_at = heartbeat_at - interval '1 s'",
    "an output that is not its hash's": "status = 'completed', completed_at = heartbeat_at,"
    " output_hash = encode(sha256('y'), 'hex'), result = 'x'",
    "no hash": "status = 'completed', completed_at = heartbeat_at, output_hash = NULL",
}


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_the_database_refuses_what_a_worker_may_not(new_room: NewRoom, forgery: str) -> None:
    """Fencing, gas, time and output, also for raw SQL."""
    room = await new_room()
    claim = await room.claimed()
    await room.computations.beat(claim, gas=5, lease=10 * S, at=AT + S)
    query = f"UPDATE enclave.computations SET {FORGERIES[forgery]} WHERE id = %s RETURNING 1"
    with pytest.raises(psycopg.errors.CheckViolation):
        await room.computations.scope.one(query, (claim.id,))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM enclave.computations",
        "UPDATE enclave.computations SET input_hash = output_hash",
        "UPDATE enclave.computations SET gas_limit = 9000",
        "INSERT INTO enclave.computations (tenant_id, enclave_id, operation_type, input_hash,"
        " status) SELECT tenant_id, enclave_id, operation_type, input_hash, 'completed'"
        " FROM enclave.computations",
    ],
)
async def test_what_was_asked_is_not_the_writers_to_change(
    new_room: NewRoom, statement: str
) -> None:
    """No privilege, so not even a chance for the state machine to be asked."""
    room = await new_room()
    await room.submit()
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await room.computations.scope.one(statement)  # type: ignore[arg-type]


async def test_E1_computations_are_the_tenants_own(new_room: NewRoom) -> None:
    """Foreign and absent ids answer alike, and no worker gets another tenant's computation."""
    ann, bob = await new_room(), await new_room()
    claim = await ann.claimed()
    await ann.submit()
    assert await bob.claim(AT) is None
    for absent in (claim.id, uuid4()):
        stolen = replace(claim, id=absent)
        for call in (
            bob.computations.computation(absent),
            bob.computations.result(absent),
            bob.computations.cancel(absent),
            bob.computations.beat(stolen),
            bob.computations.complete(stolen, b""),
        ):
            with pytest.raises(ComputationNotFound):
                await call
    assert await bob.computations.list() == []


async def test_lists_are_read_page_by_page(new_room: NewRoom) -> None:
    """The newest first, each once, filtered by enclave and status."""
    room = await new_room()
    asked = [await room.submit() for _ in range(5)]
    await room.computations.cancel(asked[0], at=AT)
    first = await room.computations.list(limit=3)
    rest = await room.computations.list(limit=3, after=first[-1].id)
    assert [one.id for one in (*first, *rest)] == asked[::-1]
    cancelled = await room.computations.list(status=ComputationStatus.CANCELLED)
    assert [one.id for one in cancelled] == asked[:1]


async def test_D_what_is_asked_is_checked(new_room: NewRoom) -> None:
    """Hashes, names, numbers and leases."""
    room = await new_room()
    for bad in ("", "00", INPUT.upper(), INPUT[:-1] + "g", INPUT + "0"):
        with pytest.raises(InvalidInput):
            await room.computations.submit(enclave_id=ENCLAVE, operation_type="sum", input_hash=bad)
    for more in ({"gas_limit": 0}, {"gas_limit": 2**63}, {"max_attempts": 0}):
        with pytest.raises(InvalidInput):
            await room.submit(**more)
    claim = await room.claimed()
    with pytest.raises(InvalidInput):
        await room.computations.complete(claim, bytes(1_048_577), at=AT)
    with pytest.raises(InvalidInput):
        await room.computations.beat(claim, lease=timedelta(days=1), at=AT)


# Results in Redis


@pytest.fixture
async def cache(redis_server: RedisEndpoint) -> AsyncIterator[ResultCache]:
    client = redis_client.connect(redis_server)
    yield ResultCache(client)
    await client.aclose()


async def test_results_are_cached_while_the_attestation_holds(
    new_room: NewRoom, cache: ResultCache
) -> None:
    """Under the specification's key with the tenant's prefix, no longer than the evidence holds."""
    room = await new_room()
    claim = await room.claimed()
    await room.computations.complete(claim, b"42", at=AT)
    computations = replace(room.computations, cache=cache)
    reads = [await computations.result(claim.id, at=AT + S) for _ in range(2)]
    assert [(one.output, one.from_cache) for one in reads if one] == [(b"42", False), (b"42", True)]
    key = RESULT_KEY.format(tenant_id=computations.scope.tenant, id=claim.id)
    assert key == f"tenant:{computations.scope.tenant}:compute:{claim.id}:result"
    lives_ms = await cache._redis.pttl(key)
    assert 0 < lives_ms <= 3_599_000
    over = await computations.result(claim.id, at=AT + timedelta(hours=1))
    assert over is not None
    assert (over.output, over.is_attested, over.from_cache) == (b"42", False, False)
    assert await cache._redis.get(key) is None


async def test_a_revoked_enclaves_results_leave_the_cache(
    new_room: NewRoom, cache: ResultCache
) -> None:
    """What is cached is asked about each time it is read."""
    room = await new_room()
    claim = await room.claimed()
    await room.computations.complete(claim, b"42", at=AT)
    computations = replace(room.computations, cache=cache)
    await computations.result(claim.id, at=AT + S)
    await Attestations(computations.scope).revoke(room.attestation, at=AT + S, because="leaked")
    result = await computations.result(claim.id, at=AT + 2 * S)
    assert result is not None and not result.is_attested and not result.from_cache


async def test_E2_a_poisoned_cache_is_not_believed(new_room: NewRoom, cache: ResultCache) -> None:
    """Bytes that are not what the enclave's output hashed to come from the database instead."""
    room = await new_room()
    claim = await room.claimed()
    await room.computations.complete(claim, b"42", at=AT)
    computations = replace(room.computations, cache=cache)
    key = RESULT_KEY.format(tenant_id=computations.scope.tenant, id=claim.id)
    await cache._redis.set(key, b"43")
    result = await computations.result(claim.id, at=AT + S)
    assert result is not None and (result.output, result.from_cache) == (b"42", False)
    assert await cache._redis.get(key) == b"42"


async def test_a_key_of_another_type_is_read_past_and_replaced(
    new_room: NewRoom, cache: ResultCache
) -> None:
    """The database answers, and its answer is cached in the key's place."""
    room = await new_room()
    claim = await room.claimed()
    await room.computations.complete(claim, b"42", at=AT)
    computations = replace(room.computations, cache=cache)
    key = RESULT_KEY.format(tenant_id=computations.scope.tenant, id=claim.id)
    await cache._redis.hset(key, "a", "b")  # type: ignore[misc]
    reads = [await computations.result(claim.id, at=AT + S) for _ in range(2)]
    assert [(one.output, one.from_cache) for one in reads if one] == [(b"42", False), (b"42", True)]


async def test_C13_without_redis_results_come_from_the_database(new_room: NewRoom) -> None:
    """No server there: the same answers, and no error."""
    room = await new_room()
    claim = await room.claimed()
    await room.computations.complete(claim, b"42", at=AT)
    client = redis_client.connect(postgres_only_redis(), timeout_s=1)
    computations = replace(room.computations, cache=ResultCache(client))
    for _ in range(3):
        result = await computations.result(claim.id, at=AT + S)
        assert result is not None and result.output == b"42"
    await client.aclose()


def postgres_only_redis() -> RedisEndpoint:
    """An address where no server answers."""
    return postgres_only(None).redis  # type: ignore[arg-type]


# Many workers, and deaths


@dataclass
class Fight:
    """A clock that every step moves on, and what came of each computation."""

    now: datetime = AT
    completed: list[UUID] = field(default_factory=list)
    refused: int = 0
    deaths: int = 0

    def tick(self, by: timedelta = timedelta(milliseconds=100)) -> datetime:
        self.now += by
        return self.now


async def work(
    room: Room, fight: Fight, worker: str, chance: random.Random, left: set[UUID]
) -> None:
    """Claim and complete; die now and then with a claim in hand, and come back to it too late."""
    mine: list[Claim] = []
    while left:
        claim = await room.claim(fight.tick(), worker)
        if claim is None:
            fight.tick(S)
            for old in mine:
                await finish(room, fight, old, left)
            mine.clear()
            continue
        if chance.random() < 0.4:
            fight.deaths += 1
            mine.append(claim)
            continue
        await finish(room, fight, claim, left)


async def finish(room: Room, fight: Fight, claim: Claim, left: set[UUID]) -> None:
    try:
        output = f"{claim.id} {claim.attempt}".encode()
        await room.computations.complete(claim, output, at=fight.tick())
    except LeaseLost:
        fight.refused += 1
        return
    fight.completed.append(claim.id)
    left.discard(claim.id)


async def test_C1_fifty_workers_fight_over_twenty_computations(
    new_room: NewRoom, module_databases: Endpoints
) -> None:
    """Each with a connection of its own, many dying in the middle: each is completed once."""
    room, fight = await new_room(), Fight()
    asked = {await room.submit(max_attempts=100) for _ in range(20)}
    left, scope = set(asked), room.computations.scope
    assert scope.tenant
    async with AsyncExitStack() as pools:
        cores = [
            await pools.enter_async_context(open_core(module_databases, size=1)) for _ in range(50)
        ]
        rooms = [
            replace(room, computations=Computations(core.scope(scope.tenant, by=scope.by)))
            for core in cores
        ]
        await asyncio.gather(
            *(
                work(one, fight, f"w{number}", random.Random(SEED + number), left)
                for number, one in enumerate(rooms)
            )
        )
    assert sorted(fight.completed) == sorted(asked)
    assert fight.deaths > 0
    done = await room.computations.list(status=ComputationStatus.COMPLETED)
    assert {one.id for one in done} == asked
    logged = await scope.fetch(
        "SELECT resource_id FROM audit.entries WHERE changes ->> 'status' = 'completed'"
    )
    assert sorted(UUID(one) for (one,) in logged) == sorted(asked)
    for one in done:
        result = await room.computations.result(one.id, at=AT)
        assert result is not None and result.output == f"{one.id} {one.attempt}".encode()


async def test_C10_a_cancelled_worker_leaves_a_whole_computation(new_room: NewRoom) -> None:
    """Cancelled at any moment of claiming and completing: it is claimed again, and ends once."""
    room, chance = await new_room(), random.Random(SEED)
    asked = {await room.submit(max_attempts=100) for _ in range(5)}
    now = AT

    async def once(at: datetime) -> None:
        claim = await room.claim(at)
        if claim is not None:
            await room.computations.complete(claim, b"x", at=at)

    for _ in range(60):
        task = asyncio.create_task(once(now := now + 11 * S))
        for _ in range(chance.randrange(12)):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if not await room.computations.list(status=ComputationStatus.PENDING):
            break
    while await room.computations.list(status=ComputationStatus.RUNNING):
        await once(now := now + 11 * S)
    for _ in asked:
        await once(now := now + 11 * S)
    done = await room.computations.list(status=ComputationStatus.COMPLETED)
    assert {one.id for one in done} == asked


async def test_C1_a_killed_process_is_taken_over_once(
    new_room: NewRoom, module_databases: Endpoints, enclave_core: CoreDatabase
) -> None:
    """kill -9 with a claim in hand; its computation is another's when the lease is over."""
    room = await new_room()
    asked = await room.submit()
    scope = room.computations.scope
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.crash.enclave_worker", ENCLAVE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)]),
            "CRASH_DSN": module_databases.postgres.dsn(Role.APP),
            "CRASH_CONTEXT": enclave_core.signer.sign(scope.tenant, scope.by),
            "CRASH_ATTESTATION": str(room.attestation),
            "CRASH_AT": AT.isoformat(),
        },
    )
    assert process.stdout is not None
    assert process.stdout.readline().decode().strip() == f"{asked} 1"
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        pipe.close()
    assert await room.claim(AT + 9 * S) is None
    claims = await asyncio.gather(*(room.claim(AT + 10 * S, f"w{n}") for n in range(5)))
    (claim,) = (one for one in claims if one is not None)
    assert (claim.id, claim.attempt) == (asked, 2)
    await room.computations.complete(claim, b"42", at=AT + 11 * S)


async def test_the_keeper_works_for_every_tenant(
    new_room: NewRoom, attesting: Attesting, enclave_core: CoreDatabase, module_databases: Endpoints
) -> None:
    """Dead computations, live attestations and old nonces of all tenants, in each one's scope."""
    room, attestations = await new_room(), await attesting()
    asked = await room.submit(max_attempts=1)
    assert await room.claim(AT)
    outcome = await attestations.verify(quote(quotes.SGX), enclave_id=ENCLAVE, at=THEN)
    assert outcome.attestation_id and outcome.expires_at
    await attestations.issue_nonce(enclave_id=ENCLAVE, at=THEN)
    keeper = EnclaveKeeper(module_databases, enclave_core)
    assert await keeper.give_up(AT + 10 * S) >= 1
    assert await room.status(asked) is ComputationStatus.FAILED
    assert await keeper.reverify(outcome.expires_at) >= 1
    stored = await attestations.attestation(outcome.attestation_id)
    assert stored.status == "expired"
    assert await keeper.forget_nonces(outcome.expires_at) >= 1
