"""Whose end was wished is told apart; what no cancellation can stop is waited for to its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc

import pytest
from tests.fixtures.patience import PATIENCE_S

from neolayer.errors import Unanswered
from neolayer.waiting import answered, honour_cancellation, to_its_end


async def given_up() -> None:
    """What a client does with what it cannot answer any more."""
    answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    answer.cancel()
    await answer


async def test_what_is_given_up_by_itself_is_a_failure() -> None:
    with pytest.raises(Unanswered, match="the desk was left without"), answered("the desk"):
        await given_up()


async def test_a_wished_cancellation_stays_one() -> None:
    """Of the task itself, also while what it waits for is given up; and by a group that ends."""

    async def wait(is_given_up: bool) -> None:
        with answered("nobody"):
            try:
                await asyncio.Event().wait()
            finally:
                if is_given_up:
                    await given_up()

    for is_given_up in (False, True):
        task = asyncio.create_task(wait(is_given_up))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def fail() -> None:
        raise OSError("the disk")

    with pytest.raises(ExceptionGroup) as told:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(wait(False))
            tasks.create_task(fail())
    assert [type(one) for one in told.value.exceptions] == [OSError]


async def test_a_time_limit_stays_one() -> None:
    """Within, and around."""
    with answered("nobody"), pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await asyncio.Event().wait()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            with answered("nobody"):
                await asyncio.Event().wait()


async def test_a_cancellation_that_was_lost_is_honoured() -> None:
    async def deaf() -> None:
        while True:
            honour_cancellation()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    task.cancel()
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(asyncio.CancelledError):
            await task


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
