"""Processes by identity, and those a killed supervisor left behind.

A process id alone names nothing for long: the kernel gives it out again. Together with the start
time from /proc and the machine's boot it names one process for ever, so a stale file can never
make us signal a stranger.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from neolayer.settings import PREFIX

LAYER_VARIABLE = "SUPERVISED_BY_NEOLAYER"  # names the data directory; no setting, so no prefix
_POLL_S = 0.02
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """One process of this machine, of this boot."""

    pid: int
    start_ticks: int
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity | None:
        """The identity of a running process; None where there is none (a zombie is none)."""
        ticks = _start_ticks(pid)
        return None if ticks is None else cls(pid, ticks, _boot_id())

    @classmethod
    def own(cls) -> ProcessIdentity:
        """Our own."""
        return cls(os.getpid(), _start_ticks(os.getpid()) or 0, _boot_id())

    @property
    def alive(self) -> bool:
        return ProcessIdentity.of(self.pid) == self

    def signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def _start_ticks(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (OSError, ValueError):
        return None
    state, *fields = text[text.rindex(")") + 2 :].split()
    return None if state in "ZX" else int(fields[18])


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


@dataclass(frozen=True, slots=True)
class Stray:
    """A process that a layer started and that nobody looks after any more."""

    process: ProcessIdentity
    parent: int
    postgres: bool

    @property
    def stop_signal(self) -> signal.Signals:
        """PostgreSQL takes SIGTERM as "when the last client has gone", and SIGINT as "now"."""
        return signal.SIGINT if self.postgres else signal.SIGTERM


def inherited() -> dict[str, str]:
    """Our environment without the layer's settings: an engine has no use for what they hold of
    keys and tokens, and others of its account can read what it was started with."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}


def strays(data_directory: Path) -> list[Stray]:
    """Every process that a layer on this data directory left behind.

    Found by the variable each child carries, so also where a kill came before the state was
    written. PostgreSQL's backends overwrite their environment: they are known by their folder.
    """
    marker = f"{LAYER_VARIABLE}={data_directory}".encode()
    cluster = data_directory / "postgres" / "data"
    found = [_stray(pid, marker, cluster) for pid in _pids()]
    return [stray for stray in found if stray is not None]


def _pids() -> Iterator[int]:
    own = os.getpid()
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != own:
            yield int(entry.name)


def _stray(pid: int, marker: bytes, cluster: Path) -> Stray | None:
    folder = Path(f"/proc/{pid}")
    try:
        postgres = (folder / "exe").readlink().name.removesuffix(" (deleted)") == "postgres"
        ours = (postgres and (folder / "cwd").readlink() == cluster) or (
            marker in (folder / "environ").read_bytes().split(b"\0")
        )
        identity = ProcessIdentity.of(pid) if ours else None
        return None if identity is None else Stray(identity, _parent(pid), postgres)
    except (OSError, ValueError):  # it ended meanwhile, or is another account's
        return None


def _parent(pid: int) -> int:
    text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    return int(text[text.rindex(")") + 2 :].split()[1])


def stop_strays(data_directory: Path, *, timeout_s: float = 20.0) -> list[Stray]:
    """End all strays and return them: their topmost processes are asked, what is left is killed."""
    found = strays(data_directory)
    pids = {stray.process.pid for stray in found}
    for stray in found:
        if stray.parent not in pids:
            stray.process.signal(stray.stop_signal)
    if not await_end([stray.process for stray in found], timeout_s=timeout_s):
        left = strays(data_directory)
        for stray in left:
            stray.process.signal(signal.SIGKILL)
        await_end([stray.process for stray in left], timeout_s=timeout_s)
    return found


def await_end(processes: list[ProcessIdentity], *, timeout_s: float) -> bool:
    """Whether all ended within the time."""
    deadline = time.monotonic() + timeout_s
    while any(process.alive for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def dies_with_parent(number: int) -> Callable[[], None]:
    """What a child runs before its program: the kernel sends it `number` when we die.

    The library is loaded here, before the fork, because a forked child may not take locks.
    """
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def ask_kernel() -> None:
        prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:  # it died between fork and here
            os._exit(1)

    return ask_kernel


def running_in(program: str, folder: Path) -> list[ProcessIdentity]:
    """The processes of one program whose working folder is `folder`."""
    found: list[ProcessIdentity] = []
    for pid in _pids():
        with contextlib.suppress(OSError):
            here = Path(f"/proc/{pid}/cwd").readlink() == folder
            if here and Path(f"/proc/{pid}/exe").readlink().name == program:
                identity = ProcessIdentity.of(pid)
                found += [identity] if identity else []
    return found
