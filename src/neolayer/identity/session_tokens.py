"""Bearer tokens: opaque, 256 random bits each, stored only as SHA-256.

    nls1.<tenant and secret, base64url>     an access token of a session
    nlr1.<the same>                         its refresh token
    nlk1.<the same>                         an API key of a service

The tenant stands in the text, so that a look-up can be bound to it before anything is known about
the token. Nothing is believed because of that: the hash is over the whole text, and is looked for
among the rows of the tenant it names, so a token with another tenant's id put in is an unknown one.
There is no algorithm, key id or claim in a token, hence none to confuse.

A refresh token's child is HMAC(secret of the parent, salt), the salt being random and stored. So
whoever presents the parent again can be given the same child, although only hashes are stored; and
nobody derives it from what is stored.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from neolayer.errors import Unauthenticated

_TENANT, _SECRET = 16, 32  # bytes
# 48 bytes are 64 characters without padding: each token has exactly one spelling.
LENGTH = 5 + 64
_BODY = re.compile(r"[A-Za-z0-9_-]{64}")


class Kind(StrEnum):
    """What a token is for; its first four characters."""

    ACCESS = "nls1"
    REFRESH = "nlr1"
    API_KEY = "nlk1"


class UnknownToken(Unauthenticated):
    """Who is asking is not known: the token is unknown or has ended."""

    def __init__(self) -> None:
        super().__init__(hint="log in again, or use another key")


@dataclass(frozen=True, slots=True)
class Token:
    """One token. Only `text` holds the secret, and neither `repr` nor `str` shows it."""

    kind: Kind
    tenant: UUID
    secret: bytes = field(repr=False)

    @property
    def text(self) -> str:
        """What the caller is given, once."""
        body = base64.urlsafe_b64encode(self.tenant.bytes + self.secret)
        return f"{self.kind}.{body.decode()}"

    @property
    def hash(self) -> str:
        """What is stored."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def child(self, salt: bytes, kind: Kind) -> Token:
        """The token that follows this refresh token: the same again for the same salt."""
        secret = hmac.digest(self.secret, kind.encode() + salt, "sha256")
        return Token(kind, self.tenant, secret)


def new_token(kind: Kind, tenant: UUID) -> Token:
    """A token that nobody has seen."""
    return Token(kind, tenant, secrets.token_bytes(_SECRET))


def new_salt() -> bytes:
    """What makes a parent's child unpredictable."""
    return secrets.token_bytes(_SECRET)


def parse_token(text: str, *kinds: Kind) -> Token:
    """The token of that text, if it is of one of `kinds`. Raises UnknownToken, quoting nothing."""
    kind = next((kind for kind in kinds if text.startswith(f"{kind}.")), None)
    if kind is None or _BODY.fullmatch(text, 5) is None:
        raise UnknownToken
    body = base64.urlsafe_b64decode(text[5:])
    return Token(kind, UUID(bytes=body[:_TENANT]), body[_TENANT:])
