"""Signing on Neo N3: the bytes that are signed, and the witness that a node takes.

A transaction comes as nodes write it (`getrawtransaction`, verbose), without witnesses. Signed is
the network's magic followed by the transaction's hash, so that a signature is good on one network
only. A witness is two little scripts: one pushes the signature, the other is the account's own.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from neolayer.chain import neo_payloads
from neolayer.chain.neo_wire import Transaction, signers_decoder
from neolayer.wallets.addresses import script_hash, verification_script
from neolayer.wallets.model import Network, Signed, TransactionRefused
from neolayer.wallets.private_keys import PrivateKey

MAX_BYTES = 102_400  # what the protocol admits
MAX_SIGNERS = 16
_NEEDED = {"sender", "sysfee", "netfee", "nonce", "validuntilblock", "signers", "script"}
_TAKEN = _NEEDED | {"version", "attributes", "hash", "size", "witnesses", "network", "magic"}
_PUSH_SIGNATURE = b"\x0c\x40"


@dataclass(frozen=True, slots=True)
class Unsigned:
    """A transaction's bytes without witnesses, its network's magic, and how many must sign."""

    payload: bytes
    magic: int
    signers: int


def read(fields: Mapping[str, Any], *, network: Network, address: str) -> Unsigned:
    """The transaction in the form that is signed. Raises TransactionRefused."""
    if unknown := sorted(fields.keys() - _TAKEN):
        raise TransactionRefused(f"a Neo N3 transaction has no field {unknown[0][:40]!r}")
    if absent := sorted(_NEEDED - fields.keys()):
        raise TransactionRefused(f"the transaction has no {absent[0]}")
    for name in ("network", "magic"):
        if fields.get(name) not in (None, network.chain_id):
            raise TransactionRefused(
                f"the transaction is for another network than {network.name}, whose magic is "
                f"{network.chain_id}"
            )
    try:
        item = _typed(fields)
        payload = neo_payloads.transaction(item)
        accounts = [signer.account.lower() for signer in signers_decoder.decode(item.signers)]
    except (ValueError, TypeError, RecursionError) as exc:
        raise TransactionRefused(f"this is not a Neo N3 transaction: {str(exc)[:200]}") from None
    _require(payload, accounts, address)
    named = fields.get("hash")
    if named and str(named).lower() != neo_payloads.shown(payload):
        raise TransactionRefused("the transaction does not hash to the hash it names")
    return Unsigned(payload, network.chain_id, len(accounts))


def signed_bytes(unsigned: Unsigned) -> bytes:
    """What the signature is over (SHA-256 is taken of it): magic, then the transaction's hash."""
    return unsigned.magic.to_bytes(4, "little") + sha256(unsigned.payload).digest()


def sign(unsigned: Unsigned, key: PrivateKey) -> Signed:
    """This key's witness (RFC 6979), and the whole transaction where no other is needed."""
    message = signed_bytes(unsigned)
    private = key.on_curve()
    der = private.sign(message, ec.ECDSA(SHA256(), deterministic_signing=True))
    private.public_key().verify(der, message, ec.ECDSA(SHA256()))
    r, s = decode_dss_signature(der)
    invocation = _PUSH_SIGNATURE + r.to_bytes(32) + s.to_bytes(32)
    verification = verification_script(key.public_key())
    witness = {"invocation": _base64(invocation), "verification": _base64(verification)}
    raw = None
    if unsigned.signers == 1:
        scripts = bytes((1, len(invocation))) + invocation + bytes((len(verification),))
        raw = _base64(unsigned.payload + scripts + verification)
    return Signed(neo_payloads.shown(unsigned.payload), raw, witness)


def _typed(fields: Mapping[str, Any]) -> Transaction:
    """The fields as the chain's decoder knows them; what is not hashed is left out."""
    if fields.get("version", 0) != 0:
        raise ValueError("only version 0 is known")
    blank: dict[str, Any] = {"version": 0, "hash": "", "witnesses": []}
    kept = {name: fields[name] for name in _NEEDED}
    kept["attributes"] = fields.get("attributes") or []
    return msgspec.json.decode(msgspec.json.encode(blank | kept), type=Transaction)


def _require(payload: bytes, accounts: list[str], address: str) -> None:
    if len(payload) > MAX_BYTES:
        raise TransactionRefused(f"a transaction has at most {MAX_BYTES} bytes")
    if len(accounts) > MAX_SIGNERS or len(set(accounts)) < len(accounts):
        raise TransactionRefused(f"a transaction has 1 to {MAX_SIGNERS} signers, each once")
    if script_hash(address) not in accounts:
        raise TransactionRefused("the wallet is none of the transaction's signers")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
