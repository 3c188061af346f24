"""Calls to addresses that somebody wrote down: resolved once, looked at, and only then made.

A URL may be allowed by its scheme and still lead where no node and no key service lives: to the
address at which a cloud machine asks for its own credentials, above all. A name may also resolve
to one address when it is checked and to another when it is called. So the check is made on the
address that is connected to, and on every name's every address: one bad one spoils the name.
Loopback and private networks stay allowed where operators write the addresses, because that is
where people run their nodes; what tenants write leads to public addresses (`PublicOnly`).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final, cast
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from neolayer.engines.loopback import is_loopback

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Allows = Callable[[str, Address], bool]
"""Whether an address may be called by that scheme; what `is_refused` never may, comes first."""

# Where clouds answer a machine about itself, beside the link-local 169.254.169.254.
_METADATA: Final = frozenset(
    map(
        ip_address,
        (
            *("100.100.100.200", "168.63.129.16", "192.0.0.192"),
            *("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:42::42", "fd00:a9fe:a9fe::1"),
        ),
    )
)


class AddressRefused(httpx.ConnectError):
    """A host leads to an address that is never called."""


def is_refused(address: Address) -> bool:
    """Whether no server of ours can be at the address: link-local, metadata, multicast, nobody."""
    if isinstance(address, IPv6Address) and any(map(is_refused, _carried(address))):
        return True
    unusable = address.is_link_local or address.is_multicast or address.is_unspecified
    return unusable or address in _METADATA or (address.is_reserved and address.version == 4)


# What IANA set apart of each address family; of version 6 only 2000::/3 is given out at all.
_GIVEN_OUT: Final = IPv6Network("2000::/3")
_APART: Final[tuple[Network, ...]] = tuple(
    map(
        ip_network,
        (
            *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
            *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24"),
            *("192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
            *("224.0.0.0/4", "240.0.0.0/4"),
            *("2001::/23", "2001:db8::/32", "3fff::/20"),
        ),
    )
)
# Addresses that carry one of version 4 in their last 32 bits: where the network has none, and in a
# form given up long ago.
_NAT64: Final = IPv6Network("64:ff9b::/96")
_COMPATIBLE: Final = IPv6Network("::/96")
_LAST_32: Final = (1 << 32) - 1
_LOOPBACK: Final = IPv6Address(1)


class PublicOnly:
    """Allows public addresses, by https alone, and the networks named."""

    def __init__(self, networks: Sequence[Network] = ()) -> None:
        self._networks = tuple(networks)

    def __call__(self, scheme: str, address: Address) -> bool:
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if any(address in network for network in self._networks):
            return True
        return scheme == "https" and _is_public(address)


def _is_public(address: Address) -> bool:
    """Given out to somebody, and so is each address that it carries."""
    if isinstance(address, IPv6Address):
        if not all(map(_is_public, _carried(address))):
            return False
        if address not in _GIVEN_OUT:
            return address in _NAT64
    return not any(address in network for network in _APART)


def _carried(address: IPv6Address) -> tuple[IPv4Address, ...]:
    """The addresses of version 4 inside one of version 6; Teredo carries two."""
    if address.teredo is not None:
        return address.teredo
    inner = address.ipv4_mapped or address.sixtofour
    in_last = address in _NAT64 or (address in _COMPATIBLE and address != _LOOPBACK)
    if inner is None and in_last:
        inner = IPv4Address(int(address) & _LAST_32)
    return () if inner is None else (inner,)


def allow_all(scheme: str, address: Address) -> bool:
    """What operators write is called wherever a server can be."""
    return True


_NAMES: Final = ThreadPoolExecutor(max_workers=32, thread_name_prefix="names")


async def look_up(host: str, port: int) -> list[Any]:
    """What the system knows of a name, as `getaddrinfo` says it. Raises OSError, UnicodeError.

    A look-up cannot be given up once it has begun, and whoever owns a name decides how long it
    takes: these have threads of their own, so that none waits where the rest of us works.
    """
    asked = partial(
        socket.getaddrinfo, host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
    )
    return await asyncio.get_running_loop().run_in_executor(_NAMES, asked)


async def resolve(host: str, port: int, *, scheme: str = "http", allows: Allows = allow_all) -> str:
    """The address to connect to. Raises AddressRefused, or ConnectError where there is none."""
    try:
        found = await look_up(host, port)
    except (OSError, UnicodeError) as exc:
        raise httpx.ConnectError(f"{host[:100]} is not known") from exc
    addresses = [str(entry[4][0]).partition("%")[0] for entry in found]
    for address in addresses:
        known = ip_address(address)
        if is_refused(known) or not allows(scheme, known):
            raise AddressRefused(f"{host} leads to {address}, which is never called")
    return addresses[0]


class _CheckedBackend(httpcore.AsyncNetworkBackend):
    """Opens connections of one scheme, each to an address that was looked at."""

    def __init__(self, scheme: str, allows: Allows) -> None:
        self._scheme = scheme
        self._allows = allows
        self._network = cast(httpcore.AsyncNetworkBackend, httpcore.AnyIOBackend())

    async def connect_tcp(
        self, host: str, port: int, *args: Any, **kwargs: Any
    ) -> httpcore.AsyncNetworkStream:
        address = await resolve(host, port, scheme=self._scheme, allows=self._allows)
        return await self._network.connect_tcp(address, port, *args, **kwargs)


class CheckedTransport(httpx.AsyncBaseTransport):
    """HTTP to hosts whose addresses were looked at; TLS proves the name on every connection.

    Pools hand out connections by scheme, name and port. What one name proved is never taken for
    another's at the same address.
    """

    def __init__(
        self,
        *,
        limits: httpx.Limits,
        verify: ssl.SSLContext | bool = True,
        allows: Allows = allow_all,
    ) -> None:
        trusted = httpx.create_ssl_context(verify=verify, trust_env=False)
        self._pools = {
            scheme: httpcore.AsyncConnectionPool(
                ssl_context=trusted,
                max_connections=limits.max_connections,
                max_keepalive_connections=limits.max_keepalive_connections,
                keepalive_expiry=limits.keepalive_expiry,
                network_backend=_CheckedBackend(scheme, allows),
            )
            for scheme in ("http", "https")
        }

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        pool = self._pools.get(url.scheme)
        if pool is None:
            raise httpx.UnsupportedProtocol(f"{url.scheme[:20]}:// is not called")
        extensions = dict(request.extensions)
        extensions.pop("sni_hostname", None)  # the name to prove is the URL's
        direct = httpcore.Request(
            request.method,
            httpcore.URL(
                scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
            ),
            headers=request.headers.raw,
            content=cast(httpx.AsyncByteStream, request.stream),
            extensions=extensions,
        )
        with _errors_of_httpx():
            response = await pool.handle_async_request(direct)
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_Body(response),
            extensions=cast(dict[str, Any], response.extensions),  # pyright: ignore[reportUnknownMemberType]
        )

    async def aclose(self) -> None:
        for pool in self._pools.values():
            await pool.aclose()


class _Body(httpx.AsyncByteStream):
    """What a response holds, read as it comes."""

    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _errors_of_httpx():
            async for part in cast(AsyncIterable[bytes], self._response.stream):
                yield part

    async def aclose(self) -> None:
        await self._response.aclose()


@contextmanager
def _errors_of_httpx() -> Generator[None]:
    """Raise what happens below under the same name in httpx."""
    try:
        yield
    except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError) as exc:
        kind = getattr(httpx, type(exc).__name__, httpx.TransportError)
        raise kind(str(exc)) from exc


def transport(url: str, *, limits: httpx.Limits) -> httpx.AsyncBaseTransport | None:
    """The checked transport; None where the environment names a proxy, which then decides.

    No proxy is asked for this machine's own addresses.
    """
    parts = httpx.URL(url)
    proxied = parts.scheme in getproxies() and not proxy_bypass(parts.host)
    if proxied and not is_loopback(parts.host):
        return None
    return CheckedTransport(limits=limits)
