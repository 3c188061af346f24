"""From a request to its answer: judge the statement, pick the way it runs, run it.

Rights are judged on what the engine's parser says (`Link.classify`), one statement a request as on
a server. A query's answer goes through a pipe; an INSERT's data go in as they arrive; the rest is
short and runs in one call.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from neolayer.engines.embedded.clickhouse_server import faults, statement
from neolayer.engines.embedded.clickhouse_server.body import Body
from neolayer.engines.embedded.clickhouse_server.engine import Engine, Kind, Link, Outcome
from neolayer.engines.embedded.clickhouse_server.faults import ClickHouseFault
from neolayer.engines.embedded.clickhouse_server.links import Lease
from neolayer.engines.embedded.clickhouse_server.overlay import set_statement
from neolayer.engines.embedded.clickhouse_server.pipe import Pipe
from neolayer.engines.embedded.clickhouse_server.reply import Reply
from neolayer.engines.embedded.clickhouse_server.request import Wanted
from neolayer.engines.embedded.clickhouse_server.threads import Threads
from neolayer.waiting import to_its_end

PEEK_BYTES = 1 << 20
MAX_QUERY_BYTES = 64 << 20
_KILL_SECONDS = 0.25
_DRAIN_POLL_SECONDS = 0.05
_CANCEL_AFTER_SECONDS = 2.0  # after the first kill
_SHORT_SECONDS = 0.005  # most answers are whole by then, which saves waking up for parts
_OUTPUT_WORDS = {
    "SELECT",
    "WITH",
    "FROM",
    "SHOW",
    "DESCRIBE",
    "DESC",
    "EXPLAIN",
    "EXISTS",
    "VALUES",
}
_KILL = re.compile(
    rb"\s*KILL\s+QUERY\s+WHERE\s+query_id\s*=\s*'([^'\\]*)'\s*(SYNC|ASYNC|TEST)?\s*;?\s*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Running:
    """A statement, and the kills that are on their way to it."""

    lease: Lease
    task: asyncio.Task[object] | None
    kills: list[asyncio.Future[None]] = field(default_factory=list[asyncio.Future[None]])


class Runner:
    """Runs statements on leased links."""

    def __init__(self, engine: Engine, threads: Threads) -> None:
        self._engine = engine
        self._threads = threads
        self._running: dict[str, _Running] = {}
        self._stopping = False

    async def run(
        self, wanted: Wanted, body: Body, lease: Lease, reply: Reply, *, may_write: bool
    ) -> Outcome:
        """Run the request's statement; its answer goes to `reply`, what it did comes back."""
        if self._stopping:
            raise ClickHouseFault.of(
                faults.TOO_MANY_SIMULTANEOUS_QUERIES, "This server is stopping; try again"
            )
        if wanted.query_id in self._running:
            raise ClickHouseFault.of(
                faults.QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING,
                f"Query with id = {wanted.query_id} is already running",
            )
        running = _Running(lease, asyncio.current_task())
        self._running[wanted.query_id] = running
        try:
            return await self._dispatch(wanted, body, running, reply, may_write=may_write)
        finally:
            del self._running[wanted.query_id]
            # None of them may find who has the link next.
            await to_its_end(asyncio.gather(*running.kills, return_exceptions=True))

    async def drain(self, *, grace_seconds: float, limit_seconds: float) -> bool:
        """Let statements end by themselves, then kill them; False if some would not stop.

        What a kill does not reach has not come to the engine yet (its client still sends): that is
        cancelled. New statements are refused from here on.
        """
        self._stopping = True
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while self._running and loop.time() - begun < limit_seconds:
            waited = loop.time() - begun
            for running in list(self._running.values()) if waited > grace_seconds else ():
                await self._kill(running)
                if running.task and waited > grace_seconds + _CANCEL_AFTER_SECONDS:
                    running.task.cancel()
            await asyncio.sleep(_DRAIN_POLL_SECONDS)
        return not self._running

    async def _dispatch(
        self, wanted: Wanted, body: Body, running: _Running, reply: Reply, *, may_write: bool
    ) -> Outcome:
        lease = running.lease
        peeked = await body.peek(PEEK_BYTES)
        prefix = _before_body(wanted.sql) if peeked else wanted.sql
        beginning = prefix + peeked
        head = statement.insert_head(beginning)
        if head is not None:
            self._judge(lease, head.text + b" FORMAT Null", may_write=may_write)
            return await self._insert(wanted, body, lease, head, prefix)
        sql = prefix + await body.all(MAX_QUERY_BYTES)
        kind = self._judge(lease, sql, may_write=may_write)
        if kind is Kind.READ:
            return await self._select(wanted, sql, running, reply)
        return await self._command(wanted, sql, lease, reply, kind=kind)

    def _judge(self, lease: Lease, sql: bytes, *, may_write: bool) -> Kind:
        """Refuse what may not run; says what kind the rest is."""
        verdict = lease.link.classify(sql)
        if verdict.statements > 1:
            reason = "Syntax error (Multi-statements are not allowed)"
            raise ClickHouseFault.of(faults.SYNTAX_ERROR, reason)
        if verdict.kind is Kind.CONTROL and statement.first_word(sql) in _OUTPUT_WORDS:
            reason = "INTO OUTFILE is not allowed"
            raise ClickHouseFault.of(faults.INTO_OUTFILE_NOT_ALLOWED, reason)
        if verdict.kind is Kind.UNPARSED:
            self._explain_syntax(lease.link, sql)
        if verdict.kind is not Kind.READ and not may_write:
            reason = f"{lease.user.name}: Cannot execute query in readonly mode"
            raise ClickHouseFault.of(faults.READONLY, reason)
        return verdict.kind

    def _explain_syntax(self, link: Link, sql: bytes) -> None:
        """Let the engine say what is wrong with a text it cannot parse, without running it."""
        text = sql.decode(errors="replace").replace("\\", "\\\\").replace("\t", "\\t")
        link.run(b"SELECT formatQuery({q:String})", params={"q": text.replace("\n", "\\n")})

    async def _select(self, wanted: Wanted, sql: bytes, running: _Running, reply: Reply) -> Outcome:
        query = statement.query(sql, default_format=wanted.default_format)
        reply.set_format(query.format)
        try:
            return await self._through_pipe(query, wanted.params, running, reply)
        except ClickHouseFault as fault:
            if fault.code != faults.SYNTAX_ERROR or reply.started:
                raise
        reply.discard()
        reply.set_format(wanted.default_format)
        outcome = await self._threads.call(
            running.lease.link.run, sql, output=wanted.default_format, params=wanted.params
        )
        await reply.write(outcome.body)
        return outcome

    async def _through_pipe(
        self, query: statement.Query, params: Mapping[str, str], running: _Running, reply: Reply
    ) -> Outcome:
        pipe = Pipe()
        link = running.lease.link
        outcome = self._threads.start(link.run, query.into(pipe.path), params=params)
        ending = partial(_end, pipe)
        outcome.add_done_callback(ending)
        try:
            await asyncio.wait([outcome], timeout=_SHORT_SECONDS)
            while chunk := await pipe.read():
                await reply.write(chunk)
            return await asyncio.shield(outcome)
        except BaseException:  # a caller who hangs up too: the statement ends with it
            pipe.close_reader()
            # Its end of the pipe is the mark that it is killed by: as long as a kill may be on its
            # way, nobody else's may have that name.
            outcome.remove_done_callback(ending)
            await to_its_end(self._stop(running, outcome, mark=f"'{pipe.path}'"))
            raise
        finally:
            pipe.close_reader()
            pipe.close_writer()

    async def _stop(
        self, running: _Running, outcome: asyncio.Future[Outcome], *, mark: str
    ) -> None:
        """Kill what runs, and wait until it is gone: its link is then free again."""
        while not outcome.done():
            with contextlib.suppress(ClickHouseFault):  # tried again
                await self._kill(running, mark=mark)
            await asyncio.wait([outcome], timeout=_KILL_SECONDS)
        if not outcome.cancelled():
            outcome.exception()

    async def _kill(self, running: _Running, *, mark: str = "") -> None:
        """Ask the engine to stop it, by its link and by a mark in its text."""
        kill = self._threads.start(self._engine.kill, running.lease.link.token, mark=mark)
        running.kills.append(kill)
        await asyncio.shield(kill)

    async def _insert(
        self,
        wanted: Wanted,
        body: Body,
        lease: Lease,
        head: statement.InsertHead,
        prefix: bytes,
    ) -> Outcome:
        if wanted.params:
            lease.spent = True
            named = {f"param_{name}": value for name, value in wanted.params.items()}
            await self._threads.call(lease.link.run, set_statement(named))
        taken = len(early := prefix[head.data_at :])
        self._engine.require_room(taken)
        link = lease.link
        try:
            insert = await self._threads.call(link.insert, head.text, data_format=head.format)
            if early:
                await self._threads.call(insert.append, early)
            async for piece in body.pieces(max(0, head.data_at - len(prefix))):
                taken += len(piece)
                self._engine.require_room(taken)
                await self._threads.call(insert.append, piece)
            return await self._threads.call(insert.finish)
        except BaseException:  # a caller who hangs up too: half an insert is none
            await self._threads.call(link.abandon_insert)
            raise

    async def _command(
        self, wanted: Wanted, sql: bytes, lease: Lease, reply: Reply, *, kind: Kind
    ) -> Outcome:
        if (kill := _KILL.fullmatch(sql)) and (running := self._running.get(kill[1].decode())):
            await self._kill(running)
            return Outcome(b"", 0, 0, 0, 0, 0, 0.0)
        if kind is Kind.CONTROL:
            lease.spent = True
            if lease.overlay is not None and statement.first_word(sql) in {"SET", "USE"}:
                await self._threads.call(lease.overlay.lift)
        if statement.first_word(sql) == "INSERT":
            self._engine.require_room(len(sql))
        outcome = await self._threads.call(
            lease.link.run, sql, output=wanted.default_format, params=wanted.params
        )
        if outcome.body:
            reply.set_format(wanted.default_format)
            await reply.write(outcome.body)
        return outcome


def _end(pipe: Pipe, _: object) -> None:
    pipe.close_writer()


def _before_body(sql: bytes) -> bytes:
    """The URL's part of a statement, set off from the body that continues it."""
    return sql if not sql or sql.endswith(b"\n") else sql + b"\n"
