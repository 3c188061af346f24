"""Where a request comes from: the peer, or what a configured number of proxies say of it."""

from __future__ import annotations

from ipaddress import ip_address

from litestar.connection import ASGIConnection
from litestar.exceptions import ClientException

_Connection = ASGIConnection  # pyright: ignore[reportUnknownVariableType, reportMissingTypeArgument]


def source_address(forwarded: str | None, peer: str, *, proxy_depth: int) -> str:
    """The address of the caller behind `proxy_depth` proxies of ours.

    Each proxy appends the address it saw to X-Forwarded-For; what stands further left was written
    by the caller and proves nothing. Raises ClientException where an entry is no address.
    """
    if proxy_depth == 0 or not forwarded:
        return peer
    entries = [entry.strip() for entry in forwarded.split(",")]
    claimed = entries[-min(proxy_depth, len(entries))]
    try:
        return str(ip_address(claimed))
    except ValueError:
        raise ClientException("X-Forwarded-For holds something that is no address") from None
