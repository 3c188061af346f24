"""The NATS JetStream sink: envelopes in commit order, each stored once.

Every message names its identity (`Nats-Msg-Id`) and the one that must stand before it
(`Nats-Expected-Last-Msg-Id`), so that a thousand can be on their way at once and still none
overtakes another: where one is lost, the server refuses all that follow, and they are sent again
from there. The checkpoint lies in a key-value bucket of the same JetStream, stored after the
messages' acknowledgements. What a dying relay had published beyond it is found at the next start:
the stream's last message says how far it had come, whatever the server's window for doubles is.

The streams are this layer's alone, one a database; subjects are PREFIX.TENANT.SUBJECT, with
`public` for what belongs to no tenant.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, Final, TypeVar

import msgspec

from neolayer.catalogue import DataClass
from neolayer.crash_points import crash_point
from neolayer.engines.endpoints import Database, NatsEndpoint
from neolayer.engines.nats.checkpoint import bucket_of, key_of
from neolayer.engines.nats.client import Connection, connect, explain, unavailable
from neolayer.engines.nats.publishing import Answer, Publisher, Refused, open_publisher
from neolayer.errors import NeolayerError
from neolayer.relay.changes import Batch
from neolayer.relay.comparable import Shape
from neolayer.relay.envelope import Made, Outgoing, Reached, unpublished
from neolayer.relay.enveloping import Envelopes
from neolayer.relay.sinks.sink import CopyLost, Park, Rejected, Snapshot, note_of

T = TypeVar("T")
_AT_ONCE: Final = 1_000
_PATIENCE_S: Final = 30.0
_PUBLIC: Final = "public"
# JetStream's numbers for errors: api codes that tell what to do about one message.
_TOO_LARGE: Final = (10054, 10097)
_OUT_OF_ORDER: Final = (10070, 10071)


class NatsSink:
    """Publishes envelopes of one database's changes."""

    wait_s = 0.0

    def __init__(
        self,
        endpoint: NatsEndpoint,
        classes: Iterable[DataClass],
        *,
        database: str = Database.CORE,
    ) -> None:
        self.database = str(database)
        self.name = "nats" if database == Database.CORE else f"nats:{database}"
        self._endpoint = endpoint
        self._envelopes = Envelopes(classes, self.database, prefix=endpoint.prefix)
        suffix = "" if database == Database.CORE else f"_{database}"
        self._stream = f"{endpoint.prefix}{suffix}"
        self._connection: Connection | None = None
        self._publisher: Publisher | None = None
        self._bucket: Any = None
        self._left = 0
        self._last: Reached | None = None  # of the stream as it was found, until we are behind it
        self._stored_last: Reached | None = None
        self._sent: Reached | None = None  # the last one of the writes that are done

    @property
    def tables(self) -> frozenset[str]:
        return self._envelopes.tables

    async def open(self, confirmed: int) -> int | None:
        self._envelopes.restart()
        self._left = 0
        self._sent = self._stored_last = None
        await self._drop()
        connection = await self._connected()
        checkpoint = self._left = await self._stored(connection, self.name)
        return checkpoint if checkpoint and checkpoint >= confirmed else None

    async def close(self) -> None:
        await self._drop()

    def shape(self, table: str) -> Shape:
        return self._envelopes.shape(table)

    async def begin_copy(self, version: int) -> None:
        await self._store(await self._connected(), note_of(self.name), version)

    async def copy_began(self) -> int:
        return await self._stored(await self._connected(), note_of(self.name))

    async def reflect(self, version: int) -> None:
        await self._move_to(await self._connected(), version)

    async def begin_again(self, version: int, table: str) -> None:
        await self._connected()
        self._last = None
        await self._publish(self._envelopes.emptied(version, table))

    async def copy_part(self, part: Snapshot, table: str, park: Park, *, asked: bool) -> None:
        """In no certain order, as the snapshot has it; what the stream has already is let be."""
        await self._connected()
        self._last = None
        async for page in self._envelopes.copied(part, table):
            await park(await self._publish(page, in_order=False))

    async def write(self, batches: Sequence[Batch]) -> Sequence[Rejected]:
        made = self._envelopes.of(batches)
        connection = await self._connected()
        rejected = await self._publish(made)
        crash_point("nats.after_publish")
        await self._move_to(connection, batches[-1].position)
        crash_point("nats.after_checkpoint")
        self._envelopes.accept()
        self._sent = self._stored_last if self._last is None else self._sent
        return rejected

    async def _publish(self, made: Iterable[Made], *, in_order: bool = True) -> list[Rejected]:
        """Every message stored; what the server will never take comes back."""
        rejected = [one for one in made if isinstance(one, Rejected)]
        outgoing = [one for one in made if isinstance(one, Outgoing)]
        last = self._last
        waiting, self._last = unpublished(outgoing, last, sent=self._sent)
        self._stored_last = last if last and self._last is None else self._stored_last
        previous: str | None = None
        while waiting:
            stored, refused = await self._send(waiting[:_AT_ONCE], previous, in_order=in_order)
            if stored:
                previous = waiting[stored - 1].id
                self._stored_last = Reached(previous, str(waiting[stored - 1].version))
                waiting = waiting[stored:]
            if refused is None:
                continue
            if refused.err_code in _TOO_LARGE:
                rejected.append(waiting.pop(0).refuse(refused.description))
            elif refused.err_code in _OUT_OF_ORDER and (stored or previous):
                # One before it was lost, or somebody else writes here: go on from where we are.
                previous = previous if stored else None
            else:
                await self._drop()
                if not refused.err_code:
                    raise explain(RuntimeError(refused.description), self._endpoint)
                meaning = f"does not store a message: {refused.description}"
                raise unavailable(self._endpoint, meaning)
        return rejected

    async def _send(
        self, messages: Sequence[Outgoing], previous: str | None, *, in_order: bool
    ) -> tuple[int, Refused | None]:
        """Send them all at once; how many were stored before the first that was not, and why.

        Raises EngineUnavailable where the connection ends, or nothing is answered in time.
        """
        from nats.errors import Error, MaxPayloadError

        publisher = self._publisher
        assert publisher is not None
        answers: list[Answer] = []
        error: Refused | None = None
        try:
            for one in messages:
                headers = {"Nats-Msg-Id": one.id, "Nats-Expected-Stream": self._stream}
                if in_order and previous is not None:
                    headers["Nats-Expected-Last-Msg-Id"] = previous
                try:
                    answers.append(await publisher.send(self._subject(one), one.body, headers))
                except MaxPayloadError as exc:
                    error = Refused(_TOO_LARGE[0], f"the message exceeds the limit: {exc}")
                    break
                previous = one.id
            together = asyncio.gather(*answers)
            told = await publisher.connection.ask(together, seconds=_PATIENCE_S)
        except NeolayerError as exc:
            stuck = await self._stuck(publisher.connection)
            await self._drop()
            raise stuck or exc from exc
        except Error as exc:
            await self._drop()
            raise explain(exc, self._endpoint) from exc
        for number, refused in enumerate(told):
            if refused is not None:
                return number, refused
        return len(told), error

    async def _stuck(self, connection: Connection) -> NeolayerError | None:
        """What to say of a server that answers, and yet leaves messages without an answer."""
        from nats.errors import Error

        try:
            await connection.ask(connection.stream.account_info())
        except (NeolayerError, Error):
            return None
        meaning = "answers, but stores no message: is its disk full, its stream without a leader?"
        return unavailable(self._endpoint, meaning)

    def _subject(self, one: Outgoing) -> str:
        return f"{self._endpoint.prefix}.{one.tenant or _PUBLIC}.{one.subject}"

    async def _move_to(self, connection: Connection, version: int) -> None:
        await self._store(connection, self.name, version)
        self._left = version

    async def _store(self, connection: Connection, name: str, version: int) -> None:
        await self._ask(connection, self._bucket.put(key_of(name), b"%d" % version))

    async def _stored(self, connection: Connection, name: str) -> int:
        from nats.js.errors import KeyNotFoundError

        try:
            entry = await connection.ask(self._bucket.get(key_of(name)))
        except KeyNotFoundError:
            return 0
        except NeolayerError:
            await self._drop()
            raise
        return int(entry.value or b"0")

    async def _connected(self) -> Connection:
        """The connection, with stream and bucket there. Raises CopyLost where they were emptied."""
        if self._connection is not None and not self._connection.gone.is_set():
            return self._connection
        await self._drop()
        connection = await connect(self._endpoint)
        try:
            await self._prepare(connection)
            if await self._stored(connection, self.name) < self._left:
                raise CopyLost(self.name)
            self._last = await self._last_message(connection)
            self._publisher = await open_publisher(connection)
        except BaseException:
            await connection.close()
            raise
        self._connection = connection
        return connection

    async def _prepare(self, connection: Connection) -> None:
        """Make the stream and the bucket where they are missing; what is there stays as it is."""
        from nats.js.api import KeyValueConfig, StreamConfig

        at = self._endpoint
        stream: Any = connection.stream
        topics = sorted(self._envelopes.topics)
        subjects = [f"{at.prefix}.*.{t}{end}" for t in topics for end in ("", ".>")]
        found = await self._there(connection, stream.stream_info(self._stream))
        if found is None:
            config = StreamConfig(
                name=self._stream,
                subjects=subjects,
                num_replicas=at.replicas,
                max_age=at.keep_days * 86_400,
            )
            await self._ask(connection, stream.add_stream(config))
        elif missing := set(subjects) - set(found.config.subjects or ()):
            config = found.config
            config.subjects = [*(config.subjects or ()), *sorted(missing)]
            await self._ask(connection, stream.update_stream(config))
        bucket = bucket_of(at)
        self._bucket = await self._there(connection, stream.key_value(bucket))
        if self._bucket is None:
            made = KeyValueConfig(bucket=bucket, replicas=at.replicas)
            self._bucket = await self._ask(connection, stream.create_key_value(made))

    async def _last_message(self, connection: Connection) -> Reached | None:
        """What stands at the stream's end, if it is ours."""
        last = await self._there(
            connection, connection.stream.get_last_msg(self._stream, f"{self._endpoint.prefix}.>")
        )
        try:
            return msgspec.json.decode(last.data or b"", type=Reached) if last else None
        except msgspec.DecodeError:
            return None

    async def _there(self, connection: Connection, asked: Awaitable[T]) -> T | None:
        """The answer, or None where there is no such thing."""
        from nats.js.errors import NotFoundError

        try:
            return await self._ask(connection, asked)
        except NotFoundError:
            return None

    async def _ask(self, connection: Connection, asked: Awaitable[T]) -> T:
        from nats.errors import Error
        from nats.js.errors import NotFoundError

        try:
            return await connection.ask(asked)
        except NotFoundError:
            raise
        except Error as exc:
            await self._drop()
            raise explain(exc, self._endpoint) from exc

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
