"""Addresses of Elasticsearch and OpenSearch."""

from __future__ import annotations

from urllib.parse import parse_qs, unquote, urlsplit

from neolayer.engines.endpoints import ElasticsearchEndpoint
from neolayer.engines.engine import Level
from neolayer.errors import EngineUnavailable

_OPTIONS = {"prefix", "ca"}


def parse_dsn(dsn: str) -> ElasticsearchEndpoint:
    """`https://user:password@host:9200/?prefix=neolayer&ca=/path/ca.pem` as an endpoint.

    Every index of the layer begins with the prefix. Raises EngineUnavailable.
    """
    try:
        url = urlsplit(dsn)
        options = parse_qs(url.query, strict_parsing=bool(url.query))
        known = url.scheme in ("http", "https") and url.hostname and not url.fragment
        if not known or url.path not in ("", "/") or not options.keys() <= _OPTIONS:
            raise ValueError
        port = url.port or 9200
    except ValueError:
        # urlsplit's words may quote the password: `from None`.
        raise EngineUnavailable(
            "elasticsearch",
            "the DSN cannot be read",
            hint="write https://user:password@host:9200/?prefix=neolayer",
        ) from None
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    return ElasticsearchEndpoint(
        Level.REAL,
        f"{url.scheme}://{host}:{port}",
        unquote(url.username or ""),
        unquote(url.password or ""),
        options.get("prefix", ["neolayer"])[0],
        options["ca"][0] if "ca" in options else None,
    )
