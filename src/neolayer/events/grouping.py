"""Appends of one process, grouped into one commit.

A commit costs what the disk costs, whatever is in it. So while one is under way, whatever else is
to be appended waits, and goes with the next: nobody waits for a clock, and one append alone goes at
once. The appends of a group may be different tenants': each tenant's travel in a statement of
their own, with the signed context that the database asks for before it stores anything.

What one append meets is its own affair. Conflicts are statuses, not errors; who gives up waiting
is left out, or forgotten where it is on its way; a stream at which another process writes is not
waited for (`busy`). A group that fails as a whole is sent once more, each unit in a subtransaction,
and no more of them at once than a server's process remembers: so all but the culprits share commits
still, and groups that do not fail pay for none. Whatever is left goes alone: by itself, in a
transaction of its own, and meets its error there. What is larger than a group may be goes alone
from the start: nobody else's append waits for it.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import LiteralString
from uuid import UUID

import orjson
import psycopg
from psycopg.abc import Params

from neolayer.engines.postgres.parameters import RawTexts
from neolayer.engines.postgres.queries import load_queries
from neolayer.engines.postgres.round_trip import Rows, Statement
from neolayer.errors import AccessDenied, EngineUnavailable, InvalidInput, NeolayerError
from neolayer.events.model import ANY
from neolayer.events.resending import GIVING_WAY, resent
from neolayer.events.units import (
    MOST_STREAMS,
    Outcome,
    Unit,
    batch_of,
    event_of,
    known_refused,
    outcome_of,
    outcomes_of,
)
from neolayer.position import Position
from neolayer.tenancy import Principal, TenantDatabase
from neolayer.waiting import answered

_Sent = tuple[Statement, Params | None]
sql = load_queries(__name__)
_COMMITTED_AT: _Sent = (sql.committed_at, RawTexts())
_EVENT, _GROUP = sql.append_event, sql.append_group
MOST_UNITS = 256
MOST_APART = 60  # beyond 64 subtransactions of one transaction every snapshot of the server pays
MOST_BYTES = 1 << 20
_AGAIN = (
    psycopg.errors.UniqueViolation,  # of a version: somebody appends without the function
    psycopg.errors.CheckViolation,  # the same
    *GIVING_WAY,
)

Answer = tuple[Outcome, Position]
_Stream = tuple[int | None, str]


@dataclass(slots=True, eq=False)
class _Member:
    """A unit that waits for its answer; None: it has to go alone."""

    tenant: UUID | None
    by: Principal
    unit: Unit
    answer: asyncio.Future[Answer | None]

    @property
    def streams(self) -> list[_Stream]:
        tenant = None if self.tenant is None else self.tenant.int  # a UUID is slow to hash
        return [(tenant, part.stream) for part in self.unit.parts]


@dataclass(slots=True, eq=False)
class Grouper:
    """The one of a process for its event store, on one event loop.

    `committed` is set at the next commit. `lane` has a connection for the groups alone, so that no
    append that waits for its stream keeps the others waiting, and no session is there that somebody
    could have changed; what goes alone takes one of `database`.
    """

    database: TenantDatabase
    lane: TenantDatabase
    commits: int = 0
    committed: asyncio.Event = field(default_factory=asyncio.Event)
    _waiting: deque[_Member] = field(default_factory=deque[_Member])
    _is_busy: bool = False
    _working: asyncio.Task[None] | None = None
    _latest: int = 1  # how many the last group had

    async def append(self, tenant: UUID | None, by: Principal, unit: Unit) -> Answer:
        """What became of the unit, and a position at or above its commit.

        Cancelled, the unit may be stored or not. Raises EventIdTaken, EngineUnavailable,
        AccessDenied, and InvalidInput where it is more than the server takes.
        """
        if unit.size > MOST_BYTES:
            found = None
        elif self._latest == 1 and not self._is_busy:
            found = await self._first(tenant, by, unit)
        else:
            answer: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
            self._waiting.append(_Member(tenant, by, unit, answer))
            self._start()
            found = await answer
        if found is None or found[0].is_about("busy"):
            found = await self._alone(tenant, by, unit)
        if found[0].is_about("refused"):
            raise AccessDenied("the tenant is closed, or there is none")
        return found

    async def _first(self, tenant: UUID | None, by: Principal, unit: Unit) -> Answer | None:
        """One append while there are no others: without a task, and without a turn of the loop."""
        self._is_busy = True
        try:
            context = self.database.signer.sign(tenant, by)
            (answer,), position = await _send(self.lane, [(None, [_together(context, [unit])])])
        except (psycopg.Error, NeolayerError, orjson.JSONEncodeError):
            return None
        finally:
            self._is_busy = False
            if self._waiting:
                self._start()
        self._note_commit()
        return _outcomes(answer, [unit])[0], position

    def _start(self) -> None:
        if not self._is_busy:
            self._is_busy = True
            self._working = asyncio.create_task(self._work())

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
                    self._latest = len(group)
                    await self._commit(group)
                    await asyncio.sleep(0)  # whoever appends again at once is in the next
        except BaseException:
            for member in (*group, *self._waiting):
                member.answer.cancel()
            self._waiting.clear()
            raise
        finally:
            self._is_busy = False
            self._working = None

    def _next_group(self) -> list[_Member]:
        """From the front, whoever still waits; of one stream only what does not mind its order."""
        group: list[_Member] = []
        held: deque[_Member] = deque()
        seen: dict[_Stream, bool] = {}  # -> whether more may come
        size = streams = 0
        if len(self._waiting) == 1:
            member = self._waiting.popleft()
            return [] if member.answer.done() else [member]
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
        try:
            by_context = self._by_context(group)
            try:
                await self._together(by_context)
            except (psycopg.Error, NeolayerError, orjson.JSONEncodeError) as exc:
                if len(group) == 1 or isinstance(exc, EngineUnavailable):
                    raise
                await self._apart(by_context)
        except Exception:  # whoever it is about meets it again, alone
            for member in group:
                _give(member, None)

    async def _together(self, by_context: Mapping[str, list[_Member]]) -> None:
        """A statement a context. Raises what one of them met; then nothing is stored."""
        turn = [
            _together(context, [member.unit for member in members])
            for context, members in by_context.items()
        ]
        answers, position = await _send(self.lane, [(None, turn)])
        self._note_commit()
        writers = Counter[_Stream]()
        for answer, members in zip(answers, by_context.values(), strict=True):
            outcomes = _outcomes(answer, [member.unit for member in members])
            for member, outcome in zip(members, outcomes, strict=True):
                is_fair = outcome.is_stored
                if not is_fair:
                    # Beside others of its stream it was judged as if all of them had been stored.
                    writers = writers or _writers(by_context)
                    is_fair = all(writers[key] == 1 for key in member.streams)
                _give(member, (outcome, position) if is_fair else None)

    async def _apart(self, by_context: Mapping[str, list[_Member]]) -> None:
        """A statement a unit: what one of them meets leaves the others alone."""
        sent: list[tuple[str, _Member, _Sent]] = []
        for context, members in by_context.items():
            for member in members:
                try:
                    sent.append((context, member, _by_itself(member.unit, sql.append_apart)))
                except orjson.JSONEncodeError:
                    _give(member, None)
        for first in range(0, len(sent), MOST_APART):
            part = sent[first : first + MOST_APART]
            turns = [
                (context, [statement for _, _, statement in turn])
                for context, turn in groupby(part, key=itemgetter(0))
            ]
            answers, position = await _send(self.lane, turns)
            self._note_commit()
            for answer, (_, member, _) in zip(answers, part, strict=True):
                (outcome,) = outcomes_of(answer, [member.unit])
                _give(member, None if outcome.is_about("failed") else (outcome, position))

    def _by_context(self, group: Sequence[_Member]) -> dict[str, list[_Member]]:
        turns: dict[str, list[_Member]] = {}
        turn, before = list[_Member](), None
        for member in group:
            if before is None or member.by is not before.by or member.tenant is not before.tenant:
                context = self.database.signer.sign(member.tenant, member.by)
                turn = turns.setdefault(context, [])
            turn.append(member)
            before = member
        return turns

    def _note_commit(self) -> None:
        """Wake whoever waits for new events in this process; the next commit is another event."""
        self.commits += 1
        self.committed.set()
        self.committed = asyncio.Event()

    async def _alone(self, tenant: UUID | None, by: Principal, unit: Unit) -> Answer:
        """By itself, waiting for whoever is at its streams; again where that may help."""

        async def send() -> Answer:
            turn = self.database.signer.sign(tenant, by), [_by_itself(unit, sql.append)]
            with known_refused():
                (answer,), position = await _send(self.database, [turn])
            self._note_commit()
            return outcomes_of(answer, [unit])[0], position

        try:
            return await resent(send, again=_AGAIN)
        except orjson.JSONEncodeError as exc:
            raise InvalidInput(f"an event cannot be written as JSON: {exc}") from exc


def _together(context: str, units: Sequence[Unit]) -> _Sent:
    """The statement that appends one tenant's units, its context along with them."""
    if len(units) == 1 and units[0].is_single:
        return _EVENT, event_of(units[0], context)
    streams, batch = batch_of(units)
    is_plain = (
        len(units) > 1
        and all(unit.is_single for unit in units)
        and len(set(streams)) == len(streams)
    )
    values = RawTexts(
        context=context, streams=_array(streams), batch=batch, is_plain="t" if is_plain else "f"
    )
    return _GROUP, values


