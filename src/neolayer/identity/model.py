"""People: what a user is, and the one form in which a name is kept.

Two spellings of one name must not be two users, and no name may pass for another:

- An e-mail address is composed (NFC) and lower-case; its domain is in the ASCII form of IDNA, so
  that a look-alike shows as `xn--...`. The part before the @ is ASCII: nothing tells a foreign
  letter there from its look-alike. Tags (`ann+news@`) are kept, they are addresses of their own.
- A user name is lower-case ASCII: letters and digits, with single `.`, `_` or `-` between them.
  So no name looks like another, and none looks like an address.
- What only stands in for another character (a Kelvin sign, a full-width letter, a soft hyphen) is
  refused in both: folded, it would be somebody else's name.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import idna

from neolayer.errors import Conflict, InvalidInput, NotFound

MAX_NAME_BYTES = 4096  # longer input is not even looked at
_LOCAL = re.compile(r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[a-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_USERNAME = re.compile(r"[a-z0-9]+([._-][a-z0-9]+)*")
_MAX_USERNAME = 64
LONGEST_DESCRIPTION = 2_000


def require_description(text: str | None) -> None:
    """What is said of a role or a service has an end. Raises InvalidInput."""
    if text is not None and len(text) > LONGEST_DESCRIPTION:
        raise InvalidInput(f"description has {len(text)} characters; at most {LONGEST_DESCRIPTION}")


class Status(StrEnum):
    """Whether a user may log in: only `active` ones may."""

    ACTIVE = "active"
    INACTIVE = "inactive"
    LOCKED = "locked"
    SUSPENDED = "suspended"


class UserNotFound(NotFound):
    """There is no such user."""


class AlreadyRegistered(Conflict):
    """The e-mail address or the user name is taken."""


class InvalidName(InvalidInput):
    """An e-mail address or a user name cannot be taken."""


@dataclass(frozen=True, slots=True)
class User:
    """A person of one tenant, without anything that proves who they are."""

    id: UUID
    email: str
    username: str
    status: Status
    email_verified: bool
    mfa_enabled: bool
    last_login_at: datetime | None
    locked_until: datetime | None
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None

    @classmethod
    def of_row(cls, row: Sequence[Any]) -> User:
        """The user of a row whose first columns are the fields above, in that order."""
        return cls(row[0], row[1], row[2], Status(row[3]), *row[4:11])


def canonical_email(text: str) -> str:
    """The address in its one form. Raises InvalidName, which does not repeat the address."""
    local, at, domain = _composed(text, "an e-mail address").rpartition("@")
    if not at or not _LOCAL.fullmatch(local) or len(local) > 64:
        raise InvalidName(
            "not an e-mail address: what stands before the @ is plain ASCII, 64 characters at most",
            hint="write it as ann@example.com",
        )
    email = f"{local}@{_ascii_domain(domain)}"
    if len(email) > 254:
        raise InvalidName("not an e-mail address: it has more than 254 characters")
    return email


def canonical_username(text: str) -> str:
    """The user name in its one form. Raises InvalidName, which does not repeat the name."""
    name = _composed(text, "a user name")
    if not _USERNAME.fullmatch(name) or len(name) > _MAX_USERNAME:
        raise InvalidName(
            f"not a user name: letters a-z and digits, with single . _ - between them, "
            f"{_MAX_USERNAME} at most",
            hint="write it as ann.smith",
        )
    return name


def _composed(text: str, what: str) -> str:
    if len(text) > MAX_NAME_BYTES:
        raise InvalidName(f"not {what}: it is too long")
    if any(map(_stands_in, text)):
        raise InvalidName(f"not {what}: it has a character that only stands in for another one")
    return unicodedata.normalize("NFC", text).lower()


def _stands_in(character: str) -> bool:
    """Whether Unicode keeps it only for old character sets: K (U+212A), ａ, ﬁ, ℡."""
    folded = unicodedata.normalize("NFKC", character)
    # Some scripts have letters that are always written apart; those are no other character.
    apart = len(folded) > 1 and folded == unicodedata.normalize("NFC", character)
    return folded != character and not apart


def _ascii_domain(domain: str) -> str:
    encoded = _idna(domain)
    if encoded is None:
        raise InvalidName("not an e-mail address: what stands after the @ is no domain")
    if "." not in encoded or encoded.endswith("."):
        raise InvalidName("not an e-mail address: the domain is not complete")
    return encoded


def _idna(domain: str) -> str | None:
    """None instead of an error, which would carry what was typed along; also for what IDNA's
    mapping would leave out or take for something else, such as a soft hyphen."""
    try:
        if idna.uts46_remap(domain, std3_rules=True) != domain:
            return None
        return idna.encode(domain, uts46=True, std3_rules=True).decode()
    except (idna.IDNAError, UnicodeError):
        return None
