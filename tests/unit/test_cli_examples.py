"""What `--help` shows: every command has examples, and each is a command line that is taken."""

from __future__ import annotations

import inspect
import re
import shlex

import pytest
from tests.fixtures.commands import Command, every_command

from neolayer.cli.root import app

COMMANDS = list(every_command())


def examples(command: Command) -> list[str]:
    text = inspect.getdoc(command.app.default_command) or ""
    found = re.findall(r"Example: neolayer (.+(?:\n.+)*)", text)
    return [" ".join(example.split()) for example in found]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.words))
def test_every_example_can_be_typed(command: Command) -> None:
    """It is of this command, whole, and every value in it is one that the command reads."""
    assert examples(command), "no example"
    for example in examples(command):
        assert "..." not in example, f"{example} is not whole"
        words = shlex.split(re.split(r" (?:&&|>) ", example)[0])
        assert tuple(words[: len(command.words)]) == command.words, example
        app.parse_args(words, exit_on_error=False, print_error=False)
