"""The whole layer brought up, killed in every way, and taken down, by its commands alone.

The tests of this file share one layer and run in order: each leaves it running for the next.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.fixtures.layer_commands import Layer, alive, eventually, running_layer

from neolayer.engines.embedded.data_directory import DataDirectory
from neolayer.engines.embedded.processes import strays
from neolayer.engines.endpoints import Role
from neolayer.platform import endpoints
from neolayer.settings import Settings

PARTS = {"postgres", "redis", "clickhouse", "relay", "tasks", "serve"}


@pytest.fixture(scope="module")
def layer() -> Iterator[Layer]:
    with running_layer() as started:
        yield started


def test_up_returns_when_the_layer_is_healthy(layer: Layer) -> None:
    """After `up --detach` every engine answers and every process runs, and `status` says so."""
    supervisor = layer.pids()["supervisor"]
    run = layer.run("status", "--json")
    assert run.returncode == 0, run.stderr
    status = json.loads(run.stdout)
    assert status["running"]
    assert status["pid"] == supervisor
    assert {service["name"] for service in status["services"]} == PARTS
    assert all(service["state"] == "healthy" for service in status["services"])
    by_name = {engine["name"]: engine for engine in status["engines"]}
    stand_ins = {
        "mongodb": "documents stay in PostgreSQL",
        "elasticsearch": "entities are searched in PostgreSQL",
    }
    assert set(by_name) == {"postgres", "redis", "clickhouse", "objects", *stand_ins}
    for name, meaning in stand_ins.items():
        assert (by_name[name]["level"], by_name[name]["address"]) == ("fallback", meaning)
    for engine in by_name.values():
        assert engine["healthy"], engine
        assert engine["level"] == ("fallback" if engine["name"] in stand_ins else "embedded")
    assert by_name["postgres"]["schema_version"]
    assert by_name["clickhouse"]["schema_version"]
    assert status["relay"]["running"]
    assert status["time_series"] == "native PostgreSQL tables; TimescaleDB is not available"


def test_status_tells_how_far_the_copies_are_behind(layer: Layer) -> None:
    layer.await_first_copies()
    lags = {engine["name"]: engine["lag"] for engine in layer.status()["engines"]}
    assert {name for name, lag in lags.items() if lag is not None} == {"clickhouse", "redis"}
    assert min(lag["bytes"] for lag in lags.values() if lag is not None) >= 0


def test_status_fits_a_terminal(layer: Layer) -> None:
    """Words for people are no wider than 80 columns, and fold no address."""
    run = layer.run("status")
    assert run.returncode == 0, run.stderr
    addresses = [engine["address"] for engine in layer.status()["engines"]]
    lines = run.stdout.splitlines()
    assert all(any(line.endswith(address) for line in lines) for address in addresses)
    assert [line for line in lines if len(line) > 80 and "://" not in line] == []
    (clickhouse,) = [line for line in lines if line.split()[:2] == ["clickhouse", "embedded"]]
    assert " healthy " in clickhouse


def test_everything_is_closed_to_others(layer: Layer) -> None:
    """The folder is ours alone, secrets are in no command line, and ports are loopback only."""
    assert stat.S_IMODE(layer.data_dir.stat().st_mode) & 0o067 == 0
    assert layer.data_dir.stat().st_uid == os.geteuid()
    secrets = layer.data_dir / "secrets.json"
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
    held = DataDirectory(layer.data_dir).secrets()
    for pid in layer.pids().values():
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        for secret in (*held.roles.values(), held.redis, held.clickhouse):
            assert secret not in arguments
    assert set(listening(set(layer.pids().values()))) == {"0100007F"}


def listening(pids: set[int]) -> list[str]:
    """The addresses, in the kernel's notation, on which these processes listen."""
    files = [entry for pid in pids for entry in Path(f"/proc/{pid}/fd").iterdir()]
    names = [str(entry.readlink()) for entry in files if os.path.lexists(entry)]
    inodes = {name.removeprefix("socket:[").rstrip("]") for name in names if "socket" in name}
    rows = [
        line.split()
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        if Path(table).exists()
        for line in Path(table).read_text().splitlines()[1:]
    ]
    return [row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes]


def test_http_tells_health_and_metrics(layer: Layer) -> None:
    """The server answers health, readiness and metrics with engines, relay and chains in them."""
    base = f"http://127.0.0.1:{layer.state()['ports']['serve']}"
    for path, words in (
        ("/health/live", b"live"),
        ("/health/ready", b'"status":"ready"'),
        ("/metrics", b'neolayer_engine_up{engine="postgres",level="embedded"} 1.0'),
        ("/metrics", b"neolayer_audit_unsealed 0.0"),
        ("/metrics", b"neolayer_tasks_up 1.0"),
    ):
        assert words in read(base + path), path
    lag = b'neolayer_relay_lag_bytes{sink="clickhouse"}'
    eventually(lambda: lag in read(f"{base}/metrics"), what="the relay's lag is told")


def read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:  # loopback
        return answer.read()


