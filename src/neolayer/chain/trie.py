"""The root of an ordered list: transactionsRoot and receiptsRoot of a block.

The values of a block are put into a Merkle Patricia trie under the RLP of their index, and only its
root is kept (Yellow Paper, appendix D). The whole list is known at once, so no trie is built: the
keys are sorted, and each node is encoded and hashed once, from the leaves up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, cast

from sha3 import keccak_256  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

from neolayer.chain import rlp

_BRANCH = "0123456789abcdef"
_keccak = cast("Callable[[bytes], Any]", keccak_256)


def keccak(data: bytes) -> bytes:
    """Keccak-256, Ethereum's hash (not SHA3-256, which pads otherwise)."""
    return _keccak(data).digest()


EMPTY_ROOT = keccak(rlp.EMPTY)


def ordered_root(values: Sequence[bytes]) -> bytes:
    """The 32-byte root over `values` in order; EMPTY_ROOT for none."""
    if not values:
        return EMPTY_ROOT
    order, keys = _sorted_keys(len(values))
    leaves = [rlp.string(values[index]) for index in order]
    return keccak(_node(keys, leaves.__getitem__, 0, len(keys), 0))


@lru_cache(maxsize=4096)
def _sorted_keys(count: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The indices in the order of their keys, and the keys as hex digits (one a nibble)."""
    keyed = sorted((rlp.quantity(index).hex(), index) for index in range(count))
    return tuple(index for _, index in keyed), tuple(key for key, _ in keyed)


def _node(
    keys: Sequence[str], leaf: Callable[[int], bytes], start: int, end: int, depth: int
) -> bytes:
    """The encoded node over keys[start:end], which agree in their first `depth` nibbles."""
    first = keys[start]
    if end - start == 1:
        return rlp.sequence((rlp.string(_path(first[depth:], "2")), leaf(start)))
    last = keys[end - 1]
    if first[depth] != last[depth]:
        return _branch(keys, leaf, start, end, depth)
    shared = depth + 1
    while first[shared] == last[shared]:
        shared += 1
    below = _branch(keys, leaf, start, end, shared)
    return rlp.sequence((rlp.string(_path(first[depth:shared], "0")), _reference(below)))


def _branch(
    keys: Sequence[str], leaf: Callable[[int], bytes], start: int, end: int, depth: int
) -> bytes:
    """Sixteen children and no value: keys are prefix-free, so none ends inside a branch."""
    children: list[bytes] = []
    for nibble in _BRANCH:
        stop = start
        while stop < end and keys[stop][depth] == nibble:
            stop += 1
        if stop == start:
            children.append(rlp.EMPTY)
        else:
            children.append(_reference(_node(keys, leaf, start, stop, depth + 1)))
        start = stop
    children.append(rlp.EMPTY)
    return rlp.sequence(children)


def _reference(node: bytes) -> bytes:
    """How a parent names a node: by its hash, or by itself where that is shorter."""
    return node if len(node) < 32 else b"\xa0" + keccak(node)


def _path(nibbles: str, kind: str) -> bytes:
    """Hex-prefix encoding; `kind` is "2" for a leaf and "0" for an extension."""
    if len(nibbles) % 2:
        return bytes.fromhex(f"{int(kind) + 1}{nibbles}")
    return bytes.fromhex(f"{kind}0{nibbles}")
