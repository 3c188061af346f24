"""From a bearer token to `Access`: one statement when cold, none when it was asked just now.

An answer is used again only while less than `LIFETIME_S` has passed since before its statement was
sent. So whatever ended a session, a key, a role or a tenant is seen by every process within that
time of its commit, without a message that could be lost: no clock, no other engine and no
subscription takes part. An entry also ends with the session or the grant it rests on.

Only hashes of tokens are kept in memory. Unknown tokens are not remembered.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from math import inf
from uuid import UUID

from neolayer.engines.postgres.queries import load_queries
from neolayer.identity.access import Access
from neolayer.identity.guarded import source_address
from neolayer.identity.session_tokens import LENGTH, Kind, Token, UnknownToken, parse_token
from neolayer.tenancy import CoreDatabase, Principal

QUERIES = load_queries(__name__, "access.sql")
LIFETIME_S = 0.8  # below the second that is promised, by what a slow loop may take
CAPACITY = 50_000


@dataclass(frozen=True, slots=True)
class _Answer:
    access: Access
    asked_at: float
    until: float


@dataclass(frozen=True, slots=True)
class _Flight:
    """A statement on its way: who asks for the same meanwhile waits for it."""

    task: asyncio.Task[_Answer]
    tenant: UUID
    asked_at: float


class AccessCache:
    """One per process. `clock` is monotonic, in seconds."""

    def __init__(
        self,
        core: CoreDatabase,
        *,
        lifetime_s: float = LIFETIME_S,
        capacity: int = CAPACITY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._core = core
        self._lifetime_s = lifetime_s
        self._capacity = capacity
        self._clock = clock
        self._answers: OrderedDict[bytes, _Answer] = OrderedDict()
        self._flights: dict[bytes, _Flight] = {}
        self._familiar: OrderedDict[bytes, None] = OrderedDict()
        self._changed_at: dict[UUID | Principal, float] = {}  # tenants and principals
        self.statements = 0  # sent so far, for whoever counts

    def __len__(self) -> int:
        return len(self._answers)

    async def check(self, bearer: str, *, ip_address: str | None = None) -> Access:
        """Who bears this access token or API key. Raises UnknownToken.

        `ip_address` is noted, once a minute at most, for the list of sessions and keys.
        """
        if len(bearer) != LENGTH or not bearer.isascii():
            raise UnknownToken
        key = sha256(bearer.encode()).digest()
        now = self._clock()
        answer = self._answers.get(key)
        if answer is not None and self._is_usable(answer, now):
            return answer.access
        flight = self._flights.get(key)
        if flight is None or not self._is_joinable(flight, now):
            token = parse_token(bearer, Kind.ACCESS, Kind.API_KEY)
            flight = self._depart(key, token, ip_address, now)
        return (await asyncio.shield(flight.task)).access

    def is_familiar(self, bearer: str) -> bool:
        """Whether this token was good when it was last looked for here; it proves nothing now."""
        return sha256(bearer.encode()).digest() in self._familiar

    def forget(self, tenant: UUID, principal: Principal) -> None:
        """Let go of what is known of a principal: a change made here is seen here at once."""
        now = self._clock()
        if len(self._changed_at) >= self._capacity:
            recent = {
                who: at for who, at in self._changed_at.items() if at + self._lifetime_s > now
            }
            self._changed_at = recent
        self._changed_at[principal] = now
        self._changed_at[tenant] = now  # a statement on its way does not say yet whom it is about

    def _is_usable(self, answer: _Answer, now: float) -> bool:
        changed_at = self._changed_at.get(answer.access.principal, -inf)
        return now < answer.until and answer.asked_at > changed_at

    def _is_joinable(self, flight: _Flight, now: float) -> bool:
        changed_at = self._changed_at.get(flight.tenant, -inf)
        return now < flight.asked_at + self._lifetime_s and flight.asked_at > changed_at

    def _depart(self, key: bytes, token: Token, ip_address: str | None, now: float) -> _Flight:
        task = asyncio.create_task(self._ask(token, ip_address, now))
        flight = self._flights[key] = _Flight(task, token.tenant, now)
        task.add_done_callback(lambda _: self._arrive(key, flight))
        return flight

    def _arrive(self, key: bytes, flight: _Flight) -> None:
        failed = flight.task.cancelled() or flight.task.exception() is not None
        if self._flights.get(key) is not flight:
            return  # a later statement for the same token is on its way
        del self._flights[key]
        self._answers.pop(key, None)
        self._familiar.pop(key, None)
        if not failed:
            self._answers[key] = flight.task.result()
            self._familiar[key] = None
            if len(self._familiar) > self._capacity:
                self._familiar.popitem(last=False)
        self._let_go()

    def _let_go(self) -> None:
        """The oldest first: none lives longer than another, so what is over stands in front."""
        now = self._clock()
        while self._answers:
            key, answer = next(iter(self._answers.items()))
            if answer.until > now and len(self._answers) <= self._capacity:
                return
            del self._answers[key]

    async def _ask(self, token: Token, ip_address: str | None, asked_at: float) -> _Answer:
        self.statements += 1
        scope = self._core.scope(token.tenant, by=Principal.system("access"))
        query = QUERIES.check_session if token.kind is Kind.ACCESS else QUERIES.check_api_key
        asked = {
            "tenant_id": token.tenant,
            "token_hash": token.hash,
            "ip_address": source_address(ip_address),
        }
        row = await scope.one(query, asked)
        if row is None:
            raise UnknownToken
        session_id, principal_id, seconds_left, permissions = row
        principal = (
            Principal.service(principal_id) if session_id is None else Principal.user(principal_id)
        )
        access = Access(principal, token.tenant, frozenset(permissions), session_id)
        return _Answer(access, asked_at, asked_at + min(self._lifetime_s, seconds_left))
