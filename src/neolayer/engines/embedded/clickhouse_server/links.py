"""Which link a request runs on: a session's, one from the pool, or a reader's.

A reader's link is closed in three ways before a statement of the reader's runs on it: it takes the
reader's role (no rights but SELECT and SHOW, none on files, URLs or other servers), then the few
harmless settings asked for, then `readonly = 1`, which the engine does not let anyone lift.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from neolayer.engines.embedded.clickhouse_server.auth import User
from neolayer.engines.embedded.clickhouse_server.engine import READER_ROLE, Engine, Link
from neolayer.engines.embedded.clickhouse_server.faults import (
    SESSION_IS_LOCKED,
    SESSION_NOT_FOUND,
    ClickHouseFault,
)
from neolayer.engines.embedded.clickhouse_server.overlay import Overlay, quote_name, set_statement
from neolayer.engines.embedded.clickhouse_server.request import SessionWish, Wanted
from neolayer.engines.embedded.clickhouse_server.threads import Threads

READER_DEFAULTS = {"final": "1", "max_execution_time": "300", "max_memory_usage": "4294967296"}
READER_SETTINGS = frozenset(
    [
        "final",
        "join_use_nulls",
        "session_timezone",
        "date_time_output_format",
        "extremes",
        "output_format_json_quote_64bit_integers",
        "output_format_json_quote_decimals",
        "output_format_json_quote_denormals",
        "output_format_arrow_string_as_string",
        "output_format_arrow_low_cardinality_as_dictionary",
    ]
)
_MAX_IDLE = 8
_MAX_SESSIONS = 500


@dataclass(slots=True)
class Lease:
    """A link for the length of one request. `spent` links are closed, not used again."""

    link: Link
    user: User
    overlay: Overlay | None = None
    session: Session | None = None
    key: tuple[object, ...] = ()
    spent: bool = False


@dataclass(slots=True)
class Session:
    """A link kept between requests, with its temporary tables and settings."""

    link: Link
    overlay: Overlay
    busy: bool = False
    expires_at: float = 0.0
    timeout_seconds: int = 60


class Links:
    """All links of the process. Blocking work goes to threads."""

    def __init__(self, engine: Engine, threads: Threads) -> None:
        self._engine = engine
        self._threads = threads
        self._idle: list[Lease] = []
        self._sessions: dict[str, Session] = {}

    async def lease(self, user: User, wanted: Wanted) -> Lease:
        """A link that is as the request wants it. Give it back with `release`."""
        if not user.may_write:
            return await self._lease_reader(user, wanted)
        lease = await self._lease_owner(user, wanted)
        try:
            overlay = lease.overlay
            if overlay is not None and not overlay.fits(wanted.settings, wanted.database):
                await self._threads.call(overlay.lay, wanted.settings, wanted.database)
        except BaseException:  # cancelled too: the lease goes back whatever happens
            lease.spent = lease.session is None
            await self.release(lease)
            raise
        return lease

    async def release(self, lease: Lease) -> None:
        """Back to the session or the pool, or closed."""
        if lease.session is not None:
            lease.session.busy = False
            lease.session.expires_at = time.monotonic() + lease.session.timeout_seconds
        elif lease.spent or len(self._idle) >= _MAX_IDLE:
            await self._threads.call(lease.link.close)
        else:
            self._idle.append(lease)

    async def expire_sessions(self) -> None:
        """Close sessions nobody used for as long as they asked to live; runs for ever."""
        while True:
            await asyncio.sleep(1)
            now = time.monotonic()
            for name, session in list(self._sessions.items()):
                if not session.busy and session.expires_at < now:
                    await self._drop(name)

    def close(self) -> None:
        for session in self._sessions.values():
            session.link.close()
        for lease in self._idle:
            lease.link.close()
        self._sessions.clear()
        self._idle.clear()

    async def _lease_owner(self, user: User, wanted: Wanted) -> Lease:
        if wanted.session is not None:
            session = await self._session(wanted.session)
            return Lease(session.link, user, session.overlay, session)
        if (lease := self._pooled(())) is not None:
            return lease
        link = await self._threads.call(self._engine.connect)
        return Lease(link, user, Overlay(link))

    async def _lease_reader(self, user: User, wanted: Wanted) -> Lease:
        key = (user.name, wanted.database, tuple(sorted(wanted.settings.items())))
        if (lease := self._pooled(key)) is not None:
            return lease
        link = await self._threads.call(self._open_reader, wanted)
        return Lease(link, user, key=key)

    def _open_reader(self, wanted: Wanted) -> Link:
        link = self._engine.connect()
        try:
            link.run(f"SET ROLE {READER_ROLE}".encode())
            asked = {n: v for n, v in wanted.settings.items() if n in READER_SETTINGS}
            link.run(set_statement(READER_DEFAULTS | asked | {"readonly": "1"}))
            if wanted.database:
                link.run(f"USE {quote_name(wanted.database)}".encode())
            refused = {n: v for n, v in wanted.settings.items() if n not in READER_SETTINGS}
            if refused:
                link.run(set_statement(refused))
        except BaseException:  # whatever it was, nobody else will close this link
            link.close()
            raise
        return link

    def _pooled(self, key: tuple[object, ...]) -> Lease | None:
        for lease in self._idle:
            if lease.key == key:
                self._idle.remove(lease)
                return lease
        return None

    async def _session(self, wish: SessionWish) -> Session:
        session = self._sessions.get(wish.id)
        if session is None:
            if wish.must_exist:
                raise ClickHouseFault.of(SESSION_NOT_FOUND, f"Session {wish.id!r} not found")
            session = await self._new_session(wish.id)
        if session.busy:
            raise ClickHouseFault.of(SESSION_IS_LOCKED, f"Session {wish.id!r} is locked")
        session.busy = True
        session.timeout_seconds = wish.timeout_seconds
        return session

    async def _new_session(self, name: str) -> Session:
        if len(self._sessions) >= _MAX_SESSIONS:
            await self._drop_oldest()
        link = await self._threads.call(self._engine.connect)
        session = Session(link, Overlay(link))
        if (earlier := self._sessions.setdefault(name, session)) is not session:
            await self._threads.call(link.close)
        return earlier

    async def _drop_oldest(self) -> None:
        idle = [name for name, session in self._sessions.items() if not session.busy]
        if idle:
            await self._drop(min(idle, key=lambda name: self._sessions[name].expires_at))

    async def _drop(self, name: str) -> None:
        session = self._sessions.pop(name)
        await self._threads.call(session.link.close)
