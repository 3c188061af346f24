"""The envelope: what leaves the layer, the same on NATS, Kafka and webhooks.

    {
      "id": "6f3c...",             who has seen it, skips it: delivery is at least once
      "type": "wallet.created",    of a table of events its own; else blocks.inserted, ...updated
      "tenant": "0b6e...",         null for public data
      "subject": "outbox.wallets", the kind of thing
      "key": "7d9f...",            the one thing: what shares a key arrives in commit order
      "position": "neolayer:1:0/1A2B3C8",   the commit, for at_least=
      "version": "281474976737736",         the same as one number, which only grows; text, because
                                            JavaScript rounds beyond 2**53
      "schema_version": 1,         of the data
      "correlation_id": null, "causation_id": null,
      "time": "2026-03-01T12:00:00.123456Z",
      "data": {...}
    }

Where a table's rows are events (`OutgoingCopy.event`), each insert is one envelope and its id is
the event's. Elsewhere each change is one, and its id counts the table's changes under their
version, so that a change that is read again bears the same id. Of a row that is deleted, `data` has
the key. A copy from a snapshot begins with `truncated`, and then each row is `copied`, under an id
made of the snapshot's version and the row's key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from neolayer.catalogue import DataClass, OutgoingCopy
from neolayer.relay.sinks.sink import Rejected


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """See the module. `data` is JSON as it came."""

    id: str
    type: str
    tenant: str | None
    subject: str
    key: str
    position: str
    version: str
    schema_version: int
    correlation_id: str | None
    causation_id: str | None
    time: str | None
    data: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An envelope on its way: its bytes, and what a stream needs to know of it.

    `topic` is the part of the subject that is the same for all rows. `refuse` makes what is parked
    where the stream will never take it. `concerns_all`: it is about every key, a table was emptied.
    """

    id: str
    type: str
    tenant: str | None
    topic: str
    subject: str
    key: str
    version: int
    body: bytes
    time: str | None
    refuse: Callable[[str], Rejected]
    concerns_all: bool = False


Made: TypeAlias = Outgoing | Rejected


class Reached(msgspec.Struct, frozen=True):
    """The last envelope that a stream has, as the stream itself says. Reads as JSON from one."""

    id: str
    version: str


def unpublished(
    made: list[Outgoing], last: Reached | None, *, sent: Reached | None = None
) -> tuple[list[Outgoing], Reached | None]:
    """What a stream that ends with `last` has not had yet, and `last` while that is still to come.

    A writer that died after the data and before its checkpoint so goes on exactly where it was, be
    it in a later part of a commit whose first parts come again. One that is still alive and only
    lost its connection knows what it has `sent`: behind that, the same commit goes on.
    """
    if last is None or not made:
        return made, last
    reached = int(last.version)
    for number, one in enumerate(made):
        if one.version == reached and one.id == last.id:
            return made[number + 1 :], None
    newest = max(one.version for one in made)
    if newest < reached or (newest == reached and last != sent):
        return [], last
    return [one for one in made if one.version >= reached], None


def outgoing_databases(classes: Iterable[DataClass]) -> list[str]:
    """The databases with tables whose changes go out."""
    return sorted(
        {
            one.database
            for one in classes
            if any(isinstance(copy, OutgoingCopy) for copy in one.copies)
        }
    )


def topic_of(subject: str) -> str:
    """The part of a subject before its first column: `events` of `events.{aggregate_type}`."""
    return subject.partition("{")[0].rstrip(".")
