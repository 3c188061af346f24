"""NEP-2: what Neo's wallets write is read, and one answer to whatever does not open."""

from __future__ import annotations

import pytest

from neolayer.errors import InvalidInput
from neolayer.wallets import nep2, private_keys
from neolayer.wallets.addresses import NEO, base58check
from neolayer.wallets.model import KeystoreError

# The test account of Neo N3's SDKs; its password is "neo".
KEY = "84180ac9d6eb6fba207ea4ef9d2200102d1ebeb4b9c07e2c6a738a42742e27a5"
TEXT = "6PYM7jHL4GmS8Aw2iEFpuaHTCUKjhT4mwVqdoozGU6sUE25BjV4ePXDdLz"


async def test_the_known_text_opens() -> None:
    """As text and as a file's bytes; with another password one clear error."""
    for given in (TEXT, TEXT.encode() + b"\n"):
        assert (await nep2.open_keystore(given, "neo")).reveal().hex() == KEY
    with pytest.raises(KeystoreError, match="wrong password"):
        await nep2.open_keystore(TEXT, "Neo")


async def test_what_is_written_opens() -> None:
    """Whatever the form of its letters, a password is the same password."""
    key = private_keys.generate(NEO)
    text = await nep2.make_keystore(key, "pa\u0308ssword with ümlauts")
    assert text.startswith("6P") and len(text) == 58
    assert (await nep2.open_keystore(text, "p\u00e4ssword with ümlauts")).reveal() == key.reveal()


@pytest.mark.parametrize(
    "text",
    [
        "",
        TEXT[:-1],
        TEXT[:-1] + "y",
        TEXT + "1",
        "6P" * 1_000_000,
        "é" * 58,
        base58check(b"\x01\x42\xc0" + bytes(36)),
        base58check(b"\x01\x43\xe0" + bytes(36)),
        b"\xff" * 58,
        "{}",
    ],
)
async def test_D_what_is_no_nep2(text: str | bytes) -> None:
    """Cut, mistyped, of another form, or anything else: refused before a key is derived."""
    with pytest.raises(KeystoreError, match="NEP-2"):
        await nep2.open_keystore(text, "neo")


@pytest.mark.parametrize("password", ["", "short", "x" * 5000])
async def test_D_passwords_of_an_export(password: str) -> None:
    """Too short would be guessed by whoever has the text; too long is refused as well."""
    with pytest.raises(InvalidInput):
        await nep2.make_keystore(private_keys.generate(NEO), password)
