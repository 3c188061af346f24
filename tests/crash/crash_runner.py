"""A warm process that forks a child for each job it is told on stdin, and says how it ended.

Everything is imported once, so that a run costs what its work costs. Jobs and answers are lines of
JSON; an answer is the child's exit code, -9 for one that died at its crash point.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.crash.ledger import OnceSink, VersionedSink
from tests.crash.projecting_process import DOMAIN
from tests.fixtures.fix_databases import postgres_only
from tests.fixtures.fix_relay import ACCOUNTS
from tests.fixtures.patience import PATIENCE_S

from neolayer import crash_points
from neolayer.engines.endpoints import ClickHouseEndpoint, PostgresEndpoint, RedisEndpoint, Role
from neolayer.engines.engine import Level
from neolayer.events.projections.projector import Projector
from neolayer.events.projections.rebuild import rebuild, switch
from neolayer.relay import decoder, segments
from neolayer.relay.copying import tables
from neolayer.relay.run import run_sinks
from neolayer.relay.sinks.clickhouse import ClickHouseSink
from neolayer.relay.sinks.redis import RedisSink
from neolayer.relay.sinks.sink import Sink
from neolayer.settings import RelaySettings

Job = dict[str, Any]
ROOT = Path(__file__).parents[2]


def noted(sink: Any, reached: dict[str, int]) -> Any:
    """The sink, which notes how far it is."""
    open_, reflect, write = sink.open, sink.reflect, sink.write

    async def opened(confirmed: int) -> int | None:
        found = await open_(confirmed)
        reached[sink.name] = found or 0
        return found

    async def reflected(version: int) -> None:
        await reflect(version)
        reached[sink.name] = version

    async def written(batches: Any) -> Any:
        rejected = await write(batches)
        reached[sink.name] = batches[-1].position
        return rejected

    sink.open, sink.reflect, sink.write = opened, reflected, written
    return sink


def sinks_of(job: Job) -> list[Sink]:
    ledger = Path(job["ledger"])
    sinks: list[Any] = [VersionedSink(ledger), OnceSink(ledger)]
    if "clickhouse" in job:
        port, user, password, database = job["clickhouse"]
        at = ClickHouseEndpoint(
            Level.EMBEDDED, "127.0.0.1", port, user, password, database=database
        )
        sinks.append(ClickHouseSink(at, [ACCOUNTS], wait_s=0.0))
        redis = RedisEndpoint(Level.EMBEDDED, job["redis"], "127.0.0.1")
        sinks.append(RedisSink(redis, [ACCOUNTS]))
    return sinks


def say_where_it_stands() -> None:
    """Into the job's log, of one that should have died long ago: the test that waits shows it."""
    for task in asyncio.all_tasks():
        task.print_stack()


async def relay(job: Job) -> None:
    """Relay until the crash point, or until every sink is at the position to reach."""
    # Small pieces, so that every boundary is passed often.
    segments._SEGMENT_BYTES, segments._RECENT_BYTES = 16 << 10, 4 << 10
    decoder.BATCH_ROWS, decoder.PART_BYTES = 50, 6 << 10
    tables.RANGE_ROWS = 20  # type: ignore[misc]
    stop, reached = asyncio.Event(), dict[str, int]()
    asyncio.get_running_loop().call_later(PATIENCE_S / 2, say_where_it_stands)
    sinks = [noted(sink, reached) for sink in sinks_of(job)]
    running = asyncio.create_task(
        run_sinks(
            job["dsn"],
            sinks,
            RelaySettings(log_bytes=1 << 20),
            stop,
            slot=job["slot"],
            folder=Path(job["folder"]),
        )
    )
    if job.get("reach"):
        while min(reached.get(sink.name, 0) for sink in sinks) < job["reach"]:
            await asyncio.sleep(0.005)
        stop.set()
    await running


async def projector(job: Job) -> None:
    """Project, or rebuild and switch, until the crash point."""
    passwords = {Role(role): password for role, password in job["passwords"].items()}
    at = postgres_only(PostgresEndpoint(Level.EMBEDDED, job["admin_dsn"], passwords, "tests"))
    if job["work"] == "switch":
        for name in ("balances", "inline_balances"):
            await rebuild(at, DOMAIN, name, page_events=job["page"])
            await switch(at, DOMAIN, name)
        return
    working = Projector(at, DOMAIN, page_events=job["page"])
    while True:
        await working.catch_up()


JOBS = {"relay": relay, "projector": projector}


def main() -> None:
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(job)
        _, status = os.waitpid(child, 0)
        print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)


def _become(job: Job) -> None:
    """Do the job and end; never returns."""
    code = 1
    try:
        log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        if crash_at := job.get("crash_at"):
            crash_points._armed = crash_points._Armed(crash_at)
        asyncio.run(JOBS[job["job"]](job))
        code = 0
    finally:
        os._exit(code)


class Runner:
    """The warm process, from the outside."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.crash_runner"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self._stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stdout.close()

    def begin(self, job: Job) -> None:
        self._stdin.write(json.dumps(job).encode() + b"\n")
        self._stdin.flush()

    def ended(self, *, within_s: float) -> int | None:
        """The exit code, once there is one."""
        if not select.select([self._stdout], [], [], within_s)[0]:
            return None
        return json.loads(self._stdout.readline() or b"1")

    def run(self, job: Job, *, within_s: float = PATIENCE_S) -> int | None:
        self.begin(job)
        return self.ended(within_s=within_s)

    @property
    def _stdin(self) -> Any:
        return self._process.stdin

    @property
    def _stdout(self) -> Any:
        return self._process.stdout


if __name__ == "__main__":
    main()
