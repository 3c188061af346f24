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

_log = structlog.get_logger()


@asynccontextmanager
async def hold_folder(folder: Path | None, stop: asyncio.Event) -> AsyncGenerator[Path | None]:
    """The folder, once no other relay works in it; None where `stop` is set before.

    Without a folder a temporary one, which is gone at the end. Raises RelayError.
    """
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="neolayer-")))
        lock = _open_lock(folder)
        stack.callback(os.close, lock)
        told = False
        while not (held := _try_lock(lock)) and not stop.is_set():
            if not told:
                _log.warning("another relay works here: waiting for it to end", folder=str(folder))
                told = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_S):
                    await stop.wait()
        yield folder if held else None


def _open_lock(folder: Path) -> int:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise RelayError(f"the relay cannot work in {folder}: {exc.strerror or exc}") from exc


def _try_lock(lock: int) -> bool:
    """The lock ends with the process, however that ends."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
