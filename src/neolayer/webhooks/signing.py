"""How a delivery proves who sent it: in the form of Standard Webhooks, for which libraries exist.

A secret is `whsec_` and 32 random bytes in base64. What is signed is the event's id, the time of
this try in seconds and the body, joined by dots; HMAC with SHA-256; `v1,` and base64:

    webhook-id: 5b0f...          the same at every try: who has seen it, skips it; what no header
                                 can hold is percent-encoded
    webhook-timestamp: 1764215000
    webhook-signature: v1,K5oZ... v1,bm9l...

During a rotation there is a signature under each secret, and one that fits is enough. A receiver
compares in constant time and refuses a timestamp that is minutes away, or an old delivery could be
sent again by whoever has seen it.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import string
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from urllib.parse import quote

from neolayer.errors import Conflict, InvalidInput, Unauthenticated

PREFIX = "whsec_"
TOLERANCE = timedelta(minutes=5)
MOST_SECRETS = 4
"""So many sign a delivery at once."""
_BYTES = 32


class BadSignature(Unauthenticated):
    """A delivery is not from whom it claims to be, or is too old."""


class TooManySecrets(Conflict):
    """A delivery would no longer be signed under a secret whose overlap has not ended."""

    def __init__(self) -> None:
        super().__init__(
            f"{MOST_SECRETS} secrets sign already",
            hint="wait for the overlap of the oldest to end, or rotate with none",
        )


class NoSecret(Conflict):
    """No secret of this webhook signs any more: rotate it."""


def new_secret() -> bytes:
    """A secret that nobody else has."""
    return secrets.token_bytes(_BYTES)


def shown(secret: bytes) -> str:
    """The secret as its owner keeps it."""
    return PREFIX + base64.b64encode(secret).decode()


def read(text: str) -> bytes:
    """The secret behind its text. Raises InvalidInput."""
    try:
        secret = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not text.startswith(PREFIX) or len(secret) < 24:
        raise InvalidInput(f"a secret is {PREFIX} and at least 24 bytes in base64")
    return secret


def sign(event_id: str, body: bytes, at: datetime, *secret_bytes: bytes) -> dict[str, str]:
    """The three headers of a delivery at that moment, signed under each secret.

    Raises NoSecret where there is none: nothing leaves unsigned.
    """
    if not secret_bytes:
        raise NoSecret
    sent_id = quote(event_id, safe=string.punctuation)
    timestamp = str(int(at.timestamp()))
    marks = (_mark(secret, sent_id, timestamp, body) for secret in secret_bytes)
    return {
        "webhook-id": sent_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(marks),
    }


def verify(
    headers: Mapping[str, str],
    body: bytes,
    secret_texts: Iterable[str],
    *,
    now: datetime,
    tolerance: timedelta = TOLERANCE,
) -> str:
    """The event's id, if one of the secrets signed this delivery just now. Raises BadSignature.

    `headers` have lower-case names, as every HTTP library gives them.
    """
    try:
        event_id, timestamp = headers["webhook-id"], headers["webhook-timestamp"]
        given = headers["webhook-signature"].split(" ")
        age = abs(now.timestamp() - int(timestamp))
    except (KeyError, ValueError):
        raise BadSignature("the delivery is not signed") from None
    wanted = [_mark(read(text), event_id, timestamp, body) for text in secret_texts]
    matches = [hmac.compare_digest(a.encode(), b.encode()) for a in wanted for b in given]
    if not any(matches):
        raise BadSignature("no signature fits")
    if age > tolerance.total_seconds():
        raise BadSignature("the delivery is too old, or the clocks differ")
    return event_id


def _mark(secret: bytes, event_id: str, timestamp: str, body: bytes) -> str:
    signed = hmac.digest(secret, f"{event_id}.{timestamp}.".encode() + body, "sha256")
    return "v1," + base64.b64encode(signed).decode()
