"""Transactions that nobody sent, but that any node would accept as signed.

Keys follow from the seed and signatures are deterministic (RFC 6979), so a seed gives the same
bytes on every machine. Anybody can compute the keys: never send them anything of value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from neolayer.chain import rlp
from neolayer.chain.networks import SYNTHETIC
from neolayer.chain.trie import keccak
from neolayer.errors import ChainError

CHAIN_ID = SYNTHETIC.chain_id
BASE_FEE = 1_000_000_000
TRANSFER = keccak(b"Transfer(address,address,uint256)")
TOKENS = tuple(keccak(b"neolayer synthetic token %d" % number)[12:] for number in range(5))
_TRANSFER_CALL = keccak(b"transfer(address,uint256)")[:4]
# Init code that deploys a contract of one STOP: PUSH1 1 PUSH1 0 RETURN, told apart by what follows.
_INIT_CODE = bytes.fromhex("60016000f3")
_AUTHORIZATION = b"\x05"  # what EIP-7702 puts before the authorization it signs

Signature = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Account:
    """An address and the means to sign for it: a digest to (r, s, parity)."""

    address: bytes
    sign: Callable[[bytes], Signature]


@dataclass(frozen=True, slots=True)
class Order:
    """What a sender signs. `price` is the most it pays where the type (`kind`) knows a tip."""

    sender: Account
    nonce: int
    kind: int
    to: bytes | None
    value: int
    data: bytes
    gas: int
    gas_used: int
    failed: bool = False
    price: int = 2 * BASE_FEE
    tip: int = BASE_FEE // 10
    authority: Account | None = None

    @property
    def effective_price(self) -> int:
        """What a unit of gas costs: the price, or base fee and tip as far as the price allows."""
        return self.price if self.kind < 2 else min(self.price, BASE_FEE + self.tip)


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed order: its envelope, its hash, and its JSON without a place in a block."""

    order: Order
    envelope: bytes
    hash: str
    json: dict[str, Any]


def make_accounts(seed: int, count: int) -> list[Account]:
    """Accounts whose keys follow from the seed. Raises ChainError without coincurve."""
    try:
        from coincurve import PrivateKey
    except ImportError as exc:
        raise ChainError(
            "synthetic chains are really signed, and nothing here can sign",
            hint="pip install 'neolayer[embedded]'",
        ) from exc

    def account(index: int) -> Account:
        key = PrivateKey(keccak(f"neolayer synthetic account {seed} {index}".encode()))

        def sign(digest: bytes) -> Signature:
            made = key.sign_recoverable(digest, hasher=None)  # pyright: ignore[reportUnknownMemberType]
            return int.from_bytes(made[:32]), int.from_bytes(made[32:64]), made[64]

        return Account(keccak(key.public_key.format(compressed=False)[1:])[12:], sign)

    return [account(index) for index in range(count)]


def ether_order(sender: Account, nonce: int, kind: int, *, to: bytes, value: int) -> Order:
    """Move ether; type 4 delegates the code of an account besides."""
    used = 46_000 if kind == 4 else 21_000
    return Order(sender, nonce, kind, to, value, b"", used, used)


def token_order(
    sender: Account, nonce: int, kind: int, *, token: bytes, to: bytes, amount: int
) -> Order:
    """Call an ERC-20 token's transfer, which logs it."""
    data = _TRANSFER_CALL + to.rjust(32, b"\0") + amount.to_bytes(32)
    return Order(sender, nonce, kind, token, 0, data, gas=90_000, gas_used=51_000 + amount % 500)


def creation_order(sender: Account, nonce: int, kind: int, *, salt: int) -> Order:
    """Create a contract; type 4 cannot, so it becomes type 2."""
    data = _INIT_CODE + salt.to_bytes(32)
    return Order(sender, nonce, min(kind, 2), None, 0, data, gas=150_000, gas_used=120_000)


