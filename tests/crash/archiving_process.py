"""Archives a stream in a process of its own: given DSNS_JSON TENANT FOLDER STREAM."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from uuid import UUID

from tests.crash.events_consumer import endpoints_of

from neolayer.engines.endpoints import Endpoints, ObjectsEndpoint
from neolayer.engines.engine import Level
from neolayer.events import open_event_store
from neolayer.events.archive import Archive, SegmentStore
from neolayer.tenancy import Principal


def segments_in(folder: Path) -> SegmentStore:
    return SegmentStore(ObjectsEndpoint(Level.EMBEDDED, folder.as_uri(), folder))


async def main(at: Endpoints, tenant: UUID, folder: Path, stream: UUID) -> None:
    async with open_event_store(at, size=2, application_name="archiver") as store:
        scope = store.events(tenant, by=Principal.system("archiver")).scope
        await Archive(scope, segments_in(folder)).archive(stream)


if __name__ == "__main__":
    _, dsns, tenant, folder, stream = sys.argv
    asyncio.run(main(endpoints_of(dsns), UUID(tenant), Path(folder), UUID(stream)))
