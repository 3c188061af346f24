"""Blocks from files and folders: any set of blocks, in any order, with or without receipts.

Values are told apart by content, not by name: a block object, a receipt, a list of either, or
JSON-RPC answers holding them. Receipts may stand anywhere in the set, so the files are read twice:
first their receipts are put into a temporary database on disk, then the blocks are decoded one by
one, each with its receipts. Memory does not grow with the input.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from neolayer.chain import evm
from neolayer.chain.model import BlockRows, Network
from neolayer.chain.sources.documents import (
    Document,
    find_files,
    holds,
    read_documents,
    total_bytes,
)
from neolayer.chain.wire import Block, RpcError, block_decoder
from neolayer.errors import BadBlock

__all__ = ["read_blocks", "total_bytes"]

Json = bytes | msgspec.Raw
_values_decoder = msgspec.json.Decoder(list[msgspec.Raw])


class _Shape(msgspec.Struct, frozen=True):
    """Just enough of a JSON object to tell what it is."""

    hash: str | None = None
    transactions: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    tx: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    executions: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    cumulativeGasUsed: str | msgspec.UnsetType = msgspec.UNSET
    blockHash: str | None = None
    transactionIndex: str | int | None = None
    txid: str | None = None
    jsonrpc: str | None = None
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: RpcError | msgspec.UnsetType | None = msgspec.UNSET

    @property
    def is_block(self) -> bool:
        return self.transactions is not msgspec.UNSET or self.tx is not msgspec.UNSET

    @property
    def is_receipt(self) -> bool:
        return self.cumulativeGasUsed is not msgspec.UNSET


_shape_decoder = msgspec.json.Decoder(_Shape)


def read_blocks(
    paths: Sequence[Path],
    *,
    network: Network,
    verify: bool,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[BlockRows | BadBlock]:
    """Every block of the files, in the order of the files.

    What is no block, a bad one, or the rest of a file that cannot be read, comes as a BadBlock in
    its place and the reading goes on; the caller decides what that means. Raises SourceError where
    a path is absent.
    """
    files = find_files(paths)
    with closing(_Receipts()) as receipts:
        for path in files:
            receipts.collect(path)
        for path in files:
            try:
                for document in read_documents(path, on_bytes=on_bytes):
                    yield from _blocks(document, receipts, network=network, verify=verify)
            except BadBlock as bad:
                yield bad


def _blocks(
    document: Document, receipts: _Receipts, *, network: Network, verify: bool
) -> Iterator[BlockRows | BadBlock]:
    block = _plain_block(document.content)
    if block is not None:
        yield _decode(block, block.hash, receipts, document.origin, network, verify)
        return
    for item in _unpack(document.content, document.origin):
        if isinstance(item, BadBlock):
            yield item
        elif item.shape.is_block:
            named = item.shape.hash
            yield _decode(item.value, named, receipts, document.origin, network, verify)


def _plain_block(content: bytes) -> Block | None:
    """The block, where the value is one and nothing else: most are, and this reads them once."""
    try:
        return block_decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _decode(
    block: Json | Block,
    block_hash: str | None,
    receipts: _Receipts,
    origin: str,
    network: Network,
    verify: bool,
) -> BlockRows | BadBlock:
    try:
        found = receipts.of(block_hash)
        return evm.decode_block(
            block, network=network, receipts=found, verify=verify, origin=origin
        )
    except BadBlock as bad:
        return bad


@dataclass(frozen=True, slots=True)
class _Item:
    """A block or a receipt, as JSON."""

    value: Json
    shape: _Shape


def _unpack(value: Json, origin: str) -> Iterator[_Item | BadBlock]:
    """The blocks and receipts in a value, out of lists and JSON-RPC answers."""
    try:
        if bytes(memoryview(value)[:64]).lstrip()[:1] == b"[":
            for item in _values_decoder.decode(value):
                yield from _unpack(item, origin)
        else:
            yield from _answer(_shape_decoder.decode(value), value, origin)
    except msgspec.ValidationError as exc:
        yield BadBlock(f"neither a block nor a receipt: {exc}", origin=origin)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        yield BadBlock(f"not JSON, or cut short: {exc}", origin=origin)


def _answer(shape: _Shape, value: Json, origin: str) -> Iterator[_Item | BadBlock]:
    if isinstance(shape.error, RpcError):
        said = f"{shape.error.message} ({shape.error.code})"
        yield BadBlock(f"the node answered with an error: {said}", origin=origin)
    elif isinstance(shape.result, msgspec.Raw):
        if bytes(shape.result) == b"null":
            yield BadBlock("the node had no such block (its answer is null)", origin=origin)
        else:
            yield from _unpack(shape.result, origin)
    elif shape.is_block or shape.is_receipt:
        yield _Item(value, shape)
    else:
        yield BadBlock("neither a block nor a receipt", origin=origin)


class _Receipts:
    """Receipts by block, in a private database that SQLite keeps on disk and drops when closed."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("")
        self._database.execute(
            "CREATE TABLE receipts (block_hash TEXT, place INTEGER, content BLOB,"
            " PRIMARY KEY (block_hash, place)) WITHOUT ROWID"
        )
        self._empty = True

    def collect(self, path: Path) -> None:
        """Remember the receipts of a file; whatever else is in it is left to the second reading."""
        with suppress(BadBlock):  # the second reading names it
            if not holds(path, b'"cumulativeGasUsed"'):
                return
            self._empty = False
            for document in read_documents(path):
                self._database.executemany(
                    "INSERT OR REPLACE INTO receipts VALUES (?, ?, ?)", self._rows(document)
                )

    @staticmethod
    def _rows(document: Document) -> Iterator[tuple[str, int, bytes]]:
        for item in _unpack(document.content, document.origin):
            if isinstance(item, BadBlock) or not item.shape.is_receipt:
                continue
            if item.shape.blockHash is not None:
                place = item.shape.transactionIndex or 0
                index = int(place, 16) if isinstance(place, str) else place
                yield item.shape.blockHash.lower(), index, bytes(item.value)

    def of(self, block_hash: str | None) -> bytes | None:
        """The JSON list of a block's receipts in their order, or None where there are none."""
        if self._empty or block_hash is None:
            return None
        rows = self._database.execute(
            "SELECT content FROM receipts WHERE block_hash = ? ORDER BY place",
            (block_hash.lower(),),
        ).fetchall()
        return b"[" + b",".join(content for (content,) in rows) + b"]" if rows else None

    def close(self) -> None:
        self._database.close()