def sign_order(order: Order) -> Signed:
    """Sign as EIP-155 (type 0) or the type's own rule asks."""
    prefix = bytes((order.kind,)) if order.kind else b""
    authorization = _authorization(order.authority) if order.authority else None
    body = _body(order, authorization)
    replay = (rlp.quantity(CHAIN_ID), rlp.EMPTY, rlp.EMPTY) if order.kind == 0 else ()
    r, s, parity = order.sender.sign(keccak(prefix + rlp.sequence((*body, *replay))))
    v = parity if order.kind else 35 + 2 * CHAIN_ID + parity
    envelope = prefix + rlp.sequence((*body, *map(rlp.quantity, (v, r, s))))
    named = _text(keccak(envelope))
    signature = {"v": hex(v), "r": hex(r), "s": hex(s)}
    if order.kind:
        signature["yParity"] = hex(parity)
    return Signed(order, envelope, named, _json(order, authorization) | signature | {"hash": named})


def _body(order: Order, authorization: dict[str, str] | None) -> tuple[bytes, ...]:
    nonce, price = rlp.quantity(order.nonce), rlp.quantity(order.price)
    gas, value = rlp.quantity(order.gas), rlp.quantity(order.value)
    head = (gas, rlp.string(order.to or b""), value, rlp.string(order.data))
    if order.kind == 0:
        return (nonce, price, *head)
    fees = (price,) if order.kind == 1 else (rlp.quantity(order.tip), price)
    access = rlp.sequence(
        rlp.sequence((rlp.string(where), rlp.sequence([rlp.string(slot)])))
        for where, slot in _access(order)
    )
    body = (rlp.quantity(CHAIN_ID), nonce, *fees, *head, access)
    if authorization is None:
        return body
    return (*body, rlp.sequence([_encoded_authorization(authorization)]))


def _access(order: Order) -> list[tuple[bytes, bytes]]:
    """What the transaction announces to touch: type 1, the first slot of what it calls."""
    return [(order.to, bytes(32))] if order.kind == 1 and order.to is not None else []


def _authorization(authority: Account) -> dict[str, str]:
    """The authority lends its address the code of a contract (EIP-7702), always at nonce 0.

    The first one counts; those after it are skipped by the chain, as stale ones are.
    """
    code = keccak(b"neolayer synthetic delegate")[12:]
    message = rlp.sequence((rlp.quantity(CHAIN_ID), rlp.string(code), rlp.EMPTY))
    r, s, parity = authority.sign(keccak(_AUTHORIZATION + message))
    lent = {"chainId": hex(CHAIN_ID), "address": _text(code), "nonce": "0x0"}
    return lent | {"yParity": hex(parity), "r": hex(r), "s": hex(s)}


def _encoded_authorization(entry: dict[str, str]) -> bytes:
    numbers = [rlp.quantity(int(entry[name], 16)) for name in ("nonce", "yParity", "r", "s")]
    code = rlp.string(bytes.fromhex(entry["address"][2:]))
    return rlp.sequence((rlp.quantity(CHAIN_ID), code, *numbers))


def _json(order: Order, authorization: dict[str, str] | None) -> dict[str, Any]:
    json: dict[str, Any] = {
        "type": hex(order.kind),
        "chainId": hex(CHAIN_ID),
        "from": _text(order.sender.address),
        "to": None if order.to is None else _text(order.to),
        "nonce": hex(order.nonce),
        "value": hex(order.value),
        "input": _text(order.data),
        "gas": hex(order.gas),
        "gasPrice": hex(order.effective_price),
    }
    if order.kind:
        json["accessList"] = [
            {"address": _text(where), "storageKeys": [_text(slot)]}
            for where, slot in _access(order)
        ]
    if order.kind >= 2:
        json |= {"maxFeePerGas": hex(order.price), "maxPriorityFeePerGas": hex(order.tip)}
    if authorization is not None:
        json["authorizationList"] = [authorization]
    return json


def _text(data: bytes) -> str:
    return "0x" + data.hex()
