"""Snapshots: an aggregate's state at a version, kept to load faster and safe to delete.

One is due when the stream has grown by `every` events since the last. It is written after the
append, in a task of its own: an append neither waits for it nor fails with it.

A snapshot says whose state it holds and of what form: which function folded it, from what, into
what type. Anything else is no snapshot to whoever loads, so neither two aggregates over one stream
nor two versions of a program take one another's. A function is known by module and name; one that
these do not lead back to (a closure, a lambda, an object's method) is one of many, and its
policy must bear a `name` that no other aggregate over these streams bears. What no form shows, such
as a sum that is counted otherwise from now on, means raising the policy's `schema_version`.

Where a category's events hold personal fields the whole state is sealed under the key of the one
person concerned; a stream about several people has none, because a state in plain text would
outlive their keys.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from operator import attrgetter
from typing import Any

import msgspec

from neolayer.errors import InvalidInput
from neolayer.telemetry import log_warning

_FAREWELL_S = 5.0


@dataclass(frozen=True, slots=True)
class SnapshotPolicy:
    """How often a snapshot is taken, and which form of state it holds.

    `name` says whose it is, in place of the name of `evolve`.
    """

    every: int = 100
    schema_version: int = 1
    name: str | None = None

    def __post_init__(self) -> None:
        if self.every < 1 or self.schema_version < 1:
            raise InvalidInput("snapshots are taken every so many events, at least one")
        if self.name is not None and not (self.name.isprintable() and self.name.strip()):
            raise InvalidInput(f"a snapshot policy's name is printable text: {self.name[:300]!r}")

    def is_due(self, *, last: int, version: int) -> bool:
        """Whether a state at `version` is worth keeping, the last one being that of `last`."""
        return version - last >= self.every


def folded_by(evolve: Any, policy: SnapshotPolicy) -> str:
    """Whose states these are, for good. Raises InvalidInput where nothing tells."""
    module, name = getattr(evolve, "__module__", None), getattr(evolve, "__qualname__", None)
    if policy.name is not None:
        return policy.name
    if module is None or name is None or _found(module, name) is not evolve:
        raise InvalidInput(
            f"snapshots of what {name or type(evolve).__name__} folds could be another's:"
            " no module holds it under its name",
            hint='name them: SnapshotPolicy(name="accounts with a fee of 1")',
        )
    return f"{module}.{name}"


def _found(module: str, name: str) -> Any:
    try:
        return attrgetter(name)(sys.modules[module])
    except (KeyError, AttributeError):
        return None


def form_of(initial: msgspec.Struct, by: str) -> str:
    """The mark of a state: who folds it, from what, and every field there is, with its type."""
    try:
        parts = by.encode(), _fields_of(type(initial)), msgspec.json.encode(initial, order="sorted")
    except TypeError:  # of what cannot be stored there will be no snapshot
        parts = (by.encode(),)
    return sha256(b"\0".join(parts)).hexdigest()[:32]


@lru_cache
def _fields_of(kind: type[msgspec.Struct]) -> bytes:
    return msgspec.json.encode(msgspec.json.schema(kind), order="sorted")


class BackgroundWrites:
    """Work that may end after its caller went on; awaited when the platform closes."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], *, what: str) -> None:
        """Run it beside the caller; an error is logged, because nobody waits for it."""
        task = asyncio.create_task(_logged(work, what))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def settle(self) -> None:
        """Wait until nothing is under way."""
        while self._running:
            await asyncio.wait(self._running)


async def _logged(work: Coroutine[Any, Any, None], what: str) -> None:
    try:
        await work
    except Exception as exc:  # a snapshot that is not written costs time, never data
        log_warning(f"{what} failed", error=f"{type(exc).__name__}: {exc}")


@asynccontextmanager
async def background_writes() -> AsyncGenerator[BackgroundWrites]:
    """What is started is given a moment to end when the block does."""
    writes = BackgroundWrites()
    try:
        yield writes
    finally:
        try:
            async with asyncio.timeout(_FAREWELL_S):
                await writes.settle()
        except TimeoutError:
            log_warning("snapshots were still being written")
