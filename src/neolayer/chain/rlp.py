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


# The prefixes of the lengths that occur in every block; longer ones are computed.
_TABLED = 1 << 12


def _prefix(size: int, short: int) -> bytes:
    """What stands before `size` bytes; `short` is 0x80 for a string and 0xC0 for a list."""
    if size < 56:
        return _BYTE[short + size]
    length = size.to_bytes((size.bit_length() + 7) >> 3, "big")
    return _BYTE[short + 55 + len(length)] + length


_STRING_PREFIX = [_prefix(size, 0x80) for size in range(_TABLED)]
_LIST_PREFIX = [_prefix(size, 0xC0) for size in range(_TABLED)]


def string(data: bytes) -> bytes:
    """A byte string."""
    size = len(data)
    if size == 1 and data[0] < 0x80:
        return data
    return (_STRING_PREFIX[size] if size < _TABLED else _prefix(size, 0x80)) + data


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
    return (_LIST_PREFIX[size] if size < _TABLED else _prefix(size, 0xC0)) + payload
