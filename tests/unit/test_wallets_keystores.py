"""Keystore v3: what other clients write is read, and what a file may cost is bounded."""

from __future__ import annotations

import asyncio
import json
import threading
import tracemalloc
from hashlib import pbkdf2_hmac
from typing import Any

import pytest
from eth_keyfile.keyfile import encrypt_aes_ctr
from hypothesis import given, settings
from hypothesis import strategies as st

from neolayer.chain.trie import keccak
from neolayer.errors import InvalidInput
from neolayer.wallets import keystores, private_keys
from neolayer.wallets.addresses import EVM
from neolayer.wallets.model import KeystoreError

PASSWORD = "correct horse battery staple"
# The two examples of the Web3 Secret Storage Definition; password "testpassword".
EXAMPLE_KEY = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d"
PBKDF2: dict[str, Any] = {
    "crypto": {
        "cipher": "aes-128-ctr",
        "cipherparams": {"iv": "6087dab2f9fdbbfaddc31a909735c1e6"},
        "ciphertext": "5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
        "kdf": "pbkdf2",
        "kdfparams": {
            "c": 262144,
            "dklen": 32,
            "prf": "hmac-sha256",
            "salt": "ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd",
        },
        "mac": "517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2",
    },
    "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6",
    "version": 3,
}
SCRYPT: dict[str, Any] = {
    "crypto": {
        "cipher": "aes-128-ctr",
        "cipherparams": {"iv": "83dbcc02d8ccb40e466191a123791e0e"},
        "ciphertext": "d172bf743a674da9cdad04534d56926ef8358534d458fffccd4e6ad2fbde479c",
        "kdf": "scrypt",
        "kdfparams": {
            "dklen": 32,
            "n": 262144,
            "p": 8,
            "r": 1,
            "salt": "ab0c7876052600dd703518d6fc3fe8984592145b591fc8fb5c6d43190334ba19",
        },
        "mac": "2103ac29920d71da29f15d75b4a16dbe95cfd7ff8faea1056c33131d846e3097",
    },
    "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6",
    "version": 3,
}


def changed(base: dict[str, Any], *path: str, value: Any) -> str:
    """The keystore with one field replaced."""
    copy = json.loads(json.dumps(base))
    at = copy
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = value
    return json.dumps(copy)


async def test_the_example_of_scrypt_opens() -> None:
    """The specification's example gives its key."""
    found = await keystores.open_keystore(json.dumps(SCRYPT), "testpassword")
    assert found.reveal().hex() == EXAMPLE_KEY


async def test_the_example_of_pbkdf2_opens() -> None:
    """It gives its key; with another password, or a byte changed, one clear error."""
    text = json.dumps(PBKDF2)
    assert (await keystores.open_keystore(text, "testpassword")).reveal().hex() == EXAMPLE_KEY
    damaged = changed(PBKDF2, "crypto", "mac", value="00" * 32)
    for wrong, password in ((text, "testpassworD"), (damaged, "testpassword")):
        with pytest.raises(KeystoreError, match="wrong password"):
            await keystores.open_keystore(wrong, password)


async def test_names_in_capitals_open() -> None:
    """Old clients write "Crypto" and "KDF"."""
    text = json.dumps(PBKDF2).replace('"crypto"', '"Crypto"').replace('"kdf"', '"KDF"')
    assert (await keystores.open_keystore(text, "testpassword")).reveal().hex() == EXAMPLE_KEY


@pytest.mark.parametrize("kdf", ["scrypt", "pbkdf2"])
async def test_what_is_written_others_read(kdf: keystores.Kdf) -> None:
    """Written at full cost with the address in it, read by the library most clients share."""
    from eth_account import Account

    key = private_keys.generate(EVM)
    text = await keystores.make_keystore(key, PASSWORD, kdf=kdf)
    assert json.loads(text)["address"] == key.address()[2:]
    assert bytes(Account.decrypt(text, PASSWORD)) == key.reveal()
    assert key.reveal().hex() not in text and PASSWORD not in text


@pytest.mark.parametrize(("kdf", "cost"), [("scrypt", 2), ("scrypt", 4096), ("pbkdf2", 1000)])
async def test_what_others_write_is_read(kdf: str, cost: int) -> None:
    """From the library that most clients share, in either derivation; and names the address."""
    from eth_account import Account

    theirs = Account.encrypt("46" * 32, PASSWORD, kdf=kdf, iterations=cost)
    found = await keystores.open_keystore(json.dumps(theirs), PASSWORD)
    assert found.reveal().hex() == "46" * 32
    other = json.dumps(theirs | {"address": "00" * 20})
    with pytest.raises(KeystoreError):
        await keystores.open_keystore(other, PASSWORD)


