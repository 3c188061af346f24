"""The relay's folder: its segment logs and its state file, for one process at a time."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import structlog

from neolayer.errors import RelayError

_RETRY_S: Final = 0.5
_LOCK: Final = "lock"

_log = structlog.get_logger()


class HeldFolder:
    """A folder with a lock on a file in it, which ends with the process, however that ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = _open_lock(path)

    def close(self) -> None:
        os.close(self._lock)

    def try_hold(self) -> bool:
        """Whether no other relay holds it."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    @property
    def is_held(self) -> bool:
        """False once the folder was removed, or put somewhere else: a lock stays with its file."""
        try:
            return os.path.samestat(os.fstat(self._lock), (self.path / _LOCK).stat())
        except OSError:
            return False

    def hold_on(self) -> None:
        """Lock it again where it was made anew.

        Raises RelayError where another relay was first.
        """
        if self.is_held:
            return
        anew = HeldFolder(self.path)
        if not anew.try_hold():
            anew.close()
            raise RelayError(f"another relay works in {self.path}, which was made anew")
        self._lock, anew._lock = anew._lock, self._lock
        anew.close()


@asynccontextmanager
async def hold_folder(
    folder: Path | None, stop: asyncio.Event
) -> AsyncGenerator[HeldFolder | None]:
    """The folder, once no other relay works in it; None where `stop` is set before.

    Without a folder a temporary one, which is gone at the end. Raises RelayError.
    """
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="neolayer-")))
        held = HeldFolder(folder)
        stack.callback(held.close)
        told = False
        while not (is_first := held.try_hold()) and not stop.is_set():
            if not told:
                _log.warning("another relay works here: waiting for it to end", folder=str(folder))
                told = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_S):
                    await stop.wait()
        yield held if is_first else None


def _open_lock(folder: Path) -> int:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise RelayError(f"the relay cannot work in {folder}: {exc.strerror or exc}") from exc
