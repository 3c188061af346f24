"""A sealer that looks without pause, to be killed: `python -m tests.crash.sealing_process DSN`."""

from __future__ import annotations

import asyncio
import sys

from neolayer.audit.sealer import Sealer


async def seal(dsn: str) -> None:
    sealer = Sealer(dsn, batch=20)
    while True:
        await sealer.seal_waiting()


if __name__ == "__main__":
    asyncio.run(seal(sys.argv[1]))
