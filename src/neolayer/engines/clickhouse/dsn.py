"""ClickHouse DSNs, read without loading the client."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from neolayer.engines.endpoints import ClickHouseEndpoint
from neolayer.engines.engine import Level
from neolayer.errors import EngineUnavailable

_PORTS = {"http": 8123, "https": 8443, "clickhouse": 8123, "clickhouses": 8443}


def parse_dsn(dsn: str) -> ClickHouseEndpoint:
    """`http(s)://user:password@host:port/database` as an endpoint. Raises EngineUnavailable."""
    try:
        url = urlsplit(dsn)
        port = url.port or _PORTS[url.scheme]
        if not url.hostname:
            raise ValueError
    except (ValueError, KeyError):
        # urlsplit's words may quote the password: `from None`.
        raise EngineUnavailable(
            "clickhouse",
            "the DSN cannot be read",
            hint="write http://user:password@host:port/database, https:// for TLS",
        ) from None
    return ClickHouseEndpoint(
        level=Level.REAL,
        host=url.hostname,
        port=port,
        username=unquote(url.username or "default"),
        password=unquote(url.password or ""),
        database=url.path.strip("/") or "neolayer",
        secure=url.scheme in ("https", "clickhouses"),
    )
