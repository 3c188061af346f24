"""What a word on the command line is read as: within its bounds, whole, or not at all."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, get_args
from uuid import UUID

import pytest
from cyclopts import Parameter, Token

from neolayer.cli import values
from neolayer.cli.root import run
from neolayer.errors import InvalidInput
from neolayer.events import Place


def read(kind: Any, text: str) -> Any:
    inner, parameter = get_args(kind)
    assert isinstance(parameter, Parameter)
    return parameter.converter(inner, (Token(value=text),))  # pyright: ignore


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (values.Count, "1000000", 1_000_000),
        (values.Bigint, "+7", 7),
        (values.Bigint, str(2**63 - 1), 2**63 - 1),
        (values.Id, "6F1C9C1E-0000-0000-0000-000000000000", UUID(int=0x6F1C9C1E << 96)),
        (values.Instant, "2030-01-31", datetime(2030, 1, 31, tzinfo=UTC)),
        (values.Instant, "2030-01-31T14:00:00+02:00", datetime(2030, 1, 31, 12, tzinfo=UTC)),
    ],
)
def test_what_is_read(kind: Any, text: str, value: object) -> None:
    """Plain digits, ids in any case, times with a zone or in UTC."""
    assert read(kind, text) == value


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        (
            values.Count,
            ["0", "-1", "1000001", "1.5", "1e3", "0x10", "1_000", "٣", "9" * 5000],
        ),
        (values.Bigint, ["-1", str(2**63), "nan", "", "é", "\ud800"]),
        (values.Id, ["", "0", "x" * 5000, "٣" * 32, "\0"]),
        (values.Instant, ["", "0", "1969-12-31", "2262-01-01", "9999-12-31T23:59:59-14:00", "now"]),
        (values.Zoned, ["2099-01-01", "2099-01-01T12:00:00", "soon"]),
        (values.PositionsOf, ["", "nosuch:1:0/0", "nosuch:", "neolayer:99999999999:0/0", ","]),
        (values.PositionsOf, ["neolayer:1:FFFFFFFFFFF/0", "neolayer:1:0/" + "F" * 5000]),
    ],
)
def test_what_is_refused(kind: Any, texts: list[str]) -> None:
    """Nothing is rounded, guessed, or handed on to an engine that could not hold it; and what was
    given is shown, but not at its full length."""
    for text in texts:
        with pytest.raises(ValueError, match=r"no|not|beyond|zone") as refused:
            read(kind, text)
        assert len(str(refused.value)) < 200


@pytest.mark.parametrize("place", [Place(741, 9), Place.end_of(741)])
def test_a_place_is_read_as_it_was_shown(place: Place) -> None:
    """By people's eyes or as JSON: what a command shows, `--after` takes."""
    assert Place.parse(place.shown) == Place.parse(str(place)) == place


@pytest.mark.parametrize(
    "text", ["", ":", "1", ":end", "1:END", "-1:0", "1:-1", f"{2**63}:1", "9" * 5000 + ":1"]
)
def test_places_no_event_can_be_at(text: str) -> None:
    """A place beyond what the event store counts to is refused where it is parsed."""
    with pytest.raises(InvalidInput, match="not a place") as refused:
        Place.parse(text)
    assert len(refused.value.message) < 100


def test_an_error_that_nobody_foresaw(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    """One sentence with the place and a code of its own; the whole traceback where it is asked
    for, and an engine's refusal in the engine's words."""
    monkeypatch.chdir(tmp_path)

    def fails(*_: object) -> None:
        raise OverflowError("too large")

    monkeypatch.setattr("neolayer.cli.config.describe", fails)
    assert run(["config", "show"]) == 70
    said = capsys.readouterr().err
    assert said.startswith("error: a defect of neolayer: OverflowError: too large (test_cli_values")
    assert "Traceback" not in said
    monkeypatch.setenv("NEOLAYER_TRACEBACK", "1")
    assert run(["config", "show"]) == 70
    assert "Traceback" in capsys.readouterr().err

    import psycopg

    monkeypatch.delenv("NEOLAYER_TRACEBACK")

    def refuses(*_: object) -> None:
        raise psycopg.DataError("bigint out of range\nDETAIL: more")

    monkeypatch.setattr("neolayer.cli.config.describe", refuses)
    assert run(["config", "show"]) == 1
    assert capsys.readouterr().err == "error: PostgreSQL: bigint out of range\n"
