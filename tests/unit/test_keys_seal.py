"""The envelope: what is bound, what is told apart, and that nothing secret is ever shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neolayer.errors import InvalidInput
from neolayer.keys import (
    BrokenSeal,
    Keyring,
    KeyringError,
    MissingKey,
    UnreadableSeal,
    WrongKey,
    key_id_of,
)
from neolayer.keys.keyset import KeySet, key_as_text, new_key
from neolayer.keys.names import KeyName
from neolayer.keys.providers.environment import EnvironmentKeys
from neolayer.keys.providers.file import FileKeys
from neolayer.keys.seal import binding, close, parse

ROW = {"tenant": "11111111-1111-4111-8111-111111111111", "user": "ann"}
SECRET = b"the seed that nobody may see"


@pytest.mark.parametrize("length", [0, 1, 20, 32, 64])
async def test_a_secret_of_64_bytes_fits_the_column(keyring: Keyring, length: int) -> None:
    """auth.users.mfa_secret holds 255 characters, and the text is plain ASCII."""
    sealed = await keyring.seal(bytes(length), bound_to=ROW)
    assert len(sealed) <= 255
    assert sealed.isascii()
    assert await keyring.open(sealed, bound_to=dict(reversed(ROW.items()))) == bytes(length)


def test_the_longest_name_of_a_key_fits_the_column() -> None:
    """An id of 32 characters and nine digits of a version leave room for 64 bytes."""
    name = KeyName("a" * 32, 999_999_999)
    data_key = new_key()
    wrapped = KeySet({name: new_key()}, name, place="", hint="").wrap(data_key)
    assert len(str(close(bytes(64), data_key, wrapped, bound_to=ROW))) <= 255


async def test_each_secret_has_a_data_key_and_a_nonce_of_its_own(keyring: Keyring) -> None:
    """The same secret sealed twice shares no part but the key's name."""
    first, second = [(await keyring.seal(SECRET, bound_to=ROW)).split(".") for _ in range(2)]
    assert first[:3] == second[:3]
    assert all(a != b for a, b in zip(first[3:], second[3:], strict=True))


@pytest.mark.parametrize(
    "other",
    [
        {**ROW, "tenant": "22222222-2222-4222-8222-222222222222"},
        {**ROW, "user": "bob"},
        {"tenant": ROW["tenant"]},
        {**ROW, "network": "ethereum"},
        {"tenant": ROW["user"], "user": ROW["tenant"]},
    ],
)
async def test_E16_a_secret_moved_to_another_row_is_refused(
    keyring: Keyring, other: dict[str, str]
) -> None:
    """Another tenant, another user, a name less or more, or values that swapped their names."""
    sealed = await keyring.seal(SECRET, bound_to=ROW)
    with pytest.raises(BrokenSeal, match=key_id_of(sealed)):
        await keyring.open(sealed, bound_to=other)
    with pytest.raises(BrokenSeal):
        await keyring.rewrap(sealed, bound_to=other)


@given(st.dictionaries(st.text(min_size=1), st.text(min_size=1), min_size=1), st.data())
def test_no_two_bindings_have_one_spelling(bound_to: dict[str, str], data: st.DataObject) -> None:
    """Lengths stand before the parts, so moving a letter between them makes another binding."""
    other = data.draw(
        st.dictionaries(st.text(min_size=1), st.text(min_size=1), min_size=1).filter(
            lambda drawn: drawn != bound_to
        )
    )
    assert binding(bound_to) == binding(dict(reversed(bound_to.items())))
    assert binding(bound_to) != binding(other)
    assert binding({"a": "bc"}) != binding({"ab": "c"})


@pytest.mark.parametrize("bound_to", [{}, {"tenant": ""}, {"": "x"}])
async def test_a_secret_bound_to_nothing_is_refused(
    keyring: Keyring, bound_to: dict[str, str]
) -> None:
    """What is bound to nothing can be moved anywhere."""
    with pytest.raises(InvalidInput):
        await keyring.seal(SECRET, bound_to=bound_to)


