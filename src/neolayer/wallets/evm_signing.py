"""Signing on EVM networks: what a transaction must look like, and the signature.

A transaction is a JSON-RPC transaction object (`to`, `value`, `gas`, `nonce`, ...). Everything is
checked before a key is opened: nothing is guessed or filled in but the chain id, and a transaction
for another chain is refused, because its signature would be good there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from neolayer.errors import InvalidInput
from neolayer.wallets.addresses import EVM, canonical
from neolayer.wallets.model import Network, Signed, SignedMessage, TransactionRefused, extra_missing
from neolayer.wallets.private_keys import PrivateKey
from neolayer.wallets.recursion_limit import recursion_limit_kept

MAX_DATA_BYTES = 131_072  # what nodes pass on
MAX_ACCESS_LIST = 4096
_UINT64, _UINT256 = 1 << 64, 1 << 256
_SAME = {"gasLimit": "gas", "input": "data"}
_COMMON = {"from", "to", "value", "gas", "nonce", "data", "chainId", "type"}
_FIELDS = {
    0: _COMMON | {"gasPrice"},
    1: _COMMON | {"gasPrice", "accessList"},
    2: _COMMON | {"maxFeePerGas", "maxPriorityFeePerGas", "accessList"},
}
_NAMES = {0: "legacy", 1: "EIP-2930", 2: "EIP-1559"}


def read(fields: Mapping[str, Any], *, network: Network, address: str) -> dict[str, Any]:
    """The transaction in the form that is signed. Raises TransactionRefused."""
    given = _named(fields)
    kind = _type(given)
    if unknown := sorted(given.keys() - _FIELDS[kind]):
        raise TransactionRefused(f"{_NAMES[kind]} transactions have no field {unknown[0][:40]!r}")
    _require_chain(given, network)
    if (sender := given.get("from")) is not None and _address(sender, "from") != address:
        raise TransactionRefused("the transaction is from another address than the wallet's")
    made: dict[str, Any] = {
        "chainId": network.chain_id,
        "nonce": _number(given, "nonce", _UINT64 - 1),
        "gas": _number(given, "gas", 1 << 63),
        "value": _number(given, "value", _UINT256, default=0),
        "data": _data(given.get("data") or "0x"),
    }
    if (to := given.get("to")) is not None:
        made["to"] = bytes.fromhex(_address(to, "to")[2:])
    elif not made["data"]:
        raise TransactionRefused("a transaction without `to` creates a contract and needs `data`")
    if kind:
        made |= {"type": kind, "accessList": _access_list(given.get("accessList") or [])}
    return made | _fees(given, kind)


def sign(transaction: Mapping[str, Any], key: PrivateKey) -> Signed:
    """The signed transaction, deterministic (RFC 6979). Takes half a millisecond of processor."""
    signed = _accounts().sign_transaction(dict(transaction), key.reveal())
    return Signed("0x" + bytes(signed.hash).hex(), "0x" + bytes(signed.raw_transaction).hex())


def sign_message(message: bytes, key: PrivateKey) -> SignedMessage:
    """The message signed as EIP-191 (version 0x45) says: never mistaken for a transaction."""
    accounts = _accounts()
    from eth_account.messages import encode_defunct

    signed: Any = accounts.sign_message(encode_defunct(primitive=message), key.reveal())
    return SignedMessage(
        "0x" + bytes(signed.message_hash).hex(), "0x" + bytes(signed.signature).hex()
    )


def require_library() -> None:
    """Raises NotSupported where the extra is not installed."""
    _accounts()


def _accounts() -> Any:
    try:
        with recursion_limit_kept():
            from eth_account import Account
    except ImportError:
        raise extra_missing("signing on EVM networks") from None
    return Account


def _named(fields: Mapping[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name, value in fields.items():
        target = _SAME.get(name, name)
        if target in given and given[target] != value:
            raise TransactionRefused(f"the transaction gives {target!r} twice")
        given[target] = value
    return given


def _type(given: Mapping[str, Any]) -> int:
    if "type" in given:
        kind = _number(given, "type", 256)
    elif given.keys() & {"maxFeePerGas", "maxPriorityFeePerGas"}:
        kind = 2
    else:
        kind = 1 if "accessList" in given else 0
    if kind not in _FIELDS:
        raise TransactionRefused(
            f"transactions of type {kind} are not signed", hint="types 0, 1 and 2 are"
        )
    return kind


def _require_chain(given: Mapping[str, Any], network: Network) -> None:
    if "chainId" not in given:
        return
    chain_id = _number(given, "chainId", _UINT256)
    if chain_id != network.chain_id:
        raise TransactionRefused(
            f"the transaction is for chain id {chain_id}, and the wallet's network "
            f"{network.name} has {network.chain_id}"
        )


def _fees(given: Mapping[str, Any], kind: int) -> dict[str, int]:
    if kind < 2:
        return {"gasPrice": _number(given, "gasPrice", _UINT256)}
    highest = _number(given, "maxFeePerGas", _UINT256)
    tip = _number(given, "maxPriorityFeePerGas", _UINT256)
    if tip > highest:
        raise TransactionRefused("maxPriorityFeePerGas is above maxFeePerGas")
    return {"maxFeePerGas": highest, "maxPriorityFeePerGas": tip}


def _number(given: Mapping[str, Any], name: str, below: int, *, default: int | None = None) -> int:
    """A whole number: an int, decimal digits, or hex with 0x. Never a float, which would round."""
    value = given.get(name)
    if value is None:
        if default is not None:
            return default
        raise TransactionRefused(f"the transaction has no {name}")
    number = _whole(value)
    if number is None or not 0 <= number < below:
        raise TransactionRefused(f"{name} is not a whole number from 0 to {below - 1}")
    return number


def _whole(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str) or not value.isascii() or len(value) > 80:
        return None
    digits, base = (value[2:], 16) if value.startswith("0x") else (value, 10)
    try:
        return int(digits, base) if digits.isalnum() else None
    except ValueError:
        return None


def _address(value: Any, name: str) -> str:
    try:
        return canonical(value if isinstance(value, str) else "", EVM)
    except InvalidInput as exc:
        raise TransactionRefused(f"{name}: {exc.message}", hint=exc.hint) from None


def _data(value: Any) -> bytes:
    raw = _bytes(value)
    if raw is None or len(raw) > MAX_DATA_BYTES:
        raise TransactionRefused(f"data is not 0x and hex of at most {MAX_DATA_BYTES} bytes")
    return raw


def _bytes(value: Any) -> bytes | None:
    if not isinstance(value, str) or not value.startswith("0x"):
        return None
    digits = value[2:]
    try:
        return bytes.fromhex(digits) if not digits or digits.isalnum() else None
    except ValueError:
        return None


def _access_list(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list | tuple):
        raise TransactionRefused("accessList is not a list")
    entries = [_entry(item) for item in cast("list[Any]", value)]
    if sum(1 + len(entry["storageKeys"]) for entry in entries) > MAX_ACCESS_LIST:
        raise TransactionRefused(f"accessList has more than {MAX_ACCESS_LIST} entries")
    return entries


def _entry(item: Any) -> dict[str, Any]:
    match item:
        case {"address": address, "storageKeys": list()} if len(item) == 2:
            keys = cast("list[Any]", item["storageKeys"])
            return {
                "address": _address(address, "accessList"),
                "storageKeys": [_storage_key(key) for key in keys],
            }
        case _:
            raise TransactionRefused("an entry of accessList is not {address, storageKeys}")


def _storage_key(value: Any) -> str:
    raw = _bytes(value)
    if raw is None or len(raw) != 32:
        raise TransactionRefused("a storage key of accessList is not 32 bytes as 0x and hex")
    return "0x" + raw.hex()
