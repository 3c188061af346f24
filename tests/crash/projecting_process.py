"""Projectors, and rebuilds with switches, that die at a named point.

Reads a cluster from the first line of stdin, then a job a line, and answers with how each ended. A
job runs in a fork of this process, so that five hundred kills do not start five hundred Pythons.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from tests.fixtures import bank
from tests.fixtures.fix_databases import postgres_only

from neolayer import crash_points
from neolayer.engines.endpoints import PostgresEndpoint, Role
from neolayer.engines.engine import Level
from neolayer.events.projections.domain import Domain
from neolayer.events.projections.projector import Projector
from neolayer.events.projections.rebuild import rebuild, switch

DOMAIN = Domain.of(
    [bank.accounts], [bank.BALANCES, bank.TOTALS, bank.INLINE_BALANCES, bank.INLINE_TOTALS]
)


async def work(what: str, cluster: PostgresEndpoint) -> None:
    """Until the end, which comes without a farewell."""
    at = postgres_only(cluster)
    while what == "switch":
        for name in ("balances", "inline_balances"):
            await rebuild(at, DOMAIN, name, page_events=500)
            await switch(at, DOMAIN, name)
    projector = Projector(at, DOMAIN, page_events=10)
    while True:
        await projector.catch_up()


def ended(job: dict[str, Any], cluster: PostgresEndpoint) -> int:
    """The signal that ended a fork which did the job."""
    child = os.fork()
    if child == 0:
        try:
            crash_points._armed = crash_points._Armed(job["crash_at"])
            asyncio.run(work(job["work"], cluster))
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    told = json.loads(sys.stdin.readline())
    passwords = {Role(role): password for role, password in told["passwords"].items()}
    cluster = PostgresEndpoint(Level.EMBEDDED, told["admin_dsn"], passwords, "tests")
    for line in sys.stdin:
        print(ended(json.loads(line), cluster), flush=True)
