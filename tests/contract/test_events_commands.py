"""`neolayer events` through the command line: what it prints, and the code it ends with."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from neolayer.cli import event_archive, event_options, main, within_tenant
from neolayer.engines.endpoints import Endpoints, ObjectsEndpoint, Role
from neolayer.engines.engine import Level
from neolayer.events import RecordedEvent, open_event_store
from neolayer.tenancy import Principal, Transaction
from neolayer.tenancy.directory import open_directory

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def layer(module_databases: Endpoints, tmp_path_factory: pytest.TempPathFactory) -> Endpoints:
    folder: Path = tmp_path_factory.mktemp("objects")
    objects = ObjectsEndpoint(Level.EMBEDDED, folder.as_uri(), folder)
    with psycopg.connect(module_databases.postgres.dsn(Role.ADMIN), autocommit=True) as admin:
        admin.execute("SET session_replication_role = replica")
        admin.execute(
            "INSERT INTO core.tenants (id, name, identifier, subscription_tier)"
            " VALUES (%s, 'Acme', 'acme', 'pro')",
            (uuid4(),),
        )
    return dataclasses.replace(module_databases, objects=objects)


@pytest.fixture
def run(
    layer: Endpoints, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    for module in (event_options, event_archive, within_tenant):
        monkeypatch.setattr(module, "endpoints", lambda _: layer)

    def execute(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(("events", *arguments, "--tenant", "acme"))
        return int(stopped.value.code or 0), *capfd.readouterr()

    return execute


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_from_the_first_event_to_the_archive(run: Run) -> None:
    """Append, append again, read, subscribe, close, archive, read from there."""
    event_id, stream = str(uuid4()), str(uuid4())
    first = ("append", stream, "--type", "Opened", "--category", "account", "--json")
    code, out, _ = run(*first, "--data", '{"owner": "Ann"}', "--event-id", event_id)
    assert (code, json.loads(out)["version"], json.loads(out)["repeated"]) == (0, 1, False)
    code, out, _ = run(*first, "--data", '{"owner": "Ann"}', "--event-id", event_id)
    assert (code, json.loads(out)["repeated"]) == (0, True)
    code, _, err = run("append", stream, "--type", "Renamed", "--expected", "7")
    assert (code, "is at version 1, not at 7" in err) == (1, True)
    assert run("append", stream, "--type", "Renamed", "--expected", "1")[0] == 0
    code, out, _ = run("read", stream, "--json")
    assert [(e["version"], e["type"]) for e in lines(out)] == [(1, "Opened"), (2, "Renamed")]
    code, out, _ = run("read", "--type", "Opened", "--json")
    assert [e["data"] for e in lines(out)] == [{"owner": "Ann"}]
    code, out, _ = run("subscribe", "feed", "--once")
    assert [e["version"] for e in lines(out)] == [1, 2]
    assert run("subscribe", "feed", "--once")[:2] == (0, "")
    assert run("close", stream, "--reason", "moved")[0] == 0
    code, out, _ = run("read", stream, "--backwards", "--limit", "1", "--json")
    place = lines(out)[0]["place"]
    code, _, err = run("archive", "--up-to", place)
    assert (code, "not handled" in err) == (1, True)
    run("subscribe", "feed", "--once")
    code, _, err = run("archive", "--up-to", place)
    assert (code, err) == (0, "archived 1 stream, 3 events\n")
    code, out, _ = run("read", stream, "--json")
    assert [e["version"] for e in lines(out)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("append", "x", "--type", "T"), "no id"),
        (("append", "--type", "T", "--category", "c", "--data", "[1]"), "not a JSON object"),
        (("append", "--type", "T", "--category", "c", "--data", "{"), "not JSON"),
        (
            ("append", "--type", "T", "--category", "c", "--data", f'{{"wei": {10**31 + 1}}}'),
            f"--data: the number {10**31 + 1} would not be kept exactly",
        ),
        (
            ("append", "--type", "T", "--category", "c", "--data", '{"a": 0.12345678901234567890}'),
            'write it as text: "0.12345678901234567890"',
        ),
        (("append", "--type", "T", "--category", "c", "--data", '{"a": 1e400}'), "kept exactly"),
        (("append", "--type", "T", "--category", "c", "--data", '{"a": NaN}'), "NaN is no JSON"),
        (
            ("append", "--type", "T", "--category", "c", "--data", '{"a": [{"b": 1, "b": 2}]}'),
            "the name 'b' stands there twice",
        ),
        (
            ("append", "--type", "T", "--category", "c", "--metadata", '{"a": 1, "a": 1}'),
            "--metadata: the name 'a' stands there twice",
        ),
        (
            ("read", str(uuid4()), "--backwards", "--from-version", "2147483648"),
            "from 1 to 2147483647",
        ),
        (("append", "--type", "T", "--expected", "-3"), "no version"),
        (("append", "--type", "T"), "is new: say its category"),
        (("read", "--after", "here"), "no place"),
        (("append", "--type", "T", "--data", "7"), 'such as {"amount": 5}'),
        (("read", str(uuid4()), "--type", "Opened"), "--type goes with all events"),
        (("read", str(uuid4()), "--category", "account"), "--category goes with all events"),
        (("read", str(uuid4()), "--correlation", str(uuid4())), "--correlation goes with all"),
        (("read", str(uuid4()), "--after", "1:1"), "--after goes with all events"),
        (("read", "--from-version", "2"), "--from-version reads one stream"),
        (("read", "--backwards"), "--backwards reads one stream"),
        (("subscribe", "feed", "--partitions", "0"), "--partitions: '0' is not from 1 to 1024"),
    ],
)
def test_what_is_refused(run: Run, arguments: tuple[str, ...], word: str) -> None:
    """One sentence, and exit code 2."""
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert word in err


def test_what_is_written_is_what_is_stored(run: Run) -> None:
    """Numbers to the last digit, and what an event follows from."""
    stream, cause = str(uuid4()), str(uuid4())
    data = '{"most":18446744073709551615,"least":-9223372036854775808,"half":0.5,"one":1e5}'
    of = ("--type", "T", "--category", "c", "--data", data, "--causation", cause)
    assert run("append", stream, *of)[0] == 0
    (event,) = lines(run("read", stream, "--json")[1])
    assert event["data"] == json.loads(data)
    assert event["causation_id"] == cause


def test_data_from_stdin(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--data -` reads what is piped in."""
    monkeypatch.setattr("sys.stdin", io.StringIO('{"amount": 5}'))
    stream = str(uuid4())
    new = ("append", stream, "--type", "Deposited", "--category", "account")
    code, _, err = run(*new, "--data", "-")
    assert (code, "at version 1" in err) == (0, True), err
    assert [e["data"] for e in lines(run("read", stream, "--json")[1])] == [{"amount": 5}]


