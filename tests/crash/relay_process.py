"""The relay as a process over a test's scene: its arguments are one JSON object."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

from tests.fixtures.fix_relay import ACCOUNTS, RelayScene

from neolayer.engines.endpoints import ClickHouseEndpoint, RedisEndpoint
from neolayer.engines.engine import Level
from neolayer.relay.run import run_sinks
from neolayer.relay.sinks.clickhouse import ClickHouseSink
from neolayer.relay.sinks.redis import RedisSink
from neolayer.settings import RelaySettings


def arguments_of(scene: RelayScene) -> str:
    """What `main` needs to know of a scene."""
    clickhouse = scene.endpoints.clickhouse
    return json.dumps(
        {
            "dsn": scene.dsn,
            "slot": scene.slot,
            "folder": str(scene.folder),
            "redis": scene.endpoints.redis.url,
            "clickhouse": [clickhouse.port, clickhouse.password, clickhouse.database],
        }
    )


async def main(arguments: dict[str, object]) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    port, password, database = arguments["clickhouse"]  # type: ignore[misc]
    clickhouse = ClickHouseEndpoint(
        Level.EMBEDDED, "127.0.0.1", port, "neolayer", password, database=database
    )
    redis = RedisEndpoint(Level.EMBEDDED, str(arguments["redis"]), "127.0.0.1")
    await run_sinks(
        str(arguments["dsn"]),
        [ClickHouseSink(clickhouse, [ACCOUNTS], wait_s=0.02), RedisSink(redis, [ACCOUNTS])],
        RelaySettings(),
        stop,
        slot=str(arguments["slot"]),
        folder=Path(str(arguments["folder"])),
    )


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
