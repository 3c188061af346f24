"""What may be signed on each kind of network, and that others accept the signature."""

from __future__ import annotations

import base64
import subprocess
import sys
from hashlib import sha256
from typing import Any
from uuid import uuid4

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from eth_account import Account
from eth_account.messages import encode_defunct
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fixtures.neo_dump import read_dump
from tests.fixtures.shared_data import shared_data

from neolayer.wallets import evm_signing, neo_signing, private_keys
from neolayer.wallets.addresses import EVM, NEO
from neolayer.wallets.model import Network, Signed, TransactionRefused

ETHEREUM = Network(uuid4(), "ethereum", EVM, 1)
NEO_N3 = Network(uuid4(), "neo-n3", NEO, 860833102)
EIP_155_KEY = private_keys.read("46" * 32, EVM)
# The public test account of Neo N3's SDKs.
NEO_KEY = private_keys.read("84180ac9d6eb6fba207ea4ef9d2200102d1ebeb4b9c07e2c6a738a42742e27a5", NEO)
TO = "0x3535353535353535353535353535353535353535"
LEGACY: dict[str, Any] = {
    "to": TO,
    "value": 10**18,
    "gas": 21000,
    "gasPrice": 20 * 10**9,
    "nonce": 9,
}
FEES = {"maxFeePerGas": 100, "maxPriorityFeePerGas": 2}
DYNAMIC: dict[str, Any] = {"to": TO, "value": 1, "gas": 21000, "nonce": 0, **FEES}


def sign(transaction: dict[str, Any], key: private_keys.PrivateKey = EIP_155_KEY) -> Signed:
    item = evm_signing.read(transaction, network=ETHEREUM, address=key.address())
    return evm_signing.sign(item, key)


def test_the_example_of_eip_155() -> None:
    """The signature of EIP-155's example, to the last byte."""
    signed = sign(LEGACY)
    assert signed.raw == (
        "0xf86c098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a76400008025"
        "a028ef61340bd939bc2195fe537567866003e1a15d3c71ff63e1590620aa636276a067cbe9d8997f761aecb703"
        "304b3800ccf555c9f3dc64214b297fb1966a3b6d83"
    )
    assert signed.transaction_hash == (
        "0x33469b22e9f636356c4160a87eb19df52b7412e8eac32a4a55ffe88ea8350788"
    )


def test_numbers_as_nodes_write_them() -> None:
    """Hex, decimal digits and integers are one number; `gasLimit` and `input` are other names."""
    asked = {
        "from": EIP_155_KEY.address(),
        "to": TO,
        "value": "0xde0b6b3a7640000",
        "gasLimit": "21000",
        "gasPrice": "0x4a817c800",
        "nonce": "0x9",
        "input": "0x",
        "chainId": "0x1",
        "type": "0x0",
    }
    assert sign(asked) == sign(LEGACY)


@given(
    number=st.integers(1, private_keys.ORDERS[EVM] - 1),
    value=st.integers(0, 2**256 - 1),
    nonce=st.integers(0, 2**64 - 2),
    data=st.binary(max_size=200),
    kind=st.sampled_from((0, 1, 2)),
)
@settings(deadline=None, max_examples=40)
def test_what_is_signed_is_recovered(
    number: int, value: int, nonce: int, data: bytes, kind: int
) -> None:
    """Whatever the transaction of whichever type (legacy under EIP-155, EIP-2930, EIP-1559): its
    sender is the key's address, and another library signs the same bytes.
    """
    key = private_keys.read(f"{number:064x}", EVM)
    fees = FEES if kind == 2 else {"gasPrice": 7}
    asked = {"to": TO, "value": value, "gas": 21000, "nonce": nonce, "data": "0x" + data.hex()}
    access = [{"address": TO, "storageKeys": ["0x" + "01" * 32]}]
    extra = {"accessList": access} if kind else {}
    signed = sign(asked | fees | extra | {"type": kind}, key)
    assert signed.raw is not None
    assert Account.recover_transaction(signed.raw).lower() == key.address()
    assert signed.raw.startswith(f"0x0{kind}") or not kind
    theirs = asked | fees | extra | {"chainId": 1} | ({"type": kind} if kind else {})
    assert signed.raw == "0x" + Account.sign_transaction(theirs, key.reveal()).raw_transaction.hex()
    assert sign(asked | fees | extra | {"type": kind}, key) == signed


