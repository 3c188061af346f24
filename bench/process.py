"""A contender's process, seen from the harness."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One timed run."""

    seconds: float
    transactions: int
    peak_kb: int

    @property
    def per_second(self) -> float:
        return self.transactions / self.seconds


class Process:
    """Talks to one contender over its standard streams; use `running`."""

    def __init__(self, popen: subprocess.Popen[str], name: str) -> None:
        self._popen = popen
        self._name = name

    def prepare(self, **job: Any) -> None:
        """Let the contender make itself ready; not timed."""
        self._ask({**job, "prepare": True})

    def run(self, **job: Any) -> Outcome:
        """One timed run. Raises SystemExit where the contender died."""
        return Outcome(**self._ask(job))

    def _ask(self, job: dict[str, Any]) -> dict[str, Any]:
        assert self._popen.stdin is not None and self._popen.stdout is not None
        self._popen.stdin.write(json.dumps(job) + "\n")
        self._popen.stdin.flush()
        answer = self._popen.stdout.readline()
        if not answer:
            raise SystemExit(f"contender {self._name} ended with {self._popen.wait()}")
        return json.loads(answer)


@contextmanager
def running(module: str, python: Path | str = sys.executable) -> Iterator[Process]:
    """The contender `bench.contenders.<module>`, started now and ended at the close."""
    popen = subprocess.Popen(
        [str(python), "-W", "ignore", "-m", f"bench.contenders.{module}"],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Process(popen, module)
    finally:
        assert popen.stdin is not None
        popen.stdin.close()
        popen.wait(timeout=60)
