"""Clients of Redis or Valkey."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    RedisError,
    ResponseError,
)

from neolayer.engines.endpoints import RedisEndpoint
from neolayer.engines.redis.dsn import unreadable_dsn
from neolayer.errors import EngineError, EngineUnavailable

TIMEOUT_S = 10.0


def connect(endpoint: RedisEndpoint, *, timeout_s: float = TIMEOUT_S) -> Redis:
    """A client with its own pool; it connects at the first call, and `aclose` ends it.

    It retries nothing by itself: redis-py would wait with back-off where a caller wants to know.
    Raises EngineUnavailable where the URL cannot be read.
    """
    try:
        return Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
            endpoint.url,
            socket_connect_timeout=timeout_s,
            socket_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            decode_responses=False,
        )
    except ValueError:
        # The message may quote the URL and its password: `from None`.
        raise unreadable_dsn() from None


def explain(exc: RedisError, endpoint: RedisEndpoint) -> EngineError:
    """The one sentence for a call that failed."""
    text = str(exc)
    if isinstance(exc, AuthenticationError | AuthorizationError) or "NOAUTH" in text:
        meaning, hint = "refuses the password", "check user and password in redis.dsn"
    elif isinstance(exc, BusyLoadingError):
        meaning, hint = "is still loading its data", None
    elif isinstance(exc, ResponseError):
        meaning, hint = f"answers with an error: {text}", None
    elif "refused" in text.lower() or "111" in text:
        meaning, hint = "refuses the connection", "is the server running there?"
    elif "timeout" in text.lower():
        meaning, hint = "does not answer in time", "check host, port and firewall"
    elif "name or service" in text.lower() or "-2" in text or "-5" in text:
        meaning, hint = "has a host name that is not known", "check redis.dsn"
    else:
        meaning, hint = f"cannot be reached: {text}", None
    return EngineUnavailable("redis", f"{endpoint.address} {meaning}", hint=hint)
