"""What people ask who are not logged in yet: so many tries a minute from where they come from.

    await strangers.admit(client)

Logins, letters that set a new password, their tokens and refresh tokens write rows or compute
hashes whether or not there is the tenant or the person, so a flood of them is stopped before any of
that, by its source alone: who is somewhere else notices nothing, and the refusal tells nothing of
what was tried. The limit holds over all processes through Redis, and for each process alone where
Redis does not answer.

A bearer token that nobody has costs a look in the database, so those are counted too; who bears one
that was good here a moment ago is let through whatever others send from the same place.

The trail gets one entry for all that a source was refused within a minute, not one for each.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import timedelta
from hashlib import sha256
from time import monotonic

from neolayer import audit
from neolayer.errors import LimitExceeded
from neolayer.identity.backoff import sources_of
from neolayer.identity.credentials import Client
from neolayer.telemetry import log_warning
from neolayer.tenancy import CoreDatabase, Principal
from neolayer.tenancy.rates import Rates

KEY = "strangers:{source}"
REFRESH_KEY = "refreshes:{source}"
BEARER_KEY = "bearers:{source}"
WINDOW = timedelta(minutes=1)
_MOST_SHUT = 50_000
_MOST_SOURCES = 100  # with an entry of their own; others are counted together


class TooManyTries(LimitExceeded):
    """Too many tries came from this address."""

    def __init__(self, retry_after: timedelta) -> None:
        super().__init__(hint="wait for as long as Retry-After says")
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class _Refused:
    """What a source was refused in this window; the address is the one seen last."""

    ip: str | None
    tries: int = 0
    sources: int = 1


@dataclass(slots=True)
class Strangers:
    """Admits tries; one a process, closed at its end. Nobody is admitted beyond `per_minute`."""

    core: CoreDatabase
    rates: Rates
    per_minute: int
    refreshes_per_minute: int = 600
    unknown_tokens_per_minute: int = 300
    window: timedelta = WINDOW
    _refused: dict[str, _Refused] = field(default_factory=dict[str, _Refused], init=False)
    _shut_until: dict[str, float] = field(default_factory=dict[str, float], init=False)
    _writing: asyncio.Task[None] | None = field(default=None, init=False)

    async def admit(self, client: Client) -> None:
        """Go on with one try. Raises TooManyTries, InvalidInput where the address is none."""
        await self._admit(KEY, client, self.per_minute)

    async def admit_refresh(self, client: Client) -> None:
        """The same for a refresh token, of which everybody behind one address sends some in an
        hour: a count of their own, so that neither uses up the other's. Raises as `admit`."""
        await self._admit(REFRESH_KEY, client, self.refreshes_per_minute)

    def require_patience(self, ip: str) -> None:
        """Before a token is looked for that nobody has borne here: not from where so many came that
        were unknown. Raises TooManyTries."""
        for source in sources_of(ip):
            wait = self._shut_until.get(source.text, 0) - monotonic()
            if wait > 0:
                self._count(source.text, ip)
                raise TooManyTries(timedelta(seconds=wait))

    async def count_unknown(self, ip: str) -> None:
        """A bearer token was unknown. Raises TooManyTries where it was one too many."""
        if (refused := await self._take(BEARER_KEY, ip, self.unknown_tokens_per_minute)) is None:
            return
        source, wait = refused
        if len(self._shut_until) >= _MOST_SHUT:
            self._shut_until.clear()
        self._shut_until[source] = monotonic() + wait.total_seconds()
        raise TooManyTries(wait)

    async def _admit(self, key: str, client: Client, per_minute: int) -> None:
        if refused := await self._take(key, client.ip, per_minute):
            raise TooManyTries(refused[1])

    async def _take(self, key: str, ip: str, per_minute: int) -> tuple[str, timedelta] | None:
        """The source that has had enough, and for how long; None where all have some left."""
        for source in sources_of(ip):
            # A digest, so that Redis names no addresses.
            digest = sha256(source.text.encode()).hexdigest()[:32]
            taken = await self.rates.take(
                key.format(source=digest), per_minute=per_minute * source.scale
            )
            if not taken.allowed:
                self._count(source.text, ip)
                return source.text, taken.retry_after
        return None

    def _count(self, source: str, ip: str) -> None:
        if source not in self._refused and len(self._refused) >= _MOST_SOURCES:
            others = self._refused.get("", _Refused(None, sources=0))
            self._refused[""] = replace(others, tries=others.tries + 1, sources=others.sources + 1)
        else:
            tries = self._refused.get(source, _Refused(ip)).tries + 1
            self._refused[source] = _Refused(ip, tries)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_later())

    async def _write_later(self) -> None:
        await asyncio.sleep(self.window.total_seconds())
        await self.write_down()

    async def write_down(self) -> None:
        """One entry for each source that was refused since the last time, in one transaction."""
        refused, self._refused = self._refused, {}
        if not refused:
            return
        try:
            async with self.core.platform(by=Principal.anonymous()).transaction() as tx:
                for one in refused.values():
                    audit.append(tx, _entry(one, self.window))
        except Exception as exc:  # the trail is away: what was refused stays refused
            tries = sum(one.tries for one in refused.values())
            log_warning("refused tries could not be written down", tries=tries, error=str(exc))

    async def close(self) -> None:
        """Write down what is left."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        await self.write_down()


def _entry(refused: _Refused, window: timedelta) -> audit.Entry:
    """About a source; or, without an address, about all that had none of their own."""
    changes = {"tries": refused.tries, "within_seconds": int(window.total_seconds())}
    if refused.ip is None:
        changes["sources_at_most"] = refused.sources
    return audit.Entry(
        "LOGIN",
        "source",
        changes=changes,
        success=False,
        error_message="more tries than one source may make",
        ip_address=refused.ip,
    )
