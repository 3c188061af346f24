"""A transaction that has to give way to another is done again, as a whole.

PostgreSQL ends one of two transactions that wait for each other (40P01), or that no order would
explain (40001): near a limit writers take a tenant's slots in different orders, and owners meet at
the tenant's row. Nothing of such a transaction is stored, so the verb begins anew; after five times
or five seconds the error passes through, and a caller may say "try again later".

    @done_again
    async def delete(self, wallet_id: UUID) -> None: ...
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import stamina
from psycopg.errors import DeadlockDetected, SerializationFailure

GIVING_WAY = (DeadlockDetected, SerializationFailure)
ATTEMPTS = 5
P = ParamSpec("P")
T = TypeVar("T")


def done_again(verb: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """The verb, begun anew where its transaction had to give way."""

    @wraps(verb)
    async def attempts(*args: P.args, **kwargs: P.kwargs) -> T:
        # A block and not stamina's decorator: that one logs the arguments, passwords included. The
        # wait is random, so that the two do not meet again.
        async for attempt in stamina.retry_context(
            on=GIVING_WAY,
            attempts=ATTEMPTS,
            timeout=5.0,
            wait_initial=0.01,
            wait_max=0.5,
            wait_jitter=0.05,
        ):
            with attempt:
                return await verb(*args, **kwargs)
        raise AssertionError("unreachable")

    return attempts
