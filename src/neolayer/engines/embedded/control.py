"""Starting a supervisor in the background, and stopping one, from another process."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from neolayer.engines.embedded.data_directory import DataDirectory, LayerState
from neolayer.engines.embedded.processes import await_end, stop_strays
from neolayer.errors import DataDirectoryError

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 90.0
_POLL_S = 0.03


def start_detached(
    argv: Sequence[str],
    directory: DataDirectory,
    *,
    on_state: Callable[[LayerState], None] = lambda _: None,
    timeout_s: float = START_TIMEOUT_S,
) -> LayerState:
    """Run `argv`, a supervisor, in a session of its own; its state once it is healthy.

    Raises DataDirectoryError with the reason it gave where it ends before.
    """
    log = directory.logs / "up.log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        return _await_healthy(child, directory, log, on_state, time.monotonic() + timeout_s)
    except BaseException:  # Ctrl-C too: what we started in the background goes with us
        if child.poll() is None:
            child.terminate()
            child.wait()
        raise


def _await_healthy(
    child: subprocess.Popen[bytes],
    directory: DataDirectory,
    log: Path,
    on_state: Callable[[LayerState], None],
    deadline: float,
) -> LayerState:
    while time.monotonic() < deadline:
        if child.poll() is not None:
            raise _failed(log)
        state = directory.read_state()
        if state and state.supervisor and state.supervisor.pid == child.pid:
            on_state(state)
            if state.phase == "healthy":
                return state
        time.sleep(_POLL_S)
    raise DataDirectoryError(f"the layer did not become healthy in time; see {log}")


def _failed(log: Path) -> DataDirectoryError:
    """The reason a supervisor left behind: its last `error:` and `hint:` lines."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    told = {
        word: line.removeprefix(word).strip()
        for line in lines
        for word in ("error:", "hint:")
        if line.startswith(word)
    }
    reason = told.get("error:") or (lines or ["it gave no reason"])[-1]
    return DataDirectoryError(reason, hint=told.get("hint:") or f"see {log}")


def stop_layer(directory: DataDirectory, *, timeout_s: float = STOP_TIMEOUT_S) -> bool:
    """Stop whatever runs on a data directory and wait until it is gone; False: nothing ran.

    Also after the supervisor was killed: what it left behind is found and ended.
    """
    if not directory.path.is_dir():
        return False
    holder = directory.holder()
    try:
        if holder is not None:
            holder.signal(signal.SIGTERM)
            if not await_end([holder], timeout_s=timeout_s):
                holder.signal(signal.SIGKILL)
                await_end([holder], timeout_s=timeout_s)
        with directory.lock():
            left = stop_strays(directory.resolved)
            _mark_stopped(directory)
    except PermissionError as exc:
        raise DataDirectoryError(
            f"the layer on {directory.path} belongs to another account",
            hint="stop it as the account that started it",
        ) from exc
    return holder is not None or bool(left)


def _mark_stopped(directory: DataDirectory) -> None:
    state = directory.read_state()
    if state is not None and state.phase not in ("stopped", "failed"):
        with contextlib.suppress(DataDirectoryError):  # a full disk: the lock says it better
            directory.write_state(
                LayerState(phase="stopped", ports=state.ports, started_at=state.started_at)
            )
