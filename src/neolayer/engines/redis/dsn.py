"""Redis URLs, read without loading the client."""

from __future__ import annotations

from urllib.parse import urlsplit

from neolayer.errors import EngineUnavailable


def address_of_url(url: str) -> str:
    """`host:port` of a URL, for people; never holds a secret. Raises EngineUnavailable."""
    try:
        parts = urlsplit(url)
        if parts.scheme == "unix":
            return parts.path
        if parts.scheme not in ("redis", "rediss"):
            raise unreadable_dsn()
        return f"{parts.hostname or 'localhost'}:{parts.port or 6379}"
    except ValueError:
        raise unreadable_dsn() from None


def unreadable_dsn() -> EngineUnavailable:
    """The one sentence for a URL that cannot be read."""
    return EngineUnavailable(
        "redis",
        "the DSN cannot be read",
        hint="write redis://:password@host:port/0, rediss:// for TLS",
    )
