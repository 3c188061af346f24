"""Processes that append without an end, to be killed: told on stdin where, a seed a line.

Each line makes a fork of this process, whose id is the answer; so a kill does not cost the start of
a Python. A fork appends through the verbs that programs use, alone and several at once, so that
both doors of the database are passed (`append_event`, `append_group`); it gives some appends up on
their way, and now and then an event is larger than a socket's buffer, so that a kill finds half a
transaction sent. What the store has said to be stored goes into a file, an id a line.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import traceback
from contextlib import suppress
from uuid import UUID

from tests.fixtures.fix_databases import postgres_only

from neolayer.engines.endpoints import Endpoints, PostgresEndpoint, Role
from neolayer.engines.engine import Level
from neolayer.errors import EngineUnavailable
from neolayer.events import Events, NewEvent, open_event_store
from neolayer.tenancy import Principal

NAME = "appending"  # the application's, in pg_stat_activity
TYPES = ("Deposited", "Withdrawn")
CATEGORY = "account"
_LARGE = "x" * 400_000


class Appender:
    """What one fork does."""

    def __init__(self, events: Events, streams: list[UUID], seed: int, stored: int) -> None:
        self.events, self.streams, self.stored = events, streams, stored
        self.dice = random.Random(seed)

    async def append(self) -> None:
        dice = self.dice
        count = dice.choice((1, 1, 1, 2, 3))
        data = {"note": _LARGE if dice.random() < 0.02 else "small"}
        events = [NewEvent(dice.choice(TYPES), data) for _ in range(count)]
        with suppress(EngineUnavailable):  # its server's process was ended
            await self.events.append(dice.choice(self.streams), events, category=CATEGORY)
            os.write(self.stored, "".join(f"{one.event_id}\n" for one in events).encode())

    async def work(self) -> None:
        while True:
            at_once = [asyncio.create_task(self.append()) for _ in range(self.dice.choice((1, 4)))]
            if self.dice.random() < 0.1:
                await asyncio.sleep(0)
                at_once[0].cancel()
            await asyncio.gather(*at_once, return_exceptions=True)


async def work(at: Endpoints, told: dict[str, str], streams: list[UUID], seed: int) -> None:
    stored = os.open(told["stored"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    while True:
        with suppress(EngineUnavailable):  # cut off while it opened
            async with open_event_store(at, size=3, application_name=NAME) as store:
                events = store.events(UUID(told["tenant"]), by=Principal.operator("tests"))
                await Appender(events, streams, seed, stored).work()


def main() -> None:
    told = json.loads(sys.stdin.readline())
    passwords = {Role(role): word for role, word in told["passwords"].items()}
    at = postgres_only(PostgresEndpoint(Level.EMBEDDED, told["admin_dsn"], passwords, "tests"))
    streams = [UUID(stream) for stream in told["streams"]]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                asyncio.run(work(at, told, streams, int(line)))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        print(child, flush=True)


if __name__ == "__main__":
    main()
