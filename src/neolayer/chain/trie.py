"""The root of an ordered list: transactionsRoot and receiptsRoot of a block.

The values of a block are put into a Merkle Patricia trie under the RLP of their index, and only its
root is kept (Yellow Paper, appendix D). The shape of that trie follows from the number of values,
so it is worked out once a length; then each node is encoded and hashed once, from the leaves up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple, cast

from sha3 import keccak_256  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

from neolayer.chain import rlp

_keccak = cast("Callable[[bytes], Any]", keccak_256)


def keccak(data: bytes) -> bytes:
    """Keccak-256, Ethereum's hash (not SHA3-256, which pads otherwise)."""
    return _keccak(data).digest()


EMPTY_ROOT = keccak(rlp.EMPTY)


def ordered_root(values: Sequence[bytes]) -> bytes:
    """The 32-byte root over `values` in order; EMPTY_ROOT for none."""
    if not values:
        return EMPTY_ROOT
    return keccak(_encode(_shape(len(values)), values))


class _Leaf(NamedTuple):
    """A value at the end of a path (as its RLP)."""

    path: bytes
    place: int


class _Extension(NamedTuple):
    """Nibbles that all keys below share."""

    path: bytes
    below: _Branch


class _Branch(NamedTuple):
    """Sixteen children and no value: keys are prefix-free, so none ends inside a branch."""

    children: tuple[_Node | None, ...]


_Node = _Leaf | _Extension | _Branch


@lru_cache(maxsize=256)
def _shape(count: int) -> _Node:
    """The trie of a list of `count` values, without them: it depends on nothing else."""
    keys = sorted((rlp.quantity(index).hex(), index) for index in range(count))
    return _grow(keys, 0)


def _grow(keys: Sequence[tuple[str, int]], depth: int) -> _Node:
    """The node over sorted keys that agree in their first `depth` nibbles."""
    first, index = keys[0]
    if len(keys) == 1:
        return _Leaf(_path(first[depth:], 2), index)
    last = keys[-1][0]
    shared = depth
    while first[shared] == last[shared]:
        shared += 1
    groups = {nibble: list(group) for nibble, group in groupby(keys, lambda key: key[0][shared])}
    branch = _Branch(
        tuple(_grow(groups[n], shared + 1) if n in groups else None for n in "0123456789abcdef")
    )
    return branch if shared == depth else _Extension(_path(first[depth:shared], 0), branch)


def _path(nibbles: str, kind: int) -> bytes:
    """Hex-prefix encoding in RLP; `kind` is 2 for a leaf and 0 for an extension."""
    packed = f"{kind + 1}{nibbles}" if len(nibbles) % 2 else f"{kind}0{nibbles}"
    return rlp.string(bytes.fromhex(packed))


def _encode(node: _Node, values: Sequence[bytes]) -> bytes:
    """The RLP of a node; those below it are hashed on the way, each once."""
    if isinstance(node, _Leaf):
        return rlp.sequence((node.path, rlp.string(values[node.place])))
    if isinstance(node, _Extension):
        return rlp.sequence((node.path, _reference(_encode(node.below, values))))
    items = [
        rlp.EMPTY if child is None else _reference(_encode(child, values))
        for child in node.children
    ]
    return rlp.sequence((*items, rlp.EMPTY))


def _reference(node: bytes) -> bytes:
    """How a parent names a node: by its hash, or by itself where that is shorter."""
    return node if len(node) < 32 else b"\xa0" + _keccak(node).digest()
