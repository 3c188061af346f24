"""A chain as long as a measurement needs, made from eight real blocks. Synthetic, and called so.

There are only eight contiguous real blocks with every transaction type. `replay` repeats their
bodies over rising heights: each copy's transactions get other nonces, so that their hashes differ,
and every hash and root is computed again (with the `rlp` library, not with the code under test):
parent links, transaction hashes, transactionsRoot, header hash. Calldata, addresses, values, gas
and sizes stay those of the real blocks. Signatures stay as they were and so sign nothing beyond the
first copy, which is the real blocks; senders are recovered from those alone.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import rlp
import sha3

CACHE = Path(__file__).parent / ".cache"
FIRST_BLOCK = 22431080
BLOCKS_PER_COPY = 8
SECONDS_PER_BLOCK = 12
_NONCE_STEP = 1 << 20

_HEADER = (
    *("parentHash", "sha3Uncles", "miner", "stateRoot", "transactionsRoot", "receiptsRoot"),
    *("logsBloom", "difficulty#", "number#", "gasLimit#", "gasUsed#", "timestamp#"),
    *("extraData", "mixHash", "nonce", "baseFeePerGas#", "withdrawalsRoot", "blobGasUsed#"),
    *("excessBlobGas#", "parentBeaconBlockRoot", "requestsHash"),
)
_SIGNATURE = ("r#", "s#")
_DYNAMIC = ("gas#", "to", "value#", "input", "accessList")
_FEES = ("chainId#", "nonce#", "maxPriorityFeePerGas#", "maxFeePerGas#")
# What each type signs and in which order; `#` marks a quantity.
_LAYOUT: dict[int, tuple[str, ...]] = {
    0: ("nonce#", "gasPrice#", "gas#", "to", "value#", "input", "v#", *_SIGNATURE),
    1: ("chainId#", "nonce#", "gasPrice#", *_DYNAMIC, "v#", *_SIGNATURE),
    2: (*_FEES, *_DYNAMIC, "v#", *_SIGNATURE),
    3: (*_FEES, *_DYNAMIC, "maxFeePerBlobGas#", "blobVersionedHashes", "v#", *_SIGNATURE),
    4: (*_FEES, *_DYNAMIC, "authorizationList", "v#", *_SIGNATURE),
}


def data_folder() -> Path:
    """The real blocks beside the repository; `BENCH_DATA` names another place."""
    named = os.environ.get("BENCH_DATA")
    candidates = [Path(named)] if named else _beside_repository()
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise SystemExit(f"no real blocks at {candidates[0]}; set BENCH_DATA")


def _beside_repository() -> list[Path]:
    root = Path(__file__).resolve().parents[1]
    pointer = root / ".git"
    if pointer.is_file():  # a linked worktree: the data lies beside the main checkout
        git_folder = pointer.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
        root = Path(git_folder).parents[2]
    return [root.parent / "shared" / "data" / "chain" / "mainnet-contiguous"]


def replay(copies: int) -> list[Path]:
    """The files of `copies` x 8 contiguous blocks, one block a file, made once and kept."""
    folder = CACHE / "replay"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [folder / f"{FIRST_BLOCK + number}.json" for number in range(copies * BLOCKS_PER_COPY)]
    if not all(path.exists() for path in wanted):
        for path, block in zip(wanted, replayed_blocks(copies), strict=True):
            unfinished = path.with_suffix(".unfinished")
            unfinished.write_bytes(msgspec.json.encode(block))
            unfinished.rename(path)
    return wanted


def real_blocks() -> list[dict[str, Any]]:
    """The eight real blocks in order."""
    paths = sorted(data_folder().glob("*.json"))[:BLOCKS_PER_COPY]
    return [msgspec.json.decode(path.read_bytes()) for path in paths]


def replayed_blocks(copies: int) -> Iterator[dict[str, Any]]:
    """The blocks of the synthetic chain in order; the first eight are the real ones."""
    originals = real_blocks()
    parent = originals[0]["parentHash"]
    for copy in range(copies):
        for original in originals:
            block = _rebuilt(original, copy, parent) if copy else original
            parent = block["hash"]
            yield block


def _rebuilt(original: dict[str, Any], copy: int, parent: str) -> dict[str, Any]:
    number = int(original["number"], 16) + copy * BLOCKS_PER_COPY
    seconds = int(original["timestamp"], 16) + copy * BLOCKS_PER_COPY * SECONDS_PER_BLOCK
    payloads: list[bytes] = []
    transactions: list[dict[str, Any]] = []
    for transaction in original["transactions"]:
        nonce = hex(int(transaction["nonce"], 16) + copy * _NONCE_STEP)
        changed = {**transaction, "nonce": nonce, "blockNumber": hex(number)}
        payloads.append(payload := transaction_payload(changed))
        transactions.append({**changed, "hash": _text(_keccak(payload))})
    block = {**original, "parentHash": parent, "number": hex(number), "timestamp": hex(seconds)}
    block["transactionsRoot"] = _text(trie_root(payloads))
    block["hash"] = _text(_keccak(header_payload(block)))
    block["transactions"] = [{**row, "blockHash": block["hash"]} for row in transactions]
    return block


def transaction_payload(transaction: dict[str, Any]) -> bytes:
    """The bytes whose keccak is the transaction's hash."""
    kind = int(transaction.get("type", "0x0"), 16)
    body = rlp.encode(_fields(transaction, _LAYOUT[kind]))
    return body if kind == 0 else bytes([kind]) + body


