"""Where a request comes from, and who sent it.

A request proves who sends it with `Authorization: Bearer <token>`: a session's access token or a
service's API key. The token says which tenant it is of, so that everything behind it is bound to
that tenant before the first row is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_address

from neolayer.errors import InvalidInput, Unauthenticated

_LONGEST_TOKEN = 512
_LONGEST_AGENT = 512
_WITH_PORT = re.compile(r"([0-9.]+):[0-9]{1,5}|\[([0-9a-fA-F:.]+)\](?::[0-9]{1,5})?")
_NOWHERE = "0.0.0.0"  # noqa: S104  a Unix socket has no address


def bearer_token(headers: Mapping[str, str]) -> str:
    """The token of the Authorization header. Raises Unauthenticated."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not 0 < len(token) <= _LONGEST_TOKEN or not token.isascii():
        raise Unauthenticated("the request bears no token", hint="Authorization: Bearer <token>")
    return token


def source_address(forwarded: Sequence[str], peer: str | None, *, proxy_depth: int) -> str:
    """The address of the caller behind `proxy_depth` proxies of ours.

    Each proxy appends the address it saw to X-Forwarded-For; what stands further left was written
    by the caller and proves nothing. `forwarded` are the header's lines in the order in which they
    came, which are one list. Some proxies add the port. Raises InvalidInput where the entry is no
    address.
    """
    if not proxy_depth or not forwarded:
        return _NOWHERE if peer is None else peer
    entry = _seen_by_ours(forwarded, proxy_depth)[0]
    with_port = _WITH_PORT.fullmatch(entry)
    try:
        return str(ip_address((with_port[1] or with_port[2]) if with_port else entry))
    except ValueError:
        raise InvalidInput("X-Forwarded-For holds something that is no address") from None


def is_by_https(scheme: str, forwarded: Sequence[str], *, proxy_depth: int) -> bool:
    """Whether the caller spoke HTTPS: to us, or to one of our `proxy_depth` proxies, which say so
    in X-Forwarded-Proto. Without proxies that header is the caller's own word and proves nothing.
    """
    if scheme == "https" or not proxy_depth or not forwarded:
        return scheme == "https"
    return "https" in (entry.lower() for entry in _seen_by_ours(forwarded, proxy_depth))


def _seen_by_ours(lines: Sequence[str], proxy_depth: int) -> Sequence[str]:
    """What the last `proxy_depth` proxies put into a header that is a list, the outermost first."""
    return [entry.strip() for entry in ",".join(lines).split(",")][-proxy_depth:]


def user_agent(headers: Mapping[str, str]) -> str | None:
    """What the client says it is, cut and made printable; for people who look at their sessions."""
    agent = headers.get("user-agent", "")[:_LONGEST_AGENT]
    return "".join(char if char.isprintable() else "?" for char in agent) or None
