"""Addresses, public keys and private keys: what is taken, and the one form that is kept."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neolayer.errors import InvalidInput
from neolayer.wallets import addresses, private_keys
from neolayer.wallets.addresses import EVM, NEO, canonical, shown

# The examples of EIP-55: all upper, all lower, and mixed.
EIP_55 = (
    "0x52908400098527886E0F7030069857D2E4169EE7",
    "0x8617E340B3D01FA5F11F306F4090FD50E238070D",
    "0xde709f2102306220921060314715629080e2fb77",
    "0x27b1fdb04752bbc536007a920d24acb045561c26",
    "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
    "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
    "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
    "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
)
# Accounts of public test suites of Neo N3: private key, WIF, public key, address, script hash.
NEO_ACCOUNTS = (
    (
        "84180ac9d6eb6fba207ea4ef9d2200102d1ebeb4b9c07e2c6a738a42742e27a5",
        "L1eV34wPoj9weqhGijdDLtVQzUpWGHszXXpdU9dPuh2nRFFzFa7E",
        "033a4d051b04b7fc0230d2b1aaedfd5a84be279a5361a7358db665ad7857787f1b",
        "NM7Aky765FG8NhhwtxjXRx7jEL1cnw7PBP",
        "0x69ecca587293047be4c59159bf8bc399985c160d",
    ),
    (
        "7d128a6d096f0c14c3a25a2b0c41cf79661bfcb4a8cc95aaaea28bde4d732344",
        "L1QqQJnpBwbsPGAuutuzPTac8piqvbR1HRjrY5qHup48TBCBFe4g",
        "02028a99826edc0c97d18e22b6932373d908d323aa7f92656a77ec26e8861699ef",
        "NPTmAHDxo6Pkyic8Nvu3kwyXoYJCvcCB6i",
        "0xa7cbfee3f01f89d58c042644b0b6df2d59a6eb26",
    ),
)
KINDS = (EVM, NEO)


@pytest.mark.parametrize("text", EIP_55)
def test_D_eip_55_examples(text: str) -> None:
    """Each is taken in all its forms, kept in lower case and shown with its checksum."""
    lower = text.lower()
    for form in (text, lower, "0x" + text[2:].upper()):
        assert canonical(form, EVM) == lower
    assert shown(lower) == text


@given(st.binary(min_size=20, max_size=20), st.data())
def test_D_a_flipped_case_is_refused(raw: bytes, data: st.DataObject) -> None:
    """An address with the case of one letter changed never passes as another's checksum."""
    text = shown("0x" + raw.hex())
    letters = [at for at, c in enumerate(text) if at > 1 and c.isalpha()]
    if len(letters) < 2:
        return
    at = data.draw(st.sampled_from(letters))
    flipped = text[:at] + text[at].swapcase() + text[at + 1 :]
    digits = flipped[2:]
    if digits in (digits.lower(), digits.upper()):
        return
    with pytest.raises(InvalidInput, match="checksum"):
        canonical(flipped, EVM)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0x",
        EIP_55[2][2:],
        EIP_55[2] + "0",
        EIP_55[2][:-1],
        "0X" + EIP_55[2][2:],
        " " + EIP_55[2],
        EIP_55[2] + "\n",
        EIP_55[2][:-1] + "g",
        EIP_55[2][:-1] + "\0",
        EIP_55[2][:-1] + "\uff11",
        NEO_ACCOUNTS[0][3],
        "0x" + "1" * 10_000_000,
    ],
)
def test_D_bad_evm_addresses(text: str) -> None:
    """Wrong lengths, prefixes, digits, blanks and another chain's: refused, in a short message."""
    with pytest.raises(InvalidInput) as refusal:
        canonical(text, EVM)
    assert len(refusal.value.message) < 200


