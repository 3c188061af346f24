"""Reading the hex text of JSON-RPC: quantities, data, hashes and addresses.

Everything raises ValueError with the text in it; who calls knows the field and the block. Chains
repeat themselves (gas limits, prices, busy addresses), so what was read is remembered, up to a
bound: that halves the time of a block.
"""

from __future__ import annotations

from binascii import unhexlify  # refuses blanks, which bytes.fromhex passes over
from functools import lru_cache

from neolayer.chain import rlp

INT64_MAX = (1 << 63) - 1
# No chain is higher: at a block each millisecond it would take 34 years. Without a bound one absurd
# block would be the head, and everything below it would count as missing.
HIGHEST = (1 << 40) - 1
_REMEMBERED = 1 << 14


@lru_cache(_REMEMBERED)
def quantity(text: str) -> int:
    """A quantity such as `0x1b4`: 0 to 2^256-1."""
    digits = text[2:]
    if text[:2] != "0x" or len(text) > 66 or not (digits.isalnum() and text.isascii()):
        raise ValueError(f"{_shown(text)} is not a quantity up to 2^256-1")
    if digits[1:2] in ("x", "X"):  # int would pass over a second 0x
        raise ValueError(f"{_shown(text)} is not a quantity")
    try:
        return int(digits, 16)
    except ValueError:
        raise ValueError(f"{_shown(text)} is not a quantity") from None


@lru_cache(_REMEMBERED)
def optional_quantity(text: str | None) -> int | None:
    """A quantity that a fork or a transaction type may lack."""
    return None if text is None else quantity(text)


@lru_cache(_REMEMBERED)
def quantity64(text: str) -> int:
    """A quantity that the database keeps as bigint: 0 to 2^63-1."""
    number = quantity(text)
    if number > INT64_MAX:
        raise ValueError(f"{_shown(text)} is above 2^63-1")
    return number


def height(text: str) -> int:
    """The height of a block: 0 to 2^40-1."""
    number = quantity(text)
    if number > HIGHEST:
        raise ValueError(f"its height is above {HIGHEST} (2^40-1), where no chain is")
    return number


@lru_cache(_REMEMBERED)
def encoded_quantity(text: str | None) -> bytes:
    """The RLP of a quantity that must be there."""
    if text is None:
        raise ValueError("a number is absent, so the hash cannot be recomputed")
    return rlp.quantity(quantity(text))


def encoded_word(text: str | None) -> bytes:
    """The RLP of a quantity that is usually 32 bytes long and never seen twice: a signature's."""
    if text is not None and len(text) == 66 and text[:2] == "0x" and text[2] != "0":
        try:
            word = unhexlify(text[2:])
        except ValueError:
            raise ValueError(f"{_shown(text)} is not hex") from None
        # A first byte below 16 has a leading zero digit and so went the other way.
        return b"\xa0" + word
    return encoded_quantity(text)


def canonical_quantity(text: str | None) -> str:
    """A quantity that must be there, as canonical text: lower-case, no leading zeros."""
    if text is None:
        raise ValueError("a number is absent")
    return hex(quantity(text))


def canonical_word(text: str) -> str:
    """The same of half a signature, which is seldom seen twice."""
    encoded_word(text)
    return respelled_word(text)


def respelled_word(text: str) -> str:
    """`canonical_word` of a text that was encoded before."""
    return text.lower() if text[2] != "0" else hex(quantity(text))


@lru_cache(128)
def transaction_type(text: str) -> int:
    """An EIP-2718 type: 0 to 0x7f."""
    kind = quantity(text)
    if kind > 0x7F:
        raise ValueError(f"type {_shown(text)} is above 0x7f")
    return kind


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


@lru_cache(_REMEMBERED)
def encoded_hash(text: str) -> bytes:
    """The RLP of 32 bytes that tend to come again: a topic, a storage key."""
    return b"\xa0" + fixed(text, 32)


def data(text: str) -> bytes:
    """Bytes of any length, such as `0x` or `0x60806040`."""
    if text[:2] != "0x":
        raise ValueError(f"{_shown(text)} does not begin with 0x")
    try:
        return unhexlify(text[2:])
    except ValueError:
        raise ValueError(f"{_shown(text)} is not hex") from None


def canonical_data(text: str) -> str:
    """Bytes of any length, as canonical lower-case text."""
    data(text)
    return text.lower()


def fixed(text: str, size: int) -> bytes:
    """Exactly `size` bytes: 20 for an address, 32 for a hash."""
    found = data(text)
    if len(found) != size:
        raise ValueError(f"{_shown(text)} is not {size} bytes")
    return found


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
