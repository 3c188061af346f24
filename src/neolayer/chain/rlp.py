"""Recursive Length Prefix, the byte format that Ethereum hashes (Yellow Paper, appendix B).

Only encoding, and only of what blocks are made of: byte strings, quantities and lists whose items
are encoded already. Everything returns the encoded bytes, so pieces are joined, not nested.
"""

from __future__ import annotations

from collections.abc import Iterable

EMPTY = b"\x80"
EMPTY_LIST = b"\xc0"
_BYTE = [bytes([value]) for value in range(256)]
# A quantity below 128 is its own encoding, but zero is the empty string.
_SMALL = [EMPTY, *_BYTE[1:128]]


def string(data: bytes) -> bytes:
    """A byte string."""
    size = len(data)
    if size < 56:
        if size == 1 and data[0] < 0x80:
            return data
        return _BYTE[0x80 + size] + data
    length = size.to_bytes((size.bit_length() + 7) >> 3, "big")
    return _BYTE[0xB7 + len(length)] + length + data


def quantity(number: int) -> bytes:
    """A non-negative integer: big-endian without leading zeros, zero as the empty string."""
    if number < 128:
        return _SMALL[number]
    size = (number.bit_length() + 7) >> 3
    return _BYTE[0x80 + size] + number.to_bytes(size, "big")


def sequence(items: Iterable[bytes]) -> bytes:
    """A list of encoded items."""
    payload = b"".join(items)
    size = len(payload)
    if size < 56:
        return _BYTE[0xC0 + size] + payload
    length = size.to_bytes((size.bit_length() + 7) >> 3, "big")
    return _BYTE[0xF7 + len(length)] + length + payload
