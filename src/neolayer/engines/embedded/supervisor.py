"""Starts processes in order of their dependencies, keeps them alive, stops them in reverse.

One task per service: wait for what it depends on, start, wait until ready, wait for the end, start
again after a pause that doubles with every death and is forgotten after a minute of health. Until
everything was healthy once, a service that fails three times ends the whole start with its reason;
after that nothing but a stop does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from neolayer.engines.embedded.data_directory import DataDirectory, LayerState, ServiceState
from neolayer.engines.embedded.processes import LAYER_VARIABLE, ProcessIdentity, stop_strays
from neolayer.engines.embedded.services import ChildProcess, Service, Step
from neolayer.errors import DataDirectoryError, NeolayerError

_FIRST_ATTEMPTS = 3
_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 30.0
_FORGET_AFTER_S = 60.0
_LOOK_FOR_FOLDER_S = 1.0


@dataclass(frozen=True, slots=True)
class Progress:
    """One thing that happened: `name` is now `state`."""

    name: str
    state: str
    detail: str | None = None


class Supervisor:
    """Runs one layer. The caller holds the data directory's lock."""

    def __init__(
        self,
        parts: Sequence[Service | Step],
        directory: DataDirectory,
        *,
        ports: Mapping[str, int],
        version: str = "",
        on_progress: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self._parts = {part.name: part for part in parts}
        self._directory = directory
        self._ports = dict(ports)
        self._version = version
        self._on_progress = on_progress
        self._done = {name: asyncio.Event() for name in self._parts}
        self._begun = {name: asyncio.Event() for name in self._parts}
        self._healthy = asyncio.Event()
        self._states = {
            part.name: ServiceState(part.name, "waiting")
            for part in parts
            if isinstance(part, Service)
        }
        self._children: dict[str, ChildProcess] = {}
        self._phase = "starting"
        self._started_at = time.time()

    async def run(self, stop: asyncio.Event, *, on_healthy: Callable[[], None]) -> None:
        """Start everything, call `on_healthy`, keep it alive until `stop`, then stop everything.

        Raises the reason where the start fails; everything is stopped then, too.
        """
        await asyncio.to_thread(stop_strays, self._directory.resolved)
        self._write()
        stopped = asyncio.create_task(stop.wait())
        gone = asyncio.create_task(self._watch_folder())
        tasks = [asyncio.create_task(self._live(part)) for part in self._parts.values()]
        try:
            if await self._start(stopped, tasks):
                self._enter("healthy")
                on_healthy()
                self._healthy.set()
                await self._until(stopped, [*tasks, gone])
        except NeolayerError:
            self._phase = "failed"
            raise
        finally:
            stopped.cancel()
            gone.cancel()
            await self._stop(tasks)

    async def _start(self, stopped: asyncio.Task[bool], tasks: list[asyncio.Task[None]]) -> bool:
        """Whether everything became healthy before somebody asked to stop."""
        healthy = asyncio.create_task(self._all_done())
        try:
            await self._until(stopped, tasks, healthy)
            return healthy.done() and not stopped.done()
        finally:
            healthy.cancel()

    async def _all_done(self) -> None:
        for name, part in self._parts.items():
            if not (isinstance(part, Service) and part.in_background):
                await self._done[name].wait()

    async def _until(
        self,
        stopped: asyncio.Task[bool],
        tasks: list[asyncio.Task[None]],
        *others: asyncio.Task[None],
    ) -> None:
        """Wait for the stop or one of `others`. Raises what a part's task raises."""
        pending: set[asyncio.Task[Any]] = set(tasks)
        wanted: set[asyncio.Task[Any]] = {stopped, *others}
        while True:
            done, _ = await asyncio.wait(pending | wanted, return_when=asyncio.FIRST_COMPLETED)
            for task in done - wanted:
                task.result()
            if done & wanted:
                return
            pending -= done

    async def _watch_folder(self) -> None:
        """Raises DataDirectoryError when the folder has gone: nobody could find the layer again."""
        folder = self._directory.path
        while folder.exists():  # noqa: ASYNC110  the file system tells nobody
            await asyncio.sleep(_LOOK_FOR_FOLDER_S)
        raise DataDirectoryError(f"data directory {folder} was removed under the layer")

    async def _live(self, part: Service | Step) -> None:
        for name in part.yields_to:
            await self._begun[name].wait()
        if not (isinstance(part, Service) and part.loads_early):
            await self._await_needs(part)
        if isinstance(part, Service) and part.in_background:
            await self._healthy.wait()
        if isinstance(part, Step):
            self._on_progress(Progress(part.name, "running"))
            await part.run()
            self._on_progress(Progress(part.name, "done"))
            self._done[part.name].set()
        else:
            await self._keep(part)

    async def _await_needs(self, part: Service | Step) -> None:
        for name in part.depends_on:
            await self._done[name].wait()

    async def _keep(self, service: Service) -> None:
        failures = 0
        while True:
            started_at = time.monotonic()
            reason = await self._run_once(service, failures)
            failures = 0 if time.monotonic() - started_at > _FORGET_AFTER_S else failures + 1
            self._count(service.name, reason)
            await asyncio.sleep(min(_PAUSE_S * 2 ** (failures - 1), _LONGEST_PAUSE_S))

    async def _run_once(self, service: Service, failures: int) -> str:
        """One life of a service, from start to end; how it ended."""
        child = ChildProcess(service, self._directory.logs / f"{service.name}.log")
        self._children[service.name] = child
        self._show(service.name, "starting")
        try:
            await child.start({LAYER_VARIABLE: str(self._directory.resolved)})
            self._begun[service.name].set()
            self._show(service.name, "starting", child.identity)
            await self._await_needs(service)
            child.release()
            await child.await_ready()
        except NeolayerError as exc:
            await child.stop()
            if self._phase == "starting" and failures + 1 >= _FIRST_ATTEMPTS:
                raise
            return exc.message
        self._show(service.name, "healthy", child.identity)
        self._done[service.name].set()
        return await child.wait()

    # Stopping

    async def _stop(self, tasks: list[asyncio.Task[None]]) -> None:
        failed = self._phase == "failed"
        self._enter("stopping")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for level in reversed(self._levels()):
            await asyncio.gather(*(self._stop_one(name) for name in level))
        await asyncio.to_thread(stop_strays, self._directory.resolved)
        self._enter("failed" if failed else "stopped")

    async def _stop_one(self, name: str) -> None:
        child = self._children.get(name)
        if child is not None:
            await child.stop()
            self._show(name, "stopped")

    def _levels(self) -> list[list[str]]:
        """Names in waves: each depends only on names in the waves before it."""
        levels: list[list[str]] = []
        placed: set[str] = set()
        while len(placed) < len(self._parts):
            ready = [
                part.name
                for part in self._parts.values()
                if part.name not in placed and placed.issuperset(part.depends_on)
            ]
            if not ready:
                raise ValueError("services depend on each other in a circle, or on none of them")
            levels.append(ready)
            placed.update(ready)
        return levels

    # What others see

    def _show(self, name: str, state: str, process: ProcessIdentity | None = None) -> None:
        before = self._states[name]
        self._states[name] = ServiceState(name, state, process, before.restarts, before.last_exit)
        self._on_progress(Progress(name, state, before.last_exit))
        self._write()

    def _count(self, name: str, reason: str) -> None:
        restarts = self._states[name].restarts + 1
        self._states[name] = ServiceState(name, "restarting", None, restarts, reason)
        self._on_progress(Progress(name, "restarting", reason))
        self._write()

    def _enter(self, phase: str) -> None:
        self._phase = phase
        self._write()

    def _write(self) -> None:
        """Publish the state. A full disk must not take down what still runs."""
        state = LayerState(
            phase=self._phase,
            supervisor=ProcessIdentity.own(),
            ports=self._ports,
            services=list(self._states.values()),
            started_at=self._started_at,
            version=self._version,
        )
        try:
            self._directory.write_state(state)
        except DataDirectoryError as exc:
            if self._phase == "starting":
                raise
            self._on_progress(Progress("state", "not written", exc.message))
