"""The relay with a desk as a process over a test's scene, its rebuilds cut into small ranges."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

from tests.fixtures.fix_relay import ACCOUNTS

from neolayer.engines.endpoints import ClickHouseEndpoint
from neolayer.engines.engine import Level
from neolayer.relay.copying import tables
from neolayer.relay.operations import watch
from neolayer.relay.operations.desk import Desk
from neolayer.relay.run import run_sinks
from neolayer.relay.sinks.clickhouse import ClickHouseSink
from neolayer.settings import RelaySettings


async def main(arguments: dict[str, object]) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    tables.RANGE_ROWS, watch.LOOK_S = 200, 0.05  # type: ignore[misc]
    port, password, database = arguments["clickhouse"]  # type: ignore[misc]
    clickhouse = ClickHouseEndpoint(
        Level.EMBEDDED, "127.0.0.1", port, "neolayer", password, database=database
    )
    dsn = str(arguments["dsn"])
    async with Desk(dsn) as desk:
        await run_sinks(
            dsn,
            [ClickHouseSink(clickhouse, [ACCOUNTS], wait_s=0.02)],
            RelaySettings(),
            stop,
            slot=str(arguments["slot"]),
            folder=Path(str(arguments["folder"])),
            desk=desk,
        )


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
