"""A projector, or a rebuild and a switch, to be killed: reads its cluster and work from stdin."""

from __future__ import annotations

import asyncio
import json
import sys

from tests.fixtures import bank
from tests.fixtures.fix_databases import postgres_only

from neolayer.engines.endpoints import PostgresEndpoint, Role
from neolayer.engines.engine import Level
from neolayer.events.projections.domain import Domain
from neolayer.events.projections.projector import Projector
from neolayer.events.projections.rebuild import rebuild, switch

DOMAIN = Domain.of(
    [bank.accounts], [bank.BALANCES, bank.TOTALS, bank.INLINE_BALANCES, bank.INLINE_TOTALS]
)


async def work(what: str, cluster: PostgresEndpoint) -> None:
    at = postgres_only(cluster)
    if what == "switch":
        for name in ("balances", "inline_balances"):
            await rebuild(at, DOMAIN, name, page_events=10)
            await switch(at, DOMAIN, name)
        return
    projector = Projector(at, DOMAIN, page_events=10)
    while True:
        await projector.catch_up()


if __name__ == "__main__":
    told = json.loads(sys.stdin.readline())
    passwords = {Role(role): password for role, password in told["passwords"].items()}
    cluster = PostgresEndpoint(Level.EMBEDDED, told["admin_dsn"], passwords, "tests")
    asyncio.run(work(told["work"], cluster))
