"""The server's connections, bounded: so many from one address, so many in all.

A connection costs whoever opens it nothing, and each has its place until its time is over (the
server's limit for a head, ours for a body). So that nobody can take all places for as long as that,
the surplus is closed a few times a second. What goes first is what we have sent nothing to for the
longest: somebody who drips a byte now and then is that, somebody who is being answered is not.

The server accepts in threads of its own and tells nothing of a request whose head is not whole, so
the process's sockets are asked. That takes Linux; elsewhere only the server's own bound holds.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from heapq import heapify, heapreplace
from typing import Protocol

from neolayer.identity.backoff import source_of
from neolayer.telemetry import log_warning

_DESCRIPTORS = "/proc/self/fd"
_EVERY_S = 0.1
_LAST_DATA_SENT = struct.Struct("=44xI")  # milliseconds ago, in struct tcp_info
_UNREAD_MS = 30_000


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many connections there may be."""

    in_all: int
    per_source: int | None  # None behind our own proxies, from which everybody comes


class Held(Protocol):
    """A connection: from where, and for how long we have sent nothing to it."""

    @property
    def source(self) -> str: ...
    @property
    def silent_ms(self) -> int: ...


@dataclass(slots=True)
class _Connection:
    """One of ours, under a descriptor of its own: the server may close its any time."""

    socket: socket.socket
    source: str
    silent_ms: int

    def end(self) -> None:
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


def surplus(held: Iterable[Held], bounds: Bounds) -> Iterator[Held]:
    """Those to close: each source's beyond its bound, then of whoever has the most; the longest
    silent first."""
    sources: dict[str, list[Held]] = {}
    for one in held:
        sources.setdefault(one.source, []).append(one)
    for ones in sources.values():
        ones.sort(key=lambda one: one.silent_ms)
        while bounds.per_source is not None and len(ones) > bounds.per_source:
            yield ones.pop()
    count = sum(map(len, sources.values()))
    largest = [(-len(ones), -ones[-1].silent_ms, source) for source, ones in sources.items()]
    heapify(largest)
    for _ in range(count - bounds.in_all):
        ones = sources[largest[0][2]]
        yield ones.pop()
        silent = -ones[-1].silent_ms if ones else 0
        heapreplace(largest, (-len(ones), silent, largest[0][2]))


async def keep_within(bounds: Bounds, port: int) -> None:
    """Close the surplus of the connections to this port of this process, until cancelled."""
    if sys.platform != "linux":
        return
    few = min(bounds.per_source or bounds.in_all, bounds.in_all)
    listening = False
    while True:
        listening = listening or _limit_unread(port)
        if len(os.listdir(_DESCRIPTORS)) > few:  # noqa: PTH208
            _close(bounds, port)
        await asyncio.sleep(_EVERY_S)


def _close(bounds: Bounds, port: int) -> None:
    held = list(_connections(port))
    closed: dict[str, int] = {}
    try:
        for one in surplus(held, bounds):
            assert isinstance(one, _Connection)
            one.end()
            closed[one.source] = closed.get(one.source, 0) + 1
    finally:
        for one in held:
            one.socket.close()
    if closed:
        most = max(closed, key=closed.__getitem__)
        log_warning("too many connections", closed=sum(closed.values()), most_of=most)


def _limit_unread(port: int) -> bool:
    """Answers that nobody reads end their connection; said where connections come from."""
    for one in _sockets(port):
        with one:
            if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_MS)
                return True
    return False


def _connections(port: int) -> Iterator[_Connection]:
    for one in _sockets(port):
        try:
            source = source_of(one.getpeername()[0])
            told = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_SENT.size)
            yield _Connection(one, source, *_LAST_DATA_SENT.unpack(told))
        except OSError:  # it listens, or is no longer connected
            one.close()


def _sockets(port: int) -> Iterator[socket.socket]:
    """Every TCP socket of ours with this port."""
    for name in os.listdir(_DESCRIPTORS):  # noqa: PTH208
        one = _socket(int(name))
        if one is None:
            continue
        if one.family in (socket.AF_INET, socket.AF_INET6) and one.getsockname()[1] == port:
            yield one
        else:
            one.close()


def _socket(descriptor: int) -> socket.socket | None:
    """The same socket under a descriptor of our own; none where it is another file, or gone."""
    own = -1
    try:
        own = os.dup(descriptor)
        return socket.socket(fileno=own)
    except OSError:
        if own >= 0:
            os.close(own)
        return None
