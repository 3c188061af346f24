"""Private keys while they are in memory: 32 bytes that no repr, log line or error shows."""

from __future__ import annotations

import secrets
from typing import NoReturn

from cryptography.hazmat.primitives.asymmetric import ec

from neolayer.errors import InvalidInput
from neolayer.wallets.addresses import (
    CURVES,
    EVM,
    NEO,
    address_of,
    compressed,
    from_base58check,
)

# How many points each curve's group has; a private key is from 1 to one less.
ORDERS = {
    EVM: 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141,
    NEO: 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
}
_WIF_VERSION, _WIF_COMPRESSED = 0x80, 0x01


class PrivateKey:
    """A private key of a kind of network, in 1..n-1. It cannot be printed, compared or pickled."""

    __slots__ = ("_number", "kind")

    def __init__(self, raw: bytes, kind: str) -> None:
        number = int.from_bytes(raw)
        if len(raw) != 32 or not 0 < number < ORDERS[kind]:
            raise InvalidInput("the private key is not 32 bytes from 1 to the curve's order less 1")
        self._number = number
        self.kind = kind

    def __repr__(self) -> str:
        return "PrivateKey(***)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key is not pickled")

    def reveal(self) -> bytes:
        """The 32 bytes, for whoever encrypts or signs; keep them in no variable that lives on."""
        return self._number.to_bytes(32)

    def on_curve(self) -> ec.EllipticCurvePrivateKey:
        """The key as `cryptography` takes it."""
        return ec.derive_private_key(self._number, CURVES[self.kind])

    def public_key(self) -> bytes:
        """Its public key, 33 bytes."""
        return compressed(self.on_curve().public_key())

    def address(self) -> str:
        """Its address, in the stored form."""
        return address_of(self.public_key(), self.kind)


def generate(kind: str) -> PrivateKey:
    """A new key, every value equally likely."""
    return PrivateKey((1 + secrets.randbelow(ORDERS[kind] - 1)).to_bytes(32), kind)


def read(text: str, kind: str) -> PrivateKey:
    """A key from hex (with 0x or without), on Neo N3 also from WIF.

    Raises InvalidInput, which does not show the text.
    """
    key = text.strip()
    digits = key.removeprefix("0x")
    if len(digits) == 64 and digits.isascii() and digits.isalnum():
        raw = _unhex(digits)
    elif kind == NEO and len(key) == 52:
        raw = _from_wif(key)
    else:
        raw = None
    if raw is None:
        forms = "64 hexadecimal digits" + (", or WIF" if kind == NEO else "")
        raise InvalidInput("this is not a private key", hint=f"write {forms}")
    return PrivateKey(raw, kind)


def _unhex(digits: str) -> bytes | None:
    try:
        return bytes.fromhex(digits)
    except ValueError:
        return None


def _from_wif(text: str) -> bytes | None:
    try:
        raw = from_base58check(text, 34)
    except ValueError:
        return None
    return raw[1:33] if (raw[0], raw[33]) == (_WIF_VERSION, _WIF_COMPRESSED) else None
