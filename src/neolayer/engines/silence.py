"""An engine that was stopped or cut off keeps its connections and says nothing.

Whoever writes much waits long, because a large write takes long. A look must not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from neolayer.errors import EngineUnavailable

LOOK_S: Final = 5.0


@asynccontextmanager
async def answers_within(engine: str, seconds: float = LOOK_S) -> AsyncGenerator[None]:
    """Raises EngineUnavailable where the block takes longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as exc:
        raise EngineUnavailable(
            engine, f"has said nothing for {seconds:g} seconds", hint="was it stopped or cut off?"
        ) from exc
