"""Blocks from files and folders: any set of blocks, in any order, with or without receipts.

Values are told apart by content, not by name: a block object, a receipt, a list of either, or
JSON-RPC answers holding them. On Neo N3 the application log of a transaction is its receipt.
Receipts may stand anywhere in the set, so the files are read twice: first their receipts are put
into a temporary database on disk, then the blocks are decoded one by one, each with its receipts.
Memory does not grow with the input.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from neolayer.chain import evm, neo, neo_wire
from neolayer.chain.hexadecimal import INT64_MAX, quantity
from neolayer.chain.model import BlockRows, Network
from neolayer.chain.senders import require_recovery
from neolayer.chain.sources.documents import (
    Document,
    find_files,
    holds,
    read_documents,
    total_bytes,
)
from neolayer.chain.wire import Block, RpcError, block_decoder
from neolayer.errors import BadBlock, SourceError

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

    @property
    def place(self) -> int:
        """The receipt's index in its block; -1 for one that is malformed, which its block shows."""
        index = self.transactionIndex or 0
        try:
            number = index if isinstance(index, int) else quantity(index)
        except ValueError:
            return -1
        return number if 0 <= number <= INT64_MAX else -1

    @property
    def is_application_log(self) -> bool:
        return self.executions is not msgspec.UNSET


_shape_decoder = msgspec.json.Decoder(_Shape)


def read_blocks(
    paths: Sequence[Path],
    *,
    network: Network,
    verify: bool,
    senders: bool = False,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[BlockRows | BadBlock]:
    """Every block of the files, in the order of the files.

    What is no block, a bad one, or the rest of a file that cannot be read, comes as a BadBlock in
    its place and the reading goes on; the caller decides what that means. `senders` verifies too,
    and recovers every sender from its signature. Raises SourceError where a path is absent, and
    ChainError where senders cannot be recovered.
    """
    if senders:
        require_recovery(network)
    terms = _Terms(network, verify, senders)
    files = find_files(paths)
    with closing(_Receipts()) as receipts:
        for path in files:
            receipts.collect(path, words=_OUTCOMES[network.kind])
        for path in files:
            try:
                for document in read_documents(path, on_bytes=on_bytes):
                    yield from _blocks(document, receipts, terms)
            except BadBlock as bad:
                yield bad


# The words without which a file holds no receipts, by kind of network.
_OUTCOMES = {"evm": b'"cumulativeGasUsed"', "neo-n3": b'"executions"'}


@dataclass(frozen=True, slots=True)
class _Terms:
    """What every block is decoded under."""

    network: Network
    verify: bool
    senders: bool


def _blocks(
    document: Document, receipts: _Receipts, terms: _Terms
) -> Iterator[BlockRows | BadBlock]:
    decode = _decode_neo if terms.network.kind == "neo-n3" else _decode_evm
    block = _plain_block(document.content)
    if block is not None:
        yield decode(block, receipts, document.origin, terms)
        return
    for item in _unpack(document.content, document.origin):
        if isinstance(item, BadBlock):
            yield item
        elif item.shape.is_block:
            yield decode(item.value, receipts, document.origin, terms)


def _plain_block(content: bytes) -> Block | None:
    """The block, where the value is an EVM one and nothing else: most are, and are read once."""
    try:
        return block_decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _decode_evm(
    block: Json | Block, receipts: _Receipts, origin: str, terms: _Terms
) -> BlockRows | BadBlock:
    try:
        parsed = block if isinstance(block, Block) else evm.read_block(block, origin)
        found = receipts.of_block(parsed.hash)
        return evm.decode_block(
            parsed,
            network=terms.network,
            receipts=found,
            verify=terms.verify,
            senders=terms.senders,
            origin=origin,
        )
    except BadBlock as bad:
        return bad


def _decode_neo(
    block: Json | Block, receipts: _Receipts, origin: str, terms: _Terms
) -> BlockRows | BadBlock:
    try:
        if isinstance(block, Block):
            raise BadBlock("an EVM block, but the network is Neo N3", origin=origin)
        parsed = neo_wire.read_block(block, origin)
        logs = receipts.of_transactions([item.hash for item in parsed.tx])
        return neo.decode_block(
            block,
            network=terms.network,
            application_logs=logs,
            verify=terms.verify,
            origin=origin,
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
    except RecursionError:
        yield BadBlock("nested too deeply to be a block", origin=origin)


def _answer(shape: _Shape, value: Json, origin: str) -> Iterator[_Item | BadBlock]:
    if isinstance(shape.error, RpcError):
        said = f"{shape.error.message} ({shape.error.code})"
        yield BadBlock(f"the node answered with an error: {said}", origin=origin)
    elif isinstance(shape.result, msgspec.Raw):
        if bytes(shape.result) == b"null":
            yield BadBlock("the node had no such block (its answer is null)", origin=origin)
        else:
            yield from _unpack(shape.result, origin)
    elif shape.is_block or shape.is_receipt or shape.is_application_log:
        yield _Item(value, shape)
    else:
        yield BadBlock("neither a block nor a receipt", origin=origin)


class _Receipts:
    """Receipts by block, in a private database that SQLite keeps on disk and drops when closed.

    An application log names no block, so it is kept by its transaction.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("")
        self._database.execute(
            "CREATE TABLE receipts (owner TEXT, place INTEGER, content BLOB,"
            " PRIMARY KEY (owner, place)) WITHOUT ROWID"
        )
        self._empty = True

    def collect(self, path: Path, *, words: bytes) -> None:
        """Remember the receipts of a file; whatever else is in it is left to the second reading."""
        with suppress(BadBlock):  # the second reading names it
            if not holds(path, words):
                return
            self._empty = False
            for document in read_documents(path):
                self._store(document)

    def _store(self, document: Document) -> None:
        insert = "INSERT OR REPLACE INTO receipts VALUES (?, ?, ?)"
        try:
            self._database.executemany(insert, self._rows(document))
        except sqlite3.Error as exc:
            raise SourceError(f"receipts cannot be set aside in a temporary file: {exc}") from exc

    @staticmethod
    def _rows(document: Document) -> Iterator[tuple[str, int, bytes]]:
        for item in _unpack(document.content, document.origin):
            if isinstance(item, BadBlock):
                continue
            shape = item.shape
            if shape.is_receipt and shape.blockHash is not None:
                yield shape.blockHash.lower(), shape.place, bytes(item.value)
            elif shape.is_application_log and shape.txid is not None:
                yield shape.txid.lower(), 0, bytes(item.value)

    def of_block(self, block_hash: str) -> bytes | None:
        """The JSON list of a block's receipts in their order, or None where there are none."""
        found = self._of(block_hash)
        return b"[" + b",".join(found) + b"]" if found else None

    def of_transactions(self, hashes: Sequence[str]) -> list[Json] | None:
        """The application logs of some transactions, or None where there are none at all."""
        return [log for each in hashes for log in self._of(each)] or None

    def _of(self, owner: str) -> list[bytes]:
        if self._empty:
            return []
        rows = self._database.execute(
            "SELECT content FROM receipts WHERE owner = ? ORDER BY place", (owner.lower(),)
        )
        return [content for (content,) in rows]

    def close(self) -> None:
        self._database.close()
