"""`up` told to stop before the layer is healthy: what it began goes with it, at whatever moment."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.fixtures.layer_commands import (
    UP_TIMEOUT_S,
    Layer,
    all_pids,
    command_line,
    eventually,
)

from neolayer.engines.embedded.data_directory import DataDirectory

Moment = Callable[[Layer], bool]
# A shell starts what runs in its background with Ctrl-C ignored, and a command keeps to that.
IN_BACKGROUND = pytest.mark.skipif(
    signal.getsignal(signal.SIGINT) == signal.SIG_IGN, reason="SIGINT is ignored here"
)
UNDER_NOHUP = pytest.mark.skipif(
    signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, reason="SIGHUP is ignored here"
)


@pytest.fixture
def layer(traversable_tmp: Path) -> Iterator[Layer]:
    made = Layer(traversable_tmp / "data")
    yield made
    made.run("down")


def has_forked(layer: Layer) -> bool:
    return len(layer.processes()) > 1


def makes_its_cluster(layer: Layer) -> bool:
    cluster = str(layer.data_dir / "postgres" / "data.unfinished").encode()
    return any(cluster in command_line(pid) for pid in all_pids())


def starts_its_engines(layer: Layer) -> bool:
    return (layer.data_dir / "layer.json").exists() and any(
        service["process"] and service["name"] == "postgres"
        for service in layer.state()["services"]
    )


def interrupted(layer: Layer, command: str, moment: Moment, number: int) -> tuple[int, str]:
    """The exit code and the words of a command whose process group gets a signal."""
    started = layer.start(*command.split())
    eventually(lambda: moment(layer), what=moment.__name__, every_s=0.005)
    os.killpg(started.pid, number)
    try:
        _, said = started.communicate(timeout=UP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        started.kill()
        raise
    return started.returncode, said


@pytest.mark.parametrize(
    ("moment", "number", "code"),
    [
        (has_forked, signal.SIGTERM, 143),
        pytest.param(makes_its_cluster, signal.SIGHUP, 129, marks=UNDER_NOHUP),
        pytest.param(makes_its_cluster, signal.SIGINT, 130, marks=IN_BACKGROUND),
        (starts_its_engines, signal.SIGTERM, 143),
    ],
)
def test_a_detached_start_goes_with_who_waits_for_it(
    layer: Layer, moment: Moment, number: int, code: int
) -> None:
    """No process is left, one line says why, and the exit code names the signal."""
    told, said = interrupted(layer, "up --detach", moment, number)
    assert (told, said.splitlines()[-1]) == (code, "error: interrupted")
    assert "Traceback" not in said
    assert layer.processes() == set()
    assert DataDirectory(layer.data_dir).holder() is None


@pytest.mark.parametrize("moment", [makes_its_cluster, starts_its_engines])
def test_ctrl_c_while_the_layer_starts(layer: Layer, moment: Moment) -> None:
    """The foreground's Ctrl-C is an ordinary stop: exit code 0, no traceback, nothing left."""
    code, said = interrupted(layer, "up", moment, signal.SIGINT)
    assert (code, "Traceback" in said) == (0, False), said
    assert "The layer is stopped." in said
    assert layer.processes() == set()
    assert layer.state()["phase"] == "stopped"


def test_under_nohup_a_closed_terminal_ends_nothing(layer: Layer) -> None:
    """Where SIGHUP was ignored before us it stays so: the layer becomes healthy all the same."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        foreground = layer.start("up")
    finally:
        signal.signal(signal.SIGHUP, before)
    eventually(lambda: makes_its_cluster(layer), what="the layer starts", every_s=0.005)
    foreground.send_signal(signal.SIGHUP)
    eventually(
        lambda: layer.state()["phase"] == "healthy",
        what="the layer is healthy",
        timeout_s=UP_TIMEOUT_S,
    )
    foreground.send_signal(signal.SIGTERM)
    _, said = foreground.communicate(timeout=UP_TIMEOUT_S)
    assert (foreground.returncode, "Traceback" in said) == (0, False), said
