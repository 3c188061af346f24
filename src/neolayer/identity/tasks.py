"""Identity's periodic work."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta

from neolayer.engines.endpoints import Endpoints
from neolayer.identity.forgetting import PeopleSweeper
from neolayer.identity.sweeping import AccessSweeper
from neolayer.periodic import BoundTask, Task
from neolayer.tenancy import open_core

PEOPLE = (
    Task("identity: sweep letters, devices, failures", timedelta(hours=1), PeopleSweeper.sweep),
)
ACCESS = (Task("identity: sweep sessions and keys", timedelta(hours=1), AccessSweeper.sweep),)
TASKS = (*PEOPLE, *ACCESS)


@asynccontextmanager
async def tasks(at: Endpoints) -> AsyncGenerator[tuple[BoundTask, ...]]:
    """Sweep away what has ended long ago. Raises EngineUnavailable, MigrationError."""
    async with open_core(at, size=1, application_name="identity tasks") as core:
        people, access = PeopleSweeper(at, core), AccessSweeper(at, core)
        yield (*(task.given(people) for task in PEOPLE), *(task.given(access) for task in ACCESS))
