"""Failed logins in a row, and what follows from them. Values and rules, no I/O.

Whoever fails must wait, but a stranger must not be able to make the owner wait. So failures are
counted by who was tried from where:

- `pair`: one name from one source. From the fifth failure the next try waits 1, 2, 4 ... seconds,
  15 minutes at most.
- `source`: any name from one source. Fifty failures at once, then one a minute.
- `account`: one account from anywhere unknown. After 100 in a row it is under attack: a source has
  three tries a day at it, so that guesses cost addresses, and the owner gets in from where nobody
  has guessed. It ends when somebody gets in, with a new password, or by an operator.
- `device`: a device that logged in before. It has only its own failures to answer for; after 20 it
  is a stranger again.
- `proof`: somebody who is logged in and is asked again who they are: after 20 failures only a new
  login helps. And codes from unknown devices behind the right password, which are too few to be
  guessed at by address: after 20 only a known device, a recovery code or a new password helps.

A source is an IPv4 address, or three at once for IPv6, where whoever has one line may have many:
the line (/64), its site (/48) and its provider (/32), with four and with 64 times as much.

A wait for a pair or a source follows from what that source did and may be told to it. That an
account is under attack is known to nobody outside: the answer is that of a wrong password.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
TRIES_UNDER_ATTACK = 3
DAY = timedelta(days=1)


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

_IPV6_SCALES = {64: 1, 48: 4, 32: 64}


@dataclass(frozen=True, slots=True)
class Source:
    """Where tries come from, and how many times as much as a line it may do."""

    text: str
    scale: int = 1


@dataclass(frozen=True, slots=True)
class Counter:
    """One row of failures, read under its lock."""

    subject: bytes
    kind: Kind
    failures: int
    last_failed_at: datetime
    now: datetime
    scale: int = 1

    @classmethod
    def of_row(cls, row: Sequence[Any], scales: Mapping[bytes, int]) -> Counter:
        subject = bytes(row[0])
        return cls(subject, Kind(row[1]), *row[2:5], scale=scales[subject])

    @property
    def level(self) -> int:
        """The failures that count now: those of a source leak away."""
        if self.kind is not Kind.SOURCE:
            return self.failures
        return max(0, self.failures - int((self.now - self.last_failed_at) / self._leak))

    @property
    def _leak(self) -> timedelta:
        return LEAK_OF_A_SOURCE / self.scale

    @property
    def is_used_up(self) -> bool:
        """Whether no time helps."""
        most = _MOST_IN_A_ROW.get(self.kind)
        return most is not None and self.failures >= most

    @property
    def is_under_attack(self) -> bool:
        """Whether an account has had its failures, so that each source has few tries."""
        return self.kind in (Kind.ACCOUNT, Kind.NOBODY) and self.is_used_up

    @property
    def has_tried(self) -> bool:
        """Whether a source has had its tries of today at an account under attack."""
        tries = TRIES_UNDER_ATTACK * self.scale
        return (
            self.kind is Kind.PAIR
            and self.failures >= tries
            and self.now - self.last_failed_at < DAY
        )

    @property
    def wait(self) -> timedelta:
        """How long the next try has to wait still."""
        match self.kind:
            case Kind.PAIR | Kind.DEVICE | Kind.PROOF:
                pause = pause_after(self.failures // self.scale) / self.scale
                end = self.last_failed_at + pause
            case Kind.SOURCE if self.level >= MOST_OF_A_SOURCE * self.scale:
                excess = self.failures - MOST_OF_A_SOURCE * self.scale + 1
                end = self.last_failed_at + excess * self._leak
            case _:
                return timedelta()
        return max(end - self.now, timedelta())


def pause_after(failures: int) -> timedelta:
    """The pause after so many failures in a row."""
    if failures < FREE_FAILURES:
        return timedelta()
    doublings = min(failures - FREE_FAILURES, 20)
    return min(timedelta(seconds=2**doublings), LONGEST_WAIT)


def sources_of(ip: str) -> tuple[Source, ...]:
    """Where a try comes from, the narrowest first: an IPv4 address, or an IPv6 line, its site, its
    provider. Raises InvalidInput.
    """
    try:
        address = ip_address(ip)
    except ValueError:
        raise InvalidInput("not an IP address") from None
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            return tuple(
                Source(f"{int(address) >> (128 - bits):x}::/{bits}", scale)
                for bits, scale in _IPV6_SCALES.items()
            )
        address = address.ipv4_mapped
    return (Source(str(address)),)


def source_of(ip: str) -> str:
    """The narrowest of these. Raises InvalidInput."""
    return sources_of(ip)[0].text


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


def code_subject(user_id: UUID) -> bytes:
    """Of whoever knows the password and not the code."""
    return _subject("code", str(user_id))


def proof_subject(user_id: UUID) -> bytes:
    """Of somebody who is logged in and is asked again who they are."""
    return _subject("proof", str(user_id))


def _subject(*parts: str) -> bytes:
    digest = sha256()
    for part in parts:
        encoded = part.encode(errors="surrogatepass")
        digest.update(len(encoded).to_bytes(4, "big") + encoded)
    return digest.digest()
