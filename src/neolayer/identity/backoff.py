"""Failed logins in a row, and what follows from them. Values and rules, no I/O.

Whoever fails must wait, but a stranger must not be able to make the owner wait. So failures are
counted by who was tried from where:

- `pair`: one name from one source. From the fifth failure the next try waits 1, 2, 4 ... seconds,
  15 minutes at most.
- `source`: any name from one source. Fifty failures at once, then one a minute.
- `account`: one account from anywhere unknown. After 100 in a row nobody gets in from an unknown
  source until somebody helps: a login from a known device, a password reset, an operator.
- `device`: a device that logged in before. It has only its own failures to answer for; after 20 it
  is a stranger again.
- `proof`: somebody who is logged in and is asked again who they are. After 20 failures only a new
  login helps.

A wait for a pair or a source follows from what that source did and may be told to it. That an
account's hundred are used up is known to nobody outside: the answer is that of a wrong password.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from ipaddress import IPv6Address, ip_address
from typing import Any
from uuid import UUID

from neolayer.errors import InvalidInput

FREE_FAILURES = 5
LONGEST_WAIT = timedelta(minutes=15)
MOST_OF_A_SOURCE = 50
LEAK_OF_A_SOURCE = timedelta(minutes=1)
MOST_OF_AN_ACCOUNT = 100
MOST_OF_A_DEVICE = 20


class Kind(StrEnum):
    """What a counter counts. `nobody` is the account of a name that nobody has."""

    PAIR = "pair"
    SOURCE = "source"
    ACCOUNT = "account"
    NOBODY = "nobody"
    DEVICE = "device"
    PROOF = "proof"


_MOST_IN_A_ROW = {
    Kind.ACCOUNT: MOST_OF_AN_ACCOUNT,
    Kind.NOBODY: MOST_OF_AN_ACCOUNT,
    Kind.DEVICE: MOST_OF_A_DEVICE,
    Kind.PROOF: MOST_OF_A_DEVICE,
}


@dataclass(frozen=True, slots=True)
class Counter:
    """One row of failures, read under its lock."""

    subject: bytes
    kind: Kind
    failures: int
    last_failed_at: datetime
    now: datetime

    @classmethod
    def of_row(cls, row: Sequence[Any]) -> Counter:
        return cls(bytes(row[0]), Kind(row[1]), *row[2:5])

    @property
    def level(self) -> int:
        """The failures that count now: those of a source leak away."""
        if self.kind is not Kind.SOURCE:
            return self.failures
        return max(0, self.failures - int((self.now - self.last_failed_at) / LEAK_OF_A_SOURCE))

    @property
    def is_used_up(self) -> bool:
        """Whether no time helps."""
        most = _MOST_IN_A_ROW.get(self.kind)
        return most is not None and self.failures >= most

    @property
    def wait(self) -> timedelta:
        """How long the next try has to wait still."""
        match self.kind:
            case Kind.PAIR | Kind.DEVICE | Kind.PROOF:
                end = self.last_failed_at + pause_after(self.failures)
            case Kind.SOURCE if self.level >= MOST_OF_A_SOURCE:
                excess = self.failures - MOST_OF_A_SOURCE + 1
                end = self.last_failed_at + excess * LEAK_OF_A_SOURCE
            case _:
                return timedelta()
        return max(end - self.now, timedelta())


def pause_after(failures: int) -> timedelta:
    """The pause after so many failures in a row."""
    if failures < FREE_FAILURES:
        return timedelta()
    doublings = min(failures - FREE_FAILURES, 20)
    return min(timedelta(seconds=2**doublings), LONGEST_WAIT)


def source_of(ip: str) -> str:
    """Where a try comes from: an IPv4 address, or the /64 that one IPv6 line has to itself.

    Raises InvalidInput.
    """
    try:
        address = ip_address(ip)
    except ValueError:
        raise InvalidInput("not an IP address") from None
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            return f"{int(address) >> 64:x}::/64"
        address = address.ipv4_mapped
    return str(address)


def pair_subject(name: str, source: str) -> bytes:
    return _subject("pair", name, source)


def source_subject(source: str) -> bytes:
    return _subject("source", source)


def account_subject(user_id: UUID) -> bytes:
    return _subject("account", str(user_id))


def nobody_subject(name: str) -> bytes:
    return _subject("nobody", name)


def device_subject(device_id: UUID) -> bytes:
    return _subject("device", str(device_id))


def proof_subject(user_id: UUID) -> bytes:
    """Of somebody who is logged in and is asked again who they are."""
    return _subject("proof", str(user_id))


def _subject(*parts: str) -> bytes:
    digest = sha256()
    for part in parts:
        encoded = part.encode(errors="surrogatepass")
        digest.update(len(encoded).to_bytes(4, "big") + encoded)
    return digest.digest()
