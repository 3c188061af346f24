"""The answer: held back while short, streamed once long.

While an answer is held back an error can still become a proper status and a summary a proper
header. After that an error is written into the stream, in the marked form that ClickHouse 25.11
and later use, and the connection is cut so that no client takes the answer for complete.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping

from aiohttp import web

from neolayer.engines.embedded.clickhouse_server.body import ClientTooSlow
from neolayer.engines.embedded.clickhouse_server.coding import Encoder, new_encoder
from neolayer.engines.embedded.clickhouse_server.engine import Outcome
from neolayer.engines.embedded.clickhouse_server.faults import ClickHouseFault
from neolayer.engines.embedded.clickhouse_server.threads import Threads

HELD_BYTES = 1 << 20
HELD_BYTES_WHEN_WAITING = 16 << 20
DRAIN_SECONDS = 300.0
_OFFLOAD_BYTES = 32 << 10
_CONTENT_TYPES = {
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": "text/csv; charset=UTF-8; header=present",
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "Native": "application/octet-stream",
    "Arrow": "application/vnd.apache.arrow.file",
    "ArrowStream": "application/vnd.apache.arrow.stream",
    "Parquet": "application/vnd.apache.parquet",
}


class Reply:
    """Takes an answer's bytes as they come; `finish` or `fail` ends it."""

    def __init__(
        self,
        request: web.BaseRequest,
        threads: Threads,
        *,
        headers: Mapping[str, str],
        encoding: str | None,
        held_bytes: int,
    ) -> None:
        self._request = request
        self._threads = threads
        self._headers = dict(headers)
        self._encoder: Encoder | None = new_encoder(encoding) if encoding else None
        self._held_bytes = held_bytes
        self._held: list[bytes] = []
        self._size = 0
        self._tag = secrets.token_hex(8)
        self._stream: web.StreamResponse | None = None
        if encoding:
            self._headers["Content-Encoding"] = encoding

    @property
    def started(self) -> bool:
        return self._stream is not None

    def set_format(self, name: str) -> None:
        self._headers["X-ClickHouse-Format"] = name
        self._headers["Content-Type"] = _CONTENT_TYPES.get(name, "text/plain; charset=UTF-8")

    def discard(self) -> None:
        """Forget what was held back, to answer anew."""
        self._held.clear()
        self._size = 0

    async def write(self, chunk: bytes) -> None:
        """Hold or send. Waits while the client's buffer is full; raises ClientTooSlow."""
        if self._stream is not None:
            await self._send(chunk)
            return
        self._held.append(chunk)
        self._size += len(chunk)
        if self._size > self._held_bytes:
            await self._start()

    async def finish(self, outcome: Outcome) -> web.StreamResponse:
        if self._stream is not None:
            await self._send_raw(self._encoder.flush() if self._encoder else b"")
            await self._stream.write_eof()
            return self._stream
        body = await self._encode(b"".join(self._held))
        if self._encoder:
            body += self._encoder.flush()
        headers = self._headers | {"X-ClickHouse-Summary": summary(outcome)}
        return web.Response(body=body, headers=headers)

    async def fail(self, fault: ClickHouseFault) -> web.StreamResponse:
        """Write the fault into a stream that has begun, then cut the connection."""
        stream = self._stream
        if stream is None:
            raise fault
        text = fault.text.encode()
        mark = f"{self._tag}\r\n".encode()
        await self._send(
            b"\r\n__exception__\r\n%b%b\n%d %b__exception__\r\n" % (mark, text, len(text) + 1, mark)
        )
        await self._send_raw(self._encoder.flush() if self._encoder else b"")
        self.cut()
        return stream

    def cut(self) -> None:
        """Close the connection without the mark that ends a complete answer."""
        if self._request.transport is not None:
            self._request.transport.close()

    async def _start(self) -> None:
        self._headers["X-ClickHouse-Exception-Tag"] = self._tag
        self._stream = web.StreamResponse(headers=self._headers)
        self._stream.enable_chunked_encoding()
        await self._stream.prepare(self._request)
        held = b"".join(self._held)
        self._held.clear()
        await self._send(held)

    async def _send(self, chunk: bytes) -> None:
        await self._send_raw(await self._encode(chunk))

    async def _send_raw(self, chunk: bytes) -> None:
        if not chunk or self._stream is None:
            return
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._stream.write(chunk)
        except TimeoutError as exc:
            raise ClientTooSlow from exc

    async def _encode(self, chunk: bytes) -> bytes:
        if self._encoder is None:
            return chunk
        if len(chunk) < _OFFLOAD_BYTES:
            return self._encoder.compress(chunk)
        return await self._threads.call(self._encoder.compress, chunk)


def summary(outcome: Outcome) -> str:
    """The X-ClickHouse-Summary header: numbers as texts, as a server writes them."""
    numbers = {
        "read_rows": outcome.read_rows,
        "read_bytes": outcome.read_bytes,
        "written_rows": outcome.written_rows,
        "written_bytes": outcome.written_bytes,
        "total_rows_to_read": outcome.read_rows,
        "result_rows": outcome.result_rows or outcome.written_rows,
        "result_bytes": len(outcome.body) or outcome.written_bytes,
        "elapsed_ns": int(outcome.seconds * 1e9),
    }
    return json.dumps({name: str(value) for name, value in numbers.items()}, separators=(",", ":"))


def fault_response(fault: ClickHouseFault, headers: Mapping[str, str]) -> web.Response:
    """A fault as a whole response."""
    own = {"X-ClickHouse-Exception-Code": str(fault.code)}
    if fault.status == 401:
        own["WWW-Authenticate"] = 'Basic realm="ClickHouse server HTTP API"'
    return web.Response(text=fault.text + "\n", status=fault.status, headers={**headers, **own})
