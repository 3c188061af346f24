"""How the harness talks to a contender: one JSON job a line in, one JSON outcome a line out.

The process stays up between rounds, so starting an interpreter is never measured, and the clock
runs inside it: from the first file opened to the last commit. Standard library only, because
peers run in an environment without our packages.
"""

from __future__ import annotations

import contextlib
import gc
import json
import sys
import time
from collections.abc import Callable
from typing import Any

Job = dict[str, Any]


def serve(run: Callable[[Job], int], prepare: Callable[[Job], None] | None = None) -> None:
    """Answer jobs until stdin ends. `run` returns how many transactions it stored.

    A job with `"prepare": true` is not timed: it makes tables empty before a round.
    """
    answers = sys.stdout
    for line in sys.stdin:
        job = json.loads(line)
        with contextlib.redirect_stdout(sys.stderr):  # a library that prints stays off the wire
            outcome = _prepared(prepare, job) if job.get("prepare") else _timed(run, job)
        answers.write(json.dumps(outcome) + "\n")
        answers.flush()


def _prepared(prepare: Callable[[Job], None] | None, job: Job) -> dict[str, Any]:
    if prepare is not None:
        prepare(job)
    return {}


def _timed(run: Callable[[Job], int], job: Job) -> dict[str, Any]:
    gc.collect()
    started = time.perf_counter()
    transactions = run(job)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "transactions": transactions, "peak_kb": peak_kb()}


def peak_kb() -> int:
    """The largest resident size this process ever had, in KiB, as Linux counts it."""
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0
