"""What a search server says of one document may be about the server: then nothing is parked."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from tests.fixtures.sink_suite import THINGS, Log, Thing, empty, put

from neolayer.engines.elasticsearch.client import SearchClient
from neolayer.engines.endpoints import ElasticsearchEndpoint
from neolayer.engines.engine import Level
from neolayer.errors import EngineUnavailable
from neolayer.relay.changes import Batch
from neolayer.relay.sinks.elasticsearch import ElasticsearchSink, document_id
from neolayer.relay.sinks.sink import Rejected

AT = ElasticsearchEndpoint(Level.REAL, "http://127.0.0.1:1")
DISK = {
    "nodes": {"a": {"fs": {"total": {"available_in_bytes": 3 << 20, "total_in_bytes": 1 << 30}}}}
}
FLOOD = "index [things] blocked by: [{}/12/disk usage exceeded flood-stage watermark];"
FOUND = {"hits": {"hits": [{"_id": "1"}]}}


class Answers:
    """A server that answers each operation of a bulk with one refusal, and knows its disk."""

    def __init__(self, status: int, kind: str, reason: str) -> None:
        error = {"type": kind, "reason": reason}
        self._item = {"_index": "things", "_id": "1", "status": status, "error": error}

    async def exchange(
        self, client: SearchClient, method: str, path: str, data: bytes | None, _: object
    ) -> tuple[int, bytes]:
        answers: dict[str, Any] = {"/_nodes": DISK, "/_bulk": {"items": [{"index": self._item}]}}
        for start, answer in answers.items():
            if path.startswith(start):
                return 200, orjson.dumps(answer)
        return 200, orjson.dumps(FOUND if "_search" in path else {})


async def write(
    patch: pytest.MonkeyPatch, answers: Answers | Stumbling, batch: Batch
) -> list[Rejected]:
    async def exchange(*given: Any) -> tuple[int, bytes]:
        return await answers.exchange(*given)

    patch.setattr(SearchClient, "_exchange", exchange)
    return list(await ElasticsearchSink(AT, [THINGS], wait_s=0).write([batch]))


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (429, "cluster_block_exception", FLOOD.format("TOO_MANY_REQUESTS")),
        (403, "cluster_block_exception", FLOOD.format("FORBIDDEN")),
        (500, "i_o_exception", "No space left on device"),
        (404, "shard_not_found_exception", "no such shard"),
        (400, "index_closed_exception", "closed"),
        (403, "security_exception", "no permissions for [indices:data/write/bulk]"),
    ],
)
async def test_C4_what_the_server_lacks_is_no_refusal_of_a_document(
    monkeypatch: pytest.MonkeyPatch, status: int, kind: str, reason: str
) -> None:
    """It is said in the server's words, with what its disk has left, and tried again."""
    told = Answers(status, kind, reason)
    for batch in (Log().commit(put(Thing(1))), Log().commit(empty())):
        with pytest.raises(EngineUnavailable) as raised:
            await write(monkeypatch, told, batch)
        if kind == "security_exception":
            assert "refuses user or password" in raised.value.message
        else:
            assert reason in raised.value.message
            assert "(its disk has 3 of 1,024 MiB left)" in raised.value.message


async def test_a_document_is_refused_by_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the mapping does not take comes back, with the cause."""
    told = Answers(400, "mapper_parsing_exception", "failed to parse field [seen_at]")
    (rejected,) = await write(monkeypatch, told, Log().commit(put(Thing(1))))
    assert rejected.cause == "failed to parse field [seen_at]"


class Stumbling:
    """A server that fails on one document, so many times, whatever comes with it; `sick`: on all
    that is written to its shard."""

    def __init__(self, times: int, *, sick: bool = False) -> None:
        self.left = times
        self.sick = sick
        self.sent: list[list[str]] = []

    async def exchange(
        self, client: SearchClient, method: str, path: str, data: bytes | None, _: object
    ) -> tuple[int, bytes]:
        if not path.startswith("/_bulk"):
            return 200, b"{}"
        heads = [orjson.loads(line) for line in (data or b"").splitlines()]
        asked = [(verb, head[verb]) for head in heads for verb in head if verb in VERBS]
        self.sent.append([of["_id"] for _, of in asked])
        failed = {"status": 500, "error": {"type": "null_pointer_exception", "reason": "oh"}}
        items: list[dict[str, Any]] = []
        for verb, of in asked:
            meant = of.get("routing", of["_id"]) == POISON
            if meant and (verb == "index" or self.sick) and self.left > 0:
                self.left -= verb == "index"
                items.append({verb: failed})
            else:
                items.append({verb: {"status": 404 if verb == "delete" else 201}})
        return 200, orjson.dumps({"items": items})


VERBS = ("index", "delete")
NEIGHBOUR, POISON = (document_id([str(part) for part in Thing(n).key]) for n in (1, 2))


def three() -> Batch:
    return Log().commit(*(put(Thing(number)) for number in (1, 2, 3)))


async def test_C8_a_document_on_which_the_server_fails_is_parked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """C8: alone too, a few times, while its own shard takes writes; its neighbours are sent once.
    Where it is taken after all nothing is parked."""
    told = Stumbling(times=1_000)
    (rejected,) = await write(monkeypatch, told, three())
    assert (rejected.key[1], rejected.cause) == ("2", "oh")
    neighbours = [ids for ids in told.sent if NEIGHBOUR in ids]
    assert len(neighbours) == 1 and len(told.sent) > 2
    assert not await write(monkeypatch, Stumbling(times=2), three())


async def test_C4_a_shard_that_takes_nothing_parks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other shards take their documents; what fails there is the server's, and tried again."""
    with pytest.raises(EngineUnavailable, match="cannot do it now: 500 oh"):
        await write(monkeypatch, Stumbling(times=1_000, sick=True), three())
