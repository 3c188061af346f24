"""What stands in where no server of an engine is configured, said plainly in `status`."""

from __future__ import annotations

from dataclasses import dataclass

from neolayer.engines.engine import EngineStatus, Level


@dataclass(frozen=True, slots=True)
class FallbackEngine:
    """Another engine does this one's work: which, and what that means."""

    name: str
    stand_in: str
    meaning: str

    async def open(self) -> None:
        """Nothing of its own to open: the engine that stands in has its own line."""

    async def close(self) -> None:
        """See `open`."""

    async def ping(self) -> None:
        """See `open`."""

    async def version(self) -> str:
        return f"on {self.stand_in}"

    async def status(self) -> EngineStatus:
        return EngineStatus(
            self.name, Level.FALLBACK, await self.version(), self.meaning, healthy=True
        )
