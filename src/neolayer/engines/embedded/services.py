"""What a supervisor is given, and the life of one supervised process.

A `Service` is a process to keep alive; a `Step` is work to be done once, between services. Both
wait for what they name in `depends_on`.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from neolayer.engines.embedded.privileges import Account, spawn_options
from neolayer.engines.embedded.processes import ProcessIdentity, dies_with_parent, inherited
from neolayer.errors import EngineError, NeolayerError
from neolayer.waiting import to_its_end

_LOG_LIMIT_BYTES = 16 * 2**20
_TAIL_BYTES = 8 * 2**10
_FIRST_PROBE_S, _LONGEST_PROBE_S = 0.03, 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One process to keep alive.

    `prepare` runs before every start, in a thread. `ready` answers whether the process does its
    work; it is asked again and again until it does, and NeolayerError counts as "not yet".
    `loads_early`: the process is started at once, loads its programs, and goes on when it is told
    so by a line on its stdin, once what it depends on is done. `yields_to`: what is to have the
    processors first; it starts when those have been. `in_background`: nobody waits for its work,
    so it begins when the layer is healthy.
    """

    name: str
    argv: tuple[str, ...]
    ready: Callable[[], Awaitable[bool]]
    prepare: Callable[[], object] | None = None
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    user: Account | None = None
    cwd: Path | None = None
    depends_on: tuple[str, ...] = ()
    yields_to: tuple[str, ...] = ()
    loads_early: bool = False
    in_background: bool = False
    stop_signal: signal.Signals = signal.SIGTERM
    start_timeout_s: float = 60.0
    stop_timeout_s: float = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Work to be done once, such as the migrations. An error ends the start."""

    name: str
    run: Callable[[], Awaitable[object]]
    depends_on: tuple[str, ...] = ()
    yields_to: tuple[str, ...] = ()


class ChildProcess:
    """One run of a service: from the fork to the exit."""

    def __init__(self, service: Service, log: Path) -> None:
        self._service = service
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self.identity: ProcessIdentity | None = None

    async def start(self, environment: Mapping[str, str]) -> None:
        """Fork. Raises EngineError where the program cannot be run."""
        service = self._service
        if service.prepare is not None:
            await to_its_end(asyncio.to_thread(service.prepare))
        _turn_over(self._log)
        try:
            with self._log.open("ab") as output:
                self._process = await asyncio.create_subprocess_exec(
                    *service.argv,
                    stdin=PIPE if service.loads_early else DEVNULL,
                    stdout=output,
                    stderr=output,
                    cwd=service.cwd,
                    env={**inherited(), **environment, **service.env},
                    preexec_fn=dies_with_parent(service.stop_signal),
                    start_new_session=True,  # Ctrl-C is for us; children are stopped in order
                    **spawn_options(service.user),
                )
        except OSError as exc:
            raise EngineError(service.name, f"the process cannot be started: {exc}") from exc
        self.identity = ProcessIdentity.of(self._process.pid)

    def release(self) -> None:
        """Tell a process that loads early to go on."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(b"go\n")

    async def wait(self) -> str:
        """Wait for its end and say how it ended."""
        assert self._process is not None
        return describe_exit(await self._process.wait())

    async def await_ready(self) -> None:
        """Wait until it does its work. Raises EngineError with its last words otherwise."""
        ended = asyncio.create_task(self.wait())
        ready = asyncio.create_task(self._poll())
        try:
            async with asyncio.timeout(self._service.start_timeout_s):
                await asyncio.wait({ended, ready}, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            limit = f"is not ready after {self._service.start_timeout_s:.0f} s"
            raise EngineError(self._service.name, limit + self._words()) from None
        finally:
            for task in (ended, ready):
                task.cancel()
        if ended.done():
            raise EngineError(self._service.name, ended.result() + self._words())
        ready.result()

    def _words(self) -> str:
        words = last_words(self._log)
        return f"; its last words: {words}" if words else ""

    async def _poll(self) -> None:
        pause_s = _FIRST_PROBE_S
        while True:
            with contextlib.suppress(NeolayerError, OSError):
                if await self._service.ready():
                    return
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.3, _LONGEST_PROBE_S)

    async def stop(self) -> None:
        """Ask it to end, then kill it; returns when it is gone."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(self._service.stop_signal)
        try:
            async with asyncio.timeout(self._service.stop_timeout_s):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def describe_exit(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"it ended with exit code {code}"
    try:
        return f"it was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"it was ended by signal {-code}"


def last_words(log: Path) -> str:
    """The last line of a log that says why: a fatal or error line if there is one."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    told = [line.strip() for line in lines if line.strip()]
    grave = [line for line in told[-20:] if "FATAL" in line or "PANIC" in line or "rror" in line]
    return (grave or told or [""])[-1][-300:]


def _turn_over(log: Path) -> None:
    """Keep one older file beside a log that has grown large."""
    with contextlib.suppress(OSError):
        if log.stat().st_size > _LOG_LIMIT_BYTES:
            log.replace(log.with_suffix(".log.1"))