def test_periodic_work_is_done_and_shown(layer: Layer) -> None:
    """The worker of periodic tasks runs them, and nothing of the trail is amiss."""

    def by_name() -> dict[str, Any]:
        return {task["name"]: task for task in layer.status()["tasks"]}

    def is_sealed() -> bool:
        return bool(by_name().get("audit: seal", {}).get("succeeded_at"))

    eventually(is_sealed, what="the trail is sealed")
    tasks = by_name()
    assert tasks["audit: seal"]["running"]
    assert [task["error"] for task in tasks.values() if task["error"]] == []
    run = layer.run("audit", "verify", "--json")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["intact"]


def test_doctor_finds_nothing_wrong(layer: Layer) -> None:
    """On a machine where the layer runs, every check is in order."""
    run = layer.run("doctor", "--json")
    assert run.returncode == 0, run.stdout


def test_a_second_up_is_refused(layer: Layer) -> None:
    """Another `up` on the directory names the process that runs there, and disturbs nothing."""
    before = layer.pids()
    for arguments in (("up",), ("up", "--detach")):
        run = layer.run(*arguments)
        assert run.returncode == 1
        assert f"already running on {layer.data_dir} (process {before['supervisor']})" in run.stderr
        assert "Traceback" not in run.stderr
    assert layer.pids() == before


@pytest.mark.parametrize("name", sorted(PARTS))
def test_a_killed_process_is_started_again(layer: Layer, name: str) -> None:
    """kill -9 of any child: it is back at the same address, and `status` counts it."""
    before = layer.pids()[name]
    os.kill(before, signal.SIGKILL)

    def is_back() -> bool:
        service = service_of(layer, name)
        return service["state"] == "healthy" and service["process"]["pid"] != before

    eventually(is_back, what=f"{name} is healthy again")
    service = service_of(layer, name)
    assert service["restarts"] >= 1
    assert "SIGKILL" in service["last_exit"]


def service_of(layer: Layer, name: str) -> dict[str, object]:
    (found,) = [each for each in layer.state()["services"] if each["name"] == name]
    return found


def test_a_killed_supervisor_leaves_a_state_to_go_on_from(layer: Layer) -> None:
    """kill -9 of the supervisor: the next `up` has the data, and the same addresses; Ctrl-C ends it
    in order."""
    with operator_of(layer) as admin:
        admin.execute("CREATE TABLE IF NOT EXISTS public.kept AS SELECT 42 AS answer")
    ports, pids = layer.state()["ports"], layer.pids()
    os.kill(pids["supervisor"], signal.SIGKILL)
    eventually(lambda: not alive(pids["supervisor"]), what="the supervisor is gone")

    foreground = layer.start("up")

    def is_healthy() -> bool:
        state = layer.state()  # read once: the first state may be the killed one's
        return state["phase"] == "healthy" and state["supervisor"]["pid"] == foreground.pid

    eventually(
        is_healthy,
        what="the next layer is healthy",
        timeout_s=120,
    )
    assert layer.state()["ports"] == ports
    with operator_of(layer) as admin:
        assert admin.execute("SELECT answer FROM public.kept").fetchone() == (42,)
    assert not [name for name, pid in pids.items() if alive(pid)]

    running = layer.pids()
    foreground.send_signal(signal.SIGINT)
    assert foreground.wait(timeout=120) == 0
    assert not [name for name, pid in running.items() if alive(pid)]
    assert layer.state()["phase"] == "stopped"
    assert foreground.stderr is not None
    with foreground.stderr as said:
        assert "The layer is stopped." in said.read()


def operator_of(layer: Layer) -> psycopg.Connection:
    at = endpoints(Settings(data_dir=layer.data_dir))
    return psycopg.connect(at.postgres.dsn(Role.ADMIN, "postgres"), autocommit=True)


def test_down_leaves_nothing_running(layer: Layer) -> None:
    """`down` ends every process, also those of a killed supervisor, and may be said twice."""
    layer.run("down")
    up = layer.run("up", "--detach")
    assert up.returncode == 0, up.stderr
    pids = layer.pids()
    os.kill(pids["supervisor"], signal.SIGKILL)
    down = layer.run("down")
    assert down.returncode == 0, down.stderr
    assert not [name for name, pid in pids.items() if alive(pid)]
    assert strays(layer.data_dir.resolve()) == []
    again = layer.run("down")
    assert (again.returncode, "No layer was running" in again.stderr) == (0, True)
    status = layer.run("status", "--json")
    assert (status.returncode, '"running": false' in status.stdout) == (3, True)


def test_down_after_everything_was_killed_says_so(layer: Layer) -> None:
    """kill -9 of every process: `down` tells that the layer had died, and clears what it left."""
    layer.run("down")
    up = layer.run("up", "--detach")
    assert up.returncode == 0, up.stderr
    supervisor = layer.pids()["supervisor"]  # first, or it would start the others again
    for pid in (supervisor, *layer.processes()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    eventually(lambda: not layer.processes(), what="every process is gone")
    postmaster = layer.data_dir / "postgres" / "data" / "postmaster.pid"
    assert postmaster.exists()
    assert layer.state()["phase"] == "healthy"

    down = layer.run("down")
    assert (down.returncode, "had died" in down.stderr) == (0, True), down.stderr
    assert not postmaster.exists()
    assert layer.state()["phase"] == "stopped"
    again = layer.run("down")
    assert (again.returncode, "No layer was running" in again.stderr) == (0, True)
