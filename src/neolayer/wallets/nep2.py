"""NEP-2: the encrypted private key of Neo's wallets, 58 characters beginning with 6P.

Its key derivation is fixed (scrypt with 16 MiB), so a hostile one costs what any other costs. Salt
is a part of the account's address, and tells a right password from a wrong one.
"""

from __future__ import annotations

import hashlib
import unicodedata
from hashlib import sha256
from uuid import UUID

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from neolayer.errors import InvalidInput
from neolayer.wallets.addresses import NEO, base58check, from_base58check
from neolayer.wallets.derivations import derive
from neolayer.wallets.keystores import export_password, password_bytes
from neolayer.wallets.model import KeystoreError
from neolayer.wallets.private_keys import PrivateKey

_PREFIX = b"\x01\x42\xe0"
_MAX_MEMORY = 1 << 26


async def open_keystore(
    text: str | bytes, password: str, *, tenant: UUID | None = None
) -> PrivateKey:
    """The private key in NEP-2 text, when it is the tenant's turn.

    Raises KeystoreError for a wrong password and a bad text, TooManyDerivations.
    """
    decoded = text.decode("ascii", "replace") if isinstance(text, bytes) else text
    salt, encrypted = _read(decoded.strip())
    found = await derive(_decrypt, salt, encrypted, _secret(password), tenant=tenant)
    if found is None:
        raise KeystoreError
    return found


async def make_keystore(key: PrivateKey, password: str, *, tenant: UUID | None = None) -> str:
    """The key as NEP-2 text, when it is the tenant's turn.

    Raises InvalidInput for a password that is too short, TooManyDerivations.
    """
    export_password(password)
    return await derive(_encrypt, key, _secret(password), tenant=tenant)


def _encrypt(key: PrivateKey, password: bytes) -> str:
    salt = _salt(key)
    mask, cipher = _derived(password, salt)
    encryptor = cipher.encryptor()
    return base58check(_PREFIX + salt + encryptor.update(_xor(key.reveal(), mask)))


def _decrypt(salt: bytes, encrypted: bytes, password: bytes) -> PrivateKey | None:
    mask, cipher = _derived(password, salt)
    raw = _xor(cipher.decryptor().update(encrypted), mask)
    key = _key_or_none(raw)
    return key if key is not None and _salt(key) == salt else None


def _key_or_none(raw: bytes) -> PrivateKey | None:
    """A wrong password may give a number that is no key; that is one more wrong password."""
    try:
        return PrivateKey(raw, NEO)
    except InvalidInput:
        return None


def _derived(password: bytes, salt: bytes) -> tuple[bytes, Cipher[ECB]]:
    """What the key is masked with, and the cipher over it: ECB of two blocks that look random."""
    derived = hashlib.scrypt(password, salt=salt, n=16_384, r=8, p=8, maxmem=_MAX_MEMORY, dklen=64)
    return derived[:32], Cipher(AES(derived[32:]), ECB())  # noqa: S305


def _salt(key: PrivateKey) -> bytes:
    return sha256(sha256(key.address().encode()).digest()).digest()[:4]


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def _read(text: str) -> tuple[bytes, bytes]:
    try:
        raw = from_base58check(text, 39)
    except ValueError:
        raw = b""
    if raw[:3] != _PREFIX:
        raise KeystoreError("this is not a key in NEP-2 form", hint="58 characters, 6P first")
    return raw[3:7], raw[7:]


def _secret(password: str) -> bytes:
    """NEP-2 says that a password is composed first (NFC)."""
    return password_bytes(unicodedata.normalize("NFC", password))
