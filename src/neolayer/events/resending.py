"""An append is sent again where its connection was lost or it had to give way to another: its
events' ids say whether it was stored.

What the server says of the append itself is told at once, in its words: sent again it would meet
the same.
"""

from __future__ import annotations

from asyncio import sleep
from collections.abc import Awaitable, Callable
from typing import TypeVar

import psycopg

from neolayer.errors import EngineFull, EngineUnavailable, InvalidInput
from neolayer.events.model import Interfered

T = TypeVar("T")
TRIES = 5
_PAUSE_S = 0.05
GIVING_WAY = (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected)
_TOO_MUCH = "54"  # the class of a program limit
_FULL = "53100"


async def resent(
    send: Callable[[], Awaitable[T]], *, again: tuple[type[psycopg.Error], ...] = GIVING_WAY
) -> T:
    """What `send` comes back with, tried five times; `again` is what else may pass.

    Raises Interfered where others were in its way each time, EngineUnavailable, EngineFull, and
    InvalidInput where it is more than the server takes.
    """
    for attempt in range(1, TRIES + 1):
        try:
            return await send()
        except again as exc:
            if attempt == TRIES:
                raise Interfered(
                    f"others were in the way of the append {TRIES} times",
                    hint="append it again: its events are stored once",
                ) from exc
        except (psycopg.OperationalError, psycopg.InterfaceError) as exc:
            said = exc.diag.message_primary or "the connection was lost"
            if (exc.sqlstate or "").startswith(_TOO_MUCH):
                raise InvalidInput(
                    f"the append is more than the database takes at once: {said}",
                    hint="append it in several parts",
                ) from exc
            if attempt == TRIES:
                kind = EngineFull if exc.sqlstate == _FULL else EngineUnavailable
                raise kind("postgres", said) from exc
        await sleep(_PAUSE_S * attempt)
    raise AssertionError
