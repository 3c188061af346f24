"""Documents into a collection, so that the newest version of each is there, whenever it comes.

Every write names the version it brings and applies only over an older one (or the same: it brings
the same again). Where a document is newer already the server's upsert runs into it, a duplicate
key, and that is success.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, TypeAlias

from bson import Int64
from bson.raw_bson import RawBSONDocument
from pymongo.errors import PyMongoError

from neolayer.engines.endpoints import MongoEndpoint
from neolayer.engines.mongodb.client import (
    WRITE_CONCERN,
    DocumentDatabase,
    explain,
    no_room,
    says_no_room,
)
from neolayer.errors import EngineUnavailable
from neolayer.relay.sinks.bson import Document

Refused: TypeAlias = tuple[Document, str]
"""A document that the server will never take, and its words."""

DOCUMENTS: Final = 1_000  # in one command
_BYTES: Final = 12 << 20  # the same; a message may have 48 MB
_FERRETDB_UPDATES: Final = 10  # in one command, so that several commands go beside each other
_TRIES: Final = 5
_DUPLICATE: Final = 11_000
# What a later try may not meet again: elections, shutdowns, time limits, conflicts of transactions,
# and what a server or its host forbids a user, whatever the document.
_PASSING: Final = frozenset(
    (
        *(6, 7, 13, 18, 24, 46, 50, 63, 64, 79, 89, 91, 112, 133, 150, 189, 202, 234, 246, 251),
        *(262, 8000, 9001, 10058, 10107, 11600, 11601, 11602, 13388, 13435, 13436, 50915),
    )
)


class Upserts:
    """Writes to one database. Raises EngineUnavailable on what may pass.

    FerretDB stops at the first error, whatever it is asked, and waits for itself for ever where a
    command updates as many documents as it has connections to its files, which are a hundred.
    """

    def __init__(
        self, endpoint: MongoEndpoint, database: DocumentDatabase, *, is_ferretdb: bool
    ) -> None:
        self._endpoint = endpoint
        self._database = database
        self._is_ferretdb = is_ferretdb

    async def put(
        self, collection: str, documents: Iterable[Document], *, over_equal: bool
    ) -> list[Refused]:
        """Each where it is newer than what is there, or as new where `over_equal`."""
        older = "$lte" if over_equal else "$lt"
        refused: list[Refused] = []
        for part in _parts(documents):
            refused += await self._put_part(collection, part, older)
        return refused

    async def _put_part(
        self, collection: str, documents: Sequence[Document], older: str
    ) -> list[Refused]:
        """Insert what is fresh, upsert the rest over what is older, until all is as new as here.

        Raises EngineUnavailable on what may pass.
        """
        fresh = [one for one in documents if one.fresh]
        met, refused = self._sorted_out(fresh, await self._insert(collection, fresh))
        left = [one for one in documents if not one.fresh]
        left += await self._still_older(collection, met, older)
        for _ in range(_TRIES):
            if not left:
                return refused
            errors = await self._update(collection, [_upsert(one, older) for one in left])
            met, more = self._sorted_out(left, errors)
            refused += more
            left = await self._still_older(collection, met, older)
        raise EngineUnavailable("mongodb", f"{len(left)} documents of {collection} keep changing")

    async def _still_older(
        self, collection: str, documents: Sequence[Document], older: str
    ) -> list[Document]:
        """Of documents that met another one: those that are newer than it all the same.

        Another writer's upsert may have come between; one without a version is nobody's of ours.
        """
        if not documents:
            return []
        names = [one.id for one in documents]
        try:
            there = self._database[collection]
            found = await there.find({"_id": {"$in": names}}, {"_version": 1}).to_list()
            stray = [one["_id"] for one in found if not isinstance(one.get("_version"), int)]
            if stray:
                await there.delete_many({"_id": {"$in": stray}})
        except PyMongoError as exc:
            raise explain(exc, self._endpoint) from exc
        stored = {hashable(one["_id"]): one.get("_version") for one in found}

        def is_newer(document: Document) -> bool:
            version = stored.get(hashable(document.id))
            if not isinstance(version, int):
                return True
            return version < document.version or (older == "$lte" and version == document.version)

        return [one for one in documents if is_newer(one)]

    def _sorted_out(
        self, documents: Sequence[Document], errors: Sequence[dict[str, Any]]
    ) -> tuple[list[Document], list[Refused]]:
        """Which met a document that is there, and which are refused for ever."""
        met: list[Document] = []
        refused: list[Refused] = []
        for error in errors:
            document = documents[int(error["index"])]
            code, words = error.get("code"), str(error.get("errmsg"))
            if _is_duplicate(error):
                met.append(document)
            elif says_no_room(code, words):
                raise no_room(self._endpoint, words)
            elif code in _PASSING:
                raise self._unavailable(f"cannot write: {words}")
            else:
                refused.append((document, _words_of(error)))
        return met, refused

    async def _insert(self, collection: str, documents: Sequence[Document]) -> list[dict[str, Any]]:
        encoded = [RawBSONDocument(one.encoded) for one in documents]
        return await self._command("insert", collection, "documents", encoded)

    async def _update(
        self, collection: str, updates: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        if not self._is_ferretdb:
            return await self._command("update", collection, "updates", updates)
        errors: list[dict[str, Any]] = []
        for start in range(0, len(updates), _FERRETDB_UPDATES):
            some = updates[start : start + _FERRETDB_UPDATES]
            found = await self._update_some(collection, some)
            errors += [{**one, "index": start + int(one["index"])} for one in found]
        return errors

    async def _update_some(
        self, collection: str, updates: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """FerretDB calls the place of its first error 0, so after one each is tried alone."""
        errors = await self._command("update", collection, "updates", updates)
        if not errors or len(updates) == 1:
            return errors
        return [
            {**error, "index": place}
            for place, one in enumerate(updates)
            for error in await self._command("update", collection, "updates", [one])
        ]

    async def _command(
        self, verb: str, collection: str, field: str, items: Sequence[Any]
    ) -> list[dict[str, Any]]:
        """The errors of single items, each with its place.

        Not pymongo's bulk API, which reads what FerretDB's answers lack.
        """
        if not items:
            return []
        command = {
            verb: collection,
            field: list(items),
            "ordered": False,
            "writeConcern": WRITE_CONCERN,
        }
        try:
            answer = await self._database.command(command)
        except PyMongoError as exc:
            raise explain(exc, self._endpoint) from exc
        if "writeConcernError" in answer:
            words = str(answer["writeConcernError"].get("errmsg"))
            raise self._unavailable(f"does not confirm: {words}")
        return list(answer.get("writeErrors", ()))

    def _unavailable(self, meaning: str) -> EngineUnavailable:
        return EngineUnavailable("mongodb", f"{self._endpoint.address} {meaning}")


def _parts(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """As many at once as one command takes."""
    part: list[Document] = []
    size = 0
    for one in documents:
        if part and (len(part) == DOCUMENTS or size + len(one.encoded) > _BYTES):
            yield part
            part, size = [], 0
        part.append(one)
        size += len(one.encoded)
    if part:
        yield part


def _upsert(document: Document, older: str) -> dict[str, Any]:
    return {
        "q": {"_id": document.id, "_version": {older: Int64(document.version)}},
        "u": RawBSONDocument(document.encoded),
        "upsert": True,
    }


def _is_duplicate(error: dict[str, Any]) -> bool:
    """Whether the document itself is there already; another unique index is a refusal."""
    return error.get("code") == _DUPLICATE and set(error.get("keyPattern") or {"_id"}) == {"_id"}


def _words_of(error: dict[str, Any]) -> str:
    words = str(error.get("errmsg", "no reason given"))
    details = error.get("errInfo", {}).get("details")
    return (f"{words}: {details}" if details else words)[:1000]


def hashable(name: Any) -> Any:
    return tuple(name.items()) if isinstance(name, dict) else name  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType, reportUnknownMemberType]
