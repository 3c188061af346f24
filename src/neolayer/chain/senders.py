"""Who signed a transaction: its sender, recovered from its signature.

No hash of a block covers `from`; it follows from the signature alone, by ECDSA recovery on the
curve secp256k1 (Yellow Paper, appendix F). What was signed is the transaction's envelope without
the signature, so it is cut out of the bytes whose hash was compared, not encoded again. Recovery
costs as much as all other work on a transaction, so it is asked for, not done by default.
"""

from __future__ import annotations

from binascii import unhexlify
from collections.abc import Callable, Sequence
from functools import cache

from neolayer.chain import payloads
from neolayer.chain.hexadecimal import address, quantity
from neolayer.chain.model import Network
from neolayer.chain.trie import keccak
from neolayer.chain.wire import Block, Transaction
from neolayer.errors import ChainError

# The order of the curve's group. A signature (r, s) has a twin (r, order - s) that anybody can
# make; since Homestead (EIP-2) only the one with the lower s is valid.
_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_NONE, _END = bytes(32), _ORDER.to_bytes(32)
_HIGHEST_S = (_ORDER // 2).to_bytes(32)
# Where Homestead began, by chain id; it is as old as the chain on every other one.
_HOMESTEAD = {1: 1_150_000, 61: 1_150_000}

Recover = Callable[[bytes, bytes], bytes]


def require_recovery(network: Network) -> None:
    """Raises ChainError where the senders of a network's transactions cannot be recovered."""
    if network.kind != "evm":
        raise ChainError(
            f"senders are recovered on EVM chains only, and network {network.name} is none",
            hint="a Neo N3 transaction's hash covers its sender, so it is verified anyway",
        )
    recovery()


@cache
def recovery() -> Recover:
    """How to recover: a signature of 65 bytes and a digest to the address that signed it.

    Raises ChainError without coincurve. What it returns raises ValueError where no key fits.
    """
    try:
        from coincurve import PublicKey
    except ImportError as exc:
        raise ChainError(
            "recovering senders needs the package coincurve, which is not installed",
            hint="pip install 'neolayer[senders]'",
        ) from exc

    def recover(signature: bytes, digest: bytes) -> bytes:
        key = PublicKey.from_signature_and_message(signature, digest, hasher=None)
        return keccak(key.format(compressed=False)[1:])[12:]

    return recover


def check(block: Block, envelopes: Sequence[bytes], network: Network) -> None:
    """Recover the sender of every transaction and compare it with `from`.

    `envelopes` are those of the block's transactions, in order. Raises ValueError naming the
    transaction where another signed it, or where the signature is not one the chain would take.
    """
    low_s = quantity(block.number) >= _HOMESTEAD.get(network.chain_id, 0)
    for index, (item, envelope) in enumerate(zip(block.transactions, envelopes, strict=True)):
        try:
            named, found = address(item.sender), sender(item, envelope, low_s=low_s)
        except ValueError as exc:
            raise ValueError(f"transaction {index}: {exc}") from None
        if found != named:
            raise ValueError(f"transaction {index} says it is from {named}, but {found} signed it")


def sender(item: Transaction, envelope: bytes, *, low_s: bool) -> str:
    """The address whose key signed a transaction, lower-case. Raises ValueError; see `check`."""
    r, s = _word(item.r), _word(item.s)
    if not (_NONE < r < _END and _NONE < s < _END):
        raise ValueError("r or s of its signature is 0 or beyond the curve's order")
    if low_s and s > _HIGHEST_S:
        raise ValueError("s of its signature is in the upper half, which Homestead ended")
    parity = _typed_parity(item) if payloads.is_typed(envelope) else _legacy_parity(item)
    digest = keccak(payloads.signed_part(item, envelope))
    try:
        return "0x" + recovery()(r + s + parity, digest).hex()
    except ValueError:
        raise ValueError("no key fits its signature") from None


def _word(text: str | None) -> bytes:
    """Half a signature, which was encoded before and so is known to be a quantity."""
    return unhexlify((text or "0x")[2:].zfill(64))


_PARITIES = {0: b"\0", 1: b"\1"}


def _legacy_parity(item: Transaction) -> bytes:
    """From v: 27 or 28, since EIP-155 also 35 or 36 and twice the chain id."""
    v = quantity(item.v or "")
    if v < payloads.EIP155:
        parity, chain_id = v - 27, None
    else:
        chain_id, parity = divmod(v - payloads.EIP155, 2)
    if parity not in _PARITIES:
        raise ValueError(f"v of its signature is {v}, neither 27 nor 28 nor of a chain")
    _agrees("yParity", item.yParity, (parity,))
    if chain_id is not None:
        _agrees("chainId", item.chainId, (chain_id, 0))  # some nodes write 0 for none
    return _PARITIES[parity]


def _typed_parity(item: Transaction) -> bytes:
    parity = quantity((item.v if item.yParity is None else item.yParity) or "")
    if parity not in _PARITIES:
        raise ValueError(f"the parity of its signature is {parity}, neither 0 nor 1")
    replay = payloads.EIP155 + 2 * quantity(item.chainId or "0x0")
    _agrees("v", item.v, (parity, 27 + parity, replay + parity))  # nodes write it in three ways
    return _PARITIES[parity]


def _agrees(name: str, text: str | None, allowed: tuple[int, ...]) -> None:
    if text is not None and quantity(text) not in allowed:
        raise ValueError(f"its {name} contradicts the rest of its signature")
