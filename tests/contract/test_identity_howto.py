"""The page about access, and the front page's commands, say what is so."""

from __future__ import annotations

import re
import shlex

import pytest
from tests.fixtures.fix_api import PASSWORD, Api
from tests.fixtures.shared_data import REPOSITORY

from neolayer.cli import main
from neolayer.settings import Settings
from neolayer.tenancy import Principal

PAGE = (REPOSITORY / "docs" / "how-to" / "access.md").read_text(encoding="utf-8")
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(
    {line.partition(" #")[0].strip() for line in re.findall(r"^neolayer .*$", PAGE + README, re.M)}
)


async def test_the_python_of_the_page_runs(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """The new key carries the role, the old one does not, and both are told."""
    acme = await api.tenant()
    ann = await acme.users.create(email="ann@example.com", username="ann", password=PASSWORD)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)
    await names["staff"](api.platform, acme.scope.tenant, ann.id)  # type: ignore[operator]
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("wallets:sign is allowed for service:")
    assert said[-2].startswith("1 of 2 keys were made before the service had this")
    assert said[-1] == "this needs the permission wallets:sign"
    assert [grant.role for grant in await acme.roles.grants(Principal.user(ann.id))] == ["clerk"]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_pages_are_commands(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is known, and so are its options: its help is asked for in its place."""
    words = shlex.split(command)[1:]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--help"])
    assert (stopped.value.code or 0) == 0
    told = capsys.readouterr().out
    for word in words:
        if word.startswith("--"):
            assert word in told


def test_the_settings_of_the_page_are_the_configurations() -> None:
    """Name, default and meaning of each."""
    rows = re.findall(r"^\| `(\w+)\.(\w+)` \| (\S+) \| (.*) \|$", PAGE, re.M)
    assert len(rows) == 9
    for section, name, default, meaning in rows:
        field = type(getattr(Settings(), section)).model_fields[name]
        assert (str(field.default).removesuffix(".0"), field.description) == (default, meaning)
    shown = {f"{section}.{name}" for section, name, _, _ in rows}
    assert shown >= {f"sessions.{name}" for name in type(Settings().sessions).model_fields}
