"""The command line's manners: options before or after the verb, clean stdout, one error."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from neolayer.cli import main
from neolayer.cli.config import describe
from neolayer.cli.output import counted, plain, say, write_line, write_table
from neolayer.cli.root import COMMANDS, app, fail
from neolayer.settings import Settings, load_settings, variables


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return int(stopped.value.code or 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--data-dir", "/x/y", "config", "show", "--json"),
        ("config", "show", "--json", "--data-dir=/x/y"),
    ],
)
def test_data_dir_stands_before_or_after_the_verb(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Both orders reach the command, and stdout is JSON and nothing else."""
    assert run(*arguments) == 0
    assert json.loads(capsys.readouterr().out)["data_dir"] == "/x/y"


def test_config_show_masks_secrets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A password in a DSN is not shown in any form."""
    monkeypatch.setenv("NEOLAYER_POSTGRES__DSN", "postgresql://ann:hunter2@db/x")
    assert run("config", "show", "--json") == 0
    assert run("config", "show") == 0
    shown = capsys.readouterr()
    assert "hunter2" not in shown.out + shown.err
    assert "ann" in shown.out


def test_E12_config_show_masks_keys(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret that is no DSN is not shown at all, in a list neither."""
    monkeypatch.setenv("NEOLAYER_KEYS__KEY", "canary-one")
    monkeypatch.setenv("NEOLAYER_KEYS__PREVIOUS", '["canary-two", "canary-three"]')
    assert run("config", "show", "--json") == 0
    assert run("config", "show") == 0
    shown = capsys.readouterr()
    assert "canary" not in shown.out + shown.err
    assert "***, ***" in shown.out


