"""Codes of a second factor (RFC 6238, 30 seconds, 6 digits) and recovery codes. No I/O.

A code is good once: the step it belongs to is stored, and only a later step is taken after it.
"""

from __future__ import annotations

import hmac
import secrets
from base64 import b32encode
from collections.abc import Iterator
from hashlib import sha256
from uuid import UUID

from pyotp.totp import TOTP

SEED_BYTES = 20
STEP_SECONDS = 30
DRIFT = 1  # steps that a clock may be off, either way
RECOVERY_CODES = 10
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's: no i, l, o, u
_CHARACTERS = 16  # of five bits each: 80 bits
_MISREAD = str.maketrans("ilo", "110")


def new_seed() -> bytes:
    """A seed that no other user has."""
    return secrets.token_bytes(SEED_BYTES)


def provisioning_uri(seed: bytes, *, account: str, issuer: str) -> str:
    """What an authenticator reads from a QR code."""
    return _totp(seed).provisioning_uri(name=account, issuer_name=issuer)


def secret_text(seed: bytes) -> str:
    """The seed as people type it into an authenticator."""
    return b32encode(seed).decode()


def matching_step(seed: bytes, code: str, *, at: float) -> int | None:
    """The step to which the code belongs, at most one off; None where it belongs to none."""
    digits = "".join(code.split())
    if len(digits) != 6 or not (digits.isascii() and digits.isdigit()):
        return None
    totp, now, found = _totp(seed), int(at // STEP_SECONDS), None
    for step in range(now - DRIFT, now + DRIFT + 1):
        if hmac.compare_digest(totp.generate_otp(step), digits):
            found = step
    return found


def seed_binding(tenant: UUID | None, user_id: UUID) -> dict[str, str]:
    """Where a sealed seed belongs; `catalogue.py` says the same of the table."""
    return {"purpose": "mfa-seed", "tenant": str(tenant), "user": str(user_id)}


def new_recovery_codes() -> tuple[str, ...]:
    """Codes to print and keep, shown once."""
    return tuple("-".join(_groups()) for _ in range(RECOVERY_CODES))


def recovery_code_hash(user_id: UUID, code: str) -> str:
    """The form in which a recovery code is stored: 80 random bits need no slow hash."""
    plain = "".join(c for c in code.casefold() if c.isalnum()).translate(_MISREAD)
    return sha256(f"{user_id}:{plain}".encode(errors="surrogatepass")).hexdigest()


def _groups() -> Iterator[str]:
    for _ in range(_CHARACTERS // 4):
        yield "".join(secrets.choice(_ALPHABET) for _ in range(4))


def _totp(seed: bytes) -> TOTP:
    return TOTP(secret_text(seed), interval=STEP_SECONDS)
