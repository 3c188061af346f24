"""A query ends: with whoever asked it, and when its time is over. One layer for all tests here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest
from tests.fixtures.layer_commands import Layer, eventually, running_layer

from neolayer.engines.clickhouse.client import connect
from neolayer.engines.endpoints import Endpoints, Role
from neolayer.errors import QueryError
from neolayer.insight import querying
from neolayer.insight.querying import Target, ask
from neolayer.platform import endpoints
from neolayer.settings import Settings

ENDLESS = {
    "core": "SELECT pg_sleep(600)",
    "analytics": "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 1",
}


@pytest.fixture(scope="module")
def layer() -> Iterator[Layer]:
    with running_layer() as started:
        started.await_first_copies()
        yield started


@pytest.fixture
def at(layer: Layer) -> Endpoints:
    return endpoints(Settings(data_dir=layer.data_dir))


def runs(at: Endpoints, target: str) -> bool:
    """Whether the endless query of that target is at work in its server."""
    if target == "core":
        statement = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = %s"
        with psycopg.connect(at.postgres.dsn(Role.ADMIN)) as admin:
            (found,) = admin.execute(statement, (ENDLESS["core"],)).fetchone() or (0,)
            return bool(found)
    return asyncio.run(_runs_in_clickhouse(at))


async def _runs_in_clickhouse(at: Endpoints) -> bool:
    client = await connect(at.clickhouse)
    try:
        statement = "SELECT count() FROM system.processes WHERE startsWith(query, {q:String})"
        found = await client.query(statement, parameters={"q": ENDLESS["analytics"]})
        return bool(found.result_rows[0][0])
    finally:
        await client.close()


@pytest.mark.parametrize("target", sorted(ENDLESS))
def test_a_query_ends_with_its_killed_client(layer: Layer, at: Endpoints, target: str) -> None:
    """kill -9 of `neolayer query`: seconds later its statement is gone from the server."""
    client = layer.start("query", target, ENDLESS[target])
    try:
        eventually(lambda: runs(at, target), what="the query runs")
    finally:
        client.kill()
        client.communicate()
    eventually(lambda: not runs(at, target), what="the server has ended it", timeout_s=10)


@pytest.mark.parametrize("target", sorted(ENDLESS))
def test_a_query_ends_when_its_time_is_over(layer: Layer, at: Endpoints, target: str) -> None:
    """One error that names the limit and the way out; the server is at rest afterwards."""
    run = layer.run("query", target, ENDLESS[target], "--timeout", "1", "--json")
    assert (run.returncode, run.stdout) == (1, "")
    error, hint = run.stderr.splitlines()
    assert error == "error: the statement took longer than 1 s and was ended"
    assert "--timeout SECONDS" in hint
    eventually(lambda: not runs(at, target), what="the server has ended it", timeout_s=10)


@pytest.mark.parametrize(("arguments", "limit"), [((), "5min"), (("--timeout", "0"), "0")])
def test_the_limit_is_five_minutes_or_what_was_asked(
    layer: Layer, arguments: tuple[str, ...], limit: str
) -> None:
    run = layer.run("query", "core", "SHOW statement_timeout", "--json", *arguments)
    assert json.loads(run.stdout) == [{"statement_timeout": limit}], run.stderr


@pytest.mark.parametrize("seconds", ["-1", "99999999"])
def test_a_limit_that_no_server_could_hold_is_refused(layer: Layer, seconds: str) -> None:
    run = layer.run("query", "core", "SELECT 1", "--timeout", seconds)
    assert (run.returncode, run.stderr.count("error: ")) == (2, 1)
    assert f"--timeout: '{seconds}' is not from 0 to" in run.stderr


async def test_a_query_without_rows_runs_once(at: Endpoints) -> None:
    """Its column names are known all the same, and cost no second run."""
    runs = "length(set_config('my.runs', concat(current_setting('my.runs', true), '1'), false))"
    statement = f"SELECT 1 AS a, 2 AS b WHERE 1 / (2 - {runs}) IS NULL"  # fails the second time
    async with ask(at, Target.CORE, statement, time_limit=timedelta(seconds=30)) as answer:
        assert answer.columns == ("a", "b")
        assert [block async for block in answer.blocks] == []


async def test_the_embedded_clickhouse_has_a_limit_of_its_own(
    at: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no more time can be had, the error does not say how to ask for it."""
    monkeypatch.setattr(querying, "_EMBEDDED_LIMIT", timedelta(seconds=1))
    with pytest.raises(QueryError, match="longer than 1 s") as caught:
        async with ask(at, Target.ANALYTICS, ENDLESS["analytics"], time_limit=timedelta(0)):
            pytest.fail("it answered")
    assert caught.value.hint == "the embedded ClickHouse gives no query more"


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("", "the statement is empty"),
        ("COPY blockchain.blocks TO STDOUT", "the statement returns no rows"),
        ("SELECT '\udcff'", r"'SELECT '\udcff'' cannot be written as utf-8"),
    ],
)
def test_what_is_no_query(layer: Layer, statement: str, sentence: str) -> None:
    """One error and nothing else on stderr, whatever a driver would add."""
    run = layer.run("query", "core", statement)
    assert run.returncode != 0
    first, *rest = run.stderr.splitlines()
    assert first == f"error: {sentence}"
    assert all(line.startswith("hint: ") for line in rest)


def test_a_query_waits_for_a_position_and_says_which_one_it_reflects(
    layer: Layer, at: Endpoints
) -> None:
    """What was committed before is in the answer; what never comes is said with the distance; and
    the copies of a layer that has just begun are equal."""
    with psycopg.connect(at.postgres.dsn(Role.ADMIN), autocommit=True) as admin:
        admin.execute(
            "INSERT INTO blockchain.networks (name, chain_id, network_type)"
            " VALUES ('waiting', 4242, 'evm')"
        )
        (lsn,) = admin.execute("SELECT pg_current_wal_flush_lsn()").fetchone() or ("",)
    position = f"neolayer:1:{lsn}"
    count = "SELECT count() AS n FROM networks WHERE chain_id = 4242"
    answer = layer.run("query", "analytics", count, "--at-least", position, "--json")
    assert json.loads(answer.stdout) == [{"n": 1}], answer.stderr
    assert answer.stderr.startswith("as of neolayer:1:")
    early = layer.run(
        *("query", "analytics", count, "--at-least", "neolayer:1:FF/0", "--wait", "0")
    )
    assert early.returncode == 4 and "bytes of log behind" in early.stderr
    wrong = layer.run("query", "analytics", count, "--at-least", "yesterday")
    assert wrong.returncode == 2 and "'yesterday' is no position" in wrong.stderr
    compared = layer.run("reconcile", "--table", "networks")
    assert compared.returncode == 0, compared.stderr
    assert "blockchain.networks in clickhouse: 0 differences as of neolayer:1:" in compared.stdout
    found = json.loads(layer.run("where", "network", "waiting", "--json").stdout)
    assert {copy["engine"]: copy["state"] for copy in found[0]["copies"]} == {
        "postgres": "same",
        "clickhouse": "same",
    }
    stores = layer.status()["stores"]
    assert {one["store"] for one in stores} >= {"clickhouse", "redis"}
