"""Every command, with values that nobody should give: one sentence, and never a traceback."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from tests.fixtures.commands import Command, Given, Kind, every_command
from tests.fixtures.folders import traversable_folder
from tests.fixtures.layer_commands import Layer

from neolayer.cli import main

BEYOND_BIGINT = str(2**63)
NEVER = ["nan", "", "\0", "x" * 5000]
REFUSED: dict[Kind, list[str]] = {
    Kind.INTEGER: ["-1", BEYOND_BIGINT, "1.5", "0x10", *NEVER],
    Kind.NUMBER: ["-1", "inf", "-inf", "1e308", *NEVER],
    Kind.ID: ["-1", "0", *NEVER],
    Kind.TIME: ["-1", "0", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00", *NEVER],
    Kind.PLACE: ["-1", "0", "-1:0", f"{BEYOND_BIGINT}:1", "nosuch:1:0/0", "nosuch:", *NEVER],
}
TAKEN: dict[Kind, list[str]] = {
    Kind.INTEGER: ["0", "1", str(2**63 - 1)],
    Kind.NUMBER: ["0", "-0.0"],
    Kind.TIME: ["2030-01-31T12:00:00Z", "1970-01-01", "2261-12-31T23:59:59+00:00"],
    Kind.PLACE: ["0:0", f"{2**63 - 1}:{2**63 - 1}", "neolayer:1:0/0"],
    Kind.TEXT: ["-1", "", "\0", "é", "x" * 5000, "\ud800", "\x1b[31m", "'; --"],
}
SAMPLES = {
    **dict.fromkeys(("--tenant", "TENANT"), "acme"),
    **dict.fromkeys(("FILE", "PATHS", "KEYSTORE", "TRANSACTION"), "/nowhere"),
    **dict.fromkeys(
        ("ATTESTATION", "COMPUTATION", "STREAM", "--stream", "KEY_ID", "SESSION"), str(uuid4())
    ),
    **dict.fromkeys(("--mr-enclave", "--mr-signer", "PUBLIC_KEY"), "aa" * 32),
    **dict.fromkeys(("NAME", "ROLE", "WALLET", "ENCLAVE", "--enclave"), "billing"),
    **dict.fromkeys(("--because", "--reason", "--type"), "x"),
    **dict.fromkeys(("--username", "--user"), "ann"),
    "ADDRESS": f"0x{1:040x}",
    "POSITION": "neolayer:1:0/0",
    "IDENTIFIER": "zeta",
    "KIND": "block",
    "LIMIT": "users=5",
    "PERMISSION": "wallets:sign",
    "SETTING": "a=1",
    "SINK": "clickhouse",
    "SQL": "SELECT 1",
    "STATUS": "active",
    "TABLE": "blocks",
    "TARGET": "core",
    "TO": "pro",
    "URL": "https://acme.example/x",
    "VALUE": "5",
    "--email": "ann@example.com",
    "--network": "ethereum",
    "--permissions": "wallets:read",
    "--up-to": "1:1",
}
# What else a command must be given so that it ends, and does nothing that lasts.
BESIDE: dict[tuple[str, ...], list[str]] = {
    ("events", "subscribe"): ["--once"],
    ("relay", "rebuild"): ["--wait=0"],
    ("relay", "replay"): ["--wait=0"],
}
# These start and stop everything, or turn the schema back: their values have tests of their own.
LEFT_OUT = {("up",), ("down",), ("migrate", "up"), ("migrate", "down"), ("demo",)}
COMMANDS = [one for one in every_command() if one.words not in LEFT_OUT]
BOUNDED = [one for one in COMMANDS if {each.kind for each in one.parameters} & REFUSED.keys()]
Call = Callable[..., tuple[int, str]]


def name_of(command: Command) -> str:
    return " ".join(command.words)


@pytest.fixture(scope="module")
def layer() -> Iterator[Layer]:
    with traversable_folder() as folder:
        started = Layer(folder / "data")
        assert started.run("up", "--detach").returncode == 0
        try:
            assert started.run("tenants", "create", "acme").returncode == 0
            webhook = ("webhooks", "create", "billing", "https://acme.example/h")
            assert started.run(*webhook, "--tenant", "acme").returncode == 0
            assert started.run("services", "create", "billing", "--tenant", "acme").returncode == 0
            yield started
        finally:
            started.run("down")


@pytest.fixture
def call(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Call:
    monkeypatch.chdir(tmp_path)

    def called(
        command: Command, parameter: Given, value: str, data_dir: Path = tmp_path
    ) -> tuple[int, str]:
        line = command.line(SAMPLES, {parameter.name: value})
        count = len(command.words)
        beside = [one for one in BESIDE.get(command.words, []) if parameter.name not in one]
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))  # nobody types anything
        with pytest.raises(SystemExit) as stopped:
            main(["--data-dir", str(data_dir), *line[:count], *beside, *line[count:]])
        return int(stopped.value.code or 0), capfd.readouterr().err

    return called


def is_one_sentence(said: str) -> bool:
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    sound = "Traceback" not in said and "a defect of neolayer" not in said
    return sound and len(errors) == 1 and len(errors[0]) < 600


@pytest.mark.parametrize("command", BOUNDED, ids=name_of)
def test_numbers_ids_and_times_are_refused_by_name(command: Command, call: Call) -> None:
    """Every number, id, time and place beyond its bounds is refused before anything is looked for,
    a layer included, in one sentence that names the parameter."""
    for parameter in command.parameters:
        for value in REFUSED.get(parameter.kind, []):
            code, said = call(command, parameter, value)
            what = f"{parameter.name} {value[:30]!r} gave {code}: {said[:300]}"
            assert code == 2 and is_one_sentence(said), what
            assert parameter.name in said or value == "\0", what


@pytest.mark.security
@pytest.mark.parametrize("command", COMMANDS, ids=name_of)
def test_no_value_ends_in_a_traceback(command: Command, call: Call, layer: Layer) -> None:
    """Whatever a text may be, and numbers at the edge of their bounds, are taken by a running
    layer, or refused in one sentence."""
    for parameter in command.parameters:
        for value in TAKEN.get(parameter.kind, []):
            code, said = call(command, parameter, value, layer.data_dir)
            what = f"{parameter.name} {value[:30]!r} gave {code}: {said[:300]}"
            assert code == 0 or "error" not in said or is_one_sentence(said), what
            assert value != "\0" or code == 2, what


def test_every_parameter_is_a_kind_that_is_swept() -> None:
    """No number is read by the library's own loose reader, which takes 1.5 for 2."""
    for command in COMMANDS:
        for argument in command.app.assemble_argument_collection():
            if argument.hint in (int, float, int | None, float | None):
                assert argument.parameter.converter is not None, (command.words, argument.name)
