"""What the worker `tasks` says of itself: a small file that it writes once a second."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from neolayer.engines.embedded.processes import ProcessIdentity

_SILENT_S = 5.0


class TaskState(msgspec.Struct):
    """One task as its loop sees it. Times are seconds since 1970."""

    every_seconds: float
    started_at: float | None = None
    succeeded_at: float | None = None
    runs: int = 0
    failures: int = 0
    failures_in_a_row: int = 0
    error: str | None = None
    error_at: float | None = None

    def succeeded(self) -> None:
        """A run ended well: its error is past."""
        self.succeeded_at = time.time()
        self.runs += 1
        self.failures_in_a_row = 0
        self.error = self.error_at = None

    def failed(self, error: str) -> None:
        """A run ended in an error, which stands until one ends well."""
        self.error, self.error_at = error, time.time()
        self.failures += 1
        self.failures_in_a_row += 1


class TasksState(msgspec.Struct):
    """The running worker, as it last wrote itself down."""

    pid: int
    started_at: float
    updated_at: float
    tasks: dict[str, TaskState] = {}

    @property
    def is_running(self) -> bool:
        """Whether the process lives and has written lately."""
        return (
            time.time() - self.updated_at < _SILENT_S and ProcessIdentity.of(self.pid) is not None
        )

    def write(self, path: Path) -> None:
        """Replace the file at once, so that a reader never sees half of it."""
        self.updated_at = time.time()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(msgspec.json.encode(self))
        temporary.replace(path)


def tasks_path(data_dir: Path) -> Path:
    return data_dir / "tasks" / "state.json"


def read_tasks(path: Path) -> TasksState | None:
    """What the worker last wrote, or None."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=TasksState)
    except (OSError, msgspec.DecodeError):
        return None
