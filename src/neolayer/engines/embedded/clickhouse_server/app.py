"""The HTTP side: what is listened to, what is refused before the engine hears of it.

aiohttp's low-level server does the HTTP, for it comes with clickhouse-connect, parses in C,
streams both ways with back-pressure, and serves the same process that holds the engine. Its limits
are set here; a request it cannot parse gets 400.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from neolayer.engines.embedded.clickhouse_server.auth import (
    User,
    Users,
    is_loopback,
    read_credentials,
)
from neolayer.engines.embedded.clickhouse_server.body import Body, ClientTooSlow
from neolayer.engines.embedded.clickhouse_server.coding import choose_encoding
from neolayer.engines.embedded.clickhouse_server.engine import Engine, Link
from neolayer.engines.embedded.clickhouse_server.faults import (
    READONLY,
    UNKNOWN_EXCEPTION,
    ClickHouseFault,
)
from neolayer.engines.embedded.clickhouse_server.form import (
    ExternalTable,
    Form,
    external_tables,
    read_form,
)
from neolayer.engines.embedded.clickhouse_server.links import Links
from neolayer.engines.embedded.clickhouse_server.reply import (
    HELD_BYTES,
    HELD_BYTES_WHEN_WAITING,
    Reply,
    fault_response,
)
from neolayer.engines.embedded.clickhouse_server.request import Wanted, read_request, read_url
from neolayer.engines.embedded.clickhouse_server.runner import Runner
from neolayer.engines.embedded.clickhouse_server.threads import Threads

_log = logging.getLogger(__name__)

MAX_URL_BYTES = 1 << 20
MAX_HEADER_BYTES = 16 << 10
MAX_HEADERS = 64
FIRST_REQUEST_SECONDS = 30.0
KEEP_ALIVE_SECONDS = 75.0


@dataclass(frozen=True, slots=True)
class App:
    """Answers requests. One per process."""

    engine: Engine
    users: Users
    threads: Threads
    links: Links
    runner: Runner

    @classmethod
    def over(cls, engine: Engine, users: Users) -> App:
        threads = Threads()
        return cls(engine, users, threads, Links(engine, threads), Runner(engine, threads))

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """The whole way of a request; never raises but on cancellation."""
        try:
            return await self._route(request)
        except ClickHouseFault as fault:
            return fault_response(fault, self._headers())
        except ClientTooSlow:
            return web.Response(status=408, text="Timed out waiting for the client\n")
        except HttpProcessingError as exc:
            return web.Response(status=400, text=f"Bad request: {exc.message}\n")
        except ConnectionError:
            return web.Response(status=400)  # nobody is left to read this
        except Exception as exc:  # a fault of ours: the log gets the traceback, the client none
            _log.exception("a request failed unexpectedly")
            fault = ClickHouseFault.of(UNKNOWN_EXCEPTION, f"{type(exc).__name__} in this server")
            return fault_response(fault, self._headers())

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        if not is_loopback(request.headers.get("Host")):
            return web.Response(status=403, text="This server answers to loopback names only\n")
        path = request.raw_path.partition("?")[0]
        if path in {"/ping", "/replicas_status"} and request.method in {"GET", "HEAD"}:
            return web.Response(text="Ok.\n", headers=self._headers())
        if path != "/":
            return web.Response(status=404, text=f"There is no handle {path[:200]}\n")
        if request.method not in {"GET", "POST"}:
            return web.Response(
                status=405, text="Use GET or POST\n", headers={"Allow": "GET, POST"}
            )
        url = read_url(request.raw_path)
        if request.method == "GET" and "query" not in url:
            return web.Response(text="Ok.\n", headers=self._headers())
        user = self.users.authenticate(read_credentials(request.headers, url))
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if request.content_type != "multipart/form-data":
            return await self._statement(request, read_request(url, request.headers), user)
        form = await read_form(request)
        try:
            return await self._form(request, form, url | form.fields, user)
        finally:
            form.close()

    async def _form(
        self, request: web.BaseRequest, form: Form, url: Mapping[str, str], user: User
    ) -> web.StreamResponse:
        wanted = read_request(url, request.headers, external=form.files)
        tables = external_tables(form, url)
        if tables and not user.may_write:
            raise ClickHouseFault.of(
                READONLY, f"{user.name}: external tables need the right to write"
            )
        return await self._statement(request, wanted, user, tables)

    async def _statement(
        self,
        request: web.BaseRequest,
        wanted: Wanted,
        user: User,
        tables: tuple[ExternalTable, ...] = (),
    ) -> web.StreamResponse:
        headers = self._headers() | {"X-ClickHouse-Query-Id": wanted.query_id}
        body = Body(request.content, self.threads, encoding=request.headers.get("Content-Encoding"))
        accepted = request.headers.get("Accept-Encoding", "") if wanted.compress else ""
        reply = Reply(
            request,
            self.threads,
            headers=headers,
            encoding=choose_encoding(accepted),
            held_bytes=HELD_BYTES_WHEN_WAITING if wanted.wait_for_end else HELD_BYTES,
        )
        try:
            async with self.threads.place():
                return await self._run(request, wanted, user, body, reply, tables)
        except ClickHouseFault as fault:
            if reply.started:
                return await reply.fail(fault)
            return fault_response(fault, headers)
        except ClientTooSlow:
            reply.cut()
            raise

    async def _run(
        self,
        request: web.BaseRequest,
        wanted: Wanted,
        user: User,
        body: Body,
        reply: Reply,
        tables: tuple[ExternalTable, ...],
    ) -> web.StreamResponse:
        lease = await self.links.lease(user, wanted)
        try:
            async with self._present(tables, lease.link):
                outcome = await self.runner.run(
                    wanted,
                    body,
                    lease,
                    reply,
                    may_write=user.may_write and request.method == "POST",
                )
        finally:
            await asyncio.shield(self.links.release(lease))
        return await reply.finish(outcome)

    @contextlib.asynccontextmanager
    async def _present(self, tables: tuple[ExternalTable, ...], link: Link) -> AsyncGenerator[None]:
        """The external tables, for the length of a query."""
        try:
            for table in tables:
                await self.threads.call(table.create, link)
            yield
        finally:
            for table in tables:
                await self.threads.call(table.drop, link)

    def _headers(self) -> dict[str, str]:
        return {
            "X-ClickHouse-Server-Display-Name": "neolayer",
            "X-ClickHouse-Timezone": self.engine.timezone,
            "Server": "neolayer",
        }


class _Server(web.Server):
    """aiohttp's server, which also drops a connection that never completes a first request."""

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        asyncio.get_running_loop().call_later(
            FIRST_REQUEST_SECONDS, _drop_silent, handler, transport
        )


def _drop_silent(handler: web.RequestHandler, transport: asyncio.Transport) -> None:
    if getattr(handler, "_request_count", 1) == 0:
        transport.abort()


def make_server(app: App) -> web.Server:
    """The server to hand to the event loop's `create_server`."""
    quiet = logging.getLogger(f"{__name__}.http")
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False
    return _Server(
        app.answer,
        handler_cancellation=True,
        access_log=None,
        logger=quiet,
        auto_decompress=False,
        max_line_size=MAX_URL_BYTES,
        max_field_size=MAX_HEADER_BYTES,
        max_headers=MAX_HEADERS,
        keepalive_timeout=KEEP_ALIVE_SECONDS,
        read_bufsize=1 << 19,
    )
