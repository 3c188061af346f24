"""`neolayer events` through the command line: what it prints, and the code it ends with."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from neolayer.cli import events as command
from neolayer.cli import main
from neolayer.engines.endpoints import Endpoints, ObjectsEndpoint, Role
from neolayer.engines.engine import Level

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
    monkeypatch.setattr(command, "endpoints", lambda _: layer)

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
