"""Blocks from files and folders: any set of blocks, in any order, with or without receipts.

Values are told apart by content, not by name: a block object, a receipt, a list of either, or
JSON-RPC answers holding them. On Neo N3 the application log of a transaction is its receipt.
Receipts may stand anywhere in the set, so the files are read twice: first their receipts are set
aside on disk (`receipts.py`), then the blocks are decoded one by one, each with its receipts.
Memory does not grow with the input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from neolayer.chain import evm, neo, neo_wire
from neolayer.chain.decoding import Decoder, TooDeep
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
from neolayer.chain.sources.receipts import Found, Kept, Receipts, listed
from neolayer.chain.wire import Block, RpcError, block_decoder
from neolayer.errors import BadBlock

__all__ = ["read_blocks", "total_bytes"]

Json = bytes | msgspec.Raw
_values_decoder = Decoder(list[msgspec.Raw])


class _Shape(msgspec.Struct, frozen=True):
    """Just enough of a JSON object to tell what it is."""

    hash: str | None = None
    transactions: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    tx: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    executions: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    cumulativeGasUsed: str | msgspec.UnsetType = msgspec.UNSET
    blockHash: str | None = None
    transactionHash: str | None = None
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


_shape_decoder = Decoder(_Shape)


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
    with closing(Receipts()) as receipts:
        for path in files:
            _set_aside(path, receipts, words=_OUTCOMES[network.kind])
        for path in files:
            try:
                for document in read_documents(path, on_bytes=on_bytes):
                    yield from _blocks(document, receipts, terms)
            except BadBlock as bad:
                yield bad
        if network.kind == "evm":
            yield from receipts.strays()


# The words without which a file holds no receipts, by kind of network.
_OUTCOMES = {"evm": b'"cumulativeGasUsed"', "neo-n3": b'"executions"'}


def _set_aside(path: Path, receipts: Receipts, *, words: bytes) -> None:
    """Keep the receipts of a file; whatever else is in it is left to the second reading."""
    with suppress(BadBlock):  # the second reading names it
        if holds(path, words):
            for document in read_documents(path):
                receipts.add(_receipts_in(document))


def _receipts_in(document: Document) -> Iterator[Kept]:
    origin = document.origin
    for item in _unpack(document.content, origin):
        if isinstance(item, BadBlock):
            continue
        shape, content = item.shape, bytes(item.value)
        if shape.is_receipt and shape.blockHash is not None:
            subject = (shape.transactionHash or "").lower()
            yield Kept(shape.blockHash.lower(), shape.place, subject, content, origin)
        elif shape.is_application_log and shape.txid is not None:
            yield Kept(shape.txid.lower(), 0, "", content, origin)


@dataclass(frozen=True, slots=True)
class _Terms:
    """What every block is decoded under."""

    network: Network
    verify: bool
    senders: bool


def _blocks(
    document: Document, receipts: Receipts, terms: _Terms
) -> Iterator[BlockRows | BadBlock]:
    decode = _decode_neo if terms.network.kind == "neo-n3" else _decode_evm
    block = _plain_block(document.content)
    if block is not None:
        yield from decode(block, receipts, document.origin, terms)
        return
    for item in _unpack(document.content, document.origin):
        if isinstance(item, BadBlock):
            yield item
        elif item.shape.is_block:
            yield from decode(item.value, receipts, document.origin, terms)


def _plain_block(content: bytes) -> Block | None:
    """The block, where the value is an EVM one and nothing else: most are, and are read once."""
    try:
        return block_decoder.decode(content)
    except msgspec.DecodeError:
        return None


def _decode_evm(
    block: Json | Block, receipts: Receipts, origin: str, terms: _Terms
) -> Iterator[BlockRows | BadBlock]:
    try:
        parsed = block if isinstance(block, Block) else evm.read_block(block, origin)
    except BadBlock as bad:
        yield bad
        return
    found = receipts.of_block(parsed, evm.name_of(parsed))
    yield from found.refused
    yield from _with_receipts(parsed, found, origin, terms)


def _with_receipts(
    block: Block, found: Found, origin: str, terms: _Terms
) -> Iterator[BlockRows | BadBlock]:
    """The block with the receipts that fit it, and those that say otherwise of it, refused. Where
    none fit, the refusal names the file that is wrong: the receipts', if the block is right."""
    choices = list(found.choices())
    if not choices:
        yield _decoded(block, None, origin, terms)
        return
    first: BadBlock | None = None
    for chosen in choices:
        rows = _decoded(block, chosen, origin, terms)
        if isinstance(rows, BlockRows):
            yield rows
            yield from found.contradicting(chosen, rows.number)
            return
        first = first or rows
    assert first is not None
    source = choices[0][0].source
    is_elsewhere = not origin.startswith(source) and {each.source for each in choices[0]} == {
        source
    }
    if is_elsewhere and isinstance(_decoded(block, None, origin, terms), BlockRows):
        first = BadBlock(first.reason, origin=source, block=first.block)
    yield first


def _decoded(
    block: Block, chosen: Sequence[Kept] | None, origin: str, terms: _Terms
) -> BlockRows | BadBlock:
    try:
        return evm.decode_block(
            block,
            network=terms.network,
            receipts=None if chosen is None else listed(chosen),
            verify=terms.verify,
            senders=terms.senders,
            origin=origin,
        )
    except BadBlock as bad:
        return bad


def _decode_neo(
    block: Json | Block, receipts: Receipts, origin: str, terms: _Terms
) -> Iterator[BlockRows | BadBlock]:
    try:
        if isinstance(block, Block):
            raise BadBlock("an EVM block, but the network is Neo N3", origin=origin)
        parsed = neo_wire.read_block(block, origin)
        found = receipts.of_transactions([item.hash for item in parsed.tx])
        yield from found.refused
        logs = [each.content for several in found.told for each in several]
        yield neo.decode_block(
            block,
            network=terms.network,
            application_logs=logs or None,
            verify=terms.verify,
            origin=origin,
        )
    except BadBlock as bad:
        yield bad


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
    except TooDeep as exc:
        yield BadBlock(str(exc), origin=origin)
    except msgspec.ValidationError as exc:
        yield BadBlock(f"neither a block nor a receipt: {exc}", origin=origin)
    except msgspec.DecodeError as exc:
        yield BadBlock(f"not JSON, or cut short: {exc}", origin=origin)
    except RecursionError:
        yield BadBlock("nested too deeply to be read", origin=origin)


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
