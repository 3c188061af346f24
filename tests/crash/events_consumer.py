"""A consumer in a process of its own, to be killed: `python events_consumer.py DSNS_JSON TENANT`.

Handles every event of a subscription by writing a row; dies where `NEOLAYER_CRASH_AT` says.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import timedelta
from uuid import UUID

from tests.fixtures.fix_databases import postgres_only

from neolayer.engines.endpoints import Endpoints, PostgresEndpoint, Role
from neolayer.engines.engine import Level
from neolayer.events import RecordedEvent, open_event_store
from neolayer.tenancy import Principal, Transaction

NAME = "mortal"
LEASE = timedelta(seconds=0.4)
NOTE = "INSERT INTO public.handled (stream, version) VALUES (%s, %s)"


def endpoints_of(text: str) -> Endpoints:
    said = json.loads(text)
    passwords = {Role(role): word for role, word in said["passwords"].items()}
    return postgres_only(PostgresEndpoint(Level.EMBEDDED, said["dsn"], passwords, "test"))


async def handle(tx: Transaction, event: RecordedEvent) -> None:
    await tx.execute(NOTE, (event.stream_id, event.version))


async def main(at: Endpoints, tenant: UUID) -> None:
    async with open_event_store(at, size=2, application_name="consumer") as store:
        events = store.events(tenant, by=Principal.system("consumer"))
        subscription = await events.subscribe(NAME, partitions=3, lease=LEASE)
        await subscription.run(handle, until=asyncio.Event(), consumer=f"process {os.getpid()}")


if __name__ == "__main__":
    asyncio.run(main(endpoints_of(sys.argv[1]), UUID(sys.argv[2])))
