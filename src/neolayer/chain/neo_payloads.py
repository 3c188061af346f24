"""The bytes that Neo N3 hashes: a header, a transaction, the tree over transaction hashes.

Numbers are little-endian and hashes are shown in reverse. The hash of a header or a transaction is
one SHA-256 of it without its witnesses; the Merkle tree doubles SHA-256 and repeats the last leaf
of an odd row. Everything here raises ValueError for what cannot be encoded.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from hashlib import sha256

import msgspec

from neolayer.chain.hexadecimal import fixed
from neolayer.chain.neo_wire import (
    Attribute,
    Block,
    Condition,
    Rule,
    Signer,
    Transaction,
    attributes_decoder,
    signers_decoder,
)

_BASE58 = {
    digit: value
    for value, digit in enumerate("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz")
}
_ADDRESS_VERSION = 0x35
_SCOPES = {
    "None": 0,
    "CalledByEntry": 0x01,
    "CustomContracts": 0x10,
    "CustomGroups": 0x20,
    "WitnessRules": 0x40,
    "Global": 0x80,
}
_ACTIONS = {"Deny": 0, "Allow": 1}
_ORACLE_CODES = {
    "Success": 0x00,
    "ProtocolNotSupported": 0x10,
    "ConsensusUnreachable": 0x12,
    "NotFound": 0x14,
    "Timeout": 0x16,
    "Forbidden": 0x18,
    "ResponseTooLarge": 0x1A,
    "InsufficientFunds": 0x1C,
    "ContentTypeNotSupported": 0x1F,
    "Error": 0xFF,
}


def header(block: Block) -> bytes:
    """What a block's hash is taken of."""
    return b"".join(
        (
            _number(block.version, 4),
            _reversed(block.previousblockhash, 32),
            _reversed(block.merkleroot, 32),
            _number(block.time, 8),
            _hex(block.nonce, 8)[::-1],
            _number(block.index, 4),
            _number(block.primary, 1),
            script_hash(block.nextconsensus),
        )
    )


def transaction(item: Transaction) -> bytes:
    """What a transaction's hash is taken of. Its sender must be its first signer."""
    try:
        signers = signers_decoder.decode(item.signers)
        attributes = attributes_decoder.decode(item.attributes)
    except msgspec.DecodeError as exc:
        raise ValueError(f"its signers or attributes cannot be read: {exc}") from exc
    if not signers or _reversed(signers[0].account, 20) != script_hash(item.sender):
        raise ValueError("its sender is not its first signer")
    return b"".join(
        (
            _number(item.version, 1),
            _number(item.nonce, 4),
            _number(fee(item.sysfee), 8),
            _number(fee(item.netfee), 8),
            _number(item.validuntilblock, 4),
            _list(_signer(each) for each in signers),
            _list(_attribute(each) for each in attributes),
            _string(script(item.script)),
        )
    )


def shown(data: bytes) -> str:
    """A hash of bytes, as Neo shows it."""
    return "0x" + sha256(data).digest()[::-1].hex()


def merkle_root(hashes: Sequence[str]) -> str:
    """The root over transaction hashes, all as shown; zeros for none."""
    row = [_reversed(each, 32) for each in hashes] or [bytes(32)]
    while len(row) > 1:
        if len(row) % 2:
            row.append(row[-1])
        pairs = zip(row[::2], row[1::2], strict=True)
        row = [sha256(sha256(left + right).digest()).digest() for left, right in pairs]
    return "0x" + row[0][::-1].hex()


def script_hash(address: str) -> bytes:
    """The 20 bytes that an N3 address writes in base58, with its checksum proved."""
    number = 0
    for digit in address:
        if len(address) != 34 or digit not in _BASE58:
            raise ValueError(f"{address[:60]!r} is not an N3 address")
        number = number * 58 + _BASE58[digit]
    raw = number.to_bytes(25)
    if raw[0] != _ADDRESS_VERSION or sha256(sha256(raw[:21]).digest()).digest()[:4] != raw[21:25]:
        raise ValueError(f"{address[:60]!r} is not an N3 address")
    return raw[1:21]


def script(text: str) -> bytes:
    """A script or another byte string of the JSON: base64."""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as exc:
        raise ValueError(f"{text[:60]!r} is not base64") from exc


