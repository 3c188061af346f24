"""The data directory: who may use it, what runs in it, and its secrets.

    .neolayer/
      layer.lock      held by the running supervisor; names it
      layer.json      what runs: processes, ports, states (rewritten at every change)
      secrets.json    generated passwords, 0600
      logs/           one file per process
      postgres/  redis/  clickhouse/  objects/

The lock is the kernel's (`flock`), so it is gone the moment its holder is, however that died.
Every file is replaced by a rename, so a kill never leaves half of one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import Generator
from pathlib import Path

import msgspec

from neolayer.engines.embedded.privileges import Account, let_through
from neolayer.engines.embedded.processes import ProcessIdentity
from neolayer.engines.endpoints import NEVER_LOG_IN, Role
from neolayer.errors import AlreadyRunning, DataDirectoryError, visible

LEAST_FREE_BYTES = 200 * 2**20
_LOCK_PATIENCE_S = 1.0
# A folder with one of these is a data directory; beside nothing but the others it may become one.
_MARKS = ("layer.lock", "layer.json", "secrets.json")
_HARMLESS = ("logs", "layer.probe", "keys", "lost+found")


class Secrets(msgspec.Struct, frozen=True):
    """Generated passwords; `roles` are those of PostgreSQL's roles."""

    roles: dict[str, str]
    redis: str
    clickhouse: str
    clickhouse_reader: str

    def passwords(self) -> dict[Role, str]:
        """By role; neither the superuser, nor those who never log in."""
        never = (Role.ADMIN, *NEVER_LOG_IN)
        return {role: self.roles[role] for role in Role if role not in never}


class ServiceState(msgspec.Struct, frozen=True):
    """One supervised process as last seen. `last_exit` says how its forerunner ended."""

    name: str
    state: str
    process: ProcessIdentity | None = None
    restarts: int = 0
    last_exit: str | None = None


class LayerState(msgspec.Struct, frozen=True):
    """What a layer looks like: `phase` is starting, healthy, stopping, stopped or failed."""

    phase: str
    supervisor: ProcessIdentity | None = None
    ports: dict[str, int] = {}
    services: list[ServiceState] = []
    started_at: float = 0.0
    version: str = ""


