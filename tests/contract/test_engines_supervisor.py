"""The supervisor with small programs instead of engines: order, restarts, failures, strays."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.fixtures.layer_commands import alive
from tests.fixtures.patience import PATIENCE_S

from neolayer.engines.embedded.control import Found, stop_layer
from neolayer.engines.embedded.data_directory import DataDirectory, LayerState, ServiceState
from neolayer.engines.embedded.postgres import server_environment
from neolayer.engines.embedded.processes import LAYER_VARIABLE, ProcessIdentity, strays
from neolayer.engines.embedded.services import Service, Step
from neolayer.engines.embedded.supervisor import Progress, Supervisor
from neolayer.errors import AlreadyRunning, DataDirectoryError, EngineError, MigrationError

Parts = list[Service | Step]


@pytest.fixture
def directory(traversable_tmp: Path) -> DataDirectory:
    made = DataDirectory(traversable_tmp / "data")
    made.prepare(None)
    return made


async def at_once() -> bool:
    return True


def service(name: str, *argv: str, depends_on: tuple[str, ...] = ()) -> Service:
    command = argv or ("sleep", "1000")
    return Service(name=name, argv=command, ready=at_once, depends_on=depends_on)


@contextlib.asynccontextmanager
async def running(
    directory: DataDirectory, parts: Parts, seen: list[Progress]
) -> AsyncIterator[None]:
    """The parts, healthy; stopped at the end."""
    stop, healthy = asyncio.Event(), asyncio.Event()
    with directory.lock():
        supervisor = Supervisor(parts, directory, ports={}, on_progress=seen.append)
        task = asyncio.create_task(supervisor.run(stop, on_healthy=healthy.set))
        waiting = asyncio.create_task(healthy.wait())
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE_S)
        assert task.done() or healthy.is_set(), "it does not become healthy"
        try:
            if task.done():
                await task
            yield
        finally:
            waiting.cancel()
            stop.set()
            await task


async def until(happens: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not happens():
            await asyncio.sleep(0.02)


def state_of(directory: DataDirectory, name: str) -> ServiceState:
    state = directory.read_state()
    assert state is not None
    return next(each for each in state.services if each.name == name)


async def test_starts_in_order_and_stops_in_reverse(directory: DataDirectory) -> None:
    """A part starts when what it depends on is ready, and stops before it."""
    seen: list[Progress] = []

    async def migrate() -> None:
        assert state_of(directory, "engine").state == "healthy"

    parts: Parts = [
        service("worker", depends_on=("migrate",)),
        Step(name="migrate", run=migrate, depends_on=("engine",)),
        service("engine"),
    ]
    async with running(directory, parts, seen):
        state = directory.read_state()
        assert state is not None
        assert (state.phase, state.supervisor) == ("healthy", ProcessIdentity.own())
    told = [(each.name, each.state) for each in seen]
    order = [("engine", "healthy"), ("migrate", "done"), ("worker", "healthy")]
    stops = [("worker", "stopped"), ("engine", "stopped")]
    assert [each for each in told if each in order + stops] == order + stops


async def test_a_part_that_loads_early_waits_to_be_told(
    directory: DataDirectory, traversable_tmp: Path
) -> None:
    """Its process runs from the beginning, and does its work only when its needs are met."""
    told = traversable_tmp / "told"
    script = f"read line; echo $line > {told}; exec sleep 1000"

    async def has_begun() -> bool:
        return told.exists()

    async def migrate() -> None:
        await until(lambda: state_of(directory, "worker").process is not None)
        assert not told.exists()

    worker = Service(
        name="worker",
        argv=("sh", "-c", script),
        ready=has_begun,
        depends_on=("migrate",),
        loads_early=True,
    )
    async with running(directory, [worker, Step(name="migrate", run=migrate)], []):
        assert told.read_text() == "go\n"


async def test_what_yields_starts_after_the_others_have(directory: DataDirectory) -> None:
    """A part that yields to others starts when their processes run, ready or not."""
    loader = Service(name="loader", argv=("sleep", "1000"), ready=at_once, yields_to=("slow",))
    both_run = asyncio.Event()

    async def answers_late() -> bool:
        if state_of(directory, "loader").process is None:
            return False
        both_run.set()
        return True

    prepared: list[bool] = []
    slow = Service(
        name="slow",
        argv=("sleep", "1000"),
        ready=answers_late,
        prepare=lambda: prepared.append(state_of(directory, "loader").process is None),
    )
    async with running(directory, [loader, slow], []):
        assert both_run.is_set()
        assert prepared == [True]


async def test_what_runs_in_the_background_begins_when_all_is_healthy(
    directory: DataDirectory,
) -> None:
    """It takes no processor from the start, and the layer is healthy without it."""
    seen: list[Progress] = []
    started: list[str] = []

    def prepare() -> None:
        state = directory.read_state()
        assert state is not None
        started.append(state.phase)

    async def never() -> bool:
        return False

    background = Service(
        name="tasks", argv=("sleep", "1000"), ready=never, prepare=prepare, in_background=True
    )
    async with running(directory, [background, service("engine")], seen):
        await until(lambda: bool(started))
        assert started == ["healthy"]


async def test_a_layer_whose_folder_was_removed_stops(
    directory: DataDirectory, traversable_tmp: Path
) -> None:
    """Nobody could find it any more to stop it: it leaves nothing running, and says why."""
    stop, healthy = asyncio.Event(), asyncio.Event()
    with directory.lock():
        supervisor = Supervisor([service("engine")], directory, ports={})
        task = asyncio.create_task(supervisor.run(stop, on_healthy=healthy.set))
        await asyncio.wait_for(healthy.wait(), PATIENCE_S)
        process = state_of(directory, "engine").process
        assert process is not None
        directory.path.rename(traversable_tmp / "elsewhere")
        with pytest.raises(DataDirectoryError, match="was removed under the layer"):
            await asyncio.wait_for(task, PATIENCE_S)
    assert not process.alive


async def test_a_dead_child_is_started_again_and_counted(directory: DataDirectory) -> None:
    """A child that dies comes back after a pause, and the state says how often and why."""
    async with running(directory, [service("engine")], []):
        first = state_of(directory, "engine").process
        assert first is not None
        first.signal(signal.SIGKILL)
        await until(lambda: state_of(directory, "engine").restarts == 1)
        await until(lambda: state_of(directory, "engine").state == "healthy")
        again = state_of(directory, "engine")
        assert again.last_exit == "it was ended by SIGKILL"
        assert again.process != first


async def test_a_start_that_fails_tells_the_last_words(directory: DataDirectory) -> None:
    """A program that ends at once three times ends the start, with its own reason in one line."""
    script = "import sys; sys.exit('FATAL: no room at the inn')"

    async def never() -> bool:
        return False

    failing = Service(name="engine", argv=(sys.executable, "-c", script), ready=never)
    with pytest.raises(EngineError, match="exit code 1; its last words: FATAL: no room") as caught:
        async with running(directory, [failing, service("other")], []):
            pytest.fail("it became healthy")
    assert "\n" not in caught.value.message
    state = directory.read_state()
    assert state is not None
    assert state.phase == "failed"
    assert strays(directory.resolved) == []


async def test_a_program_that_is_not_there(directory: DataDirectory) -> None:
    """A program that cannot be run is named."""
    with pytest.raises(EngineError, match=r"engine: the process cannot be started: .*no-such"):
        async with running(directory, [service("engine", "/no-such-program")], []):
            pytest.fail("it became healthy")


async def test_a_step_that_fails_ends_the_start(directory: DataDirectory) -> None:
    """An error in the work between services comes out as it is, and all is stopped."""

    async def fails() -> None:
        raise MigrationError("a table is missing")

    parts: Parts = [service("engine"), Step(name="step", run=fails, depends_on=("engine",))]
    with pytest.raises(MigrationError, match="a table is missing"):
        async with running(directory, parts, []):
            pytest.fail("it became healthy")
    assert strays(directory.resolved) == []


async def test_a_child_that_ignores_the_stop_is_killed(directory: DataDirectory) -> None:
    """A child that does not end when asked is killed after its time."""
    script = "trap '' TERM; while :; do sleep 0.1; done"
    deaf = Service(name="deaf", argv=("sh", "-c", script), ready=at_once, stop_timeout_s=0.3)
    async with running(directory, [deaf], []):
        process = state_of(directory, "deaf").process
        assert process is not None
    assert not process.alive


def abandoned(directory: DataDirectory) -> subprocess.Popen[bytes]:
    """A process as a killed supervisor leaves it."""
    environment = {**os.environ, LAYER_VARIABLE: str(directory.resolved)}
    return subprocess.Popen(["sleep", "1000"], env=environment)


async def test_E12_an_engine_is_not_started_with_the_layers_secrets(
    directory: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys and tokens that settings hold reach the workers that are given settings, and nobody
    else: whoever runs as an engine's account can read what it was started with."""
    monkeypatch.setenv("NEOLAYER_KEYS__KEY", "canary")
    monkeypatch.setenv("NOT_A_SECRET", "kept")
    settings = {"NEOLAYER_DATA_DIR": "given"}
    own = Service(name="worker", argv=("sleep", "1000"), ready=at_once, env=settings)
    async with running(directory, [service("engine"), own], []):
        told = [
            Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
            for name in ("engine", "worker")
            if (process := state_of(directory, name).process)
        ]
    assert not any(b"canary" in variable for environment in told for variable in environment)
    assert all(b"NOT_A_SECRET=kept" in environment for environment in told)
    assert b"NEOLAYER_DATA_DIR=given" in told[1]
    assert not any(b"canary" in value.encode() for value in server_environment().values())


