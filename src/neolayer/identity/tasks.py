"""Identity's periodic work."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta

from neolayer.engines.endpoints import Endpoints
from neolayer.identity.forgetting import PeopleSweeper
from neolayer.periodic import BoundTask, Task
from neolayer.tenancy import open_core

PEOPLE = (
    Task("identity: sweep letters, devices, failures", timedelta(hours=1), PeopleSweeper.sweep),
)
TASKS = (*PEOPLE,)


@asynccontextmanager
async def tasks(at: Endpoints) -> AsyncGenerator[tuple[BoundTask, ...]]:
    """Sweep away what has ended long ago. Raises EngineUnavailable, MigrationError."""
    async with open_core(at, size=1, application_name="identity tasks") as core:
        yield tuple(task.given(PeopleSweeper(at, core)) for task in PEOPLE)