def test_config_show_folds_no_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal of 80 columns every setting and variable stands whole, to be copied."""
    monkeypatch.setenv("COLUMNS", "80")
    assert run("config", "show") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    first = {line.split()[0] for line in lines if line.strip()}
    assert first >= {"keys.kms.secret_access_key", *variables(Settings)}


def test_numbers_of_things() -> None:
    """One chain, two chains, no entries."""
    assert counted(1, "chain") == "1 chain"
    assert counted(2, "chain") == "2 chains"
    assert counted(0, "entry", "entries") == "0 entries"


def test_every_setting_says_what_it_means() -> None:
    """Each setting has a variable and a meaning, and the list is complete."""
    rows = list(describe(load_settings()))
    assert [variable for _, variable, _, _ in rows] == list(variables(Settings))
    assert all(meaning for *_, meaning in rows)


@pytest.mark.parametrize(
    "arguments", [("nonsense",), ("config", "show", "--bogus"), ("config", "shwo")]
)
def test_an_unknown_word_is_one_error_and_code_2(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing on stdout, one error line and the way out on stderr."""
    assert run(*arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert "Traceback" not in shown.err


def test_numbers_no_reader_may_round_are_strings() -> None:
    """64-bit integers stay numbers, wider ones become strings, also inside lists and objects."""
    assert plain([2**63 - 1, -(2**63), 2**64 - 1]) == [2**63 - 1, -(2**63), 2**64 - 1]
    assert plain({"value": [2**64, True, None]}) == {"value": [str(2**64), True, None]}


def run_by_shell(redirection: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = f'exec "$0" -m neolayer "$@" {redirection}'
    words = ["bash", "-c", command, sys.executable, *arguments]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("json_too", [(), ("--json",)])
def test_a_stdout_that_takes_nothing(json_too: tuple[str, ...]) -> None:
    """A full disk behind stdout is one error; a closed one is as good as /dev/null, and a closed
    stderr does not send words to stdout."""
    show = ("config", "show", *json_too)
    full = run_by_shell("> /dev/full", *show)
    assert (full.returncode, full.stderr) == (1, "error: stdout: No space left on device\n")
    closed = run_by_shell(">&-", *show)
    assert (closed.returncode, closed.stderr) == (0, "")
    silent = run_by_shell("2>&-", "query", "core", "SELECT 1", "--data-dir", "/nowhere")
    assert (silent.returncode, silent.stdout) == (3, "")


@pytest.mark.parametrize(
    ("arguments", "sentence", "hint"),
    [
        (("ingest", "--nonsense"), "Unknown option", "neolayer ingest --help"),
        (("migrate", "up", "--nonsense"), "Unknown option", "neolayer migrate up --help"),
        (("frobnicate",), "Unknown command", "neolayer --help"),
        (
            ("ingest", "--rpc", "http://x", "--from", "-1", "--network", "ethereum"),
            "--from: '-1' is not from 0 to",
            "",
        ),
        (("demo", "--blocks", "nowhere"), "nowhere: no such file or folder", ""),
        (("demo", "--network", "sepolia"), "are of blocks that are given", "add --blocks FOLDER"),
        (("demo", "--chain-id", "7"), "are of blocks that are given", "add --blocks FOLDER"),
    ],
)
def test_words_that_make_no_command(
    arguments: tuple[str, ...], sentence: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Told before anything is started, with where to look."""
    assert run(*arguments) != 0
    said = capsys.readouterr().err
    assert sentence in said
    assert hint in said
    assert not Path(".neolayer").exists()


def test_a_cell_cannot_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """What others wrote is shown as text, its lines as lines."""
    write_table(("\x1b[2J",), [("\x1b[31mred\n\u202eblue",)])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\u202e" not in shown
    assert [line for line in shown.splitlines() if "blue" in line] != []
    assert r"\x1b[31mred" in shown


def test_a_line_cannot_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Nor make a second line of one, on stdout; words and errors may have lines, and no more."""
    write_line("a\x1b[2Jb\nagrees")
    say("a\x1b[2Jb\nc")
    assert fail("a\x1b[2Jb", hint="c\x9bd", code=1) == 1
    shown = capsys.readouterr()
    assert shown.out == "a\\x1b[2Jb\\nagrees\n"
    assert shown.err == "a\\x1b[2Jb\nc\nerror: a\\x1b[2Jb\nhint: c\\x9bd\n"


@pytest.mark.parametrize("arguments", ["config show", "config show --json"])
def test_a_reader_who_has_gone(arguments: str) -> None:
    """The code says so, as that of a program which SIGPIPE ended: it is no answer."""
    script = f'"$0" -m neolayer {arguments} | true; echo "${{PIPESTATUS[0]}}"'
    words = ["bash", "-c", script, sys.executable]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.stdout, ended.stderr) == ("141\n", "")


INTERRUPTED = """
import os, signal, sys

class Interrupts:
    def find_spec(self, name, *_):
        if name == MODULE:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupts())
from neolayer.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["neolayer.cli", "cyclopts", "neolayer.cli.config"])
def test_ctrl_c_while_a_command_is_loaded(module: str) -> None:
    """One error line, as later on, and no traceback."""
    program = INTERRUPTED.replace("MODULE", repr(module))
    ended = subprocess.run(
        [sys.executable, "-c", program, "config", "show"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "error: interrupted\n")


def arguments_of(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Each argument and option of each command, with its help."""
    if command.default_command is not None:
        for one in command.assemble_argument_collection():
            if one.show:
                yield f"{' '.join(path)} {one.name}", one.parameter.help or ""
    for name in command:
        if not name.startswith("-"):
            yield from arguments_of(command[name], (*path, name))


def test_every_argument_says_what_it_is() -> None:
    """In the help of its command."""
    for module in COMMANDS.values():
        import_module(f"neolayer.cli.{module}")
    found = dict(arguments_of(app))
    assert len(found) > 100
    assert [name for name, said in found.items() if not said] == []


def test_a_version_may_be_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    """And the help shows that."""
    assert run("events", "append", "--help") == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--expected VERSION The stream's version before: any, none, exists or N." in said


POSITION = "neolayer:1:0/16B3748"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            f"relay wait {POSITION} --sink nope",
            "--sink: 'nope' is no store or stream. Choose from: clickhouse, redis, mongodb, "
            "elasticsearch, nats, kafka, webhooks",
        ),
        (
            "events append --tenant a --type b --schema-version 99999999999",
            "--schema-version: '99999999999' is not from 1 to 2147483647",
        ),
        (
            "events read --tenant a --from-version 2147483648",
            "--from-version: '2147483648' is not from 1 to 2147483647",
        ),
        (
            r"""events append --tenant a --type b --data {"a":["\ud800"]}""",
            "--data.a[0]: half of a character (a lone surrogate) cannot be stored",
        ),
        (
            r"""events append --tenant a --type b --metadata {"\udfff":1}""",
            r"""--metadata["\udfff"]: half of a character (a lone surrogate) cannot be stored""",
        ),
    ],
)
def test_a_refusal_says_what_is_taken(
    arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The true bounds and names, and where in JSON something stands."""
    assert run(*arguments.split()) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert "hint: " in said


@pytest.mark.parametrize("name", ["nomodule", "nomodule.domain", "broken.domain", ""])
def test_up_refuses_modules_that_are_not_there(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By name, before anything is started or made."""
    Path("broken").mkdir()
    Path("broken/__init__.py").write_text("1 / 0\n")
    Path("neolayer.toml").write_text(f'[events]\nmodules = ["{name}"]\n')
    assert run("up", "--detach") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: events.modules names '{name}'")
    assert "defect" not in said
    assert not Path(".neolayer").exists()
