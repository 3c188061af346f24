"""`docs/how-to/audit.md` says what is so: its code runs, its commands are there."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import indent
from typing import Any

from tests.fixtures.fix_audit import Trail

from neolayer.cli import audit as command

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "audit.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


async def test_the_code_runs(trail: Trail) -> None:
    """The Python and the SQL of the page, as they stand there."""
    (code,) = blocks("python")
    names: dict[str, Any] = {}
    exec(f"async def run(scope, name, print):\n{indent(code, '    ')}", names)
    printed: list[tuple[Any, ...]] = []
    await names["run"](trail.scope, "Acme Ltd", lambda *words: printed.append(words))
    assert [words[1:] for words in printed] == [
        (str(trail.scope.by), "UPDATE", {"fields": ["name"]})
    ]
    await trail.sealer.seal_waiting()
    (query,) = blocks("sql")
    assert await trail.rows(query) == []
    async with trail.tampering() as superuser:
        await superuser.execute("UPDATE audit.entries SET resource = 'user'")
    assert [row[:2] for row in await trail.rows(query)] == [(trail.scope.tenant, 1)]


def test_the_commands_are_there() -> None:
    """Every command of the page parses."""
    lines = [line.partition("#")[0] for block in blocks("sh") for line in block.splitlines()]
    commands = [line.split()[2:] for line in lines if line.strip()]
    assert len(commands) == 7
    for arguments in commands:
        _, _, unused = command.app.parse_args(arguments, exit_on_error=False, print_error=False)
        assert not unused
