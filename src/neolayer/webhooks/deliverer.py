"""The deliverer: what waits for endpoints, sent in order, each endpoint by itself.

An endpoint is claimed for a while by moving its next attempt ahead; whoever dies with it leaves it
to others when that time comes. Deliveries go one after another, so that an endpoint sees events in
commit order; a failure holds back that endpoint alone, for a pause that doubles, with jitter, or
as long as the answer's Retry-After says. What an endpoint refuses is parked after a few tries, what
it does not answer after many; the rest of its queue then goes on. An endpoint that has failed for
days, or says that it is gone, is disabled and said so.

Before each delivery is looked whether the endpoint is still to be told, where and under which
secrets: what its tenant takes away, or the end of the tenant itself, counts for the very next one.

A lock that a tenant holds on its own rows is waited for but a moment, so that it takes no
connection from the others.

Delivery is at least once: a process that dies between an answer and its note sends again, under the
same id.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

import httpx
import psycopg
import structlog

from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.connections import Pool, explain, impatient, open_pool
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import EngineError, NeolayerError, Unanswered
from neolayer.keys import Keyring
from neolayer.waiting import answered
from neolayer.webhooks.sending import Answer, Outcome, Policy, client, policy_of, post
from neolayer.webhooks.signing import NoSecret, sign
from neolayer.webhooks.store import binding

QUERIES = load_queries(__name__, "delivering.sql")
__all__ = ["Deliverer", "Policy", "policy_of"]

_AT_ONCE: Final = 128
_PER_TENANT: Final = 8
_RUN_S: Final = 20.0
_PAGE: Final = 50
_LOOK_AGAIN_S: Final = 5.0
_FULL_S: Final = 0.5
_FIRST_RETRY_S: Final = 0.2
_LAST_RETRY_S: Final = 10.0
_LOCK_MS: Final = 500

_log = structlog.get_logger()
Row = tuple[Any, ...]


class _Name(NamedTuple):
    """Which endpoint."""

    tenant_id: UUID
    webhook_id: UUID


class Deliverer:
    """Sends what waits for the endpoints of all tenants, as the relay's role."""

    def __init__(self, at: Endpoints, keyring: Keyring, policy: Policy) -> None:
        dsn = at.cluster(Database.CORE).dsn(Role.RELAY, Database.CORE)
        self._dsn = impatient(dsn, lock_ms=_LOCK_MS)
        self._keyring = keyring
        self._policy = policy
        self._woken = asyncio.Event()
        self._running: dict[_Name, asyncio.Task[None]] = {}
        self._pause_s = _FIRST_RETRY_S

    def wake(self) -> None:
        """Something was put into a queue."""
        self._woken.set()

    async def run(self) -> None:
        """Deliver until cancelled; trouble with the database is retried with back-off, for ever."""
        while True:
            try:
                with answered("the deliverer"):
                    async with self._pool() as db, client(self._policy) as http:
                        await self._serve(db, http)
            except (NeolayerError, psycopg.Error) as exc:
                _log.warning("webhooks wait", error=str(exc).splitlines()[0])
            await asyncio.sleep(self._pause_s * random.uniform(0.5, 1.0))  # noqa: S311
            self._pause_s = min(self._pause_s * 2, _LAST_RETRY_S)

    async def deliver_due(self) -> int:
        """Do once what is due, and return when it is done: how many endpoints were served."""
        async with self._pool() as db, client(self._policy) as http:
            started = await self._start_due(db, http)
            await asyncio.gather(*started)
        return len(started)

    def _pool(self) -> AbstractAsyncContextManager[Pool]:
        return open_pool(self._dsn, size=4, autocommit=True, application_name="webhooks")

    async def _serve(self, db: Pool, http: httpx.AsyncClient) -> None:
        try:
            while True:
                self._woken.clear()
                await self._start_due(db, http)
                self._pause_s = _FIRST_RETRY_S
                await self._wait(db)
        finally:
            await self._stop()

    async def _start_due(self, db: Pool, http: httpx.AsyncClient) -> list[asyncio.Task[None]]:
        started: list[asyncio.Task[None]] = []
        per_tenant = Counter(name.tenant_id for name in self._running)
        asked = {
            "lease": timedelta(seconds=_RUN_S + 2 * self._policy.timeout_s),
            "busy": [tenant for tenant, count in per_tenant.items() if count >= _PER_TENANT],
            "limit": _AT_ONCE - len(self._running),
        }
        for name in map(_Name._make, await self._all(db, QUERIES.claim_endpoints, asked)):
            if per_tenant[name.tenant_id] >= _PER_TENANT or name in self._running:
                with contextlib.suppress(EngineError):  # then it is due when the lease ends
                    await self._do(db, QUERIES.endpoint_due, name)
                continue
            per_tenant[name.tenant_id] += 1
            started.append(self._start(db, http, name))
        return started

    def _start(self, db: Pool, http: httpx.AsyncClient, name: _Name) -> asyncio.Task[None]:
        task = asyncio.create_task(self._endpoint(db, http, name))
        self._running[name] = task

        def ended(task: asyncio.Task[None]) -> None:
            self._running.pop(name, None)
            if not task.cancelled() and (exc := task.exception()) is not None:
                webhook = str(name.webhook_id)
                _log.error("a webhook met a fault of ours", webhook=webhook, exc_info=exc)
            self._woken.set()

        task.add_done_callback(ended)
        return task

    async def _wait(self, db: Pool) -> None:
        """Until somebody wakes us, or the next endpoint is due."""
        rows = await self._all(db, QUERIES.next_due, {})
        due_s = _LOOK_AGAIN_S if rows[0][0] is None else float(rows[0][0])
        if due_s <= 0:  # of a tenant that has as many as it may; or we have
            due_s = _FULL_S
        try:
            async with asyncio.timeout(min(due_s + 0.001, _LOOK_AGAIN_S)):
                await self._woken.wait()
        except TimeoutError:
            return

    async def _stop(self) -> None:
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _endpoint(self, db: Pool, http: httpx.AsyncClient, name: _Name) -> None:
        """Serve one endpoint for a while; what its run meets never leaves this task."""
        try:
            with answered("a webhook"):
                await self._serve_one(db, http, name)
        except (EngineError, Unanswered) as exc:
            _log.warning("a webhook waits", webhook=str(name.webhook_id), error=exc.message)
        except NoSecret as exc:
            await self._hold_back(db, name, exc.message, attempts=5)
        except NeolayerError as exc:
            _log.error("a webhook cannot sign", webhook=str(name.webhook_id), error=exc.message)
            await self._hold_back(db, name, "its secret cannot be opened", attempts=5)

    async def _serve_one(self, db: Pool, http: httpx.AsyncClient, name: _Name) -> None:
        opened: dict[str, bytes] = {}
        loop = asyncio.get_running_loop()
        until = loop.time() + _RUN_S
        while loop.time() < until:
            page = await self._do(db, QUERIES.pending_of, name, limit=_PAGE)
            for row in page:
                if loop.time() >= until:
                    break
                if not await self._deliver(db, http, name, opened, row):
                    return
            if len(page) < _PAGE:
                break
        await self._do(db, QUERIES.endpoint_due, name)

    async def _deliver(
        self, db: Pool, http: httpx.AsyncClient, name: _Name, opened: dict[str, bytes], row: Row
    ) -> bool:
        """Send one, and write down what became of it; whether the endpoint may have the next."""
        now = await self._do(db, QUERIES.endpoint_now, name)
        if not now:
            return False
        number, event_id, _, envelope, attempts = row
        url, sealed = now[0]
        body = envelope.encode()
        secrets = [await self._opened(opened, one, name) for one in sealed]
        headers = sign(event_id, body, datetime.now(UTC), *secrets)
        headers["webhook-attempt"] = str(attempts + 1)
        answer = await post(http, url, body, headers, self._policy)
        if answer.outcome is Outcome.TAKEN:
            await self._do(db, QUERIES.delivered, name, number=number)
            return True
        return await self._failed(db, name, row, answer)

    async def _failed(self, db: Pool, name: _Name, row: Row, answer: Answer) -> bool:
        number, event_id, _, _, attempts = row
        parked = self._is_last(answer, attempts + 1)
        await self._do(db, QUERIES.failed, name, number=number, error=answer.error, parked=parked)
        if parked:
            webhook = str(name.webhook_id)
            error = answer.error
            _log.warning("a delivery is parked", webhook=webhook, event_id=event_id, error=error)
            if answer.outcome is Outcome.REFUSED:
                return True
        gone = answer.outcome is Outcome.GONE
        tries = attempts + 1
        await self._hold_back(db, name, answer.error, attempts=tries, wait=answer.wait, gone=gone)
        return False

    def _is_last(self, answer: Answer, attempts: int) -> bool:
        limit = self._policy.attempts
        if answer.outcome is Outcome.REFUSED:
            limit = min(limit, self._policy.refused_attempts)
        return answer.outcome is not Outcome.GONE and attempts >= limit

    async def _hold_back(
        self,
        db: Pool,
        name: _Name,
        error: str,
        *,
        attempts: int,
        wait: timedelta | None = None,
        gone: bool = False,
    ) -> None:
        """Not before a pause again; disabled where it has failed for too long."""
        asked = {
            "error": error[:400],
            "pause": max(self.pause(attempts), wait or timedelta(0)),
            "gone": gone,
            "disable_after": self._policy.disable_after,
        }
        rows = await self._do(db, QUERIES.endpoint_failed, name, **asked)
        if rows and rows[0][0]:
            tenant = str(name.tenant_id)
            _log.error("a webhook is disabled", webhook=rows[0][1], tenant=tenant, error=error)

    def pause(self, attempts: int) -> timedelta:
        """How long after so many failures in a row; half of it is left to chance."""
        grown = self._policy.first_pause_s * 2 ** min(attempts - 1, 30)
        longest = min(grown, self._policy.longest_pause_s)
        return timedelta(seconds=longest * random.uniform(0.5, 1.0))  # noqa: S311

    async def _opened(self, opened: dict[str, bytes], sealed: str, name: _Name) -> bytes:
        if sealed not in opened:
            opened[sealed] = await self._keyring.open(sealed, bound_to=binding(*name))
        return opened[sealed]

    async def _do(self, db: Pool, query: Any, name: _Name, **values: Any) -> list[Row]:
        return await self._all(db, query, {**name._asdict(), **values})

    async def _all(self, db: Pool, query: Any, values: dict[str, Any]) -> list[Row]:
        """Run one statement. Raises EngineError."""
        try:
            async with db.connection() as connection:
                cursor = await connection.execute(query, values)
                return await cursor.fetchall() if cursor.description else []
        except psycopg.OperationalError as exc:
            raise explain(exc, self._dsn) from exc
        except psycopg.Error as exc:
            raise EngineError("postgres", str(exc).splitlines()[0]) from exc
