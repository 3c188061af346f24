"""What the running relay says of itself, and where: a small file in its folder, once a second."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

import msgspec

from neolayer.engines.endpoints import Database
from neolayer.errors import NeolayerError
from neolayer.freshness.put_back import NOTE_FILE

SLOT = "neolayer_relay"
PUBLICATION = "neolayer_relay"
STATE_FILE = "state.json"
SILENT_S: Final = 5.0  # so old, and nobody writes it any more


class LaneState(msgspec.Struct):
    """One sink as its lane sees it. Times are seconds since 1970."""

    position: int = 0
    waiting_rows: int = 0
    waiting_bytes: int = 0
    written_rows: int = 0
    writes: int = 0
    committed_at: float | None = None
    error: str | None = None
    hint: str | None = None
    error_at: float | None = None
    failures: int = 0
    rejected: int = 0
    paused: bool = False
    copying: bool = False

    def failed(self, exc: NeolayerError) -> None:
        self.error, self.hint, self.error_at = exc.message, exc.hint, time.time()
        self.failures += 1

    def recovered(self) -> None:
        self.error = self.hint = None


class FlowState(msgspec.Struct):
    """One database's reader and sinks. `log_bytes` is what its segment log holds, `copy_bytes` what
    it may come to hold while a sink copies (0: none does), `free_bytes` what its disk has left."""

    slot: str
    lanes: dict[str, LaneState]
    log_bytes: int = 0
    copy_bytes: int = 0
    free_bytes: int | None = None
    error: str | None = None
    hint: str | None = None
    put_back: bool = False


class RelayState(msgspec.Struct):
    """The running relay, as it last wrote itself down; its flows by database."""

    pid: int
    started_at: float
    updated_at: float
    flows: dict[str, FlowState] = {}

    @property
    def lanes(self) -> dict[str, LaneState]:
        """Every sink's lane by the sink's name."""
        return {name: lane for flow in self.flows.values() for name, lane in flow.lanes.items()}

    @property
    def refuses(self) -> bool:
        """Whether it runs, and waits for a server that was put back to be recovered."""
        is_current = time.time() - self.updated_at <= SILENT_S
        return is_current and any(flow.put_back for flow in self.flows.values())

    def write(self, path: Path) -> None:
        """Replace the file at once, so that a reader never sees half of it."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(msgspec.json.encode(self))
        temporary.replace(path)


def slot_of(database: Database) -> str:
    """The slot that reads a database's log: a name is taken once in a cluster."""
    return SLOT if database is Database.CORE else f"{SLOT}_{database}"


def relay_folder(data_dir: Path) -> Path:
    """Where the relay keeps its segment logs and its state file."""
    return data_dir / "relay"


def server_notes(data_dir: Path) -> dict[str, Path]:
    """Where the relay notes which server it reads, by database."""
    folder = relay_folder(data_dir)
    return {str(database): folder / slot_of(database) / NOTE_FILE for database in Database}


def state_path(data_dir: Path) -> Path:
    return relay_folder(data_dir) / STATE_FILE


def read_state(path: Path) -> RelayState | None:
    """What the relay last wrote, or None."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=RelayState)
    except (OSError, msgspec.DecodeError):
        return None
