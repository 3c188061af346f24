"""Keys in a file and keys in variables: made once, rotated without loss, refused when unsafe."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from neolayer.errors import NotSupported, SettingsError
from neolayer.keys import Keyring, KeysUnavailable, MissingKey
from neolayer.keys.keyset import key_as_text, new_key
from neolayer.keys.providers import open_keyring
from neolayer.keys.providers.environment import EnvironmentKeys
from neolayer.keys.providers.file import FileKeys
from neolayer.settings import KeySettings

ROW = {"tenant": "a"}
ROTATE = """
import asyncio, sys
from pathlib import Path
from neolayer.keys.providers.file import FileKeys
for _ in range(5):
    print(asyncio.run(FileKeys(Path(sys.argv[1])).rotate()), flush=True)
"""


async def test_the_file_is_made_once_and_closed_to_others(tmp_path: Path) -> None:
    """0600 in 0700; a second keyring on the folder has the same keys."""
    folder = tmp_path / "keys"
    sealed = await Keyring(FileKeys(folder)).seal(b"x", bound_to=ROW)
    assert stat.S_IMODE((folder / "keys.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert await Keyring(FileKeys(folder)).open(sealed, bound_to=ROW) == b"x"


async def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """The error says how to close it."""
    keys = FileKeys(tmp_path)
    await keys.current()
    (tmp_path / "keys.json").chmod(0o644)
    with pytest.raises(KeysUnavailable, match="read by others") as refused:
        await FileKeys(tmp_path).current()
    assert "chmod 600" in (refused.value.hint or "")


async def test_E16_a_lost_file_is_not_replaced_by_a_new_key(tmp_path: Path) -> None:
    """A new key in its place would be lost in turn when the backup is restored."""
    keyring = Keyring(FileKeys(tmp_path))
    sealed = await keyring.seal(b"x", bound_to=ROW)
    name = await keyring.current()
    file = tmp_path / "keys.json"
    backup = file.rename(tmp_path / "backup")
    with pytest.raises(KeysUnavailable, match=name.id) as lost:
        await Keyring(FileKeys(tmp_path)).seal(b"y", bound_to=ROW)
    assert "restore it" in (lost.value.hint or "")
    backup.rename(file)
    assert await keyring.open(sealed, bound_to=ROW) == b"x"


@pytest.mark.parametrize(
    "content", ["", "{", "{}", '{"id":"file-1","keys":{}}', '{"id":"file-1","keys":{"1":"AA"}}']
)
async def test_E16_a_damaged_file_is_one_sentence(tmp_path: Path, content: str) -> None:
    """It is named, and none of its content is repeated."""
    file = tmp_path / "keys.json"
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(KeysUnavailable, match=r"keys\.json is damaged"):
        await FileKeys(tmp_path).current()


async def test_E16_a_kill_between_writing_and_renaming_loses_nothing(tmp_path: Path) -> None:
    """The half-written file is never read, and the next rotation writes it anew."""
    keys = FileKeys(tmp_path)
    first = await keys.current()
    (tmp_path / "keys.new").write_text("{")
    assert await FileKeys(tmp_path).current() == first
    assert (await keys.rotate()).version == 2


async def test_rotations_of_two_processes_lose_no_version(tmp_path: Path) -> None:
    """Both add versions under one lock; every version opens, also in a process that was there."""
    keys = FileKeys(tmp_path)
    keyring = Keyring(keys)
    old = await keyring.seal(b"x", bound_to=ROW)
    argv = [sys.executable, "-c", ROTATE, str(tmp_path)]
    rivals = [
        subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        for _ in range(2)
    ]
    made = [rival.communicate(timeout=60)[0].split() for rival in rivals]
    assert len({*made[0], *made[1]}) == 10
    assert [name.version for name in await keys.versions()] == list(range(1, 12))
    assert (await keyring.current()).version == 11
    assert await keyring.open(old, bound_to=ROW) == b"x"


async def test_two_that_begin_at_once_have_one_key(tmp_path: Path) -> None:
    """The file is made under the lock."""
    folder = tmp_path / "keys"
    made = [asyncio.to_thread(asyncio.run, FileKeys(folder).current()) for _ in range(8)]
    assert len(set(await asyncio.gather(*made))) == 1


async def test_a_folder_that_refuses_us_is_one_sentence(tmp_path: Path) -> None:
    """A file where the folder should be."""
    (tmp_path / "keys").write_text("")
    with pytest.raises(KeysUnavailable, match="cannot be used"):
        await FileKeys(tmp_path / "keys").current()


async def test_the_environments_earlier_keys_still_open(tmp_path: Path) -> None:
    """In any order; without the old one the error names the variable."""
    old, older, new = (key_as_text(new_key()) for _ in range(3))
    sealed = await Keyring(EnvironmentKeys(old)).seal(b"x", bound_to=ROW)
    settings = KeySettings(
        provider="environment",
        key=SecretStr(new),
        previous=(SecretStr(older), SecretStr(old)),
    )
    async with open_keyring(settings, tmp_path) as keyring:
        assert await keyring.open(sealed, bound_to=ROW) == b"x"
        moved = await keyring.rewrap(sealed, bound_to=ROW)
        await keyring.provider.health()
    assert await Keyring(EnvironmentKeys(new)).open(moved, bound_to=ROW) == b"x"
    with pytest.raises(MissingKey, match="NEOLAYER_KEYS__PREVIOUS"):
        await Keyring(EnvironmentKeys(new)).open(sealed, bound_to=ROW)


@pytest.mark.parametrize("text", ["", "short", "not base64 at all!", key_as_text(bytes(31))])
def test_E12_a_bad_key_is_refused_without_being_repeated(text: str) -> None:
    """The message names the variable and how to make a key."""
    with pytest.raises(SettingsError, match="NEOLAYER_KEYS__KEY") as refused:
        EnvironmentKeys(text)
    assert "openssl rand" in (refused.value.hint or "")
    assert not text or text not in str(refused.value)


async def test_no_key_in_the_environment_is_said(tmp_path: Path) -> None:
    """Choosing the provider without a key is a setting to mend."""
    with pytest.raises(SettingsError, match=r"needs keys\.key"):
        async with open_keyring(KeySettings(provider="environment"), tmp_path):
            pass


async def test_the_environment_says_how_it_is_rotated() -> None:
    """We cannot set the variable of who started us."""
    with pytest.raises(NotSupported) as refused:
        await EnvironmentKeys(key_as_text(new_key())).rotate()
    assert "NEOLAYER_KEYS__PREVIOUS" in (refused.value.hint or "")
