"""Asking an engine how it is, the same way for all."""

from __future__ import annotations

import asyncio

from neolayer.engines.engine import Engine, EngineStatus, Level
from neolayer.errors import EngineError

PROBE_TIMEOUT_S = 15.0


async def probe(engine: Engine, *, level: Level, address: str) -> EngineStatus:
    """Open it if need be, ping it, ask its version; a failure becomes `detail`, never an error.

    The engine stays open: whoever made it closes it.
    """
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            await engine.open()
            await engine.ping()
            version = await engine.version()
    except EngineError as exc:
        detail, hint = exc.message, exc.hint
    except TimeoutError:
        detail, hint = (
            f"{engine.name}: {address} does not answer within {PROBE_TIMEOUT_S:.0f} s",
            None,
        )
    else:
        return EngineStatus(engine.name, level, version, address, healthy=True)
    return EngineStatus(engine.name, level, None, address, healthy=False, detail=detail, hint=hint)
