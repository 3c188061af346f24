"""Clients of MongoDB: pymongo's own for asyncio.

Writes are acknowledged by a majority and after the journal, because the relay acknowledges to
PostgreSQL what it has written here. Instants come back aware, in UTC.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import ConfigurationError, InvalidURI, OperationFailure, PyMongoError

from neolayer.engines.endpoints import MongoEndpoint
from neolayer.errors import EngineError, EngineUnavailable

Client: TypeAlias = AsyncMongoClient[dict[str, Any]]
DocumentDatabase: TypeAlias = AsyncDatabase[dict[str, Any]]

TIMEOUT_MS: Final = 10_000
_ANSWER_MS: Final = 60_000
WRITE_CONCERN: Final = {"w": "majority", "j": True}
"""For commands that are given whole: they do not take the client's."""

_NOT_IMPLEMENTED: Final = 238
_REFUSED_USER: Final = frozenset({13, 18})  # Unauthorized, AuthenticationFailed
_NO_ROOM: Final = frozenset({14031, 12501, 371})  # OutOfDiskSpace, quota, UserWritesBlocked
# Numbers for all sorts of errors, whose words count then; those of others may quote a document.
_ANY_ERROR: Final = frozenset({1, 8, 8000})  # InternalError, UnknownError, AtlasError
_NO_ROOM_WORDS: Final = ("no space left on device", "disk is full", "over your space quota")


def connect(endpoint: MongoEndpoint) -> Client:
    """A client with its own pool; it connects at the first call, and `close` ends it.

    Raises EngineUnavailable where the DSN cannot be read.
    """
    try:
        return AsyncMongoClient[dict[str, Any]](
            endpoint.url,
            tz_aware=True,
            appname="neolayer",
            **_patience(endpoint.url),  # pyright: ignore[reportArgumentType]
            w="majority",
            journal=True,
        )
    except (InvalidURI, ConfigurationError, ValueError, TypeError):
        # Its words may quote the password: `from None`.
        raise EngineUnavailable(
            "mongodb",
            "the DSN cannot be read",
            hint="user and password are percent-encoded: mongodb://user:p%40ss@host:port/database",
        ) from None


def _patience(url: str) -> dict[str, int]:
    """Time limits; what the DSN itself names stays."""
    limits = {
        "serverSelectionTimeoutMS": TIMEOUT_MS,
        "connectTimeoutMS": TIMEOUT_MS,
        "socketTimeoutMS": _ANSWER_MS,
    }
    return {name: limit for name, limit in limits.items() if name.lower() not in url.lower()}


def database_of(client: Client, endpoint: MongoEndpoint) -> DocumentDatabase:
    """The layer's database on a client."""
    return client[endpoint.database]


def is_not_implemented(exc: PyMongoError) -> bool:
    """Whether the server says that it has no such thing, as FerretDB does."""
    return isinstance(exc, OperationFailure) and exc.code == _NOT_IMPLEMENTED


def says_no_room(code: int | None, words: str) -> bool:
    """Whether a refusal is because of a full disk, so that it passes when there is room."""
    is_said = any(one in words.lower() for one in _NO_ROOM_WORDS)
    return code in _NO_ROOM or (code in _ANY_ERROR and is_said)


def no_room(endpoint: MongoEndpoint, words: str) -> EngineUnavailable:
    """The one sentence for that."""
    return EngineUnavailable(
        "mongodb", f"{endpoint.address} has no room: {words[:300]}", hint="make room on its disk"
    )


def explain(exc: PyMongoError, endpoint: MongoEndpoint) -> EngineError:
    """The one sentence for a call that failed."""
    text = str(exc)
    if isinstance(exc, OperationFailure) and says_no_room(exc.code, reason(exc)):
        return no_room(endpoint, reason(exc))
    if isinstance(exc, OperationFailure) and exc.code in _REFUSED_USER:
        meaning, hint = "refuses user or password", "check mongodb.dsn, and its authSource"
    elif isinstance(exc, OperationFailure):
        meaning, hint = f"answers with an error: {reason(exc)}", None
    elif "refused" in text.lower() or "connect call failed" in text.lower():
        meaning, hint = "refuses the connection", "is the server running there?"
    elif "name or service not known" in text.lower() or "name resolution" in text.lower():
        meaning, hint = "has a host name that is not known", "check mongodb.dsn"
    elif "timed out" in text.lower() or "timeout" in type(exc).__name__.lower():
        meaning, hint = "does not answer in time", "check host, port and firewall"
    else:
        meaning, hint = f"cannot be used: {reason(exc)}", None
    return EngineUnavailable("mongodb", f"{endpoint.address} {meaning}", hint=hint)


def reason(exc: PyMongoError) -> str:
    """The server's own words, or the driver's first line."""
    if isinstance(exc, OperationFailure) and exc.details is not None:
        return str(exc.details.get("errmsg") or exc)[:300]
    return (str(exc).strip().splitlines() or ["no reason given"])[0].partition(" (configured")[0][
        :300
    ]