def test_subscriptions_from_the_command_line(run: Run) -> None:
    """Listed with their places, and forgotten when that is said twice."""
    stream = str(uuid4())
    assert run("append", stream, "--type", "Opened", "--category", "account")[0] == 0
    assert run("subscribe", "feed", "--once")[0] == 0
    code, out, _ = run("subscriptions", "--json")
    (one,) = [one for one in lines(out) if one["name"] == "feed"]
    assert (code, one["lag_events"], one["parked"]) == (0, 0, 0)
    assert "feed" in run("subscriptions")[1]
    code, _, err = run("unsubscribe", "feed")
    assert code == 2 and "add --yes" in err
    assert run("unsubscribe", "feed", "--yes")[0] == 0
    code, _, err = run("unsubscribe", "feed", "--yes")
    assert code == 1 and "no subscription 'feed'" in err


def test_C8_what_a_subscription_parked_from_the_command_line(
    run: Run, layer: Endpoints, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Listed with its cause; replayed by the program's own handler, in vain at first, or written
    as lines; given up, when that is said twice."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    module = f"letters_{uuid4().hex}"
    (tmp_path / f"{module}.py").write_text(HANDLERS)
    stream = str(uuid4())
    at = ("append", stream, "--type", "Deposited", "--category", "account")
    assert run("subscribe", "letters", "--once")[0] == 0
    for amount in range(4):
        assert run(*at, "--data", f'{{"amount": {amount}}}')[0] == 0
    asyncio.run(refuse_all(layer, "letters"))
    run("subscriptions")  # and whatever was logged until now
    code, out, _ = run("parked", "letters", "--json")
    found = json.loads(out)
    assert (code, [one["version"] for one in found]) == (0, [1, 2, 3, 4])
    assert (found[0]["cause"], found[1]["cause"]) == ("ValueError: no letters today", None)
    assert "no letters today" in run("parked", "letters", "--stream", stream)[1]

    code, _, err = run("discard", "letters", "--stream", stream)
    assert code == 2 and "add --yes" in err
    code, _, err = run("discard", "letters", "--stream", stream, "--yes")
    assert (code, "has given up version 1" in err, "3 wait behind it" in err) == (0, True, True)
    code, _, err = run("discard", "letters", "--stream", stream, "--yes")
    assert code == 1 and "its events only wait" in err
    assert run("replay", "letters", "--handler", f"{module}:refuse")[0] == 1
    code, out, _ = run("discard", "letters", "--stream", stream, "--yes", "--json")
    assert (code, json.loads(out)["version"], json.loads(out)["waiting"]) == (0, 2, 2)

    code, _, err = run("replay", "letters", "--handler", f"{module}:refuse")
    assert code == 1 and "0 events handled; some of it failed again" in err
    code, out, _ = run("replay", "letters", "--handler", f"{module}:take_one", "--json")
    assert (code, json.loads(out)) == (1, {"subscription": "letters", "handled": 1, "left": True})
    code, out, err = run("replay", "letters", "--stream", stream)
    assert (code, [line["version"] for line in lines(out)]) == (0, [4])
    assert "1 event handled" in err
    assert "Nothing is parked" in run("parked", "letters")[2]
    code, _, err = run("discard", "letters", "--stream", stream, "--yes")
    assert code == 1 and "has parked nothing of stream" in err
    code, _, err = run("parked", "lettres")
    assert code == 1 and "no subscription 'lettres'" in err


@pytest.mark.parametrize(
    ("handler", "word"),
    [
        ("letters", "write module:function"),
        ("nowhere_at_all:send", "--handler names 'nowhere_at_all', and there is no module"),
        ("json:send", "json has no function 'send'"),
        ("tests.contract.test_events_commands:typed", "no module declares their types"),
    ],
)
def test_a_handler_that_is_none(run: Run, handler: str, word: str) -> None:
    """One sentence, before anything is handled."""
    run("subscribe", "letters", "--once")
    code, out, err = run("replay", "letters", "--handler", handler)
    assert (code, out) == (2, "")
    assert word in err


HANDLERS = """
seen = []


async def refuse(tx, event):
    raise ValueError("not yet")


async def take_one(tx, event):
    if seen:
        raise ValueError("one is enough")
    seen.append(event.version)
"""


async def typed(tx: object, event: object, recorded: object) -> None:
    """What a program's handler of typed events looks like."""


async def refuse_all(layer: Endpoints, name: str) -> None:
    """A program whose handler takes nothing."""

    async def refuse(tx: Transaction, event: RecordedEvent) -> None:
        raise ValueError(f"no {name} today")

    async with open_directory(layer) as directory, open_event_store(layer, size=2) as store:
        acme = await directory.find("acme")
        subscription = await store.events(acme.id, by=Principal.system("tests")).subscribe(name)
        await subscription.catch_up(refuse)
