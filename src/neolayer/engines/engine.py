"""The face all engines share, and what `status` says of each.

An engine is a server we talk to. Three levels, never blurred: `real` (a server the user points us
to), `embedded` (the real engine started by us), `fallback` (our own code on another engine).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Level(StrEnum):
    REAL = "real"
    EMBEDDED = "embedded"
    FALLBACK = "fallback"


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """One engine as seen now. `address` holds no secret; `detail` says why it is unhealthy, and
    `hint`, where one is known, the way out."""

    name: str
    level: Level
    version: str | None
    address: str
    healthy: bool
    detail: str | None = None
    hint: str | None = None


class Engine(Protocol):
    """What every engine can do. Errors are `EngineError` and its children."""

    @property
    def name(self) -> str: ...

    async def open(self) -> None:
        """Connect and check the version. Raises EngineUnavailable or EngineTooOld."""
        ...

    async def close(self) -> None:
        """Release everything; safe to call twice."""
        ...

    async def ping(self) -> None:
        """One cheap round trip. Raises EngineUnavailable."""
        ...

    async def version(self) -> str:
        """The server's own version text, such as `17.10`."""
        ...

    async def status(self) -> EngineStatus:
        """Never raises: an engine that does not answer is reported as not healthy."""
        ...
