"""The engines as the HTTP server sees them: asked at most once a second, however often we are."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from neolayer.engines.endpoints import Endpoints
from neolayer.engines.engine import EngineStatus
from neolayer.insight.health import Health, examine
from neolayer.platform import engines

_FRESH_S = 1.0


class Watch:
    """Keeps every engine's connection and its last status."""

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        relay_state: Path | None = None,
        tasks_state: Path | None = None,
    ) -> None:
        self._endpoints = endpoints
        self._relay_state = relay_state
        self._tasks_state = tasks_state
        self._engines = engines(endpoints)
        self._asked_at = 0.0
        self._last: Health | None = None
        self._lock = asyncio.Lock()

    async def statuses(self) -> list[EngineStatus]:
        """Every engine's status and whether its schema is ours; at most a second old."""
        return [engine.status for engine in (await self.health()).engines]

    async def health(self) -> Health:
        """Everything an operator must know; at most a second old."""
        async with self._lock:
            if self._last is None or time.monotonic() - self._asked_at >= _FRESH_S:
                self._last = await self._examine()
                self._asked_at = time.monotonic()
            return self._last

    async def _examine(self) -> Health:
        return await examine(
            self._endpoints,
            self._engines,
            state_file=self._relay_state,
            tasks_file=self._tasks_state,
        )

    async def close(self) -> None:
        """Release every engine."""
        for engine in reversed(self._engines):
            await engine.close()
