"""Transactions that wait: seen before they are mined, and what becomes of them.

Every transaction reaches an end. Most are mined (the commit of their block settles that). One whose
sender and nonce another transaction used is replaced (the same commit sees it). One the node has
neither in its pool nor in a block for a while is dropped; should it come back, it waits again.
Which transactions were seen lately is kept in memory, because a pool is seen every second.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from neolayer.chain.decoding import Decoder
from neolayer.chain.hexadecimal import (
    address,
    canonical_data,
    canonical_word,
    hash32,
    quantity,
    quantity64,
    transaction_type,
)
from neolayer.chain.model import TRANSACTION_COLUMNS, Row
from neolayer.chain.sources.jsonrpc import METHOD_NOT_FOUND, Answer, Call, JsonRpc, Refusal
from neolayer.chain.store import BlockStore
from neolayer.chain.wire import Transaction

DROP_AFTER = timedelta(minutes=30)
POOL_LIMIT = 20_000
CANDIDATES = 500

_COLUMNS = [name for name, _ in TRANSACTION_COLUMNS]


class _PoolContent(msgspec.Struct):
    """{sender: {nonce: transaction}}, mined next and not."""

    pending: dict[str, dict[str, msgspec.Raw]] | None = None
    queued: dict[str, dict[str, msgspec.Raw]] | None = None


class _NextBlock(msgspec.Struct):
    transactions: list[msgspec.Raw] | None = None


_pool_content = Decoder(_PoolContent).decode
_next_block = Decoder(_NextBlock).decode
_transaction = Decoder(Transaction).decode


class Pool:
    """A node's waiting transactions, kept in step with what is stored as pending."""

    def __init__(self, rpc: JsonRpc, *, drop_after: timedelta = DROP_AFTER) -> None:
        self._rpc = rpc
        self._drop_after_s = drop_after.total_seconds()
        self._seen: dict[str, float] = {}
        self._recorded: set[str] = set()
        self._ways = ["txpool_content", "eth_getBlockByNumber"]

    async def refresh(self, store: BlockStore) -> None:
        """Store what waits and is new; mark as dropped what the node has forgotten for too long."""
        waiting = {entry.hash: entry for entry in (await self._waiting())[:POOL_LIMIT]}
        now = time.monotonic()
        self._seen |= dict.fromkeys(waiting, now)
        if new := [entry for key, entry in waiting.items() if key not in self._recorded]:
            await store.record_pending(list(pending_rows(new, seen_at=datetime.now(UTC))))
        self._recorded = set(waiting)
        await self._drop(store, now)

    async def _waiting(self) -> list[Transaction]:
        """The node's pool, or what its next block would hold, or nothing: as it offers.

        One whose answer cannot be read is not asked in that way again: blocks do without."""
        while self._ways:
            way = self._ways[0]
            params = () if way == "txpool_content" else ("pending", True)
            (answer,) = await self._rpc.ask_many([Call(way, params)])
            if isinstance(answer, bytes):
                with suppress(msgspec.DecodeError):
                    return list(_transactions(answer, whole_pool=way == "txpool_content"))
            elif answer is None or _is_refused_otherwise(answer):
                return []
            self._ways.pop(0)
        return []

    async def _drop(self, store: BlockStore, now: float) -> None:
        pending = await store.pending(limit=CANDIDATES)
        fresh = {key: self._seen.setdefault(key, now) for key in pending}
        self._seen = fresh
        overdue = [key for key, seen in fresh.items() if now - seen >= self._drop_after_s]
        if not overdue:
            return
        calls = [Call("eth_getTransactionByHash", (key,)) for key in overdue]
        answers = dict(zip(overdue, await self._rpc.ask_many(calls), strict=True))
        self._seen |= {key: now for key, answer in answers.items() if answer is not None}
        if forgotten := [key for key, answer in answers.items() if answer is None]:
            await store.drop_pending(forgotten)


def _is_refused_otherwise(answer: Answer) -> bool:
    """Whether the node knows the method, but refuses this time."""
    return isinstance(answer, Refusal) and answer.code != METHOD_NOT_FOUND


def pending_rows(entries: Iterable[Transaction], *, seen_at: datetime) -> Iterator[Row]:
    """Waiting transactions in the order of TRANSACTION_COLUMNS; malformed ones are left out."""
    for entry in entries:
        with suppress(ValueError):
            values = _values(entry) | {"status": "pending", "block_timestamp": seen_at}
            yield tuple(values.get(column) for column in _COLUMNS)


def _values(entry: Transaction) -> dict[str, Any]:
    return {
        "transaction_hash": hash32(entry.hash),
        "from_address": address(entry.sender),
        "to_address": None if entry.to is None else address(entry.to),
        "value": quantity(entry.value),
        "gas_price": _number(entry.gasPrice),
        "gas_limit": quantity64(entry.gas),
        "nonce": quantity64(entry.nonce),
        "input_data": canonical_data(entry.input),
        "transaction_type": transaction_type(entry.kind),
        "max_fee_per_gas": _number(entry.maxFeePerGas),
        "max_priority_fee_per_gas": _number(entry.maxPriorityFeePerGas),
        "max_fee_per_blob_gas": _number(entry.maxFeePerBlobGas),
        "signature_v": _number(entry.v),
        "signature_r": None if entry.r is None else canonical_word(entry.r),
        "signature_s": None if entry.s is None else canonical_word(entry.s),
    }


def _number(text: str | None) -> int | None:
    return None if text is None else quantity(text)


def _transactions(answer: bytes, *, whole_pool: bool) -> Iterator[Transaction]:
    """The waiting transactions in a node's pool or next block; unreadable ones are left out."""
    if whole_pool:
        pool = _pool_content(answer)
        senders = [*(pool.pending or {}).values(), *(pool.queued or {}).values()]
        entries = [entry for by_nonce in senders for entry in by_nonce.values()]
    else:
        entries = _next_block(answer).transactions or []
    for entry in entries:
        with suppress(msgspec.DecodeError):
            yield _transaction(entry)