def fee(value: str | int) -> int:
    """A fee in fractions of GAS: 0 to 2^63-1."""
    if isinstance(value, str) and not (value.isascii() and value.isdigit() and len(value) < 20):
        raise ValueError(f"{value[:60]!r} is not a fee")
    number = int(value)
    if not 0 <= number < 1 << 63:
        raise ValueError(f"fee {number} is not in 0 to 2^63-1")
    return number


def _signer(item: Signer) -> bytes:
    scopes = 0
    for name in item.scopes.split(","):
        scopes |= _known(_SCOPES, name.strip(), "scope")
    pieces = [_reversed(item.account, 20), bytes((scopes,))]
    if scopes & _SCOPES["CustomContracts"]:
        pieces.append(_list(_reversed(each, 20) for each in item.allowedcontracts))
    if scopes & _SCOPES["CustomGroups"]:
        pieces.append(_list(_hex(each, 33) for each in item.allowedgroups))
    if scopes & _SCOPES["WitnessRules"]:
        pieces.append(_list(_rule(each) for each in item.rules))
    return b"".join(pieces)


def _rule(item: Rule) -> bytes:
    return bytes((_known(_ACTIONS, item.action, "rule action"),)) + _condition(item.condition)


def _condition(item: Condition) -> bytes:
    match item:
        case Condition(type="Boolean", expression=bool(value)):
            return bytes((0x00, value))
        case Condition(type="Not", expression=Condition() as inner):
            return b"\x01" + _condition(inner)
        case Condition(type="And" | "Or", expressions=[_, *_] as inner):
            return bytes((0x02 if item.type == "And" else 0x03,)) + _list(map(_condition, inner))
        case Condition(type="CalledByEntry"):
            return b"\x20"
        case Condition(type="ScriptHash" | "CalledByContract", hash=str(named)):
            return bytes((0x18 if item.type == "ScriptHash" else 0x28,)) + _reversed(named, 20)
        case Condition(type="Group" | "CalledByGroup", group=str(named)):
            return bytes((0x19 if item.type == "Group" else 0x29,)) + _hex(named, 33)
        case _:
            raise ValueError(f"a witness condition of type {item.type[:60]!r} is not known")


def _attribute(item: Attribute) -> bytes:
    match item:
        case Attribute(type="HighPriority"):
            return b"\x01"
        case Attribute(type="OracleResponse", id=int(number), code=str(code), result=str(result)):
            outcome = bytes((_known(_ORACLE_CODES, code, "oracle code"),))
            return b"\x11" + _number(number, 8) + outcome + _string(script(result))
        case Attribute(type="NotValidBefore", height=int(height)):
            return b"\x20" + _number(height, 4)
        case Attribute(type="Conflicts", hash=str(other)):
            return b"\x21" + _reversed(other, 32)
        case Attribute(type="NotaryAssisted", nkeys=int(keys)):
            return b"\x22" + _number(keys, 1)
        case _:
            raise ValueError(f"an attribute of type {item.type[:60]!r} is not known")


def _known(codes: dict[str, int], name: str, what: str) -> int:
    if name not in codes:
        raise ValueError(f"{what} {name[:60]!r} is not known")
    return codes[name]


def _number(value: int, size: int) -> bytes:
    if not 0 <= value < 1 << 8 * size:
        raise ValueError(f"{value} does not fit {size} bytes")
    return value.to_bytes(size, "little")


def _reversed(text: str, size: int) -> bytes:
    """A hash, as shown, in the order in which it is hashed."""
    return fixed(text, size)[::-1]


def _hex(text: str, size: int) -> bytes:
    """Bytes that the JSON writes without 0x."""
    return fixed("0x" + text, size)


def _length(count: int) -> bytes:
    if count < 0xFD:
        return bytes((count,))
    return b"\xfd" + _number(count, 2) if count < 1 << 16 else b"\xfe" + _number(count, 4)


def _string(data: bytes) -> bytes:
    return _length(len(data)) + data


def _list(items: Iterable[bytes]) -> bytes:
    encoded = list(items)
    return _length(len(encoded)) + b"".join(encoded)
