"""Callers who leave before they are answered: what they asked for need not be done any more.

The server tells it to whoever reads on after the body, and to nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from litestar import Request
from litestar.exceptions import ClientException

T = TypeVar("T")


async def while_connected(request: Request[Any, Any, Any], doing: Coroutine[Any, Any, T]) -> T:
    """Do it, or stop when the caller has left; for what is expensive and harmless to stop."""
    await request.body()  # what is read behind it is only that
    working = asyncio.create_task(doing)
    leaving = asyncio.create_task(_left(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            working.cancel()
            await asyncio.wait((working,))
            raise ClientException("the caller has left")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _left(request: Request[Any, Any, Any]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
