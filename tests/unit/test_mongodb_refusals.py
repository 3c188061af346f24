"""What a MongoDB says of one document may be about the server: then nothing is parked."""

from __future__ import annotations

from typing import Any, cast

import pytest

from neolayer.catalogue import MongoCopy
from neolayer.engines.endpoints import MongoEndpoint
from neolayer.engines.mongodb.client import DocumentDatabase
from neolayer.engines.mongodb.dsn import parse_dsn
from neolayer.errors import EngineUnavailable
from neolayer.relay.changes import Relation
from neolayer.relay.sinks.bson import Encoder, notation
from neolayer.relay.sinks.upserts import Upserts

AT: MongoEndpoint = parse_dsn("mongodb://127.0.0.1:1/layer")
RELATION = Relation(1, "public", "things", ("id", "note"), (20, 25))
COPY = MongoCopy("things", ("id",), ("id", "note"))


class Answering:
    """A database that answers every command with one error for its first document."""

    def __init__(self, error: dict[str, Any]) -> None:
        self._error = error

    async def command(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"ok": 1.0, "n": 0, "writeErrors": [{"index": 0, **self._error}]}


async def put(error: dict[str, Any]) -> list[str]:
    database = cast(DocumentDatabase, Answering(error))
    upserts = Upserts(AT, database, is_ferretdb=False)
    encoder = Encoder(RELATION, COPY, notation(decimals=True))
    document = encoder.live([b"1", b"note"], 5, fresh=True)
    refused = await upserts.put("things", [document], over_equal=True)
    return [words for _, words in refused]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (14031, "Can't take a write lock while out of disk space"),
        (12501, "quota exceeded"),
        (371, "User writes blocked"),
        (8, "28: No space left on device"),
        (8000, "you are over your space quota, using 512 MB of 512 MB"),
        (1, "[db.go:167 fsql.(*DB).InTransaction] database or disk is full (13)"),
    ],
)
async def test_C4_no_room_for_one_document_is_room_for_none(code: int, words: str) -> None:
    """It is said in one sentence, and tried again."""
    with pytest.raises(EngineUnavailable, match="has no room: ") as raised:
        await put({"code": code, "errmsg": words})
    assert words in raised.value.message


async def test_what_the_user_may_not_do_is_tried_again() -> None:
    """No document is to blame for a right that is missing."""
    with pytest.raises(EngineUnavailable, match="cannot write: not authorized"):
        await put({"code": 13, "errmsg": "not authorized on layer to execute command"})


async def test_words_of_a_document_make_no_full_disk() -> None:
    """A refusal that quotes what somebody wrote stays a refusal: the others go on."""
    words = "E11000 duplicate key error, dup key: { note: 'no space left on device' }"
    error = {"code": 11000, "errmsg": words, "keyPattern": {"note": 1}}
    assert await put(error) == [words]