@pytest.mark.parametrize(("key", "wif", "public_key", "address", "script_hash"), NEO_ACCOUNTS)
def test_neo_accounts(key: str, wif: str, public_key: str, address: str, script_hash: str) -> None:
    """Key, WIF, public key, address and script hash of known accounts belong together."""
    for text in (key, "0x" + key, wif):
        found = private_keys.read(text, NEO)
        assert found.public_key().hex() == public_key
        assert found.address() == address
    assert addresses.script_hash(address) == script_hash
    assert canonical(script_hash, NEO) == canonical(address, NEO) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "N",
        NEO_ACCOUNTS[0][3][:-1] + "Q",
        NEO_ACCOUNTS[0][3].lower(),
        NEO_ACCOUNTS[0][3] + "1",
        "AKYdmtzCD6DtGx16KHzSTKY8ji29sMTbEZ",  # Neo 2, version byte 0x17
        "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2",  # Bitcoin
        "0x69ecca587293047be4c59159bf8bc399985c16",
        "N" + "0" * 33,
        "N" * 1_000_000,
    ],
)
def test_D_bad_neo_addresses(text: str) -> None:
    """Typing errors, other chains' versions and wrong lengths are refused."""
    with pytest.raises(InvalidInput):
        canonical(text, NEO)


@given(st.binary(min_size=20, max_size=20))
def test_neo_addresses_round_trip(raw: bytes) -> None:
    """Any script hash has one address, and that address gives it back."""
    address = addresses.neo_address(raw)
    assert address.startswith("N") and len(address) == 34
    assert addresses.script_hash(address) == "0x" + raw[::-1].hex()


@given(st.integers(1, private_keys.ORDERS[NEO] - 1), st.sampled_from(KINDS))
def test_public_keys_in_every_form(number: int, kind: str) -> None:
    """Compressed or not, the public key of a private key is one and the same, and its address."""
    number = min(number, private_keys.ORDERS[kind] - 1)
    key = private_keys.read(number.to_bytes(32).hex(), kind)
    point = key.on_curve().public_key().public_numbers()
    whole = "04" + point.x.to_bytes(32).hex() + point.y.to_bytes(32).hex()
    for text in (whole, "0x" + whole, key.public_key().hex()):
        found = addresses.canonical_public_key(text, kind)
        assert found == key.public_key()
        assert addresses.address_of(found, kind) == key.address()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text", ["", "02", "02" + "ff" * 32, "05" + "11" * 32, "zz" * 33, "é" * 66]
)
def test_D_bad_public_keys(text: str, kind: str) -> None:
    """What is no point of the curve is refused."""
    with pytest.raises(InvalidInput):
        addresses.canonical_public_key(text, kind)


def test_an_evm_address_of_a_known_key() -> None:
    """The key of the example in EIP-155 has the address everybody else finds."""
    key = private_keys.read("46" * 32, EVM)
    assert shown(key.address()) == "0x9d8A62f656a8d1615C1294fd71e9CFb3E4855A4F"


@pytest.mark.parametrize("kind", KINDS)
def test_D_private_keys_are_within_the_order(kind: str) -> None:
    """1 and the order less 1 are keys; 0, the order and what is longer are not."""
    order = private_keys.ORDERS[kind]
    for number in (1, order - 1):
        assert private_keys.read(f"{number:064x}", kind).reveal() == number.to_bytes(32)
    for number in (0, order, 2**256 - 1):
        with pytest.raises(InvalidInput):
            private_keys.read(f"{number:064x}", kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text",
    [
        "",
        "0x",
        "deadbeef" * 7,
        "deadbeef" * 8 + "00",
        "deadbeef" * 7 + "deadbeeg",
        "\uff11" * 64,
        "L1eV34wPoj9weqhGijdDLtVQzUpWGHszXXpdU9dPuh2nRFFzFa7F",
        "L" * 52,
        "deadbeef" * 1_000_000,
    ],
)
def test_E12_a_bad_private_key_is_not_repeated(text: str, kind: str) -> None:
    """The refusal says what to write, and not what was written."""
    with pytest.raises(InvalidInput) as refusal:
        private_keys.read(text, kind)
    said = refusal.value.message + (refusal.value.hint or "")
    assert "deadbeef" not in said and "L1eV" not in said


def test_E12_a_private_key_does_not_show_itself() -> None:
    """Not in repr, str, format, nor in a pickle."""
    key = private_keys.generate(EVM)
    raw = key.reveal().hex()
    assert raw not in f"{key!r} {key} {[key]}"
    with pytest.raises(TypeError):
        pickle.dumps(key)


def test_generated_keys_differ() -> None:
    """Every key is another one."""
    assert len({private_keys.generate(NEO).address() for _ in range(50)}) == 50
