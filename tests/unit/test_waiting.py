"""Work that no cancellation can stop is waited for to its end."""

from __future__ import annotations

import asyncio
import gc

import pytest

from neolayer.waiting import to_its_end


@pytest.mark.parametrize("times", [1, 3])
async def test_a_cancellation_is_told_after_the_work_has_ended(times: int) -> None:
    work: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(to_its_end(work))
    for _ in range(times):
        await asyncio.sleep(0)
        waiting.cancel()
    await asyncio.sleep(0)
    assert not waiting.done() and not work.done()
    work.set_result(7)
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_what_it_comes_to_is_given_or_raised() -> None:
    async def give(value: int) -> int:
        return 1 // value

    assert await to_its_end(give(1)) == 1
    with pytest.raises(ZeroDivisionError):
        await to_its_end(give(0))


async def test_a_failure_after_a_cancellation_is_left_to_who_holds_the_future() -> None:
    """Nobody else hears of it when the future goes."""
    told: list[dict[str, object]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context))
    work: asyncio.Future[int] = loop.create_future()
    waiting = asyncio.create_task(to_its_end(work))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    work.set_exception(OSError("the disk"))
    with pytest.raises(asyncio.CancelledError):
        await waiting
    del work, waiting
    await asyncio.sleep(0)  # the last exception is held until then
    gc.collect()
    assert told == []


async def test_work_that_is_cancelled_itself_ends_the_waiting() -> None:
    work: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(to_its_end(work))
    await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