def keystore_of(raw: bytes, password: str, iv: bytes = bytes(16)) -> dict[str, Any]:
    """A keystore of any bytes, weak so that it is quick."""
    salt = b"salt"
    derived = pbkdf2_hmac("sha256", password.encode(), salt, 1, 32)
    ciphertext = encrypt_aes_ctr(raw, derived[:16], int.from_bytes(iv))
    crypto = {
        "cipher": "aes-128-ctr",
        "cipherparams": {"iv": iv.hex()},
        "ciphertext": ciphertext.hex(),
        "kdf": "pbkdf2",
        "kdfparams": {"c": 1, "dklen": 32, "prf": "hmac-sha256", "salt": salt.hex()},
        "mac": keccak(derived[16:32] + ciphertext).hex(),
    }
    return {"version": 3, "crypto": crypto}


@given(
    st.integers(1, private_keys.ORDERS[EVM] - 1),
    st.text(min_size=1, max_size=40),
    st.binary(min_size=16, max_size=16),
)
@settings(deadline=None)
def test_any_key_and_password_open_again(number: int, password: str, iv: bytes) -> None:
    """Whatever the password is (emoji, blanks, NFD): its exact bytes open the file."""
    text = json.dumps(keystore_of(number.to_bytes(32), password, iv))
    found = asyncio.run(keystores.open_keystore(text, password))
    assert found.reveal() == number.to_bytes(32)


@pytest.mark.parametrize("size", [31, 30, 1])
async def test_keys_with_leading_zeros(size: int) -> None:
    """Some clients wrote 31 bytes where the first is zero."""
    text = json.dumps(keystore_of(b"\x01" * size, "p"))
    assert (await keystores.open_keystore(text, "p")).reveal() == (b"\x01" * size).rjust(32, b"\0")


async def test_an_odd_iv() -> None:
    """Others left out the first zero of a number in hex."""
    made = keystore_of(b"\x01" * 32, "p", b"\x01" + b"\x22" * 15)
    made["crypto"]["cipherparams"]["iv"] = "1" + "22" * 15
    assert (await keystores.open_keystore(json.dumps(made), "p")).reveal() == b"\x01" * 32


HOSTILE: list[tuple[tuple[str, ...], Any]] = [
    (("crypto", "kdfparams", "n"), 1 << 30),
    (("crypto", "kdfparams", "n"), 1 << 62),
    (("crypto", "kdfparams", "n"), 0),
    (("crypto", "kdfparams", "n"), 1),
    (("crypto", "kdfparams", "n"), -262144),
    (("crypto", "kdfparams", "n"), 262143),
    (("crypto", "kdfparams", "n"), 262144.0),
    (("crypto", "kdfparams", "n"), "262144"),
    (("crypto", "kdfparams", "n"), True),
    (("crypto", "kdfparams", "r"), 1 << 20),
    (("crypto", "kdfparams", "r"), 0),
    (("crypto", "kdfparams", "r"), 64),
    (("crypto", "kdfparams", "p"), 1 << 30),
    (("crypto", "kdfparams", "p"), 0),
    (("crypto", "kdfparams", "p"), 64),
    (("crypto", "kdfparams", "dklen"), 1 << 30),
    (("crypto", "kdfparams", "dklen"), 16),
    (("crypto", "kdfparams", "dklen"), -1),
    (("crypto", "kdfparams", "salt"), "ab" * 5000),
    (("crypto", "kdfparams", "salt"), ""),
    (("crypto", "kdfparams", "salt"), "zz"),
    (("crypto", "kdfparams", "salt"), None),
    (("crypto", "kdfparams"), None),
    # 512 MiB for work that is within its bound.
    (("crypto", "kdfparams"), {"dklen": 32, "n": 1 << 20, "r": 4, "p": 1, "salt": "ab"}),
    # Twice the work in memory that is within its bound.
    (("crypto", "kdfparams"), {"dklen": 32, "n": 1 << 18, "r": 8, "p": 4, "salt": "ab"}),
    (("crypto", "kdf"), "argon2id"),
    (("crypto", "kdf"), "pbkdf2"),
    (("crypto", "kdf"), ["scrypt"]),
    (("crypto", "cipher"), "aes-256-gcm"),
    (("crypto", "ciphertext"), ""),
    (("crypto", "ciphertext"), "00" * 33),
    (("crypto", "cipherparams", "iv"), "00" * 17),
    (("crypto", "mac"), "00" * 31),
    # Little work, and twice the memory.
    (("crypto", "kdfparams"), SCRYPT["crypto"]["kdfparams"] | {"n": 1 << 20, "r": 4, "p": 1}),
    (("crypto",), []),
    (("version",), 1),
    (("version",), 4),
    (("version",), "3"),
    (("address",), 5),
]


