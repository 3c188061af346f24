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
from neolayer.relay.sinks.elasticsearch import ElasticsearchSink
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


async def write(patch: pytest.MonkeyPatch, answers: Answers, batch: Batch) -> list[Rejected]:
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
