"""From `neolayer up --detach` to a healthy layer, cold and warm, and what the idle stack weighs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from bench.harness import Figure, Plan, against_aim, alone
from bench.server import open_folder

COLD_AIM_S = 12.0
WARM_AIM_S = 3.0
_SETTLE_S = 5.0


def figures(plan: Plan) -> Iterator[Figure]:
    """Cold, warm, idle memory; each round on a fresh data directory."""
    cold: list[float] = []
    warm: list[float] = []
    idle: list[float] = []
    for _ in range(plan.pick(3, 7)):
        with open_folder() as folder:
            data = folder / "layer"
            cold.append(_up(data))
            _neolayer(data, "down")
            warm.append(_up(data))
            time.sleep(_SETTLE_S)
            idle.append(stack_memory_mib(data))
            _neolayer(data, "down")
    yield against_aim("start-cold", cold, aim=COLD_AIM_S)
    yield against_aim("start-warm", warm, aim=WARM_AIM_S)
    yield alone("start-idle-memory", idle)


def _up(data: Path) -> float:
    """Seconds until the command returns: when all is healthy, and `status` agrees."""
    started = time.perf_counter()
    _neolayer(data, "up", "--detach")
    seconds = time.perf_counter() - started
    status = json.loads(_neolayer(data, "status", "--json"))
    if ill := [engine["name"] for engine in status["engines"] if not engine["healthy"]]:
        raise SystemExit(f"up has returned, but not healthy are: {', '.join(ill)}")
    return seconds


def _neolayer(data: Path, *arguments: str) -> str:
    argv = [sys.executable, "-m", "neolayer", *arguments, "--data-dir", str(data)]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"neolayer {' '.join(arguments)} ended with {done.returncode}")
    return done.stdout


def stack_memory_mib(data: Path) -> float:
    """Proportional set size of the layer's processes and all their children, in MiB."""
    state = json.loads((data / "layer.json").read_text(encoding="utf-8"))
    return sum(_pss_kib(pid) for pid in _family(set(_pids(state)))) / 1024


def _pids(state: Any) -> Iterator[int]:
    """Every value called `pid` in the state file, at any depth."""
    if isinstance(state, dict):
        for key, value in cast("dict[str, Any]", state).items():
            if key == "pid" and isinstance(value, int):
                yield value
            else:
                yield from _pids(value)
    elif isinstance(state, list):
        for value in cast("list[Any]", state):
            yield from _pids(value)


def _family(roots: set[int]) -> set[int]:
    parents = {pid: parent for pid, parent in _processes() if pid not in roots}
    family = set(roots)
    while new := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= new
    return family


def _processes() -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = entry.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # it has ended since
        yield int(entry.parent.name), int(text.rpartition(")")[2].split()[1])


def _pss_kib(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")), 0)