def test_a_contract_creation() -> None:
    """No `to` creates a contract, which needs code."""
    made = {name: value for name, value in DYNAMIC.items() if name != "to"}
    signed = sign(made | {"data": "0x6001"})
    assert Account.recover_transaction(signed.raw) == Account.from_key("46" * 32).address
    with pytest.raises(TransactionRefused, match="creates a contract"):
        sign(made)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"chainId": 2}, "chain id 2"),
    ({"chainId": 0}, "chain id 0"),
    ({"chainId": "0x05"}, "chain id 5"),
    ({"chainId": None}, "chainId"),
    ({"chainId": 1.0}, "chainId"),
    ({"chainId": True}, "chainId"),
    ({"from": TO}, "another address"),
    ({"from": "x"}, "from"),
    ({"nonce": None}, "nonce"),
    ({"nonce": -1}, "nonce"),
    ({"nonce": 2**64}, "nonce"),
    ({"nonce": 1.5}, "nonce"),
    ({"nonce": "1e3"}, "nonce"),
    ({"nonce": "0x"}, "nonce"),
    ({"nonce": "\u0661"}, "nonce"),
    ({"gas": None}, "gas"),
    ({"gas": 2**63}, "gas"),
    ({"value": 2**256}, "value"),
    ({"value": "1_0"}, "value"),
    ({"value": "9" * 100}, "value"),
    ({"to": "0x35"}, "to"),
    ({"to": TO.replace("35", "aB", 1)}, "checksum"),
    ({"to": 5}, "to"),
    ({"data": "6001"}, "data"),
    ({"data": "0x0"}, "data"),
    ({"data": "0xzz"}, "data"),
    ({"data": "0x" + "00" * 131_073}, "data"),
    ({"data": "0x", "input": "0x00"}, "twice"),
    ({"gasPrice": 1}, "no field 'gasPrice'"),
    ({"maxPriorityFeePerGas": 101}, "above"),
    ({"maxFeePerGas": None}, "maxFeePerGas"),
    ({"type": 0}, "no field"),
    ({"type": 3}, "type 3"),
    ({"type": 4, "authorizationList": []}, "type 4"),
    ({"blobVersionedHashes": []}, "no field"),
    ({"privateKey": "0x"}, "no field"),
    ({"accessList": "x"}, "not a list"),
    ({"accessList": [{"address": TO}]}, "an entry"),
    ({"accessList": [{"address": TO, "storageKeys": ["0x00"]}]}, "storage key"),
    ({"accessList": [{"address": TO, "storageKeys": []}] * 5000}, "more than"),
]


@pytest.mark.parametrize(("change", "why"), REFUSED)
def test_D_what_is_not_signed(change: dict[str, Any], why: str) -> None:
    """Another chain, another sender, what would round or is not known: refused, with a reason."""
    with pytest.raises(TransactionRefused, match=why):
        evm_signing.read(DYNAMIC | change, network=ETHEREUM, address=EIP_155_KEY.address())


def test_messages_are_signed_as_eip_191_says() -> None:
    """Another library recovers the signer of text and bytes; the hash is not the message's own."""
    for raw in (b"", b"hello", "żółw".encode(), bytes(range(256))):
        signed = evm_signing.sign_message(raw, EIP_155_KEY)
        found = Account.recover_message(encode_defunct(primitive=raw), signature=signed.signature)
        assert found.lower() == EIP_155_KEY.address()
        assert signed.message_hash != "0x" + sha256(raw).hexdigest()


# Neo N3


def neo_transaction(**changes: Any) -> dict[str, Any]:
    account = "0x69ecca587293047be4c59159bf8bc399985c160d"
    return {
        "version": 0,
        "nonce": 246070626,
        "sender": "NM7Aky765FG8NhhwtxjXRx7jEL1cnw7PBP",
        "sysfee": "9977780",
        "netfee": "1230610",
        "validuntilblock": 2102660,
        "signers": [{"account": account, "scopes": "CalledByEntry"}],
        "attributes": [],
        "script": base64.b64encode(b"\x11\x9e").decode(),
    } | changes


def neo_sign(transaction: dict[str, Any], network: Network = NEO_N3) -> Signed:
    item = neo_signing.read(transaction, network=network, address=NEO_KEY.address())
    return neo_signing.sign(item, NEO_KEY)


def verify(witness: dict[str, str], message: bytes) -> None:
    """What a node does: the script's key must have signed the message."""
    invocation = base64.b64decode(witness["invocation"])
    verification = base64.b64decode(witness["verification"])
    assert invocation[:2] == b"\x0c\x40" and len(invocation) == 66
    assert verification[:2] == b"\x0c\x21" and verification[35:].hex() == "4156e7b327"
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), verification[2:35])
    r, s = int.from_bytes(invocation[2:34]), int.from_bytes(invocation[34:])
    key.verify(encode_dss_signature(r, s), message, ec.ECDSA(SHA256()))