class DataDirectory:
    """One layer's folder. Nothing is touched until `prepare`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def resolved(self) -> Path:
        """The real folder behind a link: how processes name it."""
        return self.path.resolve()

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def prepare(self, account: Account | None) -> None:
        """Make the folder, closed to all others. Raises DataDirectoryError in one sentence, also
        where it holds what is not ours: closing a home folder, or /tmp, would break what uses it.
        """
        self._require_plain()
        try:
            self._require_ours()
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            let_through(self.path, account)
            self.logs.mkdir(mode=0o700, exist_ok=True)
            self._require_space()
            self._write("layer.probe", b"written to see whether this folder can be written")
            (self.path / "layer.probe").unlink()
        except OSError as exc:
            raise unusable(self.path, exc) from exc

    def _require_plain(self) -> None:
        """The embedded ClickHouse takes a backslash and a line's end in a path for others."""
        path = str(self.resolved)
        if "\\" in path or not path.isprintable():
            raise DataDirectoryError(
                f"data directory {visible(path)} holds a backslash or a control character",
                hint="choose another --data-dir",
            )

    def _require_ours(self) -> None:
        if not self.path.exists() or any((self.path / name).exists() for name in _MARKS):
            return
        others = (each.name for each in self.path.iterdir())
        if other := next((name for name in others if not name.startswith(_HARMLESS)), None):
            raise DataDirectoryError(
                f"data directory {self.path} holds other things, such as {other}",
                hint="name a new or an empty folder with --data-dir",
            )

    def _require_space(self) -> None:
        free = shutil.disk_usage(self.path).free
        if free < LEAST_FREE_BYTES:
            raise DataDirectoryError(
                f"data directory {self.path}: its disk has {free // 2**20} MiB left, "
                f"{LEAST_FREE_BYTES // 2**20} MiB are needed",
                hint="free some space or choose another --data-dir",
            )

    # The lock

    @contextlib.contextmanager
    def lock(self) -> Generator[None]:
        """Hold the folder for this process. Raises AlreadyRunning, naming the other's pid."""
        try:
            descriptor = os.open(self.path / "layer.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as exc:
            raise unusable(self.path, exc) from exc
        try:
            self._acquire(descriptor)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, msgspec.json.encode(ProcessIdentity.own()), 0)
            try:
                yield
            finally:
                os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    def _acquire(self, descriptor: int) -> None:
        deadline = time.monotonic() + _LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline or self.holder() is not None:
                    raise self._already_running() from None
                time.sleep(0.02)

    def _already_running(self) -> AlreadyRunning:
        holder = self.holder()
        who = f"process {holder.pid}" if holder else "another process"
        return AlreadyRunning(
            f"a layer is already running on {self.path} ({who})",
            hint="look at it with: neolayer status; stop it with: neolayer down",
        )

    def require_unused(self) -> None:
        """Raises AlreadyRunning, naming the pid, where a layer runs here."""
        if self.holder() is not None:
            raise self._already_running()

    def holder(self) -> ProcessIdentity | None:
        """The live process that holds the lock; None where no layer runs."""
        try:
            text = (self.path / "layer.lock").read_bytes()
            identity = msgspec.json.decode(text, type=ProcessIdentity)
        except (OSError, msgspec.DecodeError):
            return None
        return identity if identity.alive else None

    # State and secrets

    def read_state(self) -> LayerState | None:
        """The last state written; None where there is none or it cannot be read."""
        try:
            return msgspec.json.decode((self.path / "layer.json").read_bytes(), type=LayerState)
        except (OSError, msgspec.DecodeError):
            return None

    def write_state(self, state: LayerState) -> None:
        """Replace the state. Raises DataDirectoryError."""
        try:
            self._write("layer.json", msgspec.json.format(msgspec.json.encode(state)))
        except OSError as exc:
            raise unusable(self.path, exc) from exc

    def secrets(self) -> Secrets:
        """The passwords; made at the first call. Raises DataDirectoryError."""
        file = self.path / "secrets.json"
        try:
            known = msgspec.json.decode(file.read_bytes(), type=dict[str, object])
        except FileNotFoundError:
            known = {}
        except (OSError, msgspec.DecodeError) as exc:
            raise DataDirectoryError(f"{file} cannot be read: {exc}") from exc
        completed = _complete(known)
        if msgspec.to_builtins(completed) != known:
            try:
                self._write(file.name, msgspec.json.format(msgspec.json.encode(completed)))
            except OSError as exc:
                raise unusable(self.path, exc) from exc
        return completed

    def _write(self, name: str, content: bytes) -> None:
        unfinished = self.path / f"{name}.{os.getpid()}"
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self.path / name)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise


def _complete(known: dict[str, object]) -> Secrets:
    """What is known, with a fresh password for whatever a newer release has added."""
    roles = known.get("roles")
    kept = {str(key): str(value) for key, value in roles.items()} if isinstance(roles, dict) else {}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    made = {str(role): secrets.token_urlsafe(24) for role in Role if role not in NEVER_LOG_IN}
    others = {
        name: str(known.get(name) or secrets.token_urlsafe(24))
        for name in ("redis", "clickhouse", "clickhouse_reader")
    }
    return Secrets(roles={**made, **kept}, **others)


def unusable(path: Path, exc: OSError) -> DataDirectoryError:
    """The one sentence for a folder that refuses us."""
    hint = "choose another one with --data-dir"
    match exc.errno:
        case errno.EROFS:
            reason = "the file system is read-only"
        case errno.EACCES | errno.EPERM:
            reason = "we may not write there"
        case errno.ENOSPC | errno.EDQUOT:
            reason, hint = "the disk is full", "free some space or choose another --data-dir"
        case errno.ENOTDIR | errno.EEXIST:
            reason = "it or a part of its path is a file"
        case _:
            reason = exc.strerror or str(exc)
    return DataDirectoryError(f"data directory {path} cannot be used: {reason}", hint=hint)
