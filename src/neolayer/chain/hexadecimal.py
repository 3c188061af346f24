"""Reading the hex text of JSON-RPC: quantities, data, hashes and addresses.

Everything raises ValueError with the text in it; who calls knows the field and the block. Chains
repeat themselves (gas limits, prices, busy addresses), so what was read is remembered, up to a
bound: that halves the time of a block.
"""

from __future__ import annotations

from functools import lru_cache

from neolayer.chain import rlp

INT64_MAX = (1 << 63) - 1
_REMEMBERED = 1 << 14


@lru_cache(_REMEMBERED)
def quantity(text: str) -> int:
    """A quantity such as `0x1b4`: 0 to 2^256-1."""
    if text[:2] != "0x" or len(text) > 66 or not text[2:].isalnum():
        raise ValueError(f"{_shown(text)} is not a quantity up to 2^256-1")
    try:
        return int(text[2:], 16)
    except ValueError:
        raise ValueError(f"{_shown(text)} is not a quantity") from None


@lru_cache(_REMEMBERED)
def encoded_quantity(text: str) -> bytes:
    """The RLP of a quantity."""
    return rlp.quantity(quantity(text))


def encoded_word(text: str) -> bytes:
    """The RLP of a quantity that is usually 32 bytes long and never seen twice: a signature's."""
    if len(text) == 66 and text[:3] != "0x0":
        return b"\xa0" + fixed(text, 32)
    return rlp.quantity(quantity(text))


@lru_cache(_REMEMBERED)
def address(text: str) -> str:
    """20 bytes, as canonical lower-case text."""
    fixed(text, 20)
    return text.lower()


@lru_cache(_REMEMBERED)
def encoded_address(text: str) -> bytes:
    """The RLP of an address."""
    return b"\x94" + fixed(text, 20)


def hash32(text: str) -> str:
    """32 bytes, as canonical lower-case text."""
    fixed(text, 32)
    return text.lower()


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