def test_a_neo_witness_verifies() -> None:
    """The witness is good for magic and hash, and for no other network's magic; and repeatable."""
    signed = neo_sign(neo_transaction())
    assert signed.witness is not None and signed.raw is not None
    digest = bytes.fromhex(signed.transaction_hash[2:])[::-1]
    verify(signed.witness, (860833102).to_bytes(4, "little") + digest)
    with pytest.raises(InvalidSignature):
        verify(signed.witness, (894710606).to_bytes(4, "little") + digest)
    assert neo_sign(neo_transaction()) == signed
    raw = base64.b64decode(signed.raw)
    scripts = (
        base64.b64decode(signed.witness["invocation"]),
        base64.b64decode(signed.witness["verification"]),
    )
    tail = bytes((1, 66)) + scripts[0] + bytes((40,)) + scripts[1]
    assert raw.endswith(tail)
    assert sha256(raw.removesuffix(tail)).digest() == digest


def test_real_neo_signatures_are_over_what_we_sign() -> None:
    """Witnesses of a real chain verify over the bytes that we would sign."""
    checked = 0
    for block in read_dump(shared_data("data", "chain", "neo", "chain50x2.acc")):
        for item in block["tx"]:
            for witness in item["witnesses"]:
                if len(base64.b64decode(witness["verification"])) == 40:
                    network = Network(uuid4(), "private", NEO, 42)
                    given = {**item, "witnesses": None}
                    unsigned = neo_signing.read(given, network=network, address=item["sender"])
                    verify(witness, neo_signing.signed_bytes(unsigned))
                    checked += 1
    assert checked > 0


def test_two_signers_give_a_witness_only() -> None:
    """Where others sign too, the wallet's witness comes without a whole transaction."""
    others = neo_transaction()["signers"] + [{"account": "0x" + "11" * 20, "scopes": "None"}]
    signed = neo_sign(neo_transaction(signers=others))
    assert signed.raw is None and signed.witness is not None


NEO_REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"magic": 894710606}, "another network"),
    ({"network": 0}, "another network"),
    ({"sender": "NPTmAHDxo6Pkyic8Nvu3kwyXoYJCvcCB6i"}, "first signer"),
    ({"sender": "x"}, "not an N3 address"),
    (
        {
            "sender": "NPTmAHDxo6Pkyic8Nvu3kwyXoYJCvcCB6i",
            "signers": [
                {"account": "0xa7cbfee3f01f89d58c042644b0b6df2d59a6eb26", "scopes": "Global"}
            ],
        },
        "none of",
    ),
    ({"signers": []}, "first signer"),
    ({"signers": "x"}, "not a Neo N3 transaction"),
    ({"signers": neo_transaction()["signers"] * 2}, "each once"),
    ({"version": 1}, "version"),
    ({"nonce": 2**32}, "fit"),
    ({"nonce": -1}, "fit"),
    ({"nonce": 1.5}, "not a Neo N3"),
    ({"sysfee": "-1"}, "fee"),
    ({"netfee": str(2**63)}, "fee"),
    ({"script": "%%%"}, "base64"),
    ({"script": base64.b64encode(bytes(110_000)).decode()}, "at most"),
    ({"attributes": [{"type": "Unheard"}]}, "not known"),
    ({"hash": "0x" + "00" * 32}, "does not hash"),
    ({"gas": 1}, "no field"),
]


@pytest.mark.parametrize(("change", "why"), NEO_REFUSED)
def test_D_what_is_not_signed_on_neo(change: dict[str, Any], why: str) -> None:
    """Another network, another account, what does not fit or is not known: refused."""
    with pytest.raises(TransactionRefused, match=why):
        neo_sign(neo_transaction(**change))


@pytest.mark.parametrize("absent", ["sender", "signers", "script", "netfee", "validuntilblock"])
def test_D_a_neo_transaction_must_be_whole(absent: str) -> None:
    """Nothing is guessed."""
    transaction = neo_transaction()
    del transaction[absent]
    with pytest.raises(TransactionRefused, match=absent):
        neo_sign(transaction)


def test_D_signing_leaves_the_recursion_limit_alone() -> None:
    """Nested input goes on to be refused by parsers, and does not kill the process."""
    program = (
        "import sys; before = sys.getrecursionlimit()\n"
        "from neolayer.wallets import evm_signing, keystores\n"
        "evm_signing.require_library(); keystores._library()\n"
        "assert 'py_ecc' in sys.modules and sys.getrecursionlimit() == before"
    )
    subprocess.run((sys.executable, "-c", program), check=True, timeout=60)