def _by_itself(unit: Unit, statement: LiteralString) -> _Sent:
    """The statement that appends one unit in the tenant that was entered."""
    streams, batch = batch_of([unit])
    return statement, RawTexts(streams=_array(streams), batch=batch, waits="t")


async def _send(
    database: TenantDatabase, turns: Sequence[tuple[str | None, Sequence[_Sent]]]
) -> tuple[list[bytes], Position]:
    """Do these in one transaction, each turn in its context (None: it comes with the statements);
    what each statement answered, and where that is in the log."""
    statements: list[_Sent] = []
    for place, (context, appending) in enumerate(turns):
        if place:
            statements.append((sql.switch, RawTexts(context=context)))
        statements += appending
    context = turns[0][0]
    with answered("the append"):
        async with database.connection() as connection:
            # Without BEGIN they are one transaction, which ends before the log's end is asked for.
            sent = connection.enter_and(
                context, *statements, begin=False, after=(_COMMITTED_AT,), leaving=True
            )
            rows = (await sent)[0 if context is None else 1 :]
    answers = [
        _cell(answer)
        for (statement, _), answer in zip(statements, rows, strict=False)
        if statement is not sql.switch
    ]
    return answers, _position(rows[-1])


def _writers(by_context: Mapping[str, list[_Member]]) -> Counter[_Stream]:
    return Counter(
        key for members in by_context.values() for member in members for key in member.streams
    )


def _outcomes(answer: bytes, units: Sequence[Unit]) -> list[Outcome]:
    """What `_together` says."""
    if len(units) == 1 and units[0].is_single:
        return [outcome_of(answer)]
    return outcomes_of(answer, units)


def _array(streams: Sequence[str]) -> str:
    return f"{{{','.join(streams)}}}"


def _give(member: _Member, answer: Answer | None) -> None:
    if not member.answer.done():  # whoever gave up is not told
        member.answer.set_result(answer)


def _cell(rows: Rows) -> bytes:
    assert rows.first is not None
    return rows.first[0]


def _position(rows: Rows) -> Position:
    return Position.from_version(int(_cell(rows)), "event_store")