async def test_strays_are_ended_before_a_start(directory: DataDirectory) -> None:
    """What a killed supervisor left behind is found without any state file, and ended."""
    stray = abandoned(directory)
    assert [each.process.pid for each in strays(directory.resolved)] == [stray.pid]
    async with running(directory, [service("engine")], []):
        assert not alive(stray.pid)
    stray.wait()


def test_down_ends_strays(directory: DataDirectory) -> None:
    """`down` without a supervisor ends what it left; without anything it says so."""
    stray = abandoned(directory)
    assert stop_layer(directory) is Found.ORPHANED
    assert not alive(stray.pid)
    stray.wait()
    assert stop_layer(directory) is Found.NOTHING
    assert stop_layer(DataDirectory(directory.path / "nowhere")) is Found.NOTHING


def test_a_stale_state_never_hits_a_stranger(directory: DataDirectory) -> None:
    """A recorded process id that another process has by now is left alone."""
    stranger = subprocess.Popen(["sleep", "1000"])
    identity = ProcessIdentity.of(stranger.pid)
    assert identity is not None
    older = ProcessIdentity(identity.pid, identity.start_ticks - 1, identity.boot_id)
    assert not older.alive
    services = [ServiceState("engine", "healthy", older)]
    directory.write_state(LayerState(phase="healthy", supervisor=older, services=services))
    assert stop_layer(directory) is Found.DEAD
    older.signal(signal.SIGKILL)
    assert alive(stranger.pid)
    stranger.kill()
    stranger.wait()


def test_the_lock_is_one_holder_s(directory: DataDirectory) -> None:
    """A second holder is refused with the first one's process id; after it, all is free."""
    with directory.lock():
        assert directory.holder() == ProcessIdentity.own()
        with pytest.raises(AlreadyRunning, match=rf"\(process {os.getpid()}\)"), directory.lock():
            pytest.fail("two hold one lock")
    with directory.lock():
        pass
