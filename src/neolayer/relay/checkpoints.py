"""Where each sink's last write began.

A sink stores its checkpoint with its data, and only then gives back the rows it refused. A process
that dies between the two would lose those rows: the checkpoint has passed them and nobody has put
them aside. So a lane notes what it is about to write from, and does that write again where its end
was never seen; to the sink it is a batch that comes twice.

The note need only outlive the process, so it costs no fsync, but for three moments:

- before a write that is done again because of it: of a transaction that comes in parts the sink
  then holds for a while what an earlier part said, under the version of the whole and below its own
  checkpoint; without the note, lost with the machine, it would stay so;
- before the log deletes anything: so a note from before the log's start tells of a write whose
  beginning is gone, and the sink must copy the tables as they stand;
- around a copy, which removes what a row of long ago would otherwise lose against.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from neolayer.errors import RelayError
from neolayer.relay.segment import sync

_COPYING: Final = (1 << 64) - 1


class WriteMark:
    """The position from which one sink is being written to, or that it is being copied to."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def is_copying(self) -> bool:
        """Whether a copy began whose end was never seen."""
        return self._read() == _COPYING

    def resume_at(self, checkpoint: int) -> int:
        """Where to go on: at the checkpoint, or at a write that may not have ended before it."""
        began = self._read()
        return checkpoint if began is None else min(began, checkpoint)

    def begin_copy(self) -> None:
        """What the sink holds counts for nothing until `move`. Raises RelayError."""
        self.move(_COPYING)

    def _read(self) -> int | None:
        try:
            return int(self._path.read_bytes(), 16)
        except (FileNotFoundError, ValueError):
            return None

    def keep(self) -> None:
        """Let the note, if there is one, outlive the machine too. Raises RelayError."""
        try:
            sync(self._path)
            sync(self._path.parent)
        except FileNotFoundError:
            return
        except OSError as exc:
            raise RelayError(f"{self._path} cannot be kept: {exc.strerror}") from exc

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
