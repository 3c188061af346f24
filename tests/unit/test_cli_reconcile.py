"""`neolayer reconcile`: what it says, and a code that tells a difference from a failure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from neolayer.cli import reconcile
from neolayer.cli.root import run
from neolayer.errors import EngineUnavailable, InvalidInput, RelayError
from neolayer.freshness import NotFresh
from neolayer.position import Position
from neolayer.relay.comparing.report import Difference, Kind, TableReport

AT = Position.parse("neolayer:1:0/16B3748")
Compared = Callable[..., None]


@pytest.fixture
def compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compared:
    """Makes every comparison come to these reports, and then to this error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reconcile, "endpoints", lambda _: None)  # pyright: ignore

    def come_to(*reports: TableReport, error: Exception | None = None) -> None:
        async def compare(*_: Any, **__: Any) -> AsyncGenerator[TableReport]:
            for report in reports:
                yield report
            if error is not None:
                raise error

        monkeypatch.setattr(reconcile, "compare", compare)

    return come_to


def report(*keys: str) -> TableReport:
    found = [Difference(Kind.EXTRA, (key,), None) for key in keys]
    counts = Counter({Kind.EXTRA: len(found)})
    return TableReport("blockchain.blocks", "redis", AT, 5, counts, found)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 1),
        (EngineUnavailable("redis", "does not answer"), 3),
        (psycopg.OperationalError("server closed the connection"), 3),
        (OSError(28, "No space left on device"), 3),
        (InvalidInput("no"), 2),
        (NotFresh(AT, {}), 4),
        (ZeroDivisionError(), 70),
    ],
)
def test_a_difference_is_told_from_a_failure(
    compared: Compared, error: Exception | None, code: int
) -> None:
    """Only where all was compared the code is 1, whatever was found before."""
    compared(report("5"), error=error)
    assert run(["reconcile"]) == code


def test_what_was_compared_before_a_failure_is_told_as_json_too(
    compared: Compared, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one table that could not be compared the others are not the worse."""
    compared(report("5"), error=RelayError("ClickHouse has no table logs"))
    assert run(["reconcile", "--json"]) == 3
    said = capsys.readouterr()
    assert [one["table"] for one in json.loads(said.out)] == ["blockchain.blocks"]
    assert "ClickHouse has no table logs" in said.err


def test_a_key_cannot_steer_a_terminal(
    compared: Compared, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever can write into a store could have made it."""
    compared(report("\x1b[2J\nblockchain.blocks in redis: 0 differences"))
    assert run(["reconcile"]) == 1
    said = capsys.readouterr().out
    assert r"  extra: \x1b[2J\nblockchain.blocks in redis" in said
    assert len(said.splitlines()) == 2


def test_a_store_without_the_table(compared: Compared, capsys: pytest.CaptureFixture[str]) -> None:
    """What nobody holds was not compared, and the error says that nobody holds it."""
    compared()
    assert run(["reconcile", "--table", "blocks", "--sink", "redis"]) == 2
    assert run(["reconcile", "--table", "blocks"]) == 2
    said = capsys.readouterr().err
    assert "redis here holds no copies of blocks: nothing was compared" in said
    assert "no store here holds copies of blocks: nothing was compared" in said


def test_every_table_that_is_offered_is_taken(
    compared: Compared, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not those whose changes go out as messages only."""
    compared(report())
    assert run(["reconcile", "--table", "nope"]) == 2
    offered = capsys.readouterr().err.partition("hint: one of: ")[2].strip().split(", ")
    assert "blocks" in offered
    assert [name for name in offered if run(["reconcile", "--table", name]) != 0] == []
