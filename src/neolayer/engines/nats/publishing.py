"""Many messages to JetStream at once, each with its own answer.

The client's own way of doing this never answers for a message that the server refuses, so the
answers are received here: one subscription, and a future a message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import msgspec

from neolayer.engines.nats.client import Connection

if TYPE_CHECKING:
    from nats.aio.msg import Msg

Answer = asyncio.Future["Refused | None"]
_NO_STREAM = 503


class Refusal(msgspec.Struct):
    """Why JetStream did not store a message; `err_code` is its number for it."""

    description: str = ""
    err_code: int = 0


class _Reply(msgspec.Struct):
    error: Refusal | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A message that was not stored."""

    err_code: int
    description: str


@dataclass(slots=True)
class Publisher:
    """Sends over one connection; made by `open_publisher`."""

    connection: Connection
    inbox: str
    waiting: dict[str, Answer] = field(default_factory=dict[str, Answer])
    numbers: count[int] = field(default_factory=count)

    async def send(self, subject: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """What will say whether it was stored: None, or why not.

        Raises what the client does where the connection is closed or the message too large for it.
        """
        token = str(next(self.numbers))
        answer: Answer = asyncio.get_running_loop().create_future()
        self.waiting[token] = answer
        try:
            await self.connection.client.publish(
                subject, body, reply=f"{self.inbox}.{token}", headers=dict(headers)
            )
        except BaseException:
            del self.waiting[token]
            raise
        return answer

    async def receive(self, message: Msg) -> None:
        answer = self.waiting.pop(message.subject.rpartition(".")[2], None)
        if answer is None or answer.done():
            return
        if message.headers and message.headers.get("Status") == str(_NO_STREAM):
            answer.set_result(Refused(0, "no response from stream"))
            return
        try:
            error = msgspec.json.decode(message.data, type=_Reply).error
        except msgspec.DecodeError as exc:
            error = Refusal(f"an answer that cannot be read: {exc}")
        answer.set_result(None if error is None else Refused(error.err_code, error.description))


async def open_publisher(connection: Connection) -> Publisher:
    """A publisher, which ends with its connection."""
    publisher = Publisher(connection, connection.client.new_inbox())
    client: Any = connection.client
    await client.subscribe(f"{publisher.inbox}.*", cb=publisher.receive)
    return publisher
