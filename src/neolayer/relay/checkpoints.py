"""Where each sink's last write began.

A sink stores its checkpoint with its data, and only then gives back the rows it refused. A process
that dies between the two would lose those rows: the checkpoint has passed them and nobody has put
them aside. So a lane notes what it is about to write from, and does that write again where its end
was never seen; to the sink it is a batch that comes twice.

The note need not outlive the machine, only the process, so it costs no fsync.
"""

from __future__ import annotations

import os
from pathlib import Path

from neolayer.errors import RelayError


class WriteMark:
    """The position from which one sink is being written to."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def resume_at(self, checkpoint: int, *, earliest: int) -> int:
        """Where to go on: at the checkpoint, or at a write that may not have ended before it."""
        try:
            began = int(self._path.read_bytes(), 16)
        except (FileNotFoundError, ValueError):
            return checkpoint
        return min(began, checkpoint) if began >= earliest else checkpoint

    def move(self, position: int) -> None:
        """A write from `position` on begins, or all up to it has ended. Raises RelayError."""
        try:
            mark = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(mark, b"%016x" % position, 0)
            finally:
                os.close(mark)
        except OSError as exc:
            raise RelayError(f"{self._path} cannot be written: {exc.strerror}") from exc
