"""NATS URLs, read without loading the client."""

from __future__ import annotations

from urllib.parse import urlsplit

from neolayer.errors import EngineUnavailable


def address_of_urls(urls: str) -> str:
    """`host:port` of each URL, for people; never holds a secret. Raises EngineUnavailable."""
    return ",".join(_address(url.strip()) for url in urls.split(","))


def _address(url: str) -> str:
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("nats", "tls") or not parts.hostname:
            raise _unreadable()
        return f"{parts.hostname}:{parts.port or 4222}"
    except ValueError:
        raise _unreadable() from None


def _unreadable() -> EngineUnavailable:
    return EngineUnavailable(
        "nats",
        "the URL cannot be read",
        hint="write nats://user:password@host:4222, tls:// for TLS",
    )
