"""What our processes have loaded when their work begins, and what they do without."""

from __future__ import annotations

import subprocess
import sys

import pytest


def loaded_by(module: str, *more: str) -> set[str]:
    """The modules in memory after an import, in a process of its own."""
    program = f"import sys, {module}; {'; '.join(more) or 'pass'}; print(*sys.modules)"
    run = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


@pytest.mark.parametrize("worker", ("relay", "serve", "tasks"))
def test_nothing_is_collected_while_a_worker_loads(worker: str) -> None:
    """The collector is off until the work begins: what loads stays."""
    module = f"neolayer.workers.{worker}"
    program = f"import gc, {module}; print(gc.isenabled())"
    run = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True)
    assert run.stdout == "False\n", run.stderr


def test_the_relay_has_loaded_every_room_before_it_is_told_to_begin() -> None:
    """Nothing is loaded between the migrations and the first change read: a start waits for it."""
    prepare = "from neolayer.workers.relay import data_classes; data_classes()"
    before = loaded_by("neolayer.workers.relay", prepare)
    missing = {"neolayer.relay.sinks.clickhouse", "neolayer.relay.sinks.redis"} - before
    assert missing == set()


def test_what_does_not_call_others_loads_no_client_of_http() -> None:
    """Webhooks are sent by the relay: the server and the tables of the rest do without."""
    assert "httpx" not in loaded_by("neolayer.workers.serve")
    assert not {"aiohttp", "clickhouse_connect"} & loaded_by("neolayer.freshness")


def test_the_version_is_told_without_loading_a_command() -> None:
    """Who asks for the version waits for none of the rooms."""
    ask = "from neolayer.cli.root import run; run(['--version'])"
    loaded = loaded_by("neolayer.cli.root", ask)
    assert not {name for name in loaded if name.startswith(("neolayer.face", "neolayer.cli.layer"))}
