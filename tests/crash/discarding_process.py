"""Gives a parked event up in a process of its own: given DSNS_JSON TENANT SUBSCRIPTION STREAM."""

from __future__ import annotations

import asyncio
import sys
from uuid import UUID

from tests.crash.events_consumer import endpoints_of

from neolayer.engines.endpoints import Endpoints
from neolayer.events import open_event_store
from neolayer.tenancy import Principal, open_core


async def main(at: Endpoints, tenant: UUID, name: str, stream: UUID) -> None:
    by = Principal.operator("ann")
    async with (
        open_core(at, size=1, application_name="discarder") as core,
        open_event_store(at, size=2, application_name="discarder") as store,
    ):
        waiting = await store.events(tenant, by=by).subscriptions.parked(name)
        await waiting.discard(stream, core=core.scope(tenant, by=by))


if __name__ == "__main__":
    _, dsns, tenant, name, stream = sys.argv
    asyncio.run(main(endpoints_of(dsns), UUID(tenant), name, UUID(stream)))