def header_payload(block: dict[str, Any]) -> bytes:
    """The bytes whose keccak is the block's hash; fields of later forks only where given."""
    present = tuple(name for name in _HEADER if name.rstrip("#") in block)
    return rlp.encode(_fields(block, present))


def _fields(source: dict[str, Any], names: tuple[str, ...]) -> list[Any]:
    return [_field(name, source.get(name.rstrip("#"))) for name in names]


def _field(name: str, value: Any) -> Any:
    if name == "accessList":
        return [[_bytes(e["address"]), [_bytes(k) for k in e["storageKeys"]]] for e in value or ()]
    if name == "authorizationList":
        order = ("chainId#", "address", "nonce#", "yParity#", *_SIGNATURE)
        return [_fields(entry, order) for entry in value]
    if name == "blobVersionedHashes":
        return [_bytes(entry) for entry in value]
    return _quantity(value) if name.endswith("#") else _bytes(value)


def _bytes(text: str | None) -> bytes:
    return bytes.fromhex(text[2:]) if text else b""


def _quantity(text: str | None) -> bytes:
    number = int(text or "0x0", 16)
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _keccak(data: bytes) -> bytes:
    return sha3.keccak_256(data).digest()


def _text(digest: bytes) -> str:
    return "0x" + digest.hex()


def trie_root(payloads: list[bytes]) -> bytes:
    """The Merkle Patricia root of an ordered list, by the book: build, then hash upwards."""
    entries = [(_nibbles(_index_key(number)), data) for number, data in enumerate(payloads)]
    return _keccak(rlp.encode(_node(sorted(entries), 0)))


@functools.cache
def _index_key(number: int) -> bytes:
    return rlp.encode(number)


def _nibbles(key: bytes) -> tuple[int, ...]:
    return tuple(half for byte in key for half in (byte >> 4, byte & 15))


def _node(entries: list[tuple[tuple[int, ...], bytes]], depth: int) -> Any:
    if not entries:
        return b""
    first, last = entries[0][0], entries[-1][0]
    if len(entries) == 1:
        return [_compact(first[depth:], leaf=True), entries[0][1]]
    shared = depth
    while first[shared] == last[shared]:
        shared += 1
    if shared > depth:
        return [_compact(first[depth:shared], leaf=False), _reference(_node(entries, shared))]
    children = [[e for e in entries if e[0][depth] == nibble] for nibble in range(16)]
    return [*(_reference(_node(child, depth + 1)) for child in children), b""]


def _reference(node: Any) -> Any:
    if node == b"":
        return b""
    encoded = rlp.encode(node)
    return node if len(encoded) < 32 else _keccak(encoded)


def _compact(path: tuple[int, ...], *, leaf: bool) -> bytes:
    odd = len(path) % 2
    flag = (2 if leaf else 0) + odd
    nibbles = (flag, *path) if odd else (flag, 0, *path)
    return bytes(a << 4 | b for a, b in zip(nibbles[::2], nibbles[1::2], strict=True))
