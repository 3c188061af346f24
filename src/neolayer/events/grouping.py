"""Appends of one process, grouped into one commit.

A commit costs what the disk costs, whatever is in it. So while one is under way, whatever else is
to be appended waits, and goes with the next: nobody waits for a clock, and one append alone goes at
once. The appends of a group may be different tenants': each tenant's signed context is entered in
turn, in the one transaction, and row security holds for every statement under its own.

What one append meets is its own affair. Conflicts are statuses, not errors; who gives up waiting
is left out, or forgotten where it is on its way; a stream at which another process writes is not
waited for (`busy`). A group that fails as a whole is sent once more, each unit in a subtransaction:
so all but the culprits share a commit still, and groups that do not fail pay for none. Whatever is
left goes alone: by itself, in a transaction of its own, and meets its error there.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import LiteralString
from uuid import UUID

import orjson
import psycopg

from neolayer.engines.postgres.queries import load_queries
from neolayer.engines.postgres.round_trip import Rows, Texts
from neolayer.errors import AccessDenied, EngineUnavailable, InvalidInput, NeolayerError
from neolayer.events.model import ANY
from neolayer.events.units import MOST_STREAMS, Outcome, Unit, batch_of, known_refused, outcomes_of
from neolayer.position import Position
from neolayer.tenancy import Principal, TenantDatabase

sql = load_queries(__name__)
MOST_UNITS = 256
MOST_BYTES = 1 << 20
_TRIES = 5
_PAUSE_S = 0.05
_AGAIN = (
    psycopg.errors.UniqueViolation,  # of a version: somebody appends without the function
    psycopg.errors.CheckViolation,  # the same
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
)

Answer = tuple[Outcome, Position]
_Appending = tuple[LiteralString, Texts]


@dataclass(slots=True, eq=False)
class _Member:
    """A unit that waits for its answer; None: it has to go alone."""

    tenant: UUID | None
    by: Principal
    unit: Unit
    answer: asyncio.Future[Answer | None]

    @property
    def streams(self) -> list[tuple[UUID | None, UUID]]:
        return [(self.tenant, stream) for stream in self.unit.streams]


@dataclass(slots=True, eq=False)
class Grouper:
    """The one of a process for its event store, on one event loop.

    `committed` is set at the next commit. `lane` has a connection for the groups alone, so that no
    append that waits for its stream keeps the others waiting; what goes alone takes one of
    `database`.
    """

    database: TenantDatabase
    lane: TenantDatabase
    commits: int = 0
    committed: asyncio.Event = field(default_factory=asyncio.Event)
    _waiting: deque[_Member] = field(default_factory=deque[_Member])
    _working: asyncio.Task[None] | None = None

    async def append(self, tenant: UUID | None, by: Principal, unit: Unit) -> Answer:
        """What became of the unit, and a position at or above its commit.

        Cancelled, the unit may be stored or not. Raises EventIdTaken, EngineUnavailable,
        AccessDenied.
        """
        answer: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Member(tenant, by, unit, answer))
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        found = await answer
        if found is None or found[0].is_about("busy"):
            found = await self._alone(tenant, by, unit)
        if found[0].is_about("refused"):
            raise AccessDenied("the tenant is closed, or there is none")
        return found

    async def close(self) -> None:
        """End the work; whoever still waits is cancelled."""
        if self._working is not None:
            self._working.cancel()
            with suppress(asyncio.CancelledError):
                await self._working

    async def _work(self) -> None:
        group: list[_Member] = []
        try:
            while self._waiting:
                group = self._next_group()
                if group:
                    await self._commit(group)
        except BaseException:
            for member in (*group, *self._waiting):
                member.answer.cancel()
            self._waiting.clear()
            raise
        finally:
            self._working = None

    def _next_group(self) -> list[_Member]:
        """From the front, whoever still waits; of one stream only what does not mind its order."""
        group: list[_Member] = []
        held: deque[_Member] = deque()
        seen: dict[tuple[UUID | None, UUID], bool] = {}  # -> whether more may come
        size = streams = 0
        while self._waiting and len(group) < MOST_UNITS and size < MOST_BYTES:
            member = self._waiting.popleft()
            if member.answer.done():
                continue
            parts = member.unit.parts
            if streams + len(parts) > MOST_STREAMS:
                self._waiting.appendleft(member)
                break
            keys = member.streams
            minds = any(part.expected_version != ANY for part in parts) or len(parts) > 1
            if any(key in seen and (minds or not seen[key]) for key in keys):
                held.append(member)
                seen.update(dict.fromkeys(keys, False))
                continue
            for key in keys:
                seen.setdefault(key, not minds)
            group.append(member)
            size += member.unit.size
            streams += len(parts)
        self._waiting.extendleft(reversed(held))
        return group

    async def _commit(self, group: Sequence[_Member]) -> None:
        """One transaction of all, and the answers; None to whoever has to go alone."""
        by_context: dict[str, list[_Member]] = {}
        for member in group:
            context = self.database.signer.sign(member.tenant, member.by)
            by_context.setdefault(context, []).append(member)
        try:
            try:
                await self._together(by_context)
            except (psycopg.Error, NeolayerError, orjson.JSONEncodeError) as exc:
                if len(group) == 1 or isinstance(exc, EngineUnavailable):
                    raise
                await self._apart(by_context)
        except (psycopg.Error, NeolayerError, orjson.JSONEncodeError):
            for member in group:
                _give(member, None)

    async def _together(self, by_context: Mapping[str, list[_Member]]) -> None:
        """A statement a context. Raises what one of them met; then nothing is stored."""
        turns = [
            (context, [_appending([member.unit for member in members])])
            for context, members in by_context.items()
        ]
        answers, position = await _send(self.lane, turns)
        self._note_commit()
        writers = Counter(
            key for members in by_context.values() for member in members for key in member.streams
        )
        for answer, members in zip(answers, by_context.values(), strict=True):
            outcomes = outcomes_of(answer, [member.unit for member in members])
            for member, outcome in zip(members, outcomes, strict=True):
                # Beside others of its stream it was judged as if all of them had been stored.
                is_fair = outcome.is_stored or all(writers[key] == 1 for key in member.streams)
                _give(member, (outcome, position) if is_fair else None)

    async def _apart(self, by_context: Mapping[str, list[_Member]]) -> None:
        """A statement a unit: what one of them meets leaves the others alone."""
        turns: list[tuple[str, list[_Appending]]] = []
        sent: list[_Member] = []
        for context, members in by_context.items():
            turn: list[_Appending] = []
            for member in members:
                try:
                    turn.append(_appending([member.unit], sql.append_apart))
                except orjson.JSONEncodeError:
                    _give(member, None)
                else:
                    sent.append(member)
            turns.append((context, turn))
        answers, position = await _send(self.lane, turns)
        self._note_commit()
        for answer, member in zip(answers, sent, strict=True):
            (outcome,) = outcomes_of(answer, [member.unit])
            _give(member, None if outcome.is_about("failed") else (outcome, position))

    def _note_commit(self) -> None:
        """Wake whoever waits for new events in this process; the next commit is another event."""
        self.commits += 1
        self.committed.set()
        self.committed = asyncio.Event()

    async def _alone(self, tenant: UUID | None, by: Principal, unit: Unit) -> Answer:
        """By itself, waiting for whoever is at its streams; again where that may help.

        A lost connection says nothing of what was stored, but the events' ids do: so the same
        events are simply sent again.
        """
        for attempt in range(1, _TRIES + 1):
            try:
                context = self.database.signer.sign(tenant, by)
                with known_refused():
                    turn = context, [_appending([unit], waits=True)]
                    (answer,), position = await _send(self.database, [turn])
                self._note_commit()
                return outcomes_of(answer, [unit])[0], position
            except orjson.JSONEncodeError as exc:
                raise InvalidInput(f"an event cannot be written as JSON: {exc}") from exc
            except _AGAIN:
                if attempt == _TRIES:
                    raise
            except psycopg.OperationalError as exc:
                if attempt == _TRIES:
                    raise EngineUnavailable("postgres", "the connection was lost") from exc
                await asyncio.sleep(_PAUSE_S * attempt)
        raise AssertionError


def _appending(
    units: Sequence[Unit], statement: LiteralString = sql.append, *, waits: bool = False
) -> _Appending:
    streams, batch = batch_of(units)
    array = f"{{{','.join(map(str, streams))}}}"
    return statement, Texts(streams=array, batch=batch, waits="t" if waits else "f")


async def _send(
    database: TenantDatabase, turns: Sequence[tuple[str, Sequence[_Appending]]]
) -> tuple[list[str], Position]:
    """Enter (or switch to) each context and append, in one transaction; what each statement
    answered, and where that is in the log."""
    statements: list[tuple[LiteralString, Texts | None]] = []
    for place, (context, appending) in enumerate(turns):
        if place:
            statements.append((sql.switch, Texts(context=context)))
        statements += appending
    async with database.connection() as connection:
        # After COMMIT, but in the same round trip; two Syncs would be two packets.
        rows = await connection.enter_and(
            turns[0][0], *statements, (sql.commit, None), (sql.committed_at, None), begin=True
        )
    answers = [
        _text(answer)
        for (statement, _), answer in zip(statements, rows[2:], strict=False)
        if statement is not sql.switch
    ]
    return answers, _position(rows[-1])


def _give(member: _Member, answer: Answer | None) -> None:
    if not member.answer.done():  # whoever gave up is not told
        member.answer.set_result(answer)


def _text(rows: Rows) -> str:
    assert rows.first is not None
    return rows.first[0]


def _position(rows: Rows) -> Position:
    assert rows.first is not None
    return Position.from_version(rows.first[0], "event_store")
