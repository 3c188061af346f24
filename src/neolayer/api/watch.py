"""The engines as the HTTP server sees them: asked at most once a second, however often we are."""

from __future__ import annotations

import asyncio
import time

from neolayer.engines.endpoints import Endpoints
from neolayer.engines.engine import EngineStatus
from neolayer.platform import engines

_FRESH_S = 1.0


class Watch:
    """Keeps every engine's connection and its last status."""

    def __init__(self, endpoints: Endpoints) -> None:
        self.endpoints = endpoints
        self._engines = engines(endpoints)
        self._asked_at = -_FRESH_S
        self._last: list[EngineStatus] = []
        self._lock = asyncio.Lock()

    async def statuses(self) -> list[EngineStatus]:
        """Every engine's status, at most a second old. Never raises."""
        async with self._lock:
            if time.monotonic() - self._asked_at >= _FRESH_S:
                self._last = await asyncio.gather(*(engine.status() for engine in self._engines))
                self._asked_at = time.monotonic()
            return self._last

    async def close(self) -> None:
        """Release every engine."""
        for engine in reversed(self._engines):
            await engine.close()
