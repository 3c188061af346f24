"""The event store's periodic work: asynchronous projections follow what was appended."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from time import monotonic

from neolayer.engines.endpoints import Endpoints
from neolayer.events.projections.domain import load_domain
from neolayer.events.projections.newer import fold_newer
from neolayer.events.projections.projector import Projector
from neolayer.events.projections.rebuild import ensure
from neolayer.periodic import BoundTask, Task
from neolayer.settings import EventSettings

_LOOK_S = 60.0  # a program of before, still running somewhere, may put streams aside meanwhile


@dataclass(slots=True)
class Projecting:
    """A projector over the modules of the settings, made at its first run.

    Then, so that a module which cannot be imported is this task's error and no other's.
    """

    endpoints: Endpoints
    settings: EventSettings
    _projector: Projector | None = field(default=None, repr=False)
    _next_look: float = 0.0

    async def run(self) -> int:
        """Fold all there is; how many events were looked at."""
        if self._projector is None:
            domain = load_domain(self.settings.modules)
            await ensure(self.endpoints, domain)
            self._projector = Projector(self.endpoints, domain)
        seen = await self._projector.catch_up()
        if monotonic() >= self._next_look:
            self._next_look = monotonic() + _LOOK_S
            await fold_newer(self.endpoints, self._projector.domain)
        return seen

    async def close(self) -> None:
        """Give the connection back."""
        if self._projector is not None:
            await self._projector.close()


@asynccontextmanager
async def tasks(at: Endpoints, settings: EventSettings) -> AsyncGenerator[tuple[BoundTask, ...]]:
    """The projector, where the settings name modules; else nothing."""
    if not settings.modules:
        yield ()
        return
    projecting = Projecting(at, settings)
    every = timedelta(seconds=settings.project_seconds)
    try:
        yield (Task("events: project", every, Projecting.run).given(projecting),)
    finally:
        await projecting.close()
