"""Clients of NATS, which is asked through its JetStream.

The client is an extra (`neolayer[streams]`), so it is loaded where it is needed. It does not
connect again by itself: whoever waits for an acknowledgement wants to know that the connection is
gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from neolayer.engines.endpoints import NatsEndpoint
from neolayer.errors import EngineError, EngineUnavailable, NotSupported

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.js.client import JetStreamContext

T = TypeVar("T")
TIMEOUT_S: Final = 10.0


@dataclass(slots=True)
class Connection:
    """One connection. `gone` is set once it has ended, from either side."""

    client: Client
    stream: JetStreamContext
    endpoint: NatsEndpoint
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def ask(self, answer: Awaitable[T], *, seconds: float = TIMEOUT_S) -> T:
        """The answer, unless the connection ends first. Raises EngineUnavailable.

        Errors of JetStream itself come out as the client raises them.
        """
        asked = asyncio.ensure_future(answer)
        gone = asyncio.ensure_future(self.gone.wait())
        try:
            async with asyncio.timeout(seconds):
                await asyncio.wait((asked, gone), return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                raise unavailable(self.endpoint, "ended the connection")
            if asked.cancelled():
                raise unavailable(self.endpoint, "leaves a question without an answer")
            return asked.result()
        except TimeoutError:
            raise unavailable(self.endpoint, "does not answer in time") from None
        finally:
            asked.add_done_callback(_look_at)  # nobody asks any more what it comes to
            asked.cancel()
            gone.cancel()

    async def close(self, *, seconds: float = TIMEOUT_S) -> None:
        """Release it; never raises what the server does. What was not sent by then is let go."""
        await _release(self.client, seconds)


async def _release(client: Any, seconds: float) -> None:
    """Close it, and its socket in any case; `seconds` are for what it still has to send."""
    if client._transport is None:
        return
    try:
        async with asyncio.timeout(seconds):
            await client.close()
    except (OSError, TimeoutError):
        return
    finally:
        # A server that reads no more keeps the client at flushing, and its socket open for good.
        writer = getattr(client._transport, "_io_writer", None)  # none over a web socket
        if writer is not None:
            writer.transport.abort()


def _look_at(ended: asyncio.Future[Any]) -> None:
    if not ended.cancelled():
        ended.exception()


async def connect(endpoint: NatsEndpoint, *, timeout_s: float = TIMEOUT_S) -> Connection:
    """An open connection; close it. Raises EngineUnavailable, NotSupported without the client."""
    client, failures = _client()
    connection: Connection | None = None
    early = asyncio.Event()

    async def ended() -> None:
        (connection.gone if connection else early).set()

    async def quiet(_: Exception) -> None:  # what matters is raised where it is asked
        return

    try:
        async with asyncio.timeout(timeout_s):
            await client.connect(
                [url.strip() for url in endpoint.url.split(",")],
                name="neolayer",
                allow_reconnect=False,
                connect_timeout=timeout_s,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                closed_cb=ended,
                error_cb=quiet,
            )
    except BaseException as exc:  # raised again; the client leaves its socket open where it fails
        await _release(client, 0)
        if isinstance(exc, failures):
            raise explain(exc, endpoint) from exc
        raise
    connection = Connection(client, client.jetstream(timeout=timeout_s), endpoint)
    if early.is_set():
        raise unavailable(endpoint, "ended the connection")
    return connection


def explain(exc: BaseException, endpoint: NatsEndpoint) -> EngineError:
    """The one sentence for a call that failed."""
    text = str(exc)
    if isinstance(exc, TimeoutError):
        meaning, hint = "does not answer in time", "check host, port and firewall"
    elif "authorization" in text.lower():
        meaning, hint = "refuses the password", "check user and password in streams.nats.url"
    elif "no servers" in text or isinstance(exc, ConnectionRefusedError):
        meaning, hint = "refuses the connection", "is the server running there?"
    elif "no response from stream" in text or "jetstream not enabled" in text.lower():
        meaning, hint = "has no JetStream", "start nats-server with -js"
    else:
        meaning, hint = f"answers with an error: {text}", None
    return unavailable(endpoint, meaning, hint=hint)


def unavailable(endpoint: NatsEndpoint, meaning: str, *, hint: str | None = None) -> EngineError:
    return EngineUnavailable("nats", f"{endpoint.address} {meaning}", hint=hint)


def _client() -> tuple[Any, tuple[type[Exception], ...]]:
    """A client that is not connected, and what it raises where it cannot be."""
    try:
        from nats.aio.client import Client
        from nats.errors import Error
    except ImportError as exc:
        raise NotSupported(
            "nats",
            "its client is not installed",
            hint="pip install 'neolayer[streams]'",
        ) from exc
    return Client(), (OSError, TimeoutError, Error)
