"""Reading the hex text of JSON-RPC: quantities, data, hashes and addresses.

Everything raises ValueError with the text in it; who calls knows the field and the block.
"""

from __future__ import annotations

INT64_MAX = (1 << 63) - 1


def quantity(text: str) -> int:
    """A quantity such as `0x1b4`: 0 to 2^256-1."""
    if text[:2] != "0x" or len(text) > 66 or not text[2:].isalnum():
        raise ValueError(f"{_shown(text)} is not a quantity up to 2^256-1")
    try:
        return int(text[2:], 16)
    except ValueError:
        raise ValueError(f"{_shown(text)} is not a quantity") from None


def quantity64(text: str) -> int:
    """A quantity that the database keeps as bigint: 0 to 2^63-1."""
    number = quantity(text)
    if number > INT64_MAX:
        raise ValueError(f"{_shown(text)} is above 2^63-1")
    return number


def data(text: str) -> bytes:
    """Bytes of any length, such as `0x` or `0x60806040`."""
    if text[:2] != "0x":
        raise ValueError(f"{_shown(text)} does not begin with 0x")
    try:
        found = bytes.fromhex(text[2:])
    except ValueError:
        raise ValueError(f"{_shown(text)} is not hex") from None
    if 2 * len(found) + 2 != len(text):  # fromhex passes over blanks
        raise ValueError(f"{_shown(text)} is not hex")
    return found


def fixed(text: str, size: int) -> bytes:
    """Exactly `size` bytes: 20 for an address, 32 for a hash."""
    found = data(text)
    if len(found) != size:
        raise ValueError(f"{_shown(text)} is not {size} bytes")
    return found


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
