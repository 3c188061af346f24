"""The transactions of an EVM block as rows.

A row holds the fields that its type signs (EIP-155, 2930, 1559, 4844, 7702) and what the receipt
adds. Nodes write more than that: a `maxFeePerGas` beside a legacy price, an empty `accessList` on
every type. What does not belong to the type is not looked at: no hash covers it. Whatever is
stored is in one spelling, so that a row follows from what the hash covers and not from who wrote
it. The one field beyond is `gasPrice` of a type with a fee cap: what was paid, as the node says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import repeat
from typing import Any

from neolayer.chain import payloads
from neolayer.chain.hexadecimal import (
    address,
    canonical_data,
    canonical_quantity,
    canonical_word,
    hash32,
    optional_quantity,
    quantity,
    quantity64,
    respelled_word,
    transaction_type,
)
from neolayer.chain.model import Row
from neolayer.chain.wire import Authorization, Block, Receipt, Transaction

_LEGACY, _ACCESS_LISTED, _BLOBS, _SET_CODE = 0, 1, 3, 4
_CONFIRMED, _FAILED = "confirmed", "failed"
# What a receipt adds to a transaction: status, gas_used, effective_gas_price, cumulative_gas_used,
# contract_address.
_Outcome = tuple[str, int | None, int | None, int | None, str | None]
_UNKNOWN: _Outcome = (_CONFIRMED, None, None, None, None)


def transaction_rows(
    block: Block,
    receipts: Sequence[Receipt] | None,
    number: int,
    time: datetime,
    *,
    verified: bool,
) -> list[Row]:
    """The values of TRANSACTION_COLUMNS. Raises ValueError that names the transaction."""
    # What hashed to the right value was read as hex already: only its spelling is open.
    to_hash, to_data = (str.lower, str.lower) if verified else (hash32, canonical_data)
    to_word = respelled_word if verified else canonical_word
    outcomes = repeat(_UNKNOWN) if receipts is None else map(_outcome, block.transactions, receipts)
    rows: list[Row] = []
    for index, (item, outcome) in enumerate(zip(block.transactions, outcomes, strict=False)):
        status, gas_used, effective_price, cumulative, contract = outcome
        try:
            kind = transaction_type(item.kind)
            capped = kind > _ACCESS_LISTED
            row = (
                to_hash(item.hash),
                address(item.sender),
                None if item.to is None else address(item.to),
                quantity(item.value),
                optional_quantity(item.gasPrice),
                quantity64(item.gas),
                gas_used,
                quantity64(item.nonce),
                to_data(item.input),
                status,
                number,
                time,
                index,
                kind,
                optional_quantity(item.maxFeePerGas) if capped else None,
                optional_quantity(item.maxPriorityFeePerGas) if capped else None,
                optional_quantity(item.maxFeePerBlobGas) if _has(kind, _BLOBS) else None,
                effective_price,
                cumulative,
                contract,
                optional_quantity(_signed_v(item, kind)),
                None if item.r is None else to_word(item.r),
                None if item.s is None else to_word(item.s),
                _envelope(item, kind, to_hash) if kind else None,
            )
        except ValueError as exc:
            raise ValueError(f"transaction {index}: {exc}") from None
        rows.append(row)
    return rows


def _has(kind: int, owner: int) -> bool:
    """Whether a type has the fields of `owner`. Of types that we do not know, which are taken on
    trust only, any field may be."""
    return kind == owner or kind > _SET_CODE


def _outcome(item: Transaction, receipt: Receipt) -> _Outcome:
    return (
        _FAILED if has_failed(receipt) else _CONFIRMED,
        quantity64(receipt.gasUsed),
        optional_quantity(receipt.effectiveGasPrice),
        quantity64(receipt.cumulativeGasUsed),
        created_at(item) if item.to is None else None,
    )


def has_failed(receipt: Receipt) -> bool:
    """Whether the receipt says so; before Byzantium none does."""
    return receipt.status is not None and quantity(receipt.status) == 0


def created_at(item: Transaction) -> str:
    """The address of the contract that a creation makes, or would have made had it not failed.

    Computed, because nodes differ in which of them they name.
    """
    return payloads.contract_address(item.sender, quantity64(item.nonce))


def _signed_v(item: Transaction, kind: int) -> str | None:
    """What stands in the signature, as `payloads.py` takes it: v, or a typed one's parity."""
    return item.v if item.yParity is None or kind == _LEGACY else item.yParity


def _envelope(item: Transaction, kind: int, to_hash: Callable[[str], str]) -> dict[str, Any] | None:
    """What a typed transaction signs beyond the columns; None where there is nothing.

    The chain id is the network's, the parity of the signature is signature_v.
    """
    fields: dict[str, Any] = {}
    if item.accessList:
        fields["accessList"] = [
            {"address": address(each.address), "storageKeys": [*map(to_hash, each.storageKeys)]}
            for each in item.accessList
        ]
    if item.blobVersionedHashes and _has(kind, _BLOBS):
        fields["blobVersionedHashes"] = [*map(to_hash, item.blobVersionedHashes)]
    if item.authorizationList and _has(kind, _SET_CODE):
        fields["authorizationList"] = [*map(_authorization, item.authorizationList)]
    return fields or None


def _authorization(entry: Authorization) -> dict[str, str]:
    return {
        "chainId": canonical_quantity(entry.chainId),
        "address": address(entry.address),
        "nonce": canonical_quantity(entry.nonce),
        "yParity": canonical_quantity(entry.v if entry.y_parity is None else entry.y_parity),
        "r": canonical_word(entry.r),
        "s": canonical_word(entry.s),
    }
