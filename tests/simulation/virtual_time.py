"""An event loop whose clock jumps to the next timer: hours pass in seconds, always the same way."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable
from typing import Any


class _Jump(selectors.SelectSelector):
    """Waits for nothing: tells the loop how long it would have waited."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("every task waits for ever")
        self.loop.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Work for threads is done at once, after a moment that the seed chooses."""

    def __init__(self, dice: random.Random) -> None:
        self.now = 0.0
        self._dice = dice
        self.slow = False  # what threads do takes long
        jump = _Jump()
        super().__init__(jump)
        jump.loop = self

    def time(self) -> float:
        return self.now

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        future = self.create_future()
        self.call_later(self._moment(), self._do, future, func, args)
        return future

    def _moment(self) -> float:
        return self._dice.choice((0.0, 0.0005, 0.004)) * (200 if self.slow else 1)

    def _do(self, future: asyncio.Future[Any], func: Callable[..., Any], args: Any) -> None:
        if future.cancelled():
            return
        try:
            result = func(*args)
        except BaseException as exc:
            future.set_exception(exc)
        else:
            self.call_later(self._moment(), _answer, future, result)


def _answer(future: asyncio.Future[Any], result: Any) -> None:
    if not future.cancelled():
        future.set_result(result)