@pytest.mark.parametrize(("path", "value"), HOSTILE)
async def test_D_hostile_parameters_cost_nothing(
    path: tuple[str, ...], value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are refused before memory is asked for and before the key is derived."""
    text = changed(SCRYPT, *path, value=value)
    monkeypatch.setattr(keystores, "_decrypt", lambda *_: pytest.fail("a key is derived"))
    tracemalloc.start()
    try:
        with pytest.raises(KeystoreError) as refusal:
            await keystores.open_keystore(text, "testpassword")
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert "wrong password" not in refusal.value.message


@pytest.mark.parametrize("rounds", [0, -1, 4_000_001, 1 << 62, 1e6, "1"])
async def test_D_hostile_rounds_cost_nothing(rounds: Any) -> None:
    """The same for pbkdf2, whose cost is its number of rounds; nor is another hash taken."""
    with pytest.raises(KeystoreError):
        text = changed(PBKDF2, "crypto", "kdfparams", "c", value=rounds)
        await keystores.open_keystore(text, "testpassword")
    with pytest.raises(KeystoreError):
        text = changed(PBKDF2, "crypto", "kdfparams", "prf", value="hmac-md5")
        await keystores.open_keystore(text, "testpassword")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        "not json",
        "[" * 10_000,
        '{"a":' * 3000,
        b"\xff\xfe",
        "9" * 5000,
        json.dumps(SCRYPT) + " " * 20_000,
        json.dumps(PBKDF2)[:-1] + ', "Version": 3}',
        json.dumps(PBKDF2)[:-1] + ', "Crypto": {}}',
    ],
)
async def test_D_what_is_no_keystore(text: str | bytes) -> None:
    """Anything else is refused in words."""
    with pytest.raises(KeystoreError):
        await keystores.open_keystore(text, "testpassword")


async def test_a_keystore_that_names_another_address() -> None:
    """The file's own address must be that of its key; an absent or empty one says nothing."""
    for value in ("0x" + "11" * 20, "11" * 20):
        with pytest.raises(KeystoreError, match="address"):
            await keystores.open_keystore(changed(PBKDF2, "address", value=value), "testpassword")
    right = "008AEEDA4D805471dF9b2A5B0f38A0C3bCBA786b"
    for value in (right, "0x" + right, "", None):
        await keystores.open_keystore(changed(PBKDF2, "address", value=value), "testpassword")


@pytest.mark.parametrize("raw", [bytes(32), b"\xff" * 32])
async def test_D_what_is_no_key_is_refused(raw: bytes) -> None:
    """A file may hold anything; zero and what is beyond the curve's order are not taken."""
    with pytest.raises(InvalidInput):
        await keystores.open_keystore(json.dumps(keystore_of(raw, "p")), "p")


@pytest.mark.parametrize("password", ["", "short", "x" * 5000])
async def test_D_passwords_of_an_export(password: str) -> None:
    """Too short would be guessed by whoever has the file; too long is refused as well."""
    with pytest.raises(InvalidInput):
        await keystores.make_keystore(private_keys.generate(EVM), password)


async def test_the_loop_turns_while_keys_are_derived(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derivations run beside the event loop: it turns many times while one takes."""
    text = changed(SCRYPT, "crypto", "kdfparams", "p", value=2)
    derives, turns, decrypt = threading.Event(), 0, keystores._decrypt

    def told(*given: Any) -> Any:
        derives.set()
        try:
            return decrypt(*given)
        finally:
            derives.clear()

    async def watch() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.001)
            turns += derives.is_set()

    monkeypatch.setattr(keystores, "_decrypt", told)
    watcher = asyncio.create_task(watch())
    with pytest.raises(KeystoreError, match="wrong password"):
        await keystores.open_keystore(text, "testpassword")
    watcher.cancel()
    assert turns > 3