async def test_every_altered_character_is_noticed(keyring: Keyring) -> None:
    """Each part is checked: by its spelling, by the key wrap or by the cipher's tag."""
    sealed = await keyring.seal(SECRET, bound_to=ROW)
    for place, character in enumerate(sealed):
        other = "A" if character != "A" else "B"
        with pytest.raises(KeyringError):
            await keyring.open(sealed[:place] + other + sealed[place + 1 :], bound_to=ROW)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nl1",
        "nl2.file-1.1.AAAA.AAAA.AAAA",
        "nl1.FILE.1.AAAA.AAAA.AAAA",
        "nl1.file.0.AAAA.AAAA.AAAA",
        "nl1.file.01.AAAA.AAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAAAA",
        "nl1.file.1.AAAA.AAAA.AAAAAAAAAAAAAAAAAAAAAAAA",
        "nl1.file.1.AAAB=.AAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAAAA",
        "nl1.file.1.AB.AAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAAAA",
        "nl1.file.1.\u00e4.AAAAAAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAAAA",
        "nl1." * 1_000_000,
    ],
)
async def test_what_is_no_sealed_text_is_said_to_be_none(keyring: Keyring, text: str) -> None:
    """One spelling only; anything else is one short error and no other exception."""
    with pytest.raises(UnreadableSeal):
        await keyring.open(text, bound_to=ROW)
    with pytest.raises(UnreadableSeal):
        key_id_of(text)


async def test_rewrap_leaves_nonce_and_ciphertext(keyring: Keyring) -> None:
    """Only the key's version and the wrapped data key differ; old and new text both open."""
    old = await keyring.seal(SECRET, bound_to=ROW)
    assert await keyring.rewrap(old, bound_to=ROW) == old
    await keyring.provider.rotate()
    new = await keyring.rewrap(old, bound_to=ROW)
    assert key_id_of(old).endswith("/1")
    assert key_id_of(new).endswith("/2")
    assert old.split(".")[4:] == new.split(".")[4:]
    assert old.split(".")[3] != new.split(".")[3]
    assert [await keyring.open(text, bound_to=ROW) for text in (old, new)] == [SECRET, SECRET]


async def test_E16_a_lost_key_is_named_with_the_way_out(keyring: Keyring, tmp_path: Path) -> None:
    """The error says which key, where it should be, and what to do."""
    sealed = await Keyring(FileKeys(tmp_path / "others")).seal(SECRET, bound_to=ROW)
    with pytest.raises(MissingKey) as missing:
        await keyring.open(sealed, bound_to=ROW)
    assert missing.value.key_id == key_id_of(sealed)
    assert key_id_of(sealed) in missing.value.message
    assert "keys.json" in missing.value.message
    assert "backup" in (missing.value.hint or "")


async def test_E16_a_wrong_key_under_the_right_name_is_told_from_a_moved_row(
    keyring: Keyring, tmp_path: Path
) -> None:
    """The wrapped key checks itself, so a wrong key is not reported as a broken row."""
    sealed = await keyring.seal(SECRET, bound_to=ROW)
    file = tmp_path / "keys" / "keys.json"
    text = file.read_text()
    right = text.split('"1": "')[1].split('"')[0]
    file.write_text(text.replace(right, key_as_text(new_key())) + " ")
    with pytest.raises(WrongKey, match=key_id_of(sealed)):
        await keyring.open(sealed, bound_to=ROW)
    file.write_text(text)
    assert await keyring.open(sealed, bound_to=ROW) == SECRET


async def test_E12_nothing_that_can_be_printed_shows_a_key(
    keyring: Keyring, tmp_path: Path
) -> None:
    """repr and str of everything on the way, with each of its parts."""
    key = new_key()
    environment = EnvironmentKeys(key_as_text(key))
    sealed = await keyring.seal(SECRET, bound_to=ROW)
    seal = parse(sealed)
    stored = (tmp_path / "keys" / "keys.json").read_text().split('"1": "')[1].split('"')[0]
    shown = " ".join(
        f"{each!r} {vars(each) if hasattr(each, '__dict__') else ''}"
        for each in (keyring, keyring.provider, environment, seal, seal.wrapped)
    )
    for secret in (stored, key_as_text(key), key.hex(), repr(key), SECRET.decode()):
        assert secret not in shown
    assert repr(seal.wrapped.blob) not in repr(seal)
