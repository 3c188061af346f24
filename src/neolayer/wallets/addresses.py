"""Addresses and public keys: what is valid, the one form that is stored, the form people see.

An EVM address is the last 20 bytes of keccak(public key). EIP-55 hides a checksum in the case of
its letters: mixed case must be right, one case all through says nothing and is taken. A Neo N3
address is base58check over a version byte and a script hash, that of the little script that asks
for one signature; nodes write the same hash in reverse, with 0x.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from neolayer.chain import neo_payloads
from neolayer.chain.hexadecimal import fixed
from neolayer.chain.trie import keccak
from neolayer.errors import InvalidInput, NotSupported

EVM = "evm"
NEO = "neo-n3"
CURVES: dict[str, ec.EllipticCurve] = {EVM: ec.SECP256K1(), NEO: ec.SECP256R1()}

_DIGITS = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_NEO_VERSION = b"\x35"
# PUSHDATA1 of 33 bytes before the key; SYSCALL System.Crypto.CheckSig after it.
_PUSH_KEY, _CHECK_SIGNATURE = b"\x0c\x21", bytes.fromhex("4156e7b327")


def canonical(text: str, kind: str) -> str:
    """The address in the form that is stored. Raises InvalidInput.

    On Neo N3 a script hash (0x and 40 digits, as nodes write it) is taken too, in lower case only:
    with the checksum of EIP-55 it would be an address of another chain.
    """
    return _canonical_evm(text) if kind == EVM else _canonical_neo(text)


def shown(address: str) -> str:
    """A stored address as people should see it: with the checksum of EIP-55, or as it is."""
    if not address.startswith("0x"):
        return address
    digits = address[2:]
    nibbles = keccak(digits.encode()).hex()
    cased = (d.upper() if n >= "8" else d for d, n in zip(digits, nibbles, strict=False))
    return "0x" + "".join(cased)


def script_hash(address: str) -> str:
    """The script hash of a Neo N3 address, as nodes write it. Raises InvalidInput."""
    try:
        return "0x" + neo_payloads.script_hash(address)[::-1].hex()
    except ValueError as exc:
        raise InvalidInput(str(exc)) from None


def neo_address(script: bytes) -> str:
    """The address of 20 bytes of script hash, in the order in which they are hashed."""
    return base58check(_NEO_VERSION + script)


def address_of(public_key: bytes, kind: str) -> str:
    """The stored form of the address that belongs to a compressed public key."""
    if kind == NEO:
        return neo_address(ripemd160()(sha256(verification_script(public_key)).digest()))
    return "0x" + keccak(_uncompressed(public_key)[1:])[12:].hex()


def verification_script(public_key: bytes) -> bytes:
    """The script of a Neo N3 account that one key signs for."""
    return _PUSH_KEY + public_key + _CHECK_SIGNATURE


def canonical_public_key(text: str, kind: str) -> bytes:
    """33 bytes, from hex in SEC 1 form (compressed or not, with 0x or without).

    Raises InvalidInput where it is no point of the chain's curve.
    """
    digits = text.removeprefix("0x")
    try:
        if len(digits) not in (66, 130):
            raise ValueError
        point = ec.EllipticCurvePublicKey.from_encoded_point(CURVES[kind], bytes.fromhex(digits))
    except ValueError:
        raise InvalidInput(
            "the public key is no point of the network's curve",
            hint="write 33 bytes (02 or 03 first) or 65 bytes (04 first) as hex",
        ) from None
    return compressed(point)


def compressed(point: ec.EllipticCurvePublicKey) -> bytes:
    """A point as 33 bytes."""
    return point.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def base58check(payload: bytes) -> str:
    """Base58 with four bytes of checksum, as Bitcoin invented and Neo kept it."""
    whole = payload + sha256(sha256(payload).digest()).digest()[:4]
    number, text = int.from_bytes(whole), ""
    while number:
        number, digit = divmod(number, 58)
        text = _DIGITS[digit] + text
    return "1" * (len(whole) - len(whole.lstrip(b"\0"))) + text


def from_base58check(text: str, size: int) -> bytes:
    """The `size` bytes of payload; ValueError (which never shows the text) where it is damaged."""
    number = 0
    if len(text) > 2 * size + 8:
        raise ValueError("too long")
    for digit in text:
        value = _DIGITS.find(digit)
        if value < 0:
            raise ValueError("not base58")
        number = number * 58 + value
    if number.bit_length() > 8 * (size + 4):
        raise ValueError("too long")
    whole = number.to_bytes(size + 4)
    if base58check(whole[:-4]) != text:
        raise ValueError("the checksum is wrong")
    return whole[:-4]


def ripemd160() -> Callable[[bytes], bytes]:
    """RIPEMD-160, of OpenSSL where it has it, else of the extra. Raises NotSupported."""
    try:
        hashlib.new("ripemd160")
    except ValueError:
        return _ripemd160_of_the_extra()
    return lambda data: hashlib.new("ripemd160", data).digest()


def _ripemd160_of_the_extra() -> Callable[[bytes], bytes]:
    try:
        from Crypto.Hash import RIPEMD160
    except ImportError:
        raise NotSupported(
            "wallets", "this OpenSSL lacks RIPEMD-160", hint="pip install neolayer[wallets]"
        ) from None
    return lambda data: RIPEMD160.new(data).digest()


def _canonical_evm(text: str) -> str:
    try:
        fixed(text, 20)
    except ValueError:
        raise InvalidInput(
            f"{text[:60]!r} is not an address", hint="write 0x and 40 hexadecimal digits"
        ) from None
    digits, lower = text[2:], text.lower()
    if digits not in (digits.lower(), digits.upper()) and shown(lower) != text:
        raise InvalidInput(
            f"{text} has a wrong checksum (EIP-55)",
            hint="copy it again; only if you are sure of it, write it in lower case",
        )
    return lower


def _canonical_neo(text: str) -> str:
    try:
        if text.startswith("0x") and text == text.lower():
            return neo_address(fixed(text, 20)[::-1])
        neo_payloads.script_hash(text)
    except ValueError:
        raise InvalidInput(
            f"{text[:60]!r} is not a Neo N3 address",
            hint="write 34 characters beginning with N, or a script hash beginning with 0x",
        ) from None
    return text


def _uncompressed(public_key: bytes) -> bytes:
    point = ec.EllipticCurvePublicKey.from_encoded_point(CURVES[EVM], public_key)
    return point.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
