"""Keys in a file of the data directory: for development, and for a single machine.

    .neolayer/keys/       0700
      keys.json           0600: an id, and every version of the key; the highest one seals
      keys.id             the id alone: a lost keys.json is not taken for a new layer
      keys.lock           held while the file is made or a version is added

The file is replaced by a rename and synced, so a kill leaves the old one or the new one. Running
processes see a rotation at their next call, because each looks whether the file is still the one it
has read.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from neolayer.keys.errors import KeysUnavailable
from neolayer.keys.keyset import KeySet, key_as_text, key_of_text, new_key, try_out
from neolayer.keys.names import KeyName
from neolayer.keys.provider import WrappedKey

_Stamp = tuple[int, int, int]


class _File(msgspec.Struct, frozen=True):
    id: str
    keys: dict[str, str]

    def __repr__(self) -> str:
        return f"{self.id}: versions {', '.join(self.keys)}"


class FileKeys:
    """The keys in `folder`; the first is made when one is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / "keys.json"
        self._id = folder / "keys.id"
        self._read: tuple[_Stamp, KeySet] | None = None

    def __repr__(self) -> str:
        return f"FileKeys({str(self._file)!r})"

    async def wrap(self, data_key: bytes) -> WrappedKey:
        return self._keys().wrap(data_key)

    async def unwrap(self, wrapped: WrappedKey) -> bytes:
        return self._keys().unwrap(wrapped)

    async def current(self) -> KeyName:
        return self._keys().current

    async def versions(self) -> tuple[KeyName, ...]:
        return self._keys().names()

    async def rotate(self) -> KeyName:
        self._keys()
        with self._explained(), self._locked():
            content = _decode(self._file)
            version = max(map(int, content.keys)) + 1
            keys = {**content.keys, str(version): key_as_text(new_key())}
            self._write(_File(content.id, keys))
        self._keys()
        return KeyName.of(content.id, str(version))  # another process may have made a newer one

    async def relock(self) -> int:
        return 0

    async def health(self) -> None:
        await try_out(self)

    def _keys(self) -> KeySet:
        with self._explained():
            return self._fresh()

    @contextmanager
    def _explained(self) -> Generator[None]:
        try:
            yield
        except OSError as exc:
            raise KeysUnavailable(
                f"{self._file} cannot be used: {exc.strerror}",
                hint="the keys belong to whoever runs the layer, and to nobody else",
            ) from exc

    def _fresh(self) -> KeySet:
        """The keys as they are in the file now; read again only where it has been replaced."""
        try:
            found = self._file.stat()
        except FileNotFoundError:
            self._make()
            found = self._file.stat()
        stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        if self._read is None or self._read[0] != stamp:
            if found.st_mode & 0o077:
                raise KeysUnavailable(
                    f"{self._file} can be read by others", hint=f"chmod 600 {self._file}"
                )
            content = _decode(self._file)
            self._read = (stamp, self._set_of(content))
            if not self._id.exists():
                self._id.write_text(f"{content.id}\n")
        return self._read[1]

    def _set_of(self, content: _File) -> KeySet:
        keys: dict[KeyName, bytes] = {}
        for version, text in content.keys.items():
            key = key_of_text(text)
            if key is None:
                raise _damaged(self._file)
            keys[KeyName.of(content.id, version)] = key
        if not keys:
            raise _damaged(self._file)
        return KeySet(
            keys,
            max(keys, key=lambda name: name.version),
            place=str(self._file),
            hint="restore that file from its backup; what was sealed under a lost key is lost",
        )

    def _make(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked():
            if self._file.exists():
                return
            if self._id.exists():
                raise KeysUnavailable(
                    f"{self._file} is lost: it held the keys {self._id.read_text().strip()}",
                    hint="restore it from its backup; a new key would open nothing that is stored"
                    f" (to begin anew all the same, delete {self._id})",
                )
            content = _File(f"file-{secrets.token_hex(4)}", {"1": key_as_text(new_key())})
            self._write(content)

    @contextmanager
    def _locked(self) -> Generator[None]:
        descriptor = os.open(self._folder / "keys.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _write(self, content: _File) -> None:
        unfinished = self._file.with_suffix(".new")
        unfinished.unlink(missing_ok=True)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(content)))
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self._file)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _decode(file: Path) -> _File:
    try:
        return msgspec.json.decode(file.read_bytes(), type=_File)
    except msgspec.DecodeError:
        raise _damaged(file) from None


def _damaged(file: Path) -> KeysUnavailable:
    return KeysUnavailable(f"{file} is damaged", hint="restore it from its backup")
