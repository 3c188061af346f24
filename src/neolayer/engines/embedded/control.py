"""Starting a supervisor in the background, and stopping one, from another process."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import NoReturn

from neolayer.engines.embedded.data_directory import DataDirectory, LayerState
from neolayer.engines.embedded.postgres import forget_killed_server
from neolayer.engines.embedded.processes import await_end, stop_strays
from neolayer.errors import DataDirectoryError

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 90.0
_POLL_S = 0.03


def start_detached(
    supervise: Callable[[], int],
    directory: DataDirectory,
    *,
    on_state: Callable[[LayerState], None] = lambda _: None,
    timeout_s: float = START_TIMEOUT_S,
) -> LayerState:
    """Run `supervise` in a process of its own; the layer's state once it is healthy.

    The process is forked, not started anew, which saves loading everything a second time; so call
    this before any thread or event loop runs. `supervise` writes to stderr and returns an exit
    code. Raises DataDirectoryError with the reason it gave where it ends before.
    """
    log = directory.logs / "up.log"
    pid = os.fork()
    if pid == 0:
        _become_background(supervise, log)
    try:
        return _await_healthy(pid, directory, log, on_state, time.monotonic() + timeout_s)
    except BaseException:  # Ctrl-C too: what we started in the background goes with us
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)
        raise


def _become_background(supervise: Callable[[], int], log: Path) -> NoReturn:
    """In the forked child: leave the terminal, speak to the log, run, end."""
    code = 1
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = supervise()
    except BaseException:  # the last frame of this process: told in the log, then the exit
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)  # what the parent registered to run at its exit is not ours to run


def _await_healthy(
    pid: int,
    directory: DataDirectory,
    log: Path,
    on_state: Callable[[LayerState], None],
    deadline: float,
) -> LayerState:
    while time.monotonic() < deadline:
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            raise _failed(log)
        state = directory.read_state()
        if state and state.supervisor and state.supervisor.pid == pid:
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


class Found(StrEnum):
    """What was there to be stopped."""

    RUNNING = "running"
    """A supervisor and its processes."""
    ORPHANED = "orphaned"
    """Processes whose supervisor had been killed."""
    DEAD = "dead"
    """A state that said it runs, and no process."""
    NOTHING = "nothing"


def stop_layer(directory: DataDirectory, *, timeout_s: float = STOP_TIMEOUT_S) -> Found:
    """Stop whatever runs on a data directory and wait until it is gone; what that was.

    Also after the supervisor was killed: what it left behind is found, ended and cleared away.
    """
    if not directory.path.is_dir():
        return Found.NOTHING
    holder = directory.holder()
    try:
        if holder is not None:
            holder.signal(signal.SIGTERM)
            if not await_end([holder], timeout_s=timeout_s):
                holder.signal(signal.SIGKILL)
                await_end([holder], timeout_s=timeout_s)
        with directory.lock():
            left = stop_strays(directory.resolved)
            forget_killed_server(directory.resolved / "postgres" / "data")
            stale = _mark_stopped(directory)
    except PermissionError as exc:
        raise DataDirectoryError(
            f"the layer on {directory.path} belongs to another account",
            hint="stop it as the account that started it",
        ) from exc
    if holder is not None:
        return Found.RUNNING
    if left:
        return Found.ORPHANED
    return Found.DEAD if stale else Found.NOTHING


def _mark_stopped(directory: DataDirectory) -> bool:
    """Whether the state had to be told that nothing runs."""
    state = directory.read_state()
    if state is None or state.phase in ("stopped", "failed"):
        return False
    with contextlib.suppress(DataDirectoryError):  # a full disk: the lock says it better
        directory.write_state(
            LayerState(phase="stopped", ports=state.ports, started_at=state.started_at)
        )
    return True
